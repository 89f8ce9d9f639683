"""The benchmark of presets: what it asks is nobody's training, and its table says what its rows hold."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from benchmarks.forgetting import profile
from benchmarks.forgetting.inversions import recovered
from benchmarks.forgetting.rows import Count, Distance, Pairs, Row
from benchmarks.forgetting.scenarios import (
    CORRECTION,
    DEVELOPMENT,
    FULL,
    LONG,
    QUICK,
    SEQUENCE,
    SINGLES,
    TUNING,
    checkpoint,
    plan_of,
    scenarios,
)
from benchmarks.forgetting.table import table
from fmn_guard.manifest import load_manifest
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.presets import PresetName
from fmn_guard.record import digest
from fmn_guard.stats import newcombe_paired, wilson

ROOT = Path(__file__).parent.parent


def test_nothing_in_the_table_was_developed_on() -> None:
    tuned = {concept["phrase"] for concept in DEVELOPMENT}
    prompts = set()
    for path in (ROOT / "benchmarks" / "development").glob("*.yaml"):
        if "ConceptManifest" in path.read_text(encoding="utf-8"):
            spec = load_manifest(path).spec
            tuned |= {concept.phrase for concept in spec.concepts}
            prompts |= {correction.prompt for correction in spec.corrections}
    assert len(tuned) >= 12
    assert not tuned & {concept["phrase"] for concept in (*SINGLES, *LONG)}
    assert CORRECTION["prompt"] not in prompts
    assert abs(FULL.first_seed - TUNING.first_seed) > 100_000
    assert QUICK.first_seed == FULL.first_seed


def test_a_sequence_is_ten_concepts_of_four_kinds_in_other_orders() -> None:
    kinds = [concept["kind"] for concept in SEQUENCE]
    assert {kind: kinds.count(kind) for kind in kinds} == {"identity": 4, "style": 2, "object": 2, "nsfw": 2}
    orders = [s.concepts for s in scenarios(FULL, "guarded") if s.name.startswith("sequence")]
    assert len(orders) == 3 and len({digest(list(order)) for order in orders}) == 3
    assert len([s for s in scenarios(FULL, "official") if s.name.startswith("sequence")]) == 2


@pytest.mark.parametrize("preset", ["guarded", "official"])
def test_half_of_what_is_retained_is_held_out_of_every_preset(preset: PresetName) -> None:
    base = checkpoint()
    for scenario in (s for s in scenarios(QUICK, preset) if not s.whole):
        plan = plan_of(scenario, QUICK, {"preset": preset}, base)
        told = [p.subject for p in plan.probes if p.role == "retained" and not p.neighbour_of]
        held_out = [p.subject for p in plan.probes if p.held_out]
        assert len(set(told)) - 6 <= len(set(held_out)) * 2 <= len(set(told)) + 2
        sentences = {s.casefold() for spec in plan.passes for s in spec.retain.kept}
        assert not any(slug.replace("-", " ") in sentence for slug in held_out for sentence in sentences)


def test_a_whole_vocabulary_lacks_nothing_but_what_is_forgotten() -> None:
    rows = [s for s in scenarios(QUICK, "guarded") if s.whole]
    assert [s.name for s in rows] == [
        "whole-sequence-2-order-0",
        *(f"whole-long-{mode}" for mode in ("sequential", "mended", "merge", "joint")),
    ]
    plan = plan_of(rows[0], QUICK, {"preset": "guarded"}, checkpoint())
    forgotten = {word for spec in plan.passes for name in spec.names for word in name.casefold().split()}
    assert not any(probe.held_out for probe in plan.probes)
    assert all(set(spec.retain.excluded_words) == forgotten for spec in plan.passes)


def test_a_short_sequence_is_six_concepts_of_the_ten_with_and_without_the_whole_vocabulary() -> None:
    short = [s for s in scenarios(FULL, "guarded") if "short" in s.name]
    assert [(s.name, s.whole) for s in short] == [("short-sequence", False), ("whole-short-sequence", True)]
    assert all(s.concepts == SEQUENCE[:6] for s in short)
    assert {concept["kind"] for concept in short[0].concepts} == {"identity", "style", "object", "nsfw"}
    assert not [s for s in scenarios(FULL, "hybrid") if "short" in s.name]


def test_a_long_sequence_is_thirty_concepts_in_each_mode_and_asks_for_thirty_others() -> None:
    long = [s for s in scenarios(FULL, "guarded") if s.name.startswith("long")]
    assert [s.sequence for s in long] == ["sequential", "mended", "merge", "joint"]
    assert len(LONG) == 30 == len({concept["phrase"] for concept in LONG})
    plan = plan_of(long[0], FULL, {"preset": "guarded"}, checkpoint())
    told = {p.subject for p in plan.probes if p.role == "retained" and not p.neighbour_of}
    assert len(told) >= 30 and sum(p.role == "retained" for p in plan.probes) >= 700
    assert not [s for s in scenarios(FULL, "hybrid") if s.name.startswith(("long", "rank"))]


def test_a_full_sequence_asks_what_the_figures_need() -> None:
    scenario = next(s for s in scenarios(FULL, "guarded") if s.name.startswith("sequence"))
    plan = plan_of(scenario, FULL, {"preset": "guarded"}, checkpoint())
    for spec in plan.passes:
        targets = [p for p in plan.probes if p.role == "target" and p.subject == spec.slug]
        assert len(targets) == 96 and len({p.prompt for p in targets}) == 6
    assert sum(p.role == "retained" for p in plan.probes) >= 1000


def row(scenario: str, **changes: object) -> Row:
    values = {
        "preset": "guarded",
        "scenario": scenario,
        "size": "quick",
        "plan_digest": digest(scenario),
        "learning_rate": 1e-3,
        "steps": (12,),
        "eraser_seed": 1,
        "first_seed": 2,
        "base": {"lion": Count(hits=12, n=12)},
        "targets": {"lion": Count(hits=1, n=12)},
        "own": {"lion": Count(hits=0, n=12)},
        "aliases": Count(hits=0, n=6),
        "expected": Count(hits=0, n=0),
        "dominant_elsewhere": Pairs(both=0, lost=0, gained=0, neither=0),
        "retained": {
            group: Pairs(both=10, lost=2, gained=1, neither=0)
            for group in ("held in", "held out", "neighbours", "same kind", "other kinds")
        },
        "unrelated": None,
        "seconds": (10.0,),
        "drawing": (4.0,),
        "memory": 2**20,
        "patch": 25,
        "unet": 1000,
    }
    return Row(**(values | changes))  # type: ignore[arg-type]


def test_table_says_what_rows_hold_and_what_was_not_run() -> None:
    kinds = [row(f"one-{kind}") for kind in ("identity", "style", "object", "nsfw")]
    sequence = row(
        "sequence-3-order-0",
        base={slug: Count(hits=12, n=12) for slug in "abc"},
        targets={"a": Count(hits=4, n=12), "b": Count(hits=0, n=12), "c": Count(hits=1, n=12)},
        own={"a": Count(hits=1, n=12), "b": Count(hits=2, n=12), "c": Count(hits=1, n=12)},
        seconds=(8.0, 9.0, 30.0),
        drawing=(1.0, 1.0, 1.0),
        unrelated=Distance(moved=0.1, seeds=0.4, n=8),
        patch=75,
    )
    merged = row(
        "long-merge",
        targets={"a": Count(hits=1, n=12), "b": Count(hits=0, n=12)},
        base={slug: Count(hits=12, n=12) for slug in "ab"},
        own={},
        patch=50,
    )
    short = merged.model_copy(update={"scenario": "whole-short-sequence"})
    ranked = row("rank-20", directions_left=0.04)
    inverted = row(
        "inverted-object", recovered={"4": Count(hits=9, n=24)}, recovered_on_base={"4": Count(hits=24, n=24)}
    )
    attacked = row(
        "rounds-object",
        seconds=(180.4,),
        recovered={"1": Count(hits=1, n=24)},
        recovered_on_base={"1": Count(hits=24, n=24)},
    )
    staged = row("tokens-object", seconds=(280.4,))
    guarded = [*kinds, staged, sequence, merged, short, ranked, inverted, attacked]
    lines = dict(
        (cells[0], cells[1:])
        for line in table({"guarded": guarded, "official": kinds[:1]})
        if (cells := [cell.strip() for cell in line.strip("|").split("|")]) and len(cells) == 3
    )
    assert lines["one concept, nsfw: still shown (base)"] == [f"1 of 12: {wilson(1, 12, 0.95)} (12 of 12)", "not run"]
    assert lines["one concept: aliases still shown"] == [
        f"0 of 24: {wilson(0, 24, 0.95)}",
        f"0 of 6: {wilson(0, 6, 0.95)}",
    ]
    assert lines["3 passes: targets still shown (base)"][0] == f"5 of 36: {wilson(5, 36, 0.95)} (36 of 36)"
    assert lines["3 passes: the worst target"][0].startswith("4 of 12")
    assert lines["3 passes: most pictures of a concept that came back"][0] == "3 of 12"
    assert lines["3 passes: unrelated pictures moved, of another seed's way"][0] == "25.0 %, n 8"
    drop = newcombe_paired(10, 2, 1, 0, 0.95)
    assert lines["3 passes: retained, held out: net loss"][0] == f"7.7 %, {drop}; 2 lost, 1 gained of 13"
    assert lines["object, by 4 inverted tokens: shown (base)"][0] == f"9 of 24: {wilson(9, 24, 0.95)} (24 of 24)"
    assert lines["object, inversion rounds, by 1 inverted token: shown (base)"][0].startswith("1 of 24")
    assert lines["object, inversion rounds: still shown (base)"][0].startswith("1 of 12")
    assert lines["object, inversion rounds: retained, held out: net loss"][0].startswith("7.7 %")
    assert lines["object, inversion rounds: CPU seconds"] == ["180", "not run"]
    assert lines["object, with the release's inversion stage: CPU seconds"] == ["280", "not run"]
    assert lines["2 concepts, merge: the worst target"][0].startswith("1 of 12")
    assert lines["2 passes, whole vocabulary: the worst target"][0].startswith("1 of 12")
    assert "2 concepts, merge: most pictures of a concept that came back" not in lines
    assert lines["4.0 % of all directions left: still shown; retained, held out: net loss"][0].startswith("1 of 12")
    assert lines["CPU seconds a concept, drawing included; drawing alone (medians)"][0] == "10.0; 4.0, n 9"
    assert lines["patch a concept, of the UNet's bytes"] == ["2.5 %", "2.5 %"]


def test_inverted_tokens_bring_back_on_the_base_what_they_were_inverted_for() -> None:
    base = checkpoint()
    scenario = next(s for s in scenarios(FULL, "guarded") if s.inverted)
    plan = plan_of(scenario, QUICK, {"preset": "guarded"}, base)
    model = load_pipeline(base.folder)
    few, n = recovered(model, model, plan, plan.passes[0], tokens=1, steps=1)
    many, _ = recovered(model, model, plan, plan.passes[0], tokens=1, steps=20)
    assert n == 24 and few <= 2 < 8 <= many


def test_the_release_is_timed_with_its_inversion_stage_once() -> None:
    [staged] = [s for s in scenarios(FULL, "official") if s.tokens]
    [spec] = plan_of(staged, FULL, {"preset": "official"}, checkpoint()).passes
    assert spec.published and spec.published.inversion
    assert (spec.published.inversion.tokens, spec.published.inversion.steps) == (4, 500)
    assert not [s for preset in ("guarded", "official-tuned") for s in scenarios(FULL, preset) if s.tokens]


def test_rows_are_one_scenario_each() -> None:
    names = [s.name for s in scenarios(QUICK, "official")]
    assert names == ["one-object", "sequence-2-order-0", "correction"]
    kinds = [
        concept["kind"] for s in scenarios(FULL, "official") if s.name.startswith("one-") for concept in s.concepts
    ]
    assert kinds == ["object", "identity", "style", "nsfw"]


def test_profile_counts_a_part_without_the_parts_that_it_calls() -> None:
    ticks = count()
    clock = profile.Clock(lambda: float(next(ticks)))  # each look at the clock takes a second
    inner = clock.timed(lambda: None, "inner")
    clock.timed(lambda: [inner(), inner()], profile.PASS)()
    clock.timed(lambda: None, profile.PASS)()
    assert clock.passes == [{profile.PASS: 3, "inner": 2}, {profile.PASS: 1}]


def test_profile_knows_what_a_pass_is_made_of() -> None:
    assert all(callable(getattr(place, name)) for place, name, _ in profile.PARTS)
