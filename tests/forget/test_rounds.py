"""Inversion rounds: what they solve for, what counts as found, when they end, and that no token outlives them."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget import rounds as module
from fmn_guard.forget.patch import read_patch
from fmn_guard.forget.resteer import _Records
from fmn_guard.forget.runner import run_plan
from fmn_guard.inversion import InversionSettings
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.inversion import invert
from fmn_guard.model.sampler import draw_latents
from fmn_guard.plan import compile_plan
from fmn_guard.shipped import shipped_model, suites
from fmn_guard.suite import Sampler, load_suite
from tests.builder import make_manifest

SHORT = InversionSettings(seeds=(0, 1), steps=3)


def planned(folder, beside, **eraser):
    manifest = make_manifest(
        folder,
        concepts=[{"kind": "object", "phrase": "lion"}, {"kind": "nsfw", "phrase": "pistol"}],
        eraser={"preset": "closed-form", "inversion_rounds": 2} | eraser,
    )
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(folder)), beside)
    plan = compile_plan(manifest, load_suite(suites() / "smoke"), checkpoint)

    def short(spec):
        return spec.model_copy(
            update={
                "rounds": spec.rounds and spec.rounds.model_copy(update={"inversion": SHORT, "looks": 1}),
                "retain": spec.retain.model_copy(update={"sentences": 60, "pictures": 2}),
            }
        )

    return plan.model_copy(update={"passes": tuple(short(spec) for spec in plan.passes)}), checkpoint


@contextmanager
def seen(arrived):
    """Inversions and solutions of all rounds, where each inversion or none of them arrives."""
    inversions, solutions, reads = [], [], []
    real, solve, read = module.invert, module.redirect_holding, _Records.read

    def spied(*args):
        inversions.append(real(*args))
        return inversions[-1]

    def solved(layers, wanted, before, retained, preserve, damping, hold_nearest, looks, held):
        solutions.append((*wanted, preserve, damping, looks))
        return solve(layers, wanted, before, retained, preserve, damping, hold_nearest, looks, held)

    def averaged(records, text, also):
        own = read(records, text, also)
        reads.append((len(text), tuple({name: moment.clone() for name, moment in part.items()} for part in own)))
        return own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Records, "read", averaged)
        patch.setattr(module, "invert", spied)
        patch.setattr(module, "redirect_holding", solved)
        patch.setattr(module, "_arrived", lambda *args: torch.full((len(args[-1].seeds),), arrived))
        yield inversions, solutions, reads


@pytest.fixture(scope="module")
def attacked(tiny_checkpoint, tmp_path_factory):
    """A run in which every inversion arrives: its plan, base, records, folder, inversions and solutions."""
    folder = tmp_path_factory.mktemp("attacked")
    plan, checkpoint = planned(tiny_checkpoint, folder)
    with seen(True) as (inversions, *solved):
        records = run_plan(plan, checkpoint, folder)
    return plan, checkpoint, records, folder, inversions, solved


def test_each_round_is_solved_for_the_name_and_for_the_mean_of_all_that_was_found_until_then(attacked):
    plan, _, _, _, _, (solutions, reads) = attacked
    spec = plan.passes[0].rounds
    alone, first, second = solutions[:3]  # of the first pass
    assert [each[2:] for each in solutions] == [(spec.preserve, spec.projection, spec.looks)] * 6
    (_, named), *found = reads[: len(reads) // 2]
    for solution, until in ((alone, 0), (first, len(found) // 2), (second, len(found))):
        count = sum(n for n, _ in found[:until])
        for part in (0, 1):
            for name, own in named[part].items():
                more = sum(n * moments[part][name] for n, moments in found[:until]) / max(count, 1)
                torch.testing.assert_close(solution[part][name], own + spec.weight * more)


def test_rounds_are_recorded_and_begin_from_other_words_and_seeds_each_time_with_one_token_and_with_four(attacked):
    plan, _, records, _, inversions, _ = attacked
    for spec, done in zip(plan.passes, records.passes, strict=True):
        assert [(each.found, each.sought) for each in done.rounds] == [(8, 8), (8, 8)]
        assert [len(words) for words in spec.rounds.words] == [4, 4]
    assert [found.word for found in inversions] == [w for spec in plan.passes for r in spec.rounds.words for w in r]
    assert {found.tokens.shape[1] for found in inversions} == {1, 4}
    tokens = torch.cat([found.tokens[:, 0] for found in inversions])
    assert len(tokens.unique(dim=0)) == len(tokens)


def test_no_inverted_token_is_in_the_patch_and_no_word_of_an_audit_s_inversions_is_started_from(attacked):
    plan, _, _, folder, inversions, _ = attacked
    content = (folder / "patch.safetensors").read_bytes()
    assert all(token.numpy().tobytes() not in content for each in inversions for token in each.tokens.flatten(0, 1))
    assert len(read_patch(folder / "patch.safetensors").parts) == 2
    words = {word for spec in plan.passes for words in spec.rounds.words for word in words}
    assert words.isdisjoint({"thing", "object", "picture", "image", "photo", "lion", "pistol"})


def test_the_same_plan_ends_with_the_same_patch_also_when_killed_between_passes(attacked, tmp_path):
    plan, checkpoint, whole, _, inversions, _ = attacked
    half = len(inversions) // 2 * SHORT.steps

    def dies(what, _done, _steps):
        told.append(what)
        if len(told) > half:
            raise KeyboardInterrupt

    told: list[str] = []
    with seen(True) as (begun, *_):
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, checkpoint, tmp_path, progress=dies)
        assert run_plan(plan, checkpoint, tmp_path) == whole
    assert len(begun) == len(inversions)  # the first pass was not done again


def test_a_round_that_finds_nothing_changes_nothing(tiny_checkpoint, tmp_path):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path)
    with seen(False) as (inversions, solutions, _):
        records = run_plan(plan, checkpoint, tmp_path)
    assert [[(each.found, each.sought) for each in done.rounds] for done in records.passes] == [[(0, 8)] * 2] * 2
    assert (len(inversions), len(solutions)) == (16, 2)


def test_what_arrived_is_what_denoises_the_pictures_as_the_name_does():
    folder = shipped_model("emoji-sd")
    plan, _ = planned("builtin:emoji-sd", folder)
    spec, pipeline = plan.passes[0], load_pipeline(folder)
    prompts = [prompt.text for prompt in spec.pictured]
    latents = draw_latents(pipeline, prompts, range(70, 70 + len(prompts)), Sampler(steps=4, guidance=3.0, batch=8))
    still = InversionSettings(seeds=(0, 1, 2), steps=12, learning_rate=1e-9, pull=0.0)
    frames = [prompt.framed for prompt in spec.pictured]

    def arrived(word):
        found = invert(pipeline, latents, frames, word, still)
        return module._arrived(pipeline, spec, latents, list(spec.pictured), found, still).tolist()

    assert arrived("lion") == [True] * 3  # the name itself
    assert arrived("castle") == [False] * 3
