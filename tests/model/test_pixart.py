"""PixArt: what its transformer is told, against the stock pipeline and against its parts called one by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from fmn_guard.errors import FmnGuardError, InputError, RefusedArtefact
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.forget.export import TOLERANCE, effect_lost, exported
from fmn_guard.forget.folder import patch_folder, revert_folder
from fmn_guard.forget.memory import records_at_once
from fmn_guard.forget.patch import Patch, apply_patch, edits_after, read_patch
from fmn_guard.forget.reading import moments, noised, queries
from fmn_guard.forget.runner import run_plan
from fmn_guard.inversion import InversionSettings
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.model.attention import cross_attentions, edited_values, seen_attention
from fmn_guard.model.checkpoint import load_pipeline, save_checkpoint
from fmn_guard.model.conditioning import (
    brief_states,
    denoise,
    read_states,
    seen_tokens,
    side_by_side,
    text_ids,
    text_states,
)
from fmn_guard.model.convert import to_file, to_folder
from fmn_guard.model.inversion import Schedule, invert, inverted_states, spoken
from fmn_guard.model.prefix import Budget, search_prefix, words_of
from fmn_guard.model.sampler import draw_latents, starting_noise
from fmn_guard.model.stack import fuse
from fmn_guard.plan import compile_plan
from fmn_guard.record import parse_plain
from fmn_guard.shipped import suites
from fmn_guard.suite import Sampler, load_suite

from ..tiny import save_tiny_family, t5_tokenizer

PROMPT, NAME = "A photo of a LION, by night", "LION"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_family(tmp_path_factory.mktemp("pixart") / "checkpoint", "pixart-alpha")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return described(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return load_pipeline(folder)


def described(folder: Path) -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint=str(folder)), Path())


def records(pipeline: Any, count: int = 2) -> tuple[Tensor, Tensor]:
    return starting_noise(pipeline, range(count)), torch.linspace(10, 900, count).long()


# ---- what it is told


def test_prediction_is_that_of_the_transformer_told_states_and_mask_of_the_prompt_in_lower_case(pipeline: Any) -> None:
    (x_t, t), prompts = records(pipeline), [PROMPT.lower(), "a lion"]
    batch = pipeline.tokenizer(prompts, padding="max_length", max_length=120, return_tensors="pt")
    with torch.no_grad():
        states = pipeline.text_encoder(batch.input_ids, attention_mask=batch.attention_mask)[0]
        wanted = pipeline.transformer(
            x_t,
            encoder_hidden_states=states,
            timestep=t,
            encoder_attention_mask=batch.attention_mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        found = denoise(pipeline, x_t, t, text_states(pipeline, [PROMPT, "a lion"]))
        other = denoise(pipeline, x_t, t, text_states(pipeline, ["a lion", PROMPT]))
    assert wanted.shape[1] == 8
    torch.testing.assert_close(found, wanted[:, :4], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, other, atol=1e-4)


def test_the_first_version_at_1024_pixels_is_told_the_size_of_the_picture_as_by_the_stock_pipeline(
    tmp_path: Path,
) -> None:
    model: Any = load_pipeline(save_tiny_family(tmp_path / "large", "pixart-alpha", side=128))
    assert model.transformer.use_additional_conditions
    sampler = Sampler(steps=2, guidance=3.0, size=32)
    ours = draw_latents(model, ["a lion"], [3], sampler)
    model.scheduler = DPMSolverMultistepScheduler.from_config(
        model.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    stock = model(
        "a lion",
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
        latents=starting_noise(model, [3], 32),
        use_resolution_binning=False,
        clean_caption=False,
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_name_in_capitals_is_found_at_the_tokens_that_spell_it_in_what_is_read(
    pipeline: Any, checkpoint: Checkpoint
) -> None:
    positions = checkpoint.token_positions(PROMPT, NAME, PROMPT.index(NAME))
    ids = text_ids(pipeline, [PROMPT])[0]
    spelt = pipeline.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert [spelt[i] for i in positions] == ["\u2581lion"]
    (end,) = checkpoint.end_of_text_positions(PROMPT)
    assert spelt[end] == "</s>" and set(spelt[end + 1 :]) == {"<pad>"}
    assert {"lion", "photo"} <= set(checkpoint.words())


# ---- its mask


def test_what_a_prompt_is_filled_up_with_is_not_seen_and_all_else_is(pipeline: Any) -> None:
    (x_t, t), text = records(pipeline), text_states(pipeline, [PROMPT, "a lion"])
    seen = seen_tokens(pipeline, text)
    assert seen is not None
    assert seen.sum(1).tolist() == [(row != 0).sum() for row in text_ids(pipeline, [PROMPT, "a lion"])]
    elsewhere, told_more = text.clone(), text.clone()
    elsewhere[..., :-1][~seen] = 7.0
    told_more[..., -1] = 1.0
    with torch.no_grad():
        usual = denoise(pipeline, x_t, t, text)
        torch.testing.assert_close(denoise(pipeline, x_t, t, elsewhere), usual)
        assert not torch.allclose(denoise(pipeline, x_t, t, told_more), usual, atol=1e-4)
    mass: list[Tensor] = []
    with torch.no_grad(), seen_attention(pipeline.transformer, lambda _name, _query, probs: mass.append(probs)):
        torch.testing.assert_close(denoise(pipeline, x_t, t, text), usual, rtol=1e-4, atol=1e-5)
    assert len(mass) == len(cross_attentions(pipeline.transformer)) == 3
    for probs in mass:
        given = probs.mean((1, 2))  # (B, T)
        assert (given[~seen] == 0).all() and (given[seen] > 0).all()


def test_beyond_its_end_a_text_is_its_end_and_means_of_texts_go_as_far_as_most_of_them(pipeline: Any) -> None:
    texts = text_states(pipeline, ["a lion", "a green lion", "a lion, by night"])
    lengths = [int(text[:, -1].sum()) for text in texts]
    assert len(set(lengths)) == 3
    for text, length in zip(texts, lengths, strict=True):
        torch.testing.assert_close(text[length:, :-1], text[length - 1, :-1].expand(120 - length, -1))
    for weights in ([0.4, 0.4, 0.2], [0.1, 0.3, 0.6], [1.0, 1.0, -1.0]):
        mean = torch.einsum("b,btd->td", torch.tensor(weights), texts)
        seen = seen_tokens(pipeline, mean[None])
        assert seen is not None
        weight_at = [sum(w for w, n in zip(weights, lengths, strict=True) if i < n) for i in range(120)]
        assert seen[0].tolist() == [w > 0.5 for w in weight_at]


def test_texts_that_are_kept_without_their_padding_are_the_same_texts(pipeline: Any) -> None:
    prompts = ["a lion", PROMPT, ""]
    rows = brief_states(pipeline, prompts)
    assert [len(row) for row in rows] == [int(text[:, -1].sum()) for text in text_states(pipeline, prompts)]
    longest = max(map(len, rows))
    torch.testing.assert_close(side_by_side(rows), text_states(pipeline, prompts)[:, :longest])


# ---- what is edited and solved for


def test_what_is_read_of_a_sentence_is_what_values_are_given(pipeline: Any) -> None:
    given: list[Tensor] = []
    values = cross_attentions(pipeline.transformer)["transformer_blocks.1.attn2"].to_v
    hook = values.register_forward_pre_hook(lambda _module, args: given.append(args[0]))
    text = text_states(pipeline, [PROMPT, "a lion"])
    with torch.no_grad():
        denoise(pipeline, *records(pipeline), text)
    hook.remove()
    torch.testing.assert_close(read_states(pipeline, text), given[0], rtol=1e-5, atol=1e-6)


def test_moments_are_of_what_attention_reads_where_it_sees(pipeline: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, t = noised(pipeline, starting_noise(pipeline, [1, 2]), generator)
    text = text_states(pipeline, [PROMPT, "a lion"])
    asked = queries(pipeline, x_t, t, text, generator)
    own, crossed = moments(pipeline, asked, text, 4, text.flip(0))
    layer = cross_attentions(pipeline.transformer)["transformer_blocks.2.attn2"]
    name = "transformer_blocks.2.attn2.to_v.weight"
    wanted, mixed = torch.zeros_like(own[name]), torch.zeros_like(own[name])
    for i, length in enumerate(int(row[:, -1].sum()) for row in text):
        states, other = read_states(pipeline, text)[[i, 1 - i], :length]
        key = layer.to_k(states).unflatten(-1, (2, -1))  # (length, heads, c)
        query = asked[name][4 * i : 4 * i + 4]  # (4, heads, c)
        probs = (torch.einsum("phc,thc->hpt", query, key) * layer.scale).softmax(-1)
        read, also = (probs @ each for each in (states, other))  # (heads, 4, d)
        wanted += (read.mT @ read / 4).double()
        mixed += (also.mT @ read / 4).double()
    torch.testing.assert_close(own[name], wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(crossed[name], mixed, rtol=1e-4, atol=1e-6)


def test_a_step_holds_fewer_records_the_more_blocks_and_channels_there_are(pipeline: Any) -> None:
    least = records_at_once(pipeline, 64)
    bytes_each = 64 / 4 * 24 * 3 * 12 * 4
    assert least == (2 << 30) // int(bytes_each)


def manifest(folder: Path, **eraser: object) -> Manifest:
    return parse_plain(
        {
            "apiVersion": "fmn-guard/v1",
            "kind": "ConceptManifest",
            "metadata": {"name": "pixart"},
            "spec": {
                "base": {"checkpoint": str(folder)},
                "concepts": [{"kind": "object", "phrase": "lion"}],
                "eraser": {"learning_rate": 0.01} | eraser,
            },
        },
        Manifest,
    )


@pytest.fixture(scope="module")
def patch(folder: Path, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the default eraser, with little language."""
    plan = compile_plan(manifest(folder, steps=2), load_suite(suites() / "smoke"), checkpoint)
    (spec,) = plan.passes
    retain = spec.retain.model_copy(update={"sentences": 32, "pictures": 2})
    sampler = plan.sampler.model_copy(update={"steps": 2})
    spec = spec.model_copy(update={"retain": retain, "times": 2})
    out = tmp_path_factory.mktemp("run")
    run_plan(plan.model_copy(update={"passes": (spec,), "sampler": sampler}), checkpoint, out)
    return out / "patch.safetensors"


