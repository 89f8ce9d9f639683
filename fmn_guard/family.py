"""Families of checkpoints: which pipelines are supported, what they consist of, and why others are refused.

A checkpoint names, in files of its own, the classes that its loaders make and the code that they run. Nothing that it
names is believed: each part is of the one class that its family has for it, or the checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .errors import RefusedArtefact, quoted
from .jsonfile import read_object

FamilyName = Literal["stable-diffusion", "stable-diffusion-xl", "pixart-alpha", "pixart-sigma"]


class Family(NamedTuple):
    """A pipeline that can be forgotten from.

    Attributes:
        name: What facts call it.
        pipeline: Its class in diffusers.
        parts: Its parts that hold weights, each with the stem of the only files that the loaders open.
        classes: Library and class of each part with weights and of each tokenizer.
        tokenizers: Folders of its tokenizers, the one whose positions count first.
        denoiser: The part that draws, whose cross-attentions passes edit.
        usual: What the denoiser's configuration says of one that draws from text alone.
        text: What encodes a prompt: one CLIP, two, or a T5, whose padding the denoiser does not see.
        prompt_tokens: To how many tokens its pipeline cuts and fills a prompt; None leaves it to the tokenizer.
    """

    name: FamilyName
    pipeline: str
    parts: dict[str, str]
    classes: dict[str, tuple[str, str]]
    tokenizers: tuple[str, ...]
    denoiser: Literal["unet", "transformer"]
    usual: dict[str, object]
    text: Literal["clip", "two-clips", "t5"]
    prompt_tokens: int | None = None

    @property
    def configs(self) -> tuple[str, ...]:
        """Files that decide, beside weights and tokenizers, what it draws."""
        parts = (f"{part}/config.json" for part in (self.denoiser, "vae", *_encoders(self)))
        tokenizers = (f"{tokenizer}/tokenizer_config.json" for tokenizer in self.tokenizers)
        return ("model_index.json", *parts, "scheduler/scheduler_config.json", *tokenizers)


def _encoders(family: Family) -> Iterator[str]:
    return (part for part in family.parts if part.startswith("text_encoder"))


# What a model that draws from text alone has, and a library takes where nothing is said.
_UNET: dict[str, object] = {
    "addition_embed_type": None,
    "in_channels": 4,
    "out_channels": 4,
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
}
_TRANSFORMER: dict[str, object] = {"in_channels": 4, "out_channels": 8, "attention_type": "default"}
_VAE: dict[str, object] = {"latent_channels": 4, "latents_mean": None, "latents_std": None, "shift_factor": None}
_UNSAID = {"unet": _UNET, "transformer": _TRANSFORMER | {"norm_type": None}, "vae": _VAE}

_UNET_PARTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}
_UNET_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
_PIXART_PARTS = {"transformer": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}
_PIXART_CLASSES = {
    "transformer": ("diffusers", "PixArtTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "T5Tokenizer"),
}
_PIXART_USUAL = _TRANSFORMER | {"norm_type": "ada_norm_single"}

STABLE_DIFFUSION = Family(
    "stable-diffusion", "StableDiffusionPipeline", _UNET_PARTS, _UNET_CLASSES, ("tokenizer",), "unet", _UNET, "clip"
)
"""Stable Diffusion 1.x and 2.x and what is tuned from them."""
STABLE_DIFFUSION_XL = Family(
    "stable-diffusion-xl",
    "StableDiffusionXLPipeline",
    {**_UNET_PARTS, "text_encoder_2": "model"},
    {
        **_UNET_CLASSES,
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
    },
    ("tokenizer", "tokenizer_2"),
    "unet",
    _UNET | {"addition_embed_type": "text_time"},
    "two-clips",
)
"""Stable Diffusion XL, its turbo, and what is tuned from them."""
PIXART_ALPHA = Family(
    "pixart-alpha",
    "PixArtAlphaPipeline",
    _PIXART_PARTS,
    _PIXART_CLASSES,
    ("tokenizer",),
    "transformer",
    _PIXART_USUAL,
    "t5",
    120,
)
"""PixArt-alpha, at 256 to 1024 pixels, and what is tuned from it."""
PIXART_SIGMA = PIXART_ALPHA._replace(name="pixart-sigma", pipeline="PixArtSigmaPipeline", prompt_tokens=300)
"""PixArt-sigma, which reads longer prompts and draws in the latents of Stable Diffusion XL."""
FAMILIES = {family.pipeline: family for family in (STABLE_DIFFUSION, STABLE_DIFFUSION_XL, PIXART_ALPHA, PIXART_SIGMA)}
"""Supported families by the class that ``model_index.json`` names."""

_JOINT = ("StableDiffusion3", "Flux", "AuraFlow", "QwenImage", "Lumina2", "Chroma")
_TRANSFORMERS = ("Hunyuan", "Sana", "Lumina", "Cog", "DiT")
# What classes were called when checkpoints with them were published; loaders know.
_FORMERLY = {"PixArtTransformer2DModel": "Transformer2DModel"}
# Of a pipeline, never opened: an audit is about the weights, and pictures are drawn from text alone.
_UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDIM DDPM PNDM LMSDiscrete EulerDiscrete EulerAncestralDiscrete HeunDiscrete KDPM2Discrete "
        "KDPM2AncestralDiscrete DPMSolverMultistep DPMSolverSinglestep DPMSolverSDE UniPCMultistep "
        "DEISMultistep LCM TCD"
    ).split()
)
# Keys of a configuration that make a loader open other files, other weights, or code.
_ELSEWHERE = {
    "auto_map": "names code to run",
    "custom_pipelines": "names code to run",
    "custom_pipeline": "names code to run",
    "attn_implementation": "names a kernel to fetch",
    "_attn_implementation": "names a kernel to fetch",
    "_attn_implementation_internal": "names a kernel to fetch",
    "experts_implementation": "names a kernel to fetch",
    "quantization_config": "names a library that unpacks weights",
    "transformers_weights": "names other weights than the usual file",
    "tokenizer_file": "names another tokenizer",
    "vocab_file": "names another vocabulary",
    "merges_file": "names other merges",
}

# As deep as a configuration may ask a model to be; published ones stay far below. More would not end.
_DEEPEST = {
    "num_hidden_layers": 128,
    "num_layers": 128,
    "layers_per_block": 16,
    "transformer_layers_per_block": 64,
}
_MOST_BLOCKS = 8


def family_of(folder: Path) -> Family:
    """The family of a diffusers folder, all of whose classes are those of the family.

    Raises:
        InputError: a configuration is missing.
        RefusedArtefact: it is of no supported family, or a configuration names another class, code, or other files.
    """
    path = folder / "model_index.json"
    index = read_object(path)
    family = _named_family(path, index.get("_class_name"))
    _check_components(path, index, family)
    for name in family.configs:
        config = read_object(folder / name)
        for key in sorted(_ELSEWHERE.keys() & config.keys()):
            if config[key] not in (None, {}, []):
                raise RefusedArtefact.of(
                    folder / name,
                    "points-elsewhere",
                    f"{key} {_ELSEWHERE[key]}: {quoted(config[key])}",
                    "remove the key, and give weights and tokenizer their usual names",
                )
        _check_class(folder / name, config, family)
        _check_depth(folder / name, config)
        if (adapter := (folder / name).with_name("adapter_config.json")).exists():
            raise RefusedArtefact.of(
                adapter, "points-elsewhere", "makes the loader open an adapter too", "merge it into the weights"
            )
    _check_meaning(folder / family.denoiser / "config.json", family.usual)
    _check_meaning(folder / "vae" / "config.json", _VAE)
    return family


def _named_family(path: Path, named: object) -> Family:
    if isinstance(named, str) and named in FAMILIES:
        return FAMILIES[named]
    supported = " or ".join(FAMILIES)
    rule, message = "unknown-pipeline", f"the pipeline is {quoted(named)}, not {supported}"
    hint = "Stable Diffusion 1.x, 2.x and XL and PixArt are supported, drawing from text"
    if isinstance(named, list):
        rule, message = "remote-code", f"the pipeline is code of the checkpoint's own: {quoted(named)}"
        hint = "remote code is never run; re-save the checkpoint with a pipeline of diffusers"
    elif isinstance(named, str) and named.startswith(_JOINT):
        rule = "joint-attention"
        message = (
            f"{named} attends to text and picture jointly: there, words change with the picture from block to block, "
            "and no value belongs to a word alone that a pass could edit"
        )
    elif isinstance(named, str) and named.startswith(_TRANSFORMERS):
        message = f"{named} is a transformer, not {supported}: how its attentions read words is not known here"
    raise RefusedArtefact.of(path, rule, message, hint)


def _check_components(path: Path, index: dict[str, Any], family: Family) -> None:
    for part in ("scheduler", *family.classes):
        if part not in index:
            raise RefusedArtefact.of(path, "missing-part", f"names no {part}", "download the whole checkpoint")
    for part, named in index.items():
        known = part in family.classes or part == "scheduler"
        if part.startswith("_") or part in _UNUSED or (not known and (not isinstance(named, list) or not any(named))):
            continue
        match part, named:
            case "scheduler", ["diffusers", str(scheduler)] if scheduler in _SCHEDULERS:
                continue
            case "scheduler", _:
                rule, message = "unknown-class", f"the scheduler is {quoted(named)}, which is not supported"
            case _ if not known:
                rule, message = "unknown-part", f"{quoted(part)}, {quoted(named)}, is no part of {family.pipeline}"
            case _ if named not in _accepted(*family.classes[part]):
                rule, message = "unknown-class", f"{part} is {quoted(named)}, not {list(family.classes[part])}"
            case _:
                continue
        raise RefusedArtefact.of(path, rule, message, "only the usual classes are loaded; re-save it with diffusers")


def _accepted(library: str, wanted: str) -> list[list[str]]:
    return [[library, name] for name in (wanted, _FORMERLY.get(wanted)) if name]


def _check_class(path: Path, config: dict[str, Any], family: Family) -> None:
    part = path.parent.name
    if part not in family.classes:
        return
    library, wanted = family.classes[part]
    named = config.get("_class_name") if library == "diffusers" else config.get("tokenizer_class")
    if part.startswith("text_encoder"):
        architectures = config.get("architectures")
        named = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else architectures
    if named is not None and named not in (wanted, f"{wanted}Fast", _FORMERLY.get(wanted)):
        raise RefusedArtefact.of(
            path,
            "unknown-class",
            f"its class is {quoted(named)}, not {wanted}",
            "re-save the checkpoint with diffusers",
        )


def _check_depth(path: Path, config: dict[str, Any]) -> None:
    for problem in _too_deep(config):
        raise RefusedArtefact.of(path, "too-deep", problem, "is it the published file?")


def _too_deep(config: dict[str, Any]) -> Iterator[str]:
    for key, most in _DEEPEST.items():
        value = config.get(key)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not 0 < number <= most:
                yield f"{key} is {quoted(value)}, {most} at most"
    for key in ("block_out_channels", "down_block_types", "up_block_types"):
        blocks = config.get(key)
        if isinstance(blocks, list) and len(blocks) > _MOST_BLOCKS:
            yield f"{key} has {len(blocks)}, {_MOST_BLOCKS} at most"


def _check_meaning(path: Path, usual: dict[str, Any]) -> None:
    config = read_object(path)
    for key, value in usual.items():
        if (found := config.get(key, _UNSAID[path.parent.name][key])) != value:
            raise RefusedArtefact.of(
                path,
                "unusual-model",
                f"{key} is {quoted(found)}, not {value}",
                "models that draw from text alone are supported, no inpainting, upscaling or distilled guidance",
            )
