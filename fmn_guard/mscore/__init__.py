"""The M-Score, as fmn-guard defines it: how far inversion has to move to find a concept again, and what it finds.

Plan --plan_mscore--> Protocol                                   what is inverted, how, at which cost
Protocol, base, patched --run_mscore (fmn_guard.audit)--> MScore    mscore.json
MScore --summarise--> MScoreSummary                              a section of the report; a policy can limit the replay

For a concept c with name sentence r and seeds s, over the same pictures, noise and timesteps on both models:

    M0 = mean_s cos(z(base, s), r)        M1 = mean_s cos(z(patched, s), r)        drop = M0 - M1

z is the end-of-text state of a sentence with the inverted tokens in the name's place, r that with the name itself, both
by the base's text encoder. The paper's own formula is not public; this one is ours.
"""

from __future__ import annotations

from .measured import FILE, MScore, Replayed, Score, check_chain, drop_of, read_mscore
from .protocol import (
    FIRST_ANCHOR_SEED,
    FIRST_REPLAY_SEED,
    LEAST_CONTROLS,
    LEAST_SEEDS,
    Cost,
    Protocol,
    Role,
    Subject,
    estimate,
    plan_mscore,
)
from .summary import UNTESTED, InReport, MScoreSummary, noise_floor, not_tested, summarise

__all__ = [
    "FILE",
    "FIRST_ANCHOR_SEED",
    "FIRST_REPLAY_SEED",
    "LEAST_CONTROLS",
    "LEAST_SEEDS",
    "UNTESTED",
    "Cost",
    "InReport",
    "MScore",
    "MScoreSummary",
    "Protocol",
    "Replayed",
    "Role",
    "Score",
    "Subject",
    "check_chain",
    "drop_of",
    "estimate",
    "noise_floor",
    "not_tested",
    "plan_mscore",
    "read_mscore",
    "summarise",
]
