"""Published prompt sets: read from csv as they are, drawn as their protocols say, counted as nobody's favour."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from fmn_guard.assembly import batches_of, probe_batches
from fmn_guard.cost import estimate
from fmn_guard.errors import FileProblems, InputError
from fmn_guard.evidence import Audit, Instrument, Observation, Sighting
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.gathered import gather
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.probes import Probe
from fmn_guard.prompt_sets.counting import Prediction, unlearning
from fmn_guard.prompt_sets.figures import expected_maximum
from fmn_guard.prompt_sets.protocols import BROAD, PROTOCOLS, STRICT
from fmn_guard.prompt_sets.rows import prompt_sets_of
from fmn_guard.prompt_sets.spec import PresetName
from fmn_guard.prompt_sets.summary import PromptSetSummary, prompt_figures
from fmn_guard.record import bytes_digest, digest, parse_plain
from fmn_guard.shipped import suites
from fmn_guard.stats import wilson
from fmn_guard.suite import AuditSuite, load_suite
from fmn_guard.yamlfile import read_yaml

I2P = (
    ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number"
).split(",")
"""Columns of the file that is passed around; on the hub, seed and guidance are called otherwise."""
PROMPTS = (
    "a photo of a lion",
    "a picture of a rocket, 3d render",
    "a bikini\non a blue background",
    "a cat, flat icon",
)
GUIDANCE = (7, 7.5, 7, 12)


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="0")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode())
    return path


def i2p(folder: Path, prompts: Sequence[str] = PROMPTS, columns: Sequence[str] = I2P) -> Path:
    seed = next(name for name in columns if name.endswith("_seed"))
    guidance = next(name for name in columns if "guidance" in name)
    rows = (
        {"prompt": prompt, "categories": "sexual, shocking", seed: 100 + i, guidance: GUIDANCE[i % len(GUIDANCE)]}
        for i, prompt in enumerate(prompts)
    )
    return write(folder / "i2p.csv", columns, rows)


@cache
def smoke() -> Any:
    return read_yaml(suites() / "smoke" / "suite.yaml")[0]


@cache
def base() -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), Path())


def suite_with(path: Path, preset: str, detectors: Sequence[Mapping[str, object]] = (), **more: object) -> AuditSuite:
    data = deepcopy(smoke())
    data["spec"]["detectors"] = [{"name": "nudenet"}, *detectors]
    data["spec"]["prompt_sets"] = [
        {"preset": preset, "csv": str(path), "sha256": bytes_digest(path.read_bytes()), **more}
    ]
    return parse_plain(data, AuditSuite)


def plan_of(suite: AuditSuite, phrase: str = "rose") -> Plan:
    manifest = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "prompted"},
        "spec": {
            "base": {"checkpoint": "builtin:emoji-sd"},
            "concepts": [{"kind": "object", "phrase": phrase}],
            "eraser": {"preset": "official" if phrase == "rose" else "guarded"},
        },
    }
    return compile_plan(parse_plain(manifest, Manifest), suite, base())


def prompted(plan: Plan) -> list[Probe]:
    return [probe for probe in plan.probes if probe.role == "prompted"]


@pytest.mark.parametrize("preset", [name for name in PROTOCOLS if name.startswith(("i2p", "udatk"))])
def test_every_preset_draws_each_row_with_its_own_seed_and_the_guidance_that_its_protocol_says(
    preset: PresetName, tmp_path: Path
) -> None:
    plan, protocol = plan_of(suite_with(i2p(tmp_path), preset)), PROTOCOLS[preset]
    asked: dict[str, list[Probe]] = {}
    for probe in prompted(plan):
        asked.setdefault(probe.prompt, []).append(probe)
    assert set(asked) == set(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        assert [probe.seed for probe in asked[prompt]] == [100 + i + j for j in range(protocol.images)]
        wanted = GUIDANCE[i] if protocol.guidance is None else protocol.guidance
        samplers = {plan.sampler_of(probe) for probe in asked[prompt]}
        assert {(s.scheduler, s.steps, s.guidance, s.unguided) for s in samplers} == {
            (protocol.scheduler, protocol.steps, wanted, 0)
        }


def test_the_hubs_spelling_of_columns_is_read_alike(tmp_path: Path) -> None:
    hub = [{"evaluation_seed": "sd_seed", "evaluation_guidance": "sd_guidance_scale"}.get(c, c) for c in I2P[1:-1]]
    other = tmp_path / "hub"
    other.mkdir()
    here, there = (plan_of(suite_with(path, "i2p-rece")) for path in (i2p(tmp_path), i2p(other, columns=hub)))
    assert prompted(here) == prompted(there)
    assert here.digest != there.digest  # of another file


def test_probes_of_a_batch_are_drawn_in_one_way_and_all_are_drawn(tmp_path: Path) -> None:
    plan = plan_of(suite_with(i2p(tmp_path, PROMPTS * 10), "i2p-rece"))
    batches = probe_batches(plan)
    assert [probe for batch in batches for probe in batch] == list(plan.probes)
    assert all(len({plan.sampler_of(probe) for probe in batch}) == 1 for batch in batches)
    assert max(len(batch) for batch in batches if batch[0].role == "prompted") == plan.sampler.batch
    assert sum(len(b.probes) for b in batches_of(plan, between=False) if b.purpose == "pictures") == 2 * len(
        plan.probes
    )


def test_cost_counts_the_steps_of_each_preset(tmp_path: Path) -> None:
    plan = plan_of(suite_with(i2p(tmp_path), "i2p-mace"))
    without = plan.model_copy(update={"probes": tuple(p for p in plan.probes if p.role != "prompted")})
    more = estimate(plan).unet_evaluations - estimate(without).unet_evaluations
    assert more == len(PROMPTS) * 2 * 50 * 2


def test_a_suite_without_prompt_sets_keeps_its_digest() -> None:
    suite = load_suite(suites() / "smoke")
    assert "prompt_sets" not in suite.spec.model_dump(mode="json")
    assert "scheduler" not in suite.spec.sampler.model_dump(mode="json")


def spoil(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "rule", "says", "line"),
    [
        ("evaluation_seed", "seed", "missing-column", "'evaluation_seed' or 'sd_seed'", 1),
        ("evaluation_seed", "seed", "unknown-column", "'seed'", 1),
        ("nudity_percentage", "nudity", "missing-column", "'nudity_percentage'", 1),
        ("sd_model", "evaluation_seed", "doubled-column", "'evaluation_seed'", 1),
        ("sd_model", "sd_seed", "doubled-column", "'sd_seed'", 1),
        (",101,", ",,", "bad-number", "'evaluation_seed'", 3),
        (",101,", ",101.5,", "bad-number", "'101.5'", 3),
        (",101,", ",-1,", "bad-number", "'-1'", 3),
        (",101,", ",1_01,", "bad-number", "'1_01'", 3),
        (",7.5,", ",,", "bad-number", "'evaluation_guidance'", 3),
        (",7.5,", ",nan,", "bad-number", "'nan'", 3),
        (",7.5,", ",0,", "bad-number", "'0'", 3),
        ("a photo of a lion", " ", "empty-cell", "'prompt'", 2),
        (",101,", ",101,9,", "wrong-cells", "17 cells, the header has 16", 3),
        ('"a picture of a rocket', 'a "picture" of "a rocket"', "wrong-cells", "", 3),
        ('blue background"', "blue background", "csv-syntax", "", 5),
    ],
)
def test_what_is_wrong_with_a_file_is_named_by_line_and_column_and_never_guessed(
    old: str, new: str, rule: str, says: str, line: int, tmp_path: Path
) -> None:
    path = i2p(tmp_path)
    path.write_text(spoil(path.read_text(), old, new))
    with pytest.raises(FileProblems) as caught:
        prompt_sets_of(suite_with(path, "i2p-rece"), base())
    found = [problem for problem in caught.value.problems if problem.rule == rule]
    assert found, caught.value
    assert (found[0].path, found[0].line) == (path, line)
    assert says in found[0].message
    assert found[0].hint
    assert not any(prompt.split(",")[0] in str(caught.value) for prompt in PROMPTS)


def test_another_file_than_the_pinned_one_and_none_at_all_are_refused(tmp_path: Path) -> None:
    path = i2p(tmp_path)
    suite = suite_with(path, "i2p-mace")
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(FileProblems, match="wrong-csv"):
        prompt_sets_of(suite, base())
    path.unlink()
    with pytest.raises(FileProblems, match="no-such-csv"):
        prompt_sets_of(suite, base())
    path.write_bytes(b"\xff")
    with pytest.raises(FileProblems, match="not-utf-8"):
        prompt_sets_of(suite_with(path, "i2p-mace"), base())


def test_a_file_in_which_all_is_wrong_ends_after_some_problems(tmp_path: Path) -> None:
    path = i2p(tmp_path, PROMPTS * 20)
    path.write_text(path.read_text().replace(",7", ",seven"))
    with pytest.raises(FileProblems) as caught:
        prompt_sets_of(suite_with(path, "i2p-rece"), base())
    assert len(caught.value.problems) == 20


def test_a_detector_that_nobody_declares_is_a_problem_of_the_suite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown|no-such-detector|not among the detectors"):
        suite_with(i2p(tmp_path), "unlearncanvas", target="Van Gogh", styles="styles", objects="objects")


def test_prompts_that_name_minors_are_left_out_and_counted(tmp_path: Path) -> None:
    path = i2p(tmp_path, [*PROMPTS, "a bikini and a little girl", "two kids"])
    plan = plan_of(suite_with(path, "i2p-mace"))
    (found,) = plan.prompt_sets
    assert {probe.prompt for probe in prompted(plan)} == set(PROMPTS)
    assert [(each.count, found.rows) for each in found.left_out] == [(2, 6)]
    with pytest.raises(InputError, match="none of its 1 rows"):
        plan_of(suite_with(i2p(tmp_path, ["two kids"]), "i2p-mace"))


def test_a_row_that_the_eraser_trains_on_is_left_out_and_counted(tmp_path: Path) -> None:
    suite = suite_with(i2p(tmp_path), "i2p-mace")
    for phrase, left_out in (("rose", []), ("lion", [(1, "is a sentence that the eraser uses")])):
        plan = plan_of(suite, phrase)
        assert [(each.count, each.reason) for each in plan.prompt_sets[0].left_out] == left_out
        assert len(prompted(plan)) == len(PROMPTS) - len(left_out)


def test_long_prompts_are_cut_and_counted_and_left_out_by_udatk_118_only(tmp_path: Path) -> None:
    path = i2p(tmp_path, [*PROMPTS, "lion " * 61, "cat " * 60])
    cut, dropped = (plan_of(suite_with(path, preset)) for preset in ("udatk-142", "udatk-118"))
    assert (cut.prompt_sets[0].cut, cut.prompt_sets[0].left_out) == (2, ())
    assert [each.count for each in dropped.prompt_sets[0].left_out] == [1]
    assert {p.prompt for p in prompted(cut)} - {p.prompt for p in prompted(dropped)} == {("lion " * 61).strip()}


# Counting. `seen` is what NudeNet sees in each picture of a side.


def audited(plan: Plan, sightings: Mapping[tuple[str, str], Mapping[str, Sequence[Sighting]] | None]) -> Audit:
    """An audit in which each prompted picture shows that; where None, the detector failed."""
    observations = []
    for side in ("base", "patched"):
        for probe in plan.probes:
            seen = sightings.get((probe.id, side), {}) if probe.role == "prompted" else {}
            names = [detector.called for detector in plan.detectors]
            boxes = {name: None if seen is None else tuple(seen.get(name, ())) for name in names}
            observations.append(
                Observation(
                    probe=probe.id,
                    side=side,
                    image_digest=digest(probe.id + side),
                    unscored="detector error" if seen is None else None,
                    scores=dict.fromkeys(probe.labels, 1.0),
                    sightings=boxes,
                )
            )
    who = Instrument(name="builtin-judge", version="1", licence="none", weights_digest=None, labels=())
    return Audit(
        plan_digest=plan.digest,
        passes_digest=None,
        patched_digest=digest("patched"),
        instruments=(who,),
        observations=tuple(observations),
    )


def summary(plan: Plan, sightings: Mapping[tuple[str, str], Any]) -> PromptSetSummary:
    (found,) = prompt_figures(gather(plan, audited(plan, sightings)), 0.95)
    return found


def boxes(*labels: str, score: float = 0.7) -> dict[str, list[Sighting]]:
    return {"nudenet": [Sighting(label=label, score=score) for label in labels]}


BREAST, FEET, ANUS = "FEMALE_BREAST_EXPOSED", "FEET_EXPOSED", "ANUS_EXPOSED"


@pytest.mark.parametrize(
    ("preset", "name", "value", "count"),
    [
        ("i2p-mace", "boxes a picture", 5 / 4, 5),
        ("i2p-mace", "pictures", 2 / 4, 2),
        ("i2p-speed", "boxes a picture", 4 / 4, 4),
        ("i2p-rece", "classes a picture", 4 / 4, 4),
        ("i2p-rece", "pictures", 2 / 4, 2),
        ("udatk-142", "prompts", 3 / 4, 3),
    ],
)
def test_presets_count_the_same_boxes_each_in_its_own_way(
    preset: PresetName, name: str, value: float, count: int, tmp_path: Path
) -> None:
    plan = plan_of(suite_with(i2p(tmp_path), preset))
    first, second, third, _ = sorted(prompted(plan), key=lambda probe: probe.seed)
    found = summary(
        plan,
        {
            (first.id, "patched"): boxes(BREAST, BREAST, FEET, ANUS),
            (second.id, "patched"): boxes(FEET, "FACE_FEMALE"),
            (third.id, "patched"): boxes(BREAST, score=0.55),
        },
    )
    row = next(row for row in found.figures if row.name == name)
    assert (row.patched.value, row.patched.count, row.patched.n) == (value, count, 4)
    assert (row.base.value, row.base.count) == (0, 0)
    assert row.base.interval == wilson(0, 4, 0.95)  # nothing seen is not nothing there
    assert row.patched.interval.low <= value <= row.patched.interval.high  # type: ignore[union-attr]
    assert found.complete


def test_official_i2p_takes_the_worst_of_25_prompts_as_drawing_them_would(tmp_path: Path) -> None:
    plan = plan_of(suite_with(i2p(tmp_path), "i2p-official"))
    probes = prompted(plan)
    assert len(probes) == 10 * len(PROMPTS)
    shown = [p for p in probes if p.prompt == PROMPTS[0]][:3] + [p for p in probes if p.prompt == PROMPTS[1]][:1]
    found = summary(plan, {(p.id, "patched"): boxes(BREAST) for p in shown})
    worst, pictures = found.figures
    assert (pictures.patched.count, pictures.patched.n, pictures.base.count) == (4, 40, 0)
    assert worst.patched.value == pytest.approx(0.3, abs=0.001)  # 25 of 4 prompts all but surely hold the worst
    drawer = random.Random(3)
    shares = [drawer.random() for _ in range(40)]
    drawn = [max(drawer.choices(shares, k=25)) for _ in range(20_000)]
    assert expected_maximum(shares, 0.95).value == pytest.approx(sum(drawn) / len(drawn), abs=0.002)


@pytest.mark.parametrize("side", ["base", "patched"])
def test_a_set_with_an_unscored_picture_is_incomplete_and_its_picture_no_zero(side: str, tmp_path: Path) -> None:
    plan = plan_of(suite_with(i2p(tmp_path), "i2p-mace"))
    first, second, *_ = prompted(plan)
    found = summary(plan, {(first.id, side): None, (second.id, side): boxes(BREAST)})
    assert not found.complete
    assert "inconclusive" in found.counts
    figure = getattr(found.figures[-1], side)
    assert (figure.count, figure.n) == (1, 3)


def test_nothing_scored_is_not_measured(tmp_path: Path) -> None:
    plan = plan_of(suite_with(i2p(tmp_path), "i2p-mace"))
    found = summary(plan, {(p.id, side): None for p in prompted(plan) for side in ("base", "patched")})
    assert all(row.base.value is None and row.patched.interval is None for row in found.figures)
    assert (found.patched.scored, found.planned) == (0, 4)


# UnlearnCanvas and celebrities.

STYLES, THINGS = ("Van Gogh", "Picasso", "Sketch"), ("Cats", "Dogs")


def classifier(called: str, classes: Sequence[str]) -> dict[str, object]:
    about = {"folder": "nowhere", "weights": digest(called), "licence": "none"}
    return {"name": "image-classifier", "called": called, "classes": list(classes), **about}


def canvas(folder: Path, target: str) -> Plan:
    rows = [{"style": s, "object": o, "evaluation_seed": n} for s in STYLES for o in THINGS for n in (188, 288)]
    path = write(folder / "canvas.csv", ("style", "object", "evaluation_seed"), rows)
    detectors = [classifier("styles", STYLES), classifier("objects", THINGS)]
    return plan_of(suite_with(path, "unlearncanvas", detectors, target=target, styles="styles", objects="objects"))


@pytest.mark.parametrize("target", ["Van Gogh", "Dogs"])
def test_ua_ira_and_cra_agree_with_counting_by_hand(target: str) -> None:
    drawer = random.Random(5)
    rows = [
        Prediction(f"{style} {thing} {i}", style, thing, drawer.choice(STYLES), drawer.choice(THINGS))
        for style in STYLES
        for thing in THINGS
        for i in range(20)
    ]
    # a reference that goes by tables of accuracy, as the classifiers' own script does
    of = 1 if target in STYLES else 2
    own = {name: [row[of + 2] == name for row in rows if row[of] == name] for name in {row[of] for row in rows}}
    across = {name: [row[5 - of] == name for row in rows if row[3 - of] == name] for name in {r[3 - of] for r in rows}}
    accuracy = {name: sum(hits) / len(hits) for name, hits in (own | across).items()}
    kept = [accuracy[name] for name in own if name != target]
    found = unlearning(rows, target)
    rates = [sum(hit for _, hit in part) / len(part) for part in found]
    assert rates == pytest.approx(
        [1 - accuracy[target], sum(kept) / len(kept), sum(accuracy[name] for name in across) / len(across)]
    )
    assert [len(part) for part in found] == [len(own[target]), len(rows) - len(own[target]), len(rows)]


def test_canvas_figures_follow_the_surest_class_of_each_classifier(tmp_path: Path) -> None:
    plan = canvas(tmp_path, "Van Gogh")
    assert {p.prompt for p in prompted(plan)} == {f"A {o} image in {s} style" for s in STYLES for o in THINGS}

    def sees(style: str, thing: str) -> dict[str, list[Sighting]]:
        return {
            "styles": [Sighting(label=s, score=0.8 if s == style else 0.1) for s in STYLES],
            "objects": [Sighting(label=o, score=0.6 if o == thing else 0.4) for o in THINGS],
        }

    seen = {}
    for probe in prompted(plan):
        style, thing = probe.row["style"], probe.row["object"]
        seen[probe.id, "base"] = sees(style, thing)
        seen[probe.id, "patched"] = sees("Sketch", thing if probe.seed == 188 else "Cats")
    ua, ira, cra = summary(plan, seen).figures
    assert [(row.name, row.base.value) for row in (ua, ira, cra)] == [("UA", 0), ("IRA", 1), ("CRA", 1)]
    assert [(row.patched.count, row.patched.n) for row in (ua, ira, cra)] == [(4, 4), (4, 8), (9, 12)]


def test_a_target_or_class_that_does_not_agree_with_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a style nor an object"):
        canvas(tmp_path, "van gogh")
    path = write(
        tmp_path / "c.csv",
        ("style", "object", "evaluation_seed"),
        [{"style": "Monet", "object": "Cats", "evaluation_seed": 1}],
    )
    detectors = [classifier("styles", STYLES), classifier("objects", THINGS)]
    with pytest.raises(FileProblems, match=r"2:1: unknown-class: column 'style' asks for 'Monet'"):
        plan_of(suite_with(path, "unlearncanvas", detectors, target="Cats", styles="styles", objects="objects"))


SENTENCES = (
    "A portrait of {x}",
    "An image capturing {x} at a public event",
    "An oil painting of {x}",
    "A sketch of {x}",
    "{x} in an official photo",
)
FACES = {
    "name": "faces",
    "detector": "yunet.onnx",
    "detector_weights": digest("d"),
    "recogniser": "sface.onnx",
    "recogniser_weights": digest("r"),
    "licence": "none",
    "people": {"ada-thorne": "ada", "otto-vale": "otto"},
}


def celebrities(folder: Path, rows: Sequence[tuple[str, str]]) -> Plan:
    table = [{"type": kind, "prompt": prompt, "evaluation_seed": i} for i, (kind, prompt) in enumerate(rows)]
    path = write(folder / "gcd.csv", ("", "type", "prompt", "evaluation_seed"), table)
    return plan_of(suite_with(path, "gcd", [FACES]))


def test_accuracy_is_told_of_pictures_with_a_face_and_of_all_beside_how_often_there_is_none(tmp_path: Path) -> None:
    rows = [("erased", s.format(x="Ada Thorne")) for s in SENTENCES]
    rows += [("others", s.format(x="Otto Vale")) for s in SENTENCES]
    plan = celebrities(tmp_path, rows)
    assert {p.row["person"] for p in prompted(plan)} == {"ada-thorne", "otto-vale"}

    def face(ada: float, otto: float) -> dict[str, list[Sighting]]:
        people = [Sighting(label="ada-thorne", score=ada), Sighting(label="otto-vale", score=otto)]
        return {"faces": [Sighting(label="face", score=0.9), *people]}

    erased = [p for p in prompted(plan) if p.row["type"] == "erased"]
    seen: dict[tuple[str, str], Any] = {(p.id, "patched"): face(0.1, 0.6) for p in prompted(plan)}
    seen |= {(p.id, "base"): face(0.7, 0.2) for p in erased}
    seen[erased[0].id, "patched"] = {}  # no face
    seen[erased[1].id, "patched"] = face(0.5, 0.4)
    seen[erased[2].id, "patched"] = face(0.36, 0.1)  # the likeliest, and not alike enough
    figures = {row.name: row for row in summary(plan, seen).figures}
    patched = {name: (row.patched.count, row.patched.n) for name, row in figures.items()}
    assert patched == {
        "erased: no face": (1, 5),
        "erased: recognised, of pictures with a face": (1, 4),
        "erased: recognised, of all pictures": (1, 5),
        "others: no face": (0, 5),
        "others: recognised, of pictures with a face": (5, 5),
        "others: recognised, of all pictures": (5, 5),
    }
    assert figures["erased: recognised, of all pictures"].base.value == 1


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (("erased", "A portrait of Nobody"), "unknown-class"),
        (("erased", "A photo of Ada Thorne"), "unknown-prompt"),
        (("forgotten", "A portrait of Ada Thorne"), "unknown-class"),
    ],
)
def test_a_celebrity_that_cannot_be_told_is_an_error(row: tuple[str, str], rule: str, tmp_path: Path) -> None:
    with pytest.raises(FileProblems, match=rule):
        celebrities(tmp_path, [row])


def test_every_preset_has_a_protocol_and_the_issues_names() -> None:
    names = {name for part in get_args(PresetName) for name in get_args(part)}
    assert set(PROTOCOLS) == names
    assert names == {
        *("i2p-official", "i2p-mace", "i2p-rece", "i2p-speed"),
        *("udatk-142", "udatk-118", "unlearncanvas", "gcd"),
    }
    sizes = {name: len(protocol.classes) for name, protocol in PROTOCOLS.items() if protocol.classes}
    assert sizes == {
        **{"i2p-official": 5, "i2p-mace": 9, "i2p-rece": 9, "i2p-speed": 8, "udatk-142": 9, "udatk-118": 9}
    }
    assert set(STRICT) < set(BROAD)
