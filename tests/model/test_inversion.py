"""Textual inversion against a plain reference loop, and how little it leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fmn_guard.errors import InputError
from fmn_guard.inversion import InversionSettings
from fmn_guard.model.attention import edited_values
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import text_states
from fmn_guard.model.inversion import invert, inverted_states, sentence_vector, sentence_vectors, spoken

from ..tiny import save_tiny_family

FRAMES = ("a photo of a {x}", "a {x} in the style of pixel art", "a photo of a {x}")
SETTINGS = InversionSettings(seeds=(3, 4), steps=3, batch=2, learning_rate=0.1, falls_to=0.5)


@pytest.fixture
def pipeline(tiny_checkpoint: Path) -> Any:
    return load_pipeline(tiny_checkpoint)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_model_with_two_text_encoders_is_refused(latents: Tensor, tmp_path: Path) -> None:
    model = load_pipeline(save_tiny_family(tmp_path / "xl", "sdxl"))
    with pytest.raises(InputError, match="two text encoders"):
        invert(model, latents, FRAMES, "picture", SETTINGS)


def _embedding(pipeline: Any) -> tuple[str, Tensor]:
    weight = pipeline.text_encoder.get_input_embeddings().weight
    return next((name, p) for name, p in pipeline.text_encoder.named_parameters() if p is weight)


def _seen(pipeline: Any, run: Any) -> list[tuple[Tensor, Tensor]]:
    """What the UNet is given, forward by forward."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _m, args: seen.append((args[0].clone(), args[1].clone())))
    run()
    hook.remove()
    return seen


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_tokens_are_those_of_a_plain_loop_that_changes_the_word_in_the_embedding_table(
    pipeline: Any, latents: Tensor, prediction: str
) -> None:
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    settings, x0, found = SETTINGS.model_copy(update={"seeds": (3,)}), latents[:1], []
    seen = _seen(pipeline, lambda: found.append(invert(pipeline, x0, ["a photo of a {x}"], "picture", settings)))
    assert len(seen) == settings.steps

    name, table = _embedding(pipeline)
    [word] = pipeline.tokenizer("picture", add_special_tokens=False).input_ids
    ids = pipeline.tokenizer("a photo of a picture", padding="max_length", return_tensors="pt").input_ids
    token = table[word].clone().requires_grad_()
    adam = torch.optim.AdamW([token], settings.learning_rate, weight_decay=settings.weight_decay)
    for step, (x_t, t) in enumerate(seen):
        share = (1, 5 / 6, 4 / 6)[step]  # half is left after three steps
        alpha = pipeline.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (x_t - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        target = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
        changed = table.detach().clone().index_put((torch.tensor(word),), token)
        text = functional_call(pipeline.text_encoder, {name: changed}, (ids,)).last_hidden_state
        loss = (pipeline.unet(x_t, t, text.expand(len(t), -1, -1)).sample - target).square().mean()
        adam.param_groups[0]["lr"] = settings.learning_rate * share
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            size, wanted = token.norm(), table.norm(dim=-1).mean()
            token *= ((1 - settings.pull * share) * size + settings.pull * share * wanted) / size
    torch.testing.assert_close(found[0].tokens[0, 0], token.detach(), rtol=1e-4, atol=1e-5)


def test_every_seed_sees_each_picture_once_a_round_from_its_own_noise(pipeline: Any) -> None:
    far_apart = torch.arange(4.0).mul(1e4).view(4, 1, 1, 1).expand(4, 4, 8, 8)
    seen = _seen(pipeline, lambda: invert(pipeline, far_apart, ["a {x}"] * 4, "picture", SETTINGS))
    which = []
    for x_t, t in seen[:2]:
        alpha = pipeline.scheduler.alphas_cumprod[t]
        which.append((x_t.mean((1, 2, 3)) / alpha.sqrt() / 1e4).round().int().tolist())
    first, second = ([*which[0][part], *which[1][part]] for part in (slice(0, 2), slice(2, 4)))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3]
    assert seen[0][1][:2].tolist() != seen[0][1][2:].tolist()


