"""Suites: enough different prompts, never minors, and shipped suites that speak the built-in model's language."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmn_guard.errors import FileProblems
from fmn_guard.manifest import load_manifest
from fmn_guard.sentences import STYLE_TRAINING_TEMPLATES, TRAINING_TEMPLATES
from fmn_guard.shipped import manifests, suites
from fmn_guard.suite import AuditSuite, load_suite
from training.emoji_sd.world import BY_PHRASE, STYLES

SHIPPED = ("standard", "strict", "smoke")


@pytest.fixture(params=SHIPPED)
def suite(request: pytest.FixtureRequest) -> AuditSuite:
    return load_suite(suites() / str(request.param))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('      - "a picture of a {x}"\n', "", "too-few-prompts"),
        ('      - "a picture of a {x}"\n', '      - "a {x} in the style of 3d render"\n', "too-few-prompts"),
        ('correction_templates:\n    - "an image of {x}"\n', "correction_templates:\n", "too-few-prompts"),
        ('"a picture of a {x}"', '"a picture of a thing"', "bad-format"),
        ("a picture of a {x}", "a girl with a {x}", "minors-in-nsfw"),
        ("{phrase: bikini, kind: nsfw}", "{phrase: kids, kind: nsfw}", "minors-in-nsfw"),
        ("[a rocket, a cat,", "[a rocket, a child,", "minors-in-nsfw"),
        ('templates:\n    - "an image of {x}"', 'templates:\n    - "{x} with a girl"', "minors-in-nsfw"),
        ("  style_subjects: [a rocket, a cat, a guitar, a turtle, a castle, an owl]\n", "", "no-subjects"),
        ("    nsfw: *things\n", "", "no-templates"),
        ("threshold: 0.5", "threshold: 1.5", "out-of-range"),
        ("name: builtin-judge", "name: someone", "unknown-kind"),
        ("    batch: 16\n", "    batch: 0\n", "out-of-range"),
    ],
)
def test_mistake_has_rule_place_hint_and_exit_code(old: str, new: str, rule: str, tmp_path: Path) -> None:
    text = (suites() / "smoke" / "suite.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "suite.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(FileProblems) as caught:
        load_suite(path)
    assert rule in {problem.rule for problem in caught.value.problems}
    assert all(problem.line > 1 and problem.hint for problem in caught.value.problems)
    assert caught.value.exit_code == 2


def test_shipped_suite_never_asks_what_the_eraser_trains_on(suite: AuditSuite) -> None:
    spec = suite.spec
    asked = {template for templates in spec.templates.values() for template in templates} | {*spec.correction_templates}
    assert not asked & {*TRAINING_TEMPLATES, *STYLE_TRAINING_TEMPLATES}


def test_shipped_suite_knows_the_kinds_of_the_built_in_world(suite: AuditSuite) -> None:
    for retained in suite.spec.retained:
        if retained.kind == "style":
            assert retained.phrase in STYLES
        else:
            assert BY_PHRASE[retained.phrase].kind == retained.kind
    assert {subject.split(" ", 1)[1] for subject in suite.spec.style_subjects} <= BY_PHRASE.keys()


@pytest.mark.parametrize("name", ["standard", "strict"])
def test_suite_that_judges_retains_the_whole_built_in_world(name: str) -> None:
    retained = [each.phrase for each in load_suite(suites() / name).spec.retained]
    assert sorted(retained) == sorted([*BY_PHRASE, *STYLES])


def test_identities_are_asked_for_in_no_style(suite: AuditSuite) -> None:
    assert not any(style in template for style in STYLES for template in suite.spec.templates["identity"])


def test_quickstart_holds_out_a_third_of_the_other_objects_and_identities() -> None:
    spec = load_manifest(manifests() / "quickstart.yaml").spec
    declared = {name for concept in spec.concepts for name in (concept.phrase, *concept.keep)} | {
        name for correction in spec.corrections for name in (correction.dominant, correction.expected)
    }
    for kind in ("object", "identity"):
        others = {phrase for phrase, entry in BY_PHRASE.items() if entry.kind == kind} - declared
        held_out = others & {*spec.eraser.hold_out}
        assert abs(len(held_out) - len(others) / 3) <= 1
    assert {*spec.eraser.hold_out} <= BY_PHRASE.keys() - declared


DETECTORS = """\
  detectors:
    - {name: nudenet}
    - name: image-classifier
      called: second
      folder: models/vit
      weights: sha256:PIN
      licence: MIT
      classes: [nsfw]
    - name: clip-zero-shot
      called: clip
      folder: models/clip
      weights: sha256:PIN
      licence: MIT
      classes: [a photo of a gun]
      others: [a photo of a toy]
    - name: faces
      detector: yunet.onnx
      detector_weights: sha256:PIN
      recogniser: sface.onnx
      recogniser_weights: sha256:PIN
      licence: MIT
      people: {somebody: references}
    - {name: plugin, called: guest, entry_point: guest}
"""


def with_detectors(folder: Path, old: str = "", new: str = "") -> Path:
    head = (suites() / "smoke" / "suite.yaml").read_text(encoding="utf-8")
    assert old in DETECTORS
    path = folder / "suite.yaml"
    path.write_text(head + DETECTORS.replace(old, new, 1).replace("PIN", "0" * 64), encoding="utf-8")
    return path


def test_suite_may_name_every_sort_of_detector_and_what_is_brought_along_is_required(tmp_path: Path) -> None:
    detectors = load_suite(with_detectors(tmp_path)).spec.detectors
    assert [d.called for d in detectors] == ["nudenet", "second", "clip", "faces", "guest"]
    assert [d.required for d in detectors] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("called: clip", "called: second", "namesake"),
        ("called: guest", "called: nudenet", "namesake"),
        ("name: plugin", "name: nobody", "unknown-kind"),
        ("      weights: sha256:PIN\n", "", "missing-key"),
        ("classes: [nsfw]", "classes: []", "out-of-range"),
        ("      others: [a photo of a toy]\n", "", "missing-key"),
    ],
)
def test_mistake_about_a_detector_has_rule_and_place(old: str, new: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(FileProblems) as caught:
        load_suite(with_detectors(tmp_path, old, new))
    assert rule in {problem.rule for problem in caught.value.problems}
    assert all(problem.line > 1 for problem in caught.value.problems)
