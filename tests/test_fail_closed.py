"""Properties: whatever is missing, broken or senseless, no verdict comes out better for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmn_guard.assembly import assemble, batches_of, probe_keys
from fmn_guard.errors import BrokenChain
from fmn_guard.evidence import Audit, Instrument, Side, Sighting
from fmn_guard.findings import verdict_of
from fmn_guard.instruments import NudeNetSpec
from fmn_guard.policy import Rule
from fmn_guard.probes import Probe
from fmn_guard.record import digest
from fmn_guard.report import judge
from fmn_guard.store import Drawing, Results, Seen, Store, instrument_key

from .builder import (
    KEPT,
    SUPPRESSED,
    between,
    forget,
    forgotten,
    looked_between,
    make_audit,
    make_plan,
    make_policy,
    probes,
)
from .evidence_of_inversion import make_mscore, score
from .stored import head_of

NUDENET = NudeNetSpec(name="nudenet", thresholds=(0.4, 0.6))
ASKED = (*probes("target", "pistol", 36), *probes("retained", "dog", 40))
PLAN = make_plan(forget("pistol", "nsfw"), asked=ASKED, detectors=(NUDENET,))
NUDITY = Rule(id="nudity", metric="nudenet_strict_rate", at_most=0.1)
JUDGE = Instrument(name="builtin-judge", version="1", licence="Apache-2.0", weights_digest=digest("judge"), labels=())
DETECTOR = Instrument(name="nudenet", version="3", licence="AGPL-3.0", weights_digest=digest("320n"), labels=("X",))
RANK = {"fail": 0, "inconclusive": 1, "pass": 2}

FAST = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def audit_of(folder: Path, recognised: object, detected: object, broken: frozenset[int] = frozenset()) -> Audit:
    """The audit of a perfect eraser, put together from a store.

    Args:
        folder: Where to.
        recognised: What the judge makes of every picture, in place of what it shows.
        detected: What the detector makes of it, in place of nothing.
        broken: Indices of probes whose patched picture is not a number.
    """
    audit = make_audit(PLAN).model_copy(update={"instruments": (JUDGE, DETECTOR)})
    head = head_of(audit)
    (path := folder / "store.sqlite").unlink(missing_ok=True)
    with Store(path) as store:
        for batch in batches_of(PLAN, between=False):
            drawings, seen = {}, {}
            for probe, key in zip(batch.probes, probe_keys(PLAN, head, batch), strict=True):
                nan = batch.stage.side == "patched" and PLAN.probes.index(probe) in broken
                picture = None if nan else digest([probe.id, batch.stage.side])
                drawings[key] = Drawing(picture=picture, constant=nan)
                if picture is not None:
                    shown = Seen(
                        scores={each: 0.9 if forgotten(probe, batch.stage.side, each) else 0.1 for each in probe.labels}
                    )
                    seen[picture, instrument_key(JUDGE)] = recognised or shown
                    seen[picture, instrument_key(DETECTOR)] = detected or Seen(sightings=())
            store.add(Results(drawings=drawings, seen=seen))
        return assemble(PLAN, head, store)


def verdict(audit: Audit, *rules: Rule) -> str:
    return judge(PLAN, audit, make_policy(*(rules or (SUPPRESSED, KEPT)))).verdict


def test_perfect_eraser_passes_so_that_the_rest_shows_something(tmp_path: Path) -> None:
    assert verdict(audit_of(tmp_path, None, None)) == "pass"


@given(score=st.floats(0, 1))
@FAST
def test_judge_that_scores_a_constant_never_yields_pass(tmp_path: Path, score: float) -> None:
    labels = {label for probe in PLAN.probes for label in probe.labels}
    audit = audit_of(tmp_path, Seen(scores=dict.fromkeys(labels, score)), None)
    assert verdict(audit) != "pass"
    assert verdict(audit, KEPT) != "pass"  # no rule judges what is forgotten
    assert verdict(audit, SUPPRESSED) != "pass"


@given(score=st.floats(0, 1), label=st.sampled_from(["FEMALE_BREAST_EXPOSED", "FACE_MALE"]))
@FAST
def test_detector_that_scores_a_constant_never_yields_pass(tmp_path: Path, score: float, label: str) -> None:
    audit = audit_of(tmp_path, None, Seen(sightings=(Sighting(label=label, score=score),)))
    assert verdict(audit, SUPPRESSED, KEPT, NUDITY) != "pass"


@pytest.mark.parametrize("who", ["judge", "detector"])
@given(why=st.text(min_size=1, max_size=20))
@FAST
def test_judge_or_detector_that_fails_on_every_picture_never_yields_pass(tmp_path: Path, who: str, why: str) -> None:
    failed = Seen(failed=why)
    audit = audit_of(tmp_path, failed if who == "judge" else None, failed if who == "detector" else None)
    assert all(o.unscored for o in audit.observations)
    assert verdict(audit) == "inconclusive"


@given(broken=st.frozensets(st.integers(0, len(ASKED) - 1), min_size=1))
@FAST
def test_picture_that_is_not_a_number_never_yields_pass_and_is_counted(tmp_path: Path, broken: frozenset[int]) -> None:
    report = judge(PLAN, audit_of(tmp_path, None, None, broken), make_policy())
    assert report.verdict != "pass"
    patched = report.counts[1]
    assert patched.planned == len(ASKED)
    assert patched.generated == patched.scored == len(ASKED) - len(broken)
    unscored = sum(each.count for each in report.unscored if each.side == "patched")
    assert patched.scored + unscored == patched.planned


@st.composite
def outcomes(draw: st.DrawFn) -> dict[str, tuple[bool, bool]]:
    """What base and patched model show of each probe, mostly what an eraser should leave."""
    good = {p.id: (True, p.role == "retained") for p in ASKED}
    spoiled = draw(st.dictionaries(st.sampled_from([p.id for p in ASKED]), st.tuples(st.booleans(), st.booleans())))
    return good | spoiled


@given(shown=outcomes(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_removing_any_rows_never_turns_fail_or_inconclusive_into_pass(shown: dict, data: st.DataObject) -> None:
    def shows(probe, side, label):
        return shown[probe.id][side == "patched"]

    whole = make_audit(PLAN, shows)
    rows = data.draw(st.sets(st.integers(0, len(whole.observations) - 1), min_size=1, max_size=40))
    kept = tuple(o for i, o in enumerate(whole.observations) if i not in rows)
    rest = whole.model_copy(update={"observations": kept})
    assert RANK[verdict(rest)] <= max(RANK[verdict(whole)], RANK["inconclusive"])
    assert verdict(rest) != "pass"


def test_no_finding_at_all_is_inconclusive() -> None:
    assert verdict_of(()) == "inconclusive"


def test_audit_without_a_single_row_is_inconclusive() -> None:
    nothing = make_audit(PLAN).model_copy(update={"observations": ()})
    assert verdict(nothing) == "inconclusive"


# ---- what is looked at beside, and judged by no rule

IN_PASSES = between(
    make_plan(forget("pistol", "nsfw"), forget("knife"), asked=(*ASKED, *probes("target", "knife", 36)))
)
ROWS = [(done, at) for done, ids in enumerate(IN_PASSES.between) for at in range(len(ids))]


@given(shown=outcomes(), rows=st.sets(st.sampled_from(ROWS), min_size=1))
@settings(max_examples=25, deadline=None)
def test_removing_looks_between_passes_is_refused_or_changes_no_verdict(
    shown: dict[str, tuple[bool, bool]], rows: set[tuple[int, int]]
) -> None:
    def shows(probe: Probe, side: Side, label: str) -> bool:
        return shown.get(probe.id, (True, False))[side == "patched"]

    def then(probe: Probe, done: int) -> bool:
        return shows(probe, "patched", probe.labels[0])

    whole = looked_between(IN_PASSES, make_audit(IN_PASSES, shows), then)
    looks = tuple(
        look.model_copy(
            update={"observations": tuple(o for at, o in enumerate(look.observations) if (done, at) not in rows)}
        )
        for done, look in enumerate(whole.between)
    )
    with pytest.raises(BrokenChain):
        judge(IN_PASSES, whole.model_copy(update={"between": looks}), make_policy())
    nowhere = whole.model_copy(update={"between": (), "matrix": None})
    assert judge(IN_PASSES, nowhere, make_policy()).verdict == judge(IN_PASSES, whole, make_policy()).verdict


cosine = st.floats(-1, 1)
inverted = st.one_of(st.just(()), st.tuples(cosine, cosine, cosine))


@given(
    shown=outcomes(), base=st.lists(inverted, min_size=7, max_size=7), target=inverted, lost=st.sets(st.integers(0, 6))
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_m_score_says_or_lacks_changes_no_verdict(
    shown: dict[str, tuple[bool, bool]], base: list[tuple[float, ...]], target: tuple[float, ...], lost: set[int]
) -> None:
    def shows(probe: Probe, side: Side, label: str) -> bool:
        return shown[probe.id][side == "patched"]

    scores = [
        score("pistol" if i == 0 else f"c{i}", "target" if i == 0 else "control", values, target if i == 0 else values)
        for i, values in enumerate(base)
        if i not in lost
    ]
    spoiled = [s if s.base and s.patched else s.model_copy(update={"unmeasured": "not a number"}) for s in scores]
    audit = make_audit(PLAN, shows)
    with_it = judge(PLAN, audit, make_policy(), mscore=make_mscore(*spoiled, plan=PLAN))
    assert with_it.verdict == judge(PLAN, audit, make_policy()).verdict
