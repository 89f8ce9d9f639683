"""M-Scores made by hand."""

from __future__ import annotations

from fmn_guard.evidence import Instrument
from fmn_guard.inversion import InversionSettings
from fmn_guard.mscore import MScore, Protocol, Role, Score, Subject
from fmn_guard.plan import Plan
from fmn_guard.record import digest

from .builder import PATCHED, make_plan


def score(slug: str, role: Role, base: tuple[float, ...], patched: tuple[float, ...]) -> Score:
    """What was measured of one concept."""
    return Score(
        slug=slug,
        role=role,
        anchors_digest=digest(slug),
        anchors_shown=8,
        base=base,
        patched=patched,
        between=(0.7,) * len(base),
        among=(0.8,) * len(base),
        errors={"base": 0.1, "patched": 0.2},
        replays=(),
    )


def make_mscore(*scores: Score, plan: Plan | None = None) -> MScore:
    """An M-Score of some concepts."""
    plan = plan or make_plan()
    frames = ("a photo of {x}",) * 8
    return MScore(
        patched_digest=PATCHED,
        protocol=Protocol(
            plan_digest=plan.digest,
            base_digest=plan.base.identity,
            word="picture",
            inversion=InversionSettings(),
            replay_tokens=(1, 4),
            replays=8,
            subjects=tuple(
                Subject(
                    slug=s.slug,
                    phrase=s.slug,
                    role=s.role,
                    label=f"concept:{s.slug}",
                    template=frames[0],
                    frames=frames,
                )
                for s in scores
            ),
        ),
        instrument=Instrument(
            name="builtin-judge", version="1", licence="Apache-2.0", weights_digest=digest("judge"), labels=()
        ),
        scores=scores,
    )