def test_patched_folder_differs_in_the_values_of_cross_attentions_alone_and_goes_back(
    patch: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    patch_folder(checkpoint, read_patch(patch), patch, tmp_path / "patched")
    loaded: Any = load_pipeline(tmp_path / "patched")
    added: Any = load_pipeline(checkpoint.folder)
    before = {name: weight.clone() for name, weight in added.transformer.state_dict().items()}
    apply_patch(added, patch, checkpoint.facts.identity)
    for name, weight in loaded.transformer.state_dict().items():
        assert torch.equal(weight, added.transformer.state_dict()[name])
        assert torch.equal(weight, before[name]) == (not name.endswith("attn2.to_v.weight"))
    revert_folder(tmp_path / "patched", tmp_path / "back")
    for path in [path for path in checkpoint.folder.rglob("*") if path.is_file()]:
        assert (tmp_path / "back" / path.relative_to(checkpoint.folder)).read_bytes() == path.read_bytes()


def test_model_comes_back_as_it_was(pipeline: Any) -> None:
    layers = [module.to_v for module in cross_attentions(pipeline.transformer).values()]
    with edited_values(pipeline.transformer) as edited:
        assert list(edited) == [f"transformer_blocks.{i}.attn2.to_v.weight" for i in range(3)]
    assert [module.to_v for module in cross_attentions(pipeline.transformer).values()] == layers


def test_release_s_algorithm_trains_the_whole_transformer(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    document = manifest(folder, preset="official")
    document = document.model_copy(
        update={
            "spec": document.spec.model_copy(
                update={"eraser": parse_plain({"preset": "official"}, type(document.spec.eraser))}
            )
        }
    )
    plan = compile_plan(document, load_suite(suites() / "smoke"), checkpoint)
    (spec,) = plan.passes
    plan = plan.model_copy(
        update={
            "passes": (spec.model_copy(update={"steps": 2}),),
            "sampler": plan.sampler.model_copy(update={"steps": 2}),
        }
    )
    records = run_plan(plan, checkpoint, tmp_path)
    assert records.passes[0].stopped == "ceiling"
    edits = edits_after(read_patch(tmp_path / "patch.safetensors").parts)
    assert {"caption_projection.linear_1.weight", "transformer_blocks.0.attn1.to_q.weight"} <= set(edits)
    apply_patch(load_pipeline(folder), tmp_path / "patch.safetensors", checkpoint.facts.identity)


# ---- inversion and prefixes


FRAMES = ("a photo of a {x}", "{x} by night")


def test_inversion_starts_from_the_error_of_the_sentence_as_it_is_typed_and_lowers_it(pipeline: Any) -> None:
    latents, settings = starting_noise(pipeline, [5, 6]), InversionSettings(seeds=(3,), steps=12, batch=2)
    found = invert(pipeline, latents, FRAMES, "Picture", settings)
    x_t, t, target, pictures = Schedule(pipeline, latents, settings).step(0)
    typed = text_states(pipeline, [FRAMES[i].replace("{x}", "picture") for i in pictures])
    with torch.no_grad():
        error = (denoise(pipeline, x_t, t, typed) - target).square().mean()
    assert found.errors[0, 0] == pytest.approx(error.item(), rel=1e-4)
    assert not torch.equal(found.tokens[0, 0], pipeline.text_encoder.get_input_embeddings().weight[0])
    with torch.no_grad():
        wanted = inverted_states(pipeline, FRAMES[1], found)
        with spoken(pipeline, FRAMES, found, 0) as prompts:
            read = text_states(pipeline, [*prompts, "a longer sentence without any of it"])
    torch.testing.assert_close(read[1], wanted[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(read[1], text_states(pipeline, ["picture by night"])[0], atol=1e-4)


def test_prefix_that_is_found_is_read_as_it_was_scored(pipeline: Any) -> None:
    latents, prompts = starting_noise(pipeline, [5, 6]), ("a lion", "a lion by night")
    words = words_of(pipeline, ("LION",))
    assert "lion" not in words.values() and "photo" in words.values()
    assert all(word == word.lower() for word in words.values())
    budget = Budget(tokens=3, steps=1, candidates=6, nearest=8, batch=2)
    found = search_prefix(pipeline, latents, prompts, words, budget, 0)
    settings = InversionSettings(seeds=(0,), steps=1, batch=2)
    x_t, t, target, pictures = Schedule(pipeline, latents, settings).step(0)
    with torch.no_grad():
        text = text_states(pipeline, [f"{found.text} {prompts[i]}" for i in pictures])
        error = (denoise(pipeline, x_t, t, text) - target).square().mean().item()
    assert found.errors[0] == pytest.approx(error, rel=1e-4)


# ---- in and out


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_no_lora_is_written_for_a_transformer(form: Any, patch: Path) -> None:
    with pytest.raises(InputError, match="no LoRA") as caught:
        exported(read_patch(patch), form)
    assert "--format diff" in str(caught.value.hint)


def test_differences_are_written_by_the_names_of_diffusers_and_read_back(
    patch: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    held: Patch = read_patch(patch)
    (path := tmp_path / "diff.safetensors").write_bytes(exported(held, "diff", checkpoint))
    assert set(load_file(path)) == {f"transformer.transformer_blocks.{i}.attn2.to_v.diff" for i in range(3)}
    assert effect_lost(checkpoint, held, path, "diff") < TOLERANCE


@pytest.mark.parametrize(
    "asked",
    [
        lambda base, out: fuse(base, {}, out),
        lambda base, out: to_file(base.folder, out),
        lambda base, out: to_folder(base.folder / TRANSFORMER, base.folder, out),
    ],
    ids=["fuse", "to a file", "from a file"],
)
def test_what_has_no_known_names_is_refused(
    asked: Callable[[Checkpoint, Path], object], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(FmnGuardError, match="PixArtAlphaPipeline"):
        asked(checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def _as_first_published(folder: Path) -> None:
    """The transformer under the name that its class had, the embeddings of T5 under both of theirs."""
    for name, change in (
        ("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
        ("transformer/config.json", {"_class_name": "Transformer2DModel"}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    weights = load_file(encoder := folder / "text_encoder" / "model.safetensors")
    save_file(weights | {"encoder.embed_tokens.weight": weights["shared.weight"].clone()}, encoder, {"format": "pt"})


def test_checkpoint_as_first_published_draws_the_same(folder: Path, pipeline: Any, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    _as_first_published(old)
    assert described(old).facts.family == "pixart-alpha"
    sampler = Sampler(steps=2, guidance=3.0)
    mine = draw_latents(load_pipeline(old), ["a lion"], [1], sampler)
    assert torch.equal(mine, draw_latents(pipeline, ["a lion"], [1], sampler))


def content_of(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer, but for what it was last asked to do."""
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in content.items() if key not in ("truncation", "padding")}


def test_tokenizer_as_published_is_the_one_that_is_saved_of_it(folder: Path, pipeline: Any, tmp_path: Path) -> None:
    assert not (folder / "tokenizer" / "tokenizer.json").exists()
    saved = shutil.copytree(folder, tmp_path / "saved")
    (saved / "tokenizer" / "spiece.model").unlink()
    t5_tokenizer().save_pretrained(saved / "tokenizer")
    loaded: Any = load_pipeline(saved)
    assert content_of(pipeline.tokenizer) == content_of(loaded.tokenizer)
    assert described(folder).words() == described(saved).words()
    save_checkpoint(pipeline, tmp_path / "again")
    again: Any = load_pipeline(tmp_path / "again")
    assert content_of(again.tokenizer) == content_of(loaded.tokenizer)


def test_checkpoint_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tokenizer" / "spiece.model").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json, and no spiece\.model"):
        described(copy)


def test_encoder_of_another_width_than_is_read_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "text_encoder")
    vocabulary = load_file(folder / "text_encoder" / "model.safetensors")["shared.weight"].shape[0]
    config = T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(copy / "text_encoder")
    with pytest.raises(RefusedArtefact, match="reads 32 numbers of a token, it is told 16"):
        load_pipeline(copy)