def test_both_models_are_shown_the_same(pipeline: Any, latents: Tensor, tiny_checkpoint: Path) -> None:
    other = load_pipeline(tiny_checkpoint)
    with torch.no_grad():
        for weight in other.unet.parameters():
            weight += 0.1
    shown = [
        _seen(model, lambda m=model: invert(m, latents, FRAMES, "picture", SETTINGS)) for model in (pipeline, other)
    ]
    for (x_a, t_a), (x_b, t_b) in zip(*shown, strict=True):
        assert torch.equal(x_a, x_b) and torch.equal(t_a, t_b)


def test_same_seeds_find_the_same_and_other_seeds_do_not(pipeline: Any, latents: Tensor) -> None:
    first, again = (invert(pipeline, latents, FRAMES, "picture", SETTINGS) for _ in range(2))
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.errors, again.errors)
    assert not torch.allclose(first.tokens[0], first.tokens[1])


def test_seed_finds_alone_what_it_finds_beside_others(pipeline: Any, latents: Tensor) -> None:
    together = invert(pipeline, latents, FRAMES, "picture", SETTINGS)
    alone = invert(pipeline, latents, FRAMES, "picture", SETTINGS.model_copy(update={"seeds": (4,)}))
    torch.testing.assert_close(together.tokens[1], alone.tokens[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.errors[1], alone.errors[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 4])
def test_inversion_learns(pipeline: Any, latents: Tensor, tokens: int) -> None:
    settings = InversionSettings(tokens=tokens, seeds=(0,), steps=12, batch=4, learning_rate=0.05, pull=0.0)
    still = settings.model_copy(update={"learning_rate": 1e-9})
    found, start = (invert(pipeline, latents[:1], ["{x}"], "picture", each) for each in (settings, still))
    assert found.tokens.shape == (1, tokens, 32)
    assert (found.errors - start.errors)[0, -4:].max() < 0


def test_pull_of_one_leaves_tokens_of_the_norm_that_was_asked_for(pipeline: Any, latents: Tensor) -> None:
    settings = SETTINGS.model_copy(update={"norm": 0.4, "pull": 1.0, "falls_to": 1.0, "tokens": 2})
    found = invert(pipeline, latents, FRAMES, "picture", settings)
    torch.testing.assert_close(found.tokens.norm(dim=-1), torch.full((2, 2), 0.4))


# ---- borrowed and given back


def _state(pipeline: Any) -> dict[str, Any]:
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    state = {f"{part}.{name}": value.clone() for part, m in parts.items() for name, value in m.state_dict().items()}
    flags = [p.requires_grad for m in parts.values() for p in m.parameters()]
    flags += [module.training for m in parts.values() for module in m.modules()]
    hooks = [len(module._forward_hooks) for m in parts.values() for module in m.modules()]
    return {"tensors": state, "flags": flags, "hooks": hooks, "words": pipeline.tokenizer.get_vocab()}


def _is_as_before(pipeline: Any, before: dict[str, Any]) -> bool:
    now = _state(pipeline)
    same = all(torch.equal(now["tensors"][name], value) for name, value in before["tensors"].items())
    return same and all(now[key] == before[key] for key in ("flags", "hooks", "words"))


def test_model_and_tokenizer_come_back_as_they_were(pipeline: Any, latents: Tensor) -> None:
    pipeline.unet.train().requires_grad_(True)
    pipeline.unet.conv_in.requires_grad_(False)
    before = _state(pipeline)
    invert(pipeline, latents, FRAMES, "picture", SETTINGS)
    assert _is_as_before(pipeline, before)
    assert all(p.grad is None for p in pipeline.unet.parameters())


def test_model_comes_back_as_it_was_when_something_breaks(pipeline: Any, latents: Tensor) -> None:
    pipeline.text_encoder.train().requires_grad_(True)
    before = _state(pipeline)

    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert(pipeline, latents, FRAMES, "picture", SETTINGS, breaks)
    assert _is_as_before(pipeline, before)


def test_saved_model_holds_no_token(pipeline: Any, latents: Tensor, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "before")
    found = invert(pipeline, latents, FRAMES, "picture", SETTINGS)
    pipeline.save_pretrained(tmp_path / "after")
    for path in (tmp_path / "before").rglob("*.*"):
        kept = (tmp_path / "after" / path.relative_to(tmp_path / "before")).read_bytes()
        assert kept == path.read_bytes()
        assert found.tokens[0, 0].numpy().tobytes() not in kept


def test_placeholders_in_the_tokenizer_change_nothing(pipeline: Any, latents: Tensor, tiny_checkpoint: Path) -> None:
    crowded = load_pipeline(tiny_checkpoint)
    crowded.tokenizer.add_tokens([f"<s{i}>" for i in range(12)])
    crowded.text_encoder.resize_token_embeddings(len(crowded.tokenizer), mean_resizing=False)
    settings = SETTINGS.model_copy(update={"norm": 0.5})
    plain, other = (invert(model, latents, FRAMES, "picture", settings) for model in (pipeline, crowded))
    assert torch.equal(plain.tokens, other.tokens)


def test_inversion_sees_the_edits_of_earlier_passes(pipeline: Any, latents: Tensor) -> None:
    plain = invert(pipeline, latents, FRAMES, "picture", SETTINGS)
    with edited_values(pipeline.unet) as layers:
        untouched = invert(pipeline, latents, FRAMES, "picture", SETTINGS)
        for layer in layers.values():
            layer.edit = layer.frozen.weight.detach().clone()
        edited = invert(pipeline, latents, FRAMES, "picture", SETTINGS)
    torch.testing.assert_close(untouched.tokens, plain.tokens)
    assert not torch.allclose(edited.tokens, plain.tokens)


def test_latents_drawn_in_inference_mode_will_do(pipeline: Any) -> None:
    with torch.inference_mode():
        drawn = torch.zeros(1, 4, 8, 8)
    assert invert(pipeline, drawn, ["{x}"], "picture", SETTINGS).tokens.isfinite().all()


# ---- sentences


@pytest.fixture
def found(pipeline: Any, latents: Tensor) -> Iterator[Any]:
    return invert(pipeline, latents, FRAMES, "picture", SETTINGS.model_copy(update={"tokens": 2}))


def test_prompt_reads_as_it_did_in_training(pipeline: Any, found: Any) -> None:
    for i in range(2):
        with spoken(pipeline, FRAMES[:2], found, i) as prompts:
            read = text_states(pipeline, ["", *prompts, "a photo of a lion"])
        assert prompts == ("a photo of a picture picture", "a picture picture in the style of pixel art")
        for row, frame in enumerate(FRAMES[:2], start=1):
            torch.testing.assert_close(read[row], inverted_states(pipeline, frame, found)[i])
        plain = text_states(pipeline, ["", *prompts, "a photo of a lion"])
        assert torch.equal(read[[0, 3]], plain[[0, 3]])
        assert not torch.allclose(read[1:3], plain[1:3])


def test_tokens_mean_nothing_to_another_thread(pipeline: Any, found: Any) -> None:
    plain, read = text_states(pipeline, ["a photo of a picture picture"]), []
    with spoken(pipeline, FRAMES[:1], found, 0) as prompts:
        other = threading.Thread(target=lambda: read.append(text_states(pipeline, prompts)))
        other.start()
        other.join()
    assert torch.equal(read[0], plain)


def test_vector_of_a_sentence_is_the_text_encoders_own_pooled_state(pipeline: Any, found: Any) -> None:
    ids = pipeline.tokenizer("a photo of a lion", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        pooled = pipeline.text_encoder(ids).pooler_output[0]
    torch.testing.assert_close(sentence_vector(pipeline, "a photo of a lion"), pooled)
    assert sentence_vectors(pipeline, "a photo of a {x}", found).shape == (2, 32)
    assert torch.equal(sentence_vectors(pipeline, "{x}", found)[0], inverted_states(pipeline, "{x}", found)[0, 3])


@pytest.mark.parametrize(
    ("frame", "word", "said"),
    [
        ("a photo of a lion", "picture", "no single place"),
        ("{x} and {x}", "picture", "no single place"),
        ("a photo of a {x}", "zyxwvut", "tokens to this model"),
        ("a photo of a {x}", "two words", "tokens to this model"),
        ("a photo of a rose{x}", "picture", "not where it should be"),
        ("a photo of a {x}" + " on a pink background" * 8, "picture", "the model takes 32"),
    ],
)
def test_word_or_sentence_that_does_not_fit_is_refused(
    pipeline: Any, latents: Tensor, frame: str, word: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        invert(pipeline, latents[:1], [frame], word, SETTINGS)
