"""A CLIP as the judge: what it makes of real pictures, and what a plan tells it to look for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmn_guard.audit.detectors import load_recogniser
from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.instruments import ClipRecogniserSpec, EmbedderSpec, resolved
from fmn_guard.record import digest
from fmn_guard.shipped import shipped_model, suites

ANCHORS = suites() / "conceptbench-1" / "anchors"
CLIP = EmbedderSpec(called="clip", folder="builtin:emoji-clip")
SPEC = ClipRecogniserSpec(
    name="clip-zero-shot",
    clip=CLIP,
    concept="a picture of a {x}",
    other_concepts=("a picture of a turtle", "a picture of a castle"),
    other_styles=("a photo",),
)


def anchors(name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted((ANCHORS / name).glob("*.png"))])


def test_real_pictures_are_recognised_by_name_and_others_rejected() -> None:
    judge = load_recogniser(resolved(SPEC, ["concept:rocket", "concept:penguin", "style:pixel art"]))
    for name in ("rocket", "penguin"):
        scores = judge.recognise(anchors(name))
        assert np.mean([each[f"concept:{name}"] >= 0.5 for each in scores]) >= 0.75
    without = load_recogniser(resolved(SPEC, ["concept:penguin"]))
    assert np.mean([each["concept:penguin"] >= 0.5 for each in without.recognise(anchors("rocket"))]) <= 0.25


def test_each_axis_sums_to_one_and_scores_do_not_depend_on_the_batch() -> None:
    judge = load_recogniser(resolved(SPEC, ["concept:rocket", "style:pixel art", "style:flat icon"]))
    pictures = anchors("crown")
    together = judge.recognise(pictures)
    assert together[3:4] == judge.recognise(pictures[3:4])
    for scores in together:
        assert set(scores) == set(judge.instrument.labels)
        for axis in ("concept", "style"):
            assert sum(p for label, p in scores.items() if label.startswith(axis)) == pytest.approx(1, abs=1e-5)
    assert judge.instrument.name == "clip-zero-shot"
    assert "concept:none" in judge.instrument.labels


def test_a_recogniser_without_a_clip_or_with_another_than_pinned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names none") as caught:
        resolved(SPEC.model_copy(update={"clip": None}), ["concept:rocket"])
    assert caught.value.hint
    folder = shipped_model("emoji-clip")
    other = EmbedderSpec(called="clip", folder=str(folder), weights=digest("other"), licence="none")
    with pytest.raises(RefusedArtefact, match="the suite pins"):
        load_recogniser(SPEC.model_copy(update={"clip": other, "labels": ("concept:rocket",)}))
