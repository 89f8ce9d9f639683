"""How well it must be forgotten: the ``ReleasePolicy`` document.

A policy names the suite that measures and the limits that judge. It never enters the plan's digest, so that a finished
audit can be judged again under another policy in seconds.

`rules` has the records, `inheritance` reads files: what extends another policy is resolved into one flat policy, which
is all that anything downstream sees.
"""

from __future__ import annotations

from .inheritance import Place, PolicyFile, Resolved, load_policy, resolve_policy
from .rules import (
    DISTANCES,
    DROPS,
    PER_CONCEPT,
    RESERVED,
    AttacksAsked,
    Metric,
    PolicySpec,
    ReleasePolicy,
    RequiredEvidence,
    Rule,
    Waiver,
    in_words,
    reaches,
)

__all__ = [
    "DISTANCES",
    "DROPS",
    "PER_CONCEPT",
    "RESERVED",
    "AttacksAsked",
    "Metric",
    "Place",
    "PolicyFile",
    "PolicySpec",
    "ReleasePolicy",
    "RequiredEvidence",
    "Resolved",
    "Rule",
    "Waiver",
    "in_words",
    "load_policy",
    "reaches",
    "resolve_policy",
]
