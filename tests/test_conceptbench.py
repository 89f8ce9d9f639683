"""ConceptBench: the same questions to every checkpoint, and figures that say when they say nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fmn_guard.conceptbench.summary import BenchRow, BenchSummary, bench_plan, bench_summary
from fmn_guard.errors import InputError
from fmn_guard.evidence import Audit, Instrument, Observation
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.manifest import CheckpointRef, label_of
from fmn_guard.plan import Plan
from fmn_guard.probes import Probe
from fmn_guard.record import digest, parse_plain, slugify
from fmn_guard.render.bench import bench_table
from fmn_guard.shipped import suites
from fmn_guard.stats import newcombe_paired, wilson
from fmn_guard.suite import AuditSuite, load_suite
from fmn_guard.yamlfile import read_yaml
from training.emoji_sd.world import AMBIGUITIES, BY_PHRASE, STYLES

EDITION = suites() / "conceptbench-1"


@cache
def suite() -> AuditSuite:
    return load_suite(EDITION)


@cache
def base() -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), Path())


@cache
def plan() -> Plan:
    return bench_plan(suite(), base())


Shows = Callable[[Probe, str], bool]


def audit(before: Shows, after: Shows | None = None, unscored: frozenset[str] = frozenset()) -> Audit:
    """An audit in which pictures show what they are said to; without ``after``, of the base alone."""
    observations = [
        Observation(
            probe=probe.id,
            side=side,
            image_digest=digest([probe.id, side]),
            unscored="picture is constant" if probe.id in unscored else None,
            scores={label: float(shows(probe, label)) for label in probe.labels},
        )
        for side, shows in (("base", before), ("patched", after or before))
        for probe in plan().probes
    ]
    who = Instrument(name="builtin-judge", version="1", licence="none", weights_digest=None, labels=())
    return Audit(
        plan_digest=plan().digest,
        passes_digest=None,
        patched_digest=digest("patched") if after else plan().base.identity,
        instruments=(who,),
        observations=tuple(observations),
    )


def everything(probe: Probe, label: str) -> bool:
    return label == probe.labels[0]


def all_but(*subjects: str) -> Shows:
    return lambda probe, label: everything(probe, label) and probe.subject not in subjects


def summary(measured: Audit, *forgotten: str) -> BenchSummary:
    return bench_summary(suite(), plan(), measured, forgotten)


def rows(found: BenchSummary, task: str, about: str | None = None) -> dict[str, BenchRow]:
    chosen = [row for row in found.rows if row.task == task and about in (None, row.about)]
    return {f"{row.kind} {row.asked}" if about is None else row.asked: row for row in chosen}


def test_the_edition_asks_for_every_kind_in_the_built_in_models_world() -> None:
    bench = suite().spec.bench
    assert bench is not None
    assert {c.kind for c in bench.concepts} == {"identity", "object", "style"}
    for concept in bench.concepts:
        assert concept.descriptions
        for name in (concept.phrase, *concept.neighbours):
            assert name in (STYLES if concept.kind == "style" else BY_PHRASE)
        if concept.kind != "style":
            assert concept.paraphrases == BY_PHRASE[concept.phrase].aliases
    known = {(a.word, a.dominant, a.other) for a in AMBIGUITIES}
    assert {(c.prompt, c.dominant, c.expected) for c in bench.corrections} == known


def test_every_concept_has_anchors_enough_for_the_m_score() -> None:
    bench = suite().spec.bench
    assert bench is not None and bench.anchors is not None
    assert {p.name for p in (EDITION / bench.anchors).iterdir()} == {slugify(c.phrase) for c in bench.concepts}
    for folder in (EDITION / bench.anchors).iterdir():
        pictures = sorted(folder.glob("*.png"))
        assert len(pictures) == 8
        assert len({path.read_bytes() for path in pictures}) == 8
        assert {Image.open(path).size for path in pictures} == {(64, 64)}


def test_the_plan_asks_each_way_and_is_the_same_whatever_was_forgotten() -> None:
    asked: dict[tuple[str, str], int] = {}
    for probe in plan().probes:
        asked[probe.role, probe.subject] = asked.get((probe.role, probe.subject), 0) + 1
    assert (asked["target", "rocket"], asked["alias", "rocket"], asked["retained", "airplane"]) == (24, 12, 6)
    assert asked["correction", "the-mascot"] == 24
    assert plan().passes == () and plan().digest == bench_plan(suite(), base()).digest


def test_alone_a_checkpoint_is_asked_for_presence_only() -> None:
    found = summary(audit(everything))
    assert {row.task for row in found.rows} == {"presence"}
    assert found.status == "measured"
    assert all(row.value == 1 and row.interval == wilson(row.n, row.n, 0.95) for row in found.rows)
    assert set(rows(found, "presence", "rocket")) == {"name", "paraphrase", "description", "neighbour"}
    assert set(rows(found, "presence", "penguin")) == {"name", "description", "neighbour"}


def test_what_was_forgotten_is_told_by_each_way_to_ask_and_the_rest_by_kind() -> None:
    lost = {"airplane", "crown"}

    def after(probe: Probe, label: str) -> bool:
        by_name = probe.subject == "rocket" and probe.role == "target"
        return everything(probe, label) and not by_name and probe.subject not in lost

    found = summary(audit(everything, after), "rocket")
    ways = rows(found, "suppression", "rocket")
    assert {asked: (row.before, row.value, row.n) for asked, row in ways.items()} == {
        "name": (1, 0, 24),
        "paraphrase": (1, 1, 6),
        "description": (1, 1, 6),
    }
    same = rows(found, "same-kind retention")
    assert {kind: (row.hits, row.n) for kind, row in same.items()} == {
        "object name": (24, 72),
        "object neighbour": (6, 24),
    }
    assert same["object name"].value == pytest.approx(1 / 3)
    score = newcombe_paired(48, 24, 0, 0, 0.95)
    assert same["object name"].interval.low <= score.low and same["object name"].interval.high >= score.high
    across = rows(found, "cross-kind retention")
    assert {kind for kind, row in across.items() if row.value} == set()
    assert {"identity name", "identity neighbour", "style name", "style neighbour"} < set(across)
    assert found.forgotten == ("rocket",)


def test_a_concept_that_was_to_go_is_no_loss_and_one_of_another_kind_turns_retention_around() -> None:
    gone = ("ada-thorne", "ink-drawing")
    found = summary(audit(everything, all_but(*gone)), *gone)
    assert all(row.value == 0 for row in found.rows if row.task.endswith("retention"))
    assert {row.kind for row in found.rows if row.task == "same-kind retention"} == {"identity", "style"}
    assert summary(audit(everything, all_but(*gone))).rows != found.rows  # nothing said: then they are lost


def test_a_correction_is_told_by_both_readings_and_another_one_is_to_stay() -> None:
    def after(probe: Probe, label: str) -> bool:
        if probe.subject == "the-mascot":
            return label == probe.labels[1]
        return everything(probe, label)

    found = summary(audit(everything, after), "the-mascot")
    told = rows(found, "correction", "the mascot")
    assert {which: (row.before, row.value, row.better) for which, row in told.items()} == {
        "dominant": (1, 0, "lower"),
        "expected": (0, 1, "higher"),
    }
    kept = [row.about for row in found.rows if row.task == "cross-kind retention" and row.kind == "correction"]
    assert kept == ["the captain", "the treasure"]


def test_what_the_base_does_not_show_says_nothing_of_being_forgotten() -> None:
    def unread(probe: Probe, label: str) -> bool:
        return everything(probe, label) and "moon" not in probe.prompt

    found = summary(audit(unread, all_but("rocket")), "rocket")
    described = rows(found, "suppression", "rocket")["description"]
    assert (described.value, described.status) == (0, "not shown")
    assert described.reason == "the base shows it in 0 of 6"
    assert found.status == "measured"  # the base reads the name, which was asked as well


def test_a_name_that_the_base_does_not_draw_leaves_the_benchmark_inconclusive() -> None:
    found = summary(audit(all_but("rocket"), all_but("rocket")), "rocket")
    assert rows(found, "suppression", "rocket")["name"].status == "not shown"
    assert found.status == "inconclusive"


def test_an_unscored_picture_is_neither_forgotten_nor_kept() -> None:
    missing = next(p.id for p in plan().probes if p.role == "target" and p.subject == "rocket")
    found = summary(audit(everything, all_but("rocket"), frozenset({missing})), "rocket")
    row = rows(found, "suppression", "rocket")["name"]
    assert (row.n, row.planned, row.status, row.reason) == (23, 24, "inconclusive", "23 of 24 are scored")
    assert found.status == "inconclusive"


def test_forgetting_what_is_not_asked_for_is_an_error() -> None:
    with pytest.raises(InputError, match="does not ask for lion"):
        summary(audit(everything, everything), "lion")
    with pytest.raises(InputError, match="no benchmark"):
        bench_plan(load_suite(suites() / "smoke"), base())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("neighbours: [airplane]", "neighbours: [hamburger]"),
        ("[vehicle that flies to the moon]", "[a big rocket]"),
        ("neighbours: [airplane]", "neighbours: []"),
    ],
)
def test_an_edition_that_contradicts_itself_is_refused(old: str, new: str) -> None:
    text = (EDITION / "suite.yaml").read_text()
    assert old in text
    data: Any = read_yaml(EDITION / "suite.yaml")[0]
    (rocket,) = (c for c in data["spec"]["bench"]["concepts"] if c["phrase"] == "rocket")
    key, _, value = new.partition(": ") if ": " in new else ("descriptions", "", new)
    rocket[key] = [name for name in value.strip("[]").split(", ") if name]
    with pytest.raises(ValueError, match=r"itself a concept|holds the name|at least 1"):
        parse_plain(data, AuditSuite)


def test_the_table_tells_every_figure() -> None:
    found = summary(audit(everything, all_but("rocket")), "rocket")
    table = bench_table(found)
    assert table.row_count == len(found.rows) + len({row.task for row in found.rows})


def test_labels_are_those_of_the_recogniser() -> None:
    bench = suite().spec.bench
    assert bench is not None
    labels = {label_of(c.kind, c.phrase) for c in bench.concepts}
    assert labels <= {label for probe in plan().probes for label in probe.labels}


def test_the_edition_for_stable_diffusion_asks_for_every_kind_in_every_way() -> None:
    bench = load_suite(suites() / "conceptbench-sd-1").spec.bench
    assert bench is not None
    kinds = [concept.kind for concept in bench.concepts]
    assert {kind: kinds.count(kind) for kind in kinds} == {"identity": 5, "object": 6, "style": 4}
    assert all(concept.descriptions and concept.neighbours for concept in bench.concepts)
    assert len(bench.corrections) == 4
    assert all(correction.expected for correction in bench.corrections)
