"""One manifest, one code path, every family: against the stock pipelines, and from the plan to the audit."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.models.attention import BasicTransformerBlock

from fmn_guard.audit.auditor import run_audit
from fmn_guard.errors import InputError
from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget.export import TOLERANCE, Form, effect_lost, exported
from fmn_guard.forget.folder import patch_folder, revert_folder
from fmn_guard.forget.patch import apply_patch, edits_after, patched_digest, read_patch, write_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.model.attention import cross_attentions, watch_attention
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import denoise, denoiser, family_in, prompt_tokens, read_states, text_states
from fmn_guard.model.placement import available_device
from fmn_guard.model.sampler import draw_latents, starting_noise
from fmn_guard.plan import compile_plan
from fmn_guard.record import digest, parse_plain
from fmn_guard.shipped import suites
from fmn_guard.suite import Sampler, load_suite

from ..patched import make_patch
from ..tiny import FAMILIES, save_tiny_family

STOCK = {"transformer": {"use_resolution_binning": False, "clean_caption": False}}
"""What a stock pipeline is told, lest it draw at another size or rewrite the prompt."""
PROMPTS = ("a photo of a lion!", "lion, !! on a blue background")


FACTS = {
    "sd1": ("stable-diffusion", "epsilon", 32),
    "sd2": ("stable-diffusion", "epsilon", 32),
    "sd2-v": ("stable-diffusion", "v_prediction", 32),
    "sdxl": ("stable-diffusion-xl", "epsilon", 32),
    "sdxl-turbo": ("stable-diffusion-xl", "epsilon", 32),
    "pixart-alpha": ("pixart-alpha", "epsilon", 120),
    "pixart-sigma": ("pixart-sigma", "epsilon", 300),
}
# each differs from another only in its scheduler, padding, length or file layout
SLOW = ("sd2", "sdxl-turbo", "pixart-sigma")


@pytest.fixture(scope="module", params=[pytest.param(f, marks=pytest.mark.slow if f in SLOW else ()) for f in FAMILIES])
def folder(request, tmp_path_factory):
    return save_tiny_family(tmp_path_factory.mktemp(request.param) / "checkpoint", request.param)


@pytest.fixture(scope="module")
def checkpoint(folder):
    return describe_checkpoint(CheckpointRef(checkpoint=str(folder)), folder)


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder)


def test_facts_tell_family_prediction_and_length(folder, checkpoint):
    family, prediction, tokens = FACTS[folder.parent.name[:-1]]
    facts = checkpoint.facts
    assert (facts.family, facts.prediction_type, facts.max_tokens) == (family, prediction, tokens)
    assert facts.picture_size == 16


@pytest.mark.parametrize(("guidance", "steps"), [(1.0, 2), (4.0, 3)])
def test_latents_equal_those_of_the_stock_pipeline(pipeline, guidance, steps):
    ours = draw_latents(pipeline, ["a photo of a lion!"], [3], Sampler(steps=steps, guidance=guidance))
    published = pipeline.scheduler
    try:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            published.config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
        )
        stock = pipeline(
            "a photo of a lion!",
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=starting_noise(pipeline, [3]),
            output_type="latent",
            **STOCK.get(family_in(pipeline).denoiser, {}),
        ).images
    finally:
        pipeline.scheduler = published
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_every_cross_attention_is_seen_once_a_forward_pass(pipeline):
    part = denoiser(pipeline)
    blocks = sum(isinstance(m, BasicTransformerBlock) and m.attn2 is not None for m in part.modules())
    assert len(cross_attentions(part)) == blocks > 0
    text = text_states(pipeline, PROMPTS)
    with torch.no_grad(), watch_attention(part, torch.ones(2, text.shape[1])) as tape:
        denoise(pipeline, starting_noise(pipeline, [1, 2]), torch.tensor([10, 900]), text)
        assert len(tape.masses) == blocks
        torch.testing.assert_close(tape.mass(), torch.ones(2))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_name_is_found_at_the_positions_that_every_tokenizer_gives_it(prompt, pipeline, checkpoint):
    positions = checkpoint.token_positions(prompt, "lion", prompt.index("lion"))
    tokenizers = [pipeline.tokenizer, getattr(pipeline, "tokenizer_2", pipeline.tokenizer)]
    length = checkpoint.facts.max_tokens
    for tokenizer in tokenizers:
        ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
        assert len(ids) == length == prompt_tokens(pipeline)
        assert "".join(tokenizer.convert_ids_to_tokens([ids[i] for i in positions])) in ("lion</w>", "\u2581lion")
        end = ids.index(tokenizer.eos_token_id)
        assert set(ids[end + 1 :]) == {tokenizer.pad_token_id}


def test_text_of_each_prompt_depends_on_that_prompt_alone(pipeline):
    together = text_states(pipeline, [*PROMPTS, ""])
    for i, prompt in enumerate([*PROMPTS, ""]):
        torch.testing.assert_close(together[i : i + 1], text_states(pipeline, [prompt]))
    width = denoiser(pipeline).config.cross_attention_dim
    assert read_states(pipeline, together).shape == (3, prompt_tokens(pipeline), width)


def small(plan):
    """The plan with little language to retain and few steps to draw; the path is the same."""
    retain = plan.passes[0].retain.model_copy(update={"sentences": 64, "pictures": 4})
    passes = tuple(spec.model_copy(update={"retain": retain}) for spec in plan.passes)
    sampler = plan.sampler.model_copy(update={"steps": 2})
    return plan.model_copy(update={"passes": passes, "probes": plan.probes[:8], "sampler": sampler, "detectors": ()})


def test_the_same_manifest_goes_from_plan_to_audit(folder, checkpoint, tmp_path):
    document = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "families"},
        "spec": {
            "base": {"checkpoint": str(folder)},
            "concepts": [{"kind": "object", "phrase": "lion"}],
            "corrections": [{"prompt": "a doctor", "dominant": "a man", "expected": "a woman"}],
            "eraser": {"steps": 2, "learning_rate": 0.01},
        },
    }
    plan = small(compile_plan(parse_plain(document, Manifest), load_suite(suites() / "smoke"), checkpoint))
    records = run_plan(plan, checkpoint, tmp_path)
    assert [r.slug for r in records.passes] == [spec.slug for spec in plan.passes]
    assert all(0 < mass < 1 for r in records.passes for mass in r.attention_mass)
    patch = tmp_path / "patch.safetensors"
    base, patched = load_pipeline(folder), load_pipeline(folder)
    assert set(edits_after(read_patch(patch).parts)) == {
        f"{name}.to_v.weight" for name in cross_attentions(denoiser(base))
    }
    apply_patch(patched, patch, checkpoint.facts.identity)
    audit = run_audit(
        plan,
        base,
        patched,
        patched_digest=patched_digest(patch, checkpoint.facts.identity),
        passes_digest=digest(records),
        out=tmp_path,
        keep_images=False,
    )
    assert len(audit.observations) == 2 * len(plan.probes)
    assert all(seen.image_digest for seen in audit.observations)
    drawn = {(seen.side, seen.probe): seen.image_digest for seen in audit.observations}
    assert any(drawn["base", probe.id] != drawn["patched", probe.id] for probe in plan.probes)
    assert {seen.probe for seen in audit.attention} == {probe.id for probe in plan.probes if probe.positions}


def test_patch_is_read_in_every_form_and_the_folder_comes_back_byte_for_byte(folder, checkpoint, pipeline, tmp_path):
    if family_in(pipeline).denoiser == "transformer":
        pytest.skip("in test_pixart.py, for the forms that it has")
    patch = make_patch(folder)
    for form in get_args(Form):
        exports = tmp_path / f"{form}.safetensors"
        exports.write_bytes(exported(patch, form, checkpoint))
        assert effect_lost(checkpoint, patch, exports, form) < TOLERANCE
    write_patch(tmp_path / "patch.safetensors", patch)
    patch_folder(checkpoint, patch, tmp_path / "patch.safetensors", tmp_path / "patched")
    revert_folder(tmp_path / "patched", tmp_path / "back")
    contents = [
        {path.relative_to(base): path.read_bytes() for path in base.rglob("*") if path.is_file()}
        for base in (folder, tmp_path / "back")
    ]
    assert contents[0] == contents[1]


def test_prompt_that_two_tokenizers_cut_differently_is_refused(tmp_path):
    folder = save_tiny_family(tmp_path / "xl", "sdxl")
    merges = folder / "tokenizer_2" / "merges.txt"
    lines = merges.read_text(encoding="utf-8").split("\n")
    merges.write_text("\n".join(line for line in lines if not line.endswith("on</w>")), encoding="utf-8")
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(folder)), folder)
    with pytest.raises(InputError, match=r"find 'lion' at \(2,\) and at \(2, 3"):
        checkpoint.token_positions("a lion", "lion", 2)


def test_half_precision_variant_is_loaded_as_what_it_holds(tmp_path):
    folder = save_tiny_family(tmp_path / "whole", "sd1")
    whole = load_pipeline(folder)
    halved = load_pipeline(folder).to(torch.float16)
    halved.save_pretrained(tmp_path / "half", variant="fp16", safe_serialization=True)
    assert (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    describe_checkpoint(CheckpointRef(checkpoint=str(tmp_path / "half")), tmp_path)
    loaded = load_pipeline(tmp_path / "half")
    for name, weight in whole.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], weight.half().float())


SLOWER = [pytest.param(family, marks=pytest.mark.slow) for family in ("sdxl", "pixart-sigma")]


@pytest.mark.parametrize("family", ["sd1", *SLOWER])
def test_base_in_bfloat16_takes_edits_in_float32(family, tmp_path):
    folder = save_tiny_family(tmp_path / "checkpoint", family)
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(folder)), folder)
    document = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "precision"},
        "spec": {
            "base": {"checkpoint": str(folder)},
            "concepts": [{"kind": "object", "phrase": "lion"}],
            "eraser": {"steps": 2, "learning_rate": 0.01},
        },
    }
    plan = small(compile_plan(parse_plain(document, Manifest), load_suite(suites() / "smoke"), checkpoint))
    pictures = {}
    for precision in ("float32", "bfloat16"):
        (out := tmp_path / precision).mkdir()
        run_plan(plan, checkpoint, out, precision=precision)
        edits = edits_after(read_patch(out / "patch.safetensors").parts)
        assert edits and {edit.dtype for edit in edits.values()} == {torch.float32}
        pipeline = load_pipeline(folder, precision=precision)
        assert denoiser(pipeline).dtype == pipeline.text_encoder.dtype == getattr(torch, precision)
        assert pipeline.vae.dtype == torch.float32
        pictures[precision] = draw_latents(pipeline, ["a lion"], [1], Sampler(steps=2, guidance=3.0))
    # Eight bits of a number are not twenty-four, but the picture is the same one.
    assert (pictures["bfloat16"] - pictures["float32"]).norm() < 0.1 * pictures["float32"].norm()


def test_device_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"finds .*cpu") as caught:
        load_pipeline(tmp_path, "cuda:7")
    assert "auto" in str(caught.value.hint)
    assert available_device("auto").type in ("cpu", "mps")
