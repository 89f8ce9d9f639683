"""Somebody else's detector: whatever it does, its pictures are scored or named as unscored, and nothing passes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.audit.detectors import checked_sightings
from fmn_guard.audit.panel import Panel
from fmn_guard.evidence import Audit, Observation
from fmn_guard.instruments import PluginSpec
from fmn_guard.plan import Plan
from fmn_guard.record import bytes_digest
from fmn_guard.report import judge

from ..builder import make_audit, make_plan, make_policy

CODE = """
import sys
from fmn_guard.evidence import Instrument, Sighting

class Theirs:
    def __init__(self, does="see", **options):
        self.does = does
        if does == "refuse":
            raise RuntimeError("no licence key")
        if does == "leave":
            sys.exit(0)
        if does != "anonymous":
            self.instrument = Instrument(
                name="theirs", version="2", licence="MIT", weights_digest="sha256:" + "1" * 64, labels=("thing",)
            )

    def detect(self, pixels):
        match self.does:
            case "throw": raise ValueError("no")
            case "exit": sys.exit(0)
            case "none": return None
            case "nan": return (Sighting.model_construct(label="thing", score=float("nan")),)
            case "large": return (Sighting.model_construct(label="thing", score=7.0),)
            case "unknown": return (Sighting(label="other", score=0.5),)
            case "text": return "nothing here"
            case "scribble": pixels[:] = 0
        return (Sighting(label="thing", score=0.5),)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with two entry points, one of which cannot be imported."""
    (tmp_path / "theirs.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "broken_theirs.py").write_text("import a_library_that_is_not_there\n", encoding="utf-8")
    info = tmp_path / "theirs-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 2.1\n", encoding="utf-8")
    points = "[fmn_guard.detectors]\nthings = theirs:Theirs\nbroken = broken_theirs:Theirs\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("theirs", "broken_theirs"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def plan_with(entry_point: str = "things", **options: str) -> Plan:
    spec = PluginSpec(name="plugin", called="guest", entry_point=entry_point, options=options)
    return make_plan(detectors=(spec,))


def look(plan: Plan) -> tuple[Panel, Observation]:
    panel = Panel(plan)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (seen,) = panel.observe(plan.probes[:1], "patched", pixels[None], [bytes_digest(pixels.tobytes())])
    return panel, seen


def judged(plan: Plan, panel: Panel, seen: Observation) -> Audit:
    """An audit that would pass, with what the detector saw in place of what a perfect one does."""
    audit = make_audit(plan)
    changed = (
        o.model_copy(update={"sightings": seen.sightings, "unscored": seen.unscored}) for o in audit.observations
    )
    return audit.model_copy(update={"observations": tuple(changed), "instruments": panel.instruments})


@pytest.mark.usefixtures("installed")
def test_plugin_looks_and_is_named_with_the_distribution_it_came_with() -> None:
    panel, seen = look(plan_with())
    assert seen.unscored is None
    assert [s.score for s in seen.sightings["guest"] or ()] == [0.5]
    told = panel.instruments[1]
    assert (told.name, told.version, told.licence, told.labels) == ("guest", "2 (theirs 2.1)", "MIT", ("thing",))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("entry_point", "does", "why"),
    [
        ("nobody", "see", "0 entry points of fmn_guard.detectors are called 'nobody'"),
        ("broken", "see", "detector guest does not load: ModuleNotFoundError"),
        ("things", "refuse", "detector guest does not load: RuntimeError"),
        ("things", "leave", "detector guest does not load: SystemExit"),
        ("things", "anonymous", "detector guest does not say who it is: AttributeError"),
    ],
)
def test_plugin_that_does_not_load_is_named_and_nothing_passes(entry_point: str, does: str, why: str) -> None:
    plan = plan_with(entry_point, does=does)
    panel, seen = look(plan)
    assert panel.instruments[1].error == why
    assert seen.unscored == "detector error: guest: not available"
    report = judge(plan, judged(plan, panel, seen), make_policy())
    assert report.verdict == "inconclusive"
    assert {u.reason for u in report.unscored} == {"detector error: guest: not available"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("does", ["throw", "exit", "none", "nan", "large", "unknown", "text"])
def test_plugin_that_fails_at_work_leaves_its_picture_unscored(does: str) -> None:
    plan = plan_with(does=does)
    panel, seen = look(plan)
    assert seen.unscored is not None and seen.unscored.startswith("detector error: guest: ")
    assert seen.sightings == {"guest": None}
    assert judge(plan, judged(plan, panel, seen), make_policy()).verdict == "inconclusive"


@pytest.mark.usefixtures("installed")
def test_plugin_cannot_change_the_picture_that_others_look_at() -> None:
    panel = Panel(plan_with(does="scribble"))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    before = pixels.copy()
    plan = plan_with(does="scribble")
    panel.observe(plan.probes[:1], "base", pixels[None], [bytes_digest(pixels.tobytes())])
    assert (pixels == before).all()


ANYTHING = st.one_of(
    st.none(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.none() | st.floats(), max_size=2),
    st.dictionaries(st.sampled_from(["concept:pistol", "x"]), st.none() | st.floats() | st.booleans(), max_size=2),
)


@given(ANYTHING)
@settings(deadline=None)
def test_whatever_is_no_sighting_raises(found: object) -> None:
    if found != []:
        with pytest.raises((TypeError, ValueError)):
            checked_sightings(found, ("thing",))
