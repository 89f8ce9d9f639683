"""Prefix search on a real, tiny model: the gradient proposes, the loss decides, and nothing of the model changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fmn_guard.errors import FmnGuardError, InputError
from fmn_guard.inversion import InversionSettings
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.inversion import Schedule
from fmn_guard.model.prefix import Budget, Found, _Search, search_prefix, words_of

PROMPTS = ("a picture of a lion", "a lion on a green background", "a picture of a lion")
BUDGET = Budget(tokens=5, steps=3, candidates=6, nearest=8, batch=2)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return load_pipeline(tiny_checkpoint)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def words(model: Any) -> dict[int, str]:
    return words_of(model, ("lion",))


def _search(model: Any, latents: Tensor, words: dict[int, str], seed: int = 0, **options: Any) -> Found:
    return search_prefix(model, latents, PROMPTS, words, options.pop("budget", BUDGET), seed, **options)


def _loss(model: Any, text: str, x_t: Tensor, t: Tensor, target: Tensor, pictures: Tensor) -> float:
    """The loss by hand: prompts as anybody would type them."""
    prompts = [f"{text} {PROMPTS[i]}" for i in pictures]
    length = model.tokenizer.model_max_length
    ids = model.tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt").input_ids
    with torch.no_grad():
        predicted = model.unet(x_t, t, model.text_encoder(ids).last_hidden_state).sample
    return float((predicted - target).square().mean())


# ---- words


def test_words_are_read_back_as_the_tokens_they_are_and_hold_none_of_a_name(model: Any) -> None:
    found = words_of(model, ("the captain", "Ada Thorne"))
    assert {"castle", "of", "lion", "!"} <= set(found.values())
    assert {"the", "captain", "ada", "thorne", "<|endoftext|>"}.isdisjoint(found.values())
    for number, text in found.items():
        assert model.tokenizer(text, add_special_tokens=False).input_ids == [number]


# ---- the search


def test_error_told_is_that_of_the_prompt_as_it_is_typed(model: Any, latents: Tensor, words: dict[int, str]) -> None:
    found = _search(model, latents, words, budget=Budget(5, 1, 6, 8, 2))
    settings = InversionSettings(seeds=(0,), steps=1, batch=2)
    x_t, t, target, pictures = Schedule(model, latents, settings).step(0)
    assert len(found.text.split()) == 5
    assert found.errors[0] == pytest.approx(_loss(model, found.text, x_t, t, target, pictures), rel=1e-5)


def test_gradient_says_how_the_loss_changes_with_a_words_share(
    model: Any, latents: Tensor, words: dict[int, str]
) -> None:
    settings = InversionSettings(seeds=(0,), steps=1, batch=2)
    search = _Search(model, latents, PROMPTS, words, settings, BUDGET, 0, lambda _text: True)
    x_t, t, target, pictures = Schedule(model, latents, settings).step(0)
    turn = search._turn[pictures]
    table = model.text_encoder.get_input_embeddings().weight.detach()
    held = table[search.held].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(search._error(held, x_t, t, target, turn), [held])
    other = table[next(iter(words))]
    for place in (0, 4):
        step = torch.zeros_like(held)
        step[place] = other - held[place].detach()
        with torch.no_grad():
            near = [search._error(held + share * step, x_t, t, target, turn).item() for share in (-0.05, 0.05)]
        assert (near[1] - near[0]) / 0.1 == pytest.approx((gradient[place] @ step[place]).item(), rel=0.05, abs=1e-6)


def test_words_held_never_get_worse_within_a_step(model: Any, latents: Tensor, words: dict[int, str]) -> None:
    settings = InversionSettings(seeds=(0,), steps=4, batch=2)
    search = _Search(model, latents, PROMPTS, words, settings, BUDGET, 0, lambda _text: True)
    schedule = Schedule(model, latents, settings)
    changed = 0
    for step in range(4):
        before, seen = search.text(search.held), schedule.step(step)
        search.step(step)
        after = search.text(search.held)
        assert sum(a != b for a, b in zip(before.split(), after.split(), strict=True)) <= 1
        assert _loss(model, after, *seen) <= _loss(model, before, *seen) * (1 + 1e-5)
        changed += before != after
    assert changed  # or nothing was searched


def test_seed_alone_decides_what_is_found(model: Any, latents: Tensor, words: dict[int, str]) -> None:
    found = _search(model, latents, words)
    torch.manual_seed(5)
    assert _search(model, latents, words) == found
    assert _search(model, latents, words, seed=1) != found


def test_model_comes_back_as_it_was(model: Any, latents: Tensor, words: dict[int, str]) -> None:
    parts = (model.unet, model.text_encoder)
    before = [weight.clone() for part in parts for weight in part.parameters()]
    wanted = [weight.requires_grad for part in parts for weight in part.parameters()]
    size = len(model.tokenizer)
    _search(model, latents, words)
    assert all(torch.equal(a, b) for a, b in zip(before, (w for p in parts for w in p.parameters()), strict=True))
    assert wanted == [weight.requires_grad for part in parts for weight in part.parameters()]
    assert len(model.tokenizer) == size
    assert not model.text_encoder.get_input_embeddings()._forward_hooks


def test_only_admissible_texts_are_held(model: Any, latents: Tensor, words: dict[int, str]) -> None:
    held: list[str] = []

    def admissible(text: str) -> bool:
        held.append(text)
        return "o" not in text

    assert "o" not in _search(model, latents, words, admissible=admissible).text
    assert any("o" in text for text in held)  # some were proposed


def test_nothing_is_found_where_no_word_may_be_used(model: Any, latents: Tensor, words: dict[int, str]) -> None:
    with pytest.raises(InputError, match="no word"):
        _search(model, latents, {})
    with pytest.raises(InputError, match="no prefix is admissible"):
        _search(model, latents, words, admissible=lambda _text: False)


def test_model_that_gives_no_numbers_is_an_error_and_no_find(
    tiny_checkpoint: Path, latents: Tensor, words: dict[int, str]
) -> None:
    broken = load_pipeline(tiny_checkpoint)
    with torch.no_grad():
        next(broken.unet.parameters()).fill_(math.nan)
    with pytest.raises(FmnGuardError, match="not a number"):
        _search(broken, latents, words)
