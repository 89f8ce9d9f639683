"""Stop pictures: what a look draws."""

from __future__ import annotations

from fmn_guard.forget import watch
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.passes import StopSpec
from fmn_guard.shipped import shipped_model
from fmn_guard.suite import Sampler


def test_each_look_draws_other_pictures_and_gives_a_probability(monkeypatch):
    drawn, draw = [], watch.draw_latents

    def spy(pipeline, prompts, seeds, sampler):
        drawn.append((tuple(prompts), tuple(seeds)))
        return draw(pipeline, prompts, seeds, sampler)

    monkeypatch.setattr(watch, "draw_latents", spy)
    prompts = ("a photo of a lion", "a photo of a lion on the left")
    frames = ("a photo of a {x}", "a photo of a {x} on the left")
    stop = StopSpec(
        recogniser="emoji-clip",
        shown="lion",
        others=("pizza", "robot"),
        prompts=prompts,
        frames=frames,
        every=8,
        gone=0.01,
    )
    pipeline = load_pipeline(shipped_model("emoji-sd"))
    looking = watch.StopWatch(pipeline, stop, Sampler(steps=5, guidance=3.0), first_seed=100)
    shown = [looking.still_shown(), looking.still_shown()]
    assert drawn == [(prompts, (100, 101)), (prompts, (102, 103))]
    assert all(0.5 < share <= 1 for share in shown)  # nothing is forgotten
