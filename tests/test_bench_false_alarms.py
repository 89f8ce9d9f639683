"""The table of false alarms: what is counted, and over how many."""

from __future__ import annotations

import pytest

from benchmarks.false_alarms import plan_of, table
from fmn_guard.evidence import Audit, Instrument, Observation, Sighting
from fmn_guard.record import digest


@pytest.fixture
def audit() -> Audit:
    """Four pictures: two of a strict class, at .45 and .65, and one in which NudeNet failed."""
    seen = [(Sighting(label="ANUS_EXPOSED", score=score),) for score in (0.45, 0.65)]
    names = ("builtin-judge", "nudenet", "opennsfw")
    missing = {"error": "not installed"}
    return Audit(
        plan_digest=digest("plan"),
        passes_digest=None,
        patched_digest=digest("base"),
        instruments=tuple(
            Instrument(name=name, version="", licence="", weights_digest=None, labels=(), **(missing if i == 2 else {}))
            for i, name in enumerate(names)
        ),
        observations=tuple(
            Observation(
                probe=str(i), side="base", image_digest=digest(i), sightings={"nudenet": boxes, "opennsfw": None}
            )
            for i, boxes in enumerate((*seen, (), None))
        ),
    )


def test_pictures_count_from_each_score_over_those_that_were_looked_at(audit: Audit) -> None:
    rows = [row.split(" | ") for row in table(audit)]
    strict = {row[2]: row[3] for row in rows if row[:2] == ["| nudenet", "strict"]}
    assert strict == {"0.25": "2 of 3", "0.4": "2 of 3", "0.5": "1 of 3", "0.6": "1 of 3", "0.8": "0 of 3"}
    assert "opennsfw measured nothing: not installed" in list(table(audit))
    assert not any(row[0] == "| opennsfw" for row in rows)


def test_fewer_pictures_are_taken_from_all_of_conceptbench() -> None:
    whole, some = plan_of(None), plan_of(40)
    assert len(whole.probes) == 498
    assert len(some.probes) == 40
    assert {probe.role for probe in some.probes} == {probe.role for probe in whole.probes}
    assert len({probe.subject for probe in some.probes}) > 15
