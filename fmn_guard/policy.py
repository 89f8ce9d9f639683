"""How well it must be forgotten: the ``ReleasePolicy`` document.

A policy names the suite that measures and the limits that judge. It never enters the plan's
digest, so that a finished audit can be judged again under another policy in seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .manifest import Kind, Metadata
from .record import Record, Slug
from .stats import percent
from .yamlfile import RuleViolation, RuleViolations, load_yaml

Metric = Literal[
    "target_recognised",
    "alias_recognised",
    "dominant_recognised",
    "expected_recognised",
    "retained_drop",
    "retained_drop_held_out",
    "neighbour_drop",
    "nudenet_strict_rate",
]
"""What a rule can limit; `fmn_guard.metrics` says how each is computed."""

PER_CONCEPT: frozenset[Metric] = frozenset(
    {"target_recognised", "alias_recognised", "dominant_recognised", "expected_recognised", "neighbour_drop"}
)

RESERVED = ("no-effect", "collapse", "not-judged")
"""Ids of the findings that come with every policy."""


class Rule(Record):
    """One limit. It holds only if the confidence bound on the far side is within it."""

    id: Slug
    """Stable name, used in reports, SARIF and JUnit."""
    metric: Metric
    """What is limited."""
    at_most: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Upper limit on the metric's upper confidence bound."""
    at_least: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Lower limit on the metric's lower confidence bound."""
    kinds: tuple[Kind, ...] = ("identity", "style", "object", "nsfw")
    """Kinds it applies to, for metrics that are per concept."""
    min_samples: Annotated[int, Field(ge=1)] = 1
    """Scored pictures below which the rule is inconclusive."""
    severity: Literal["error", "warning"] = "error"
    """A warning is reported and does not change the verdict."""

    @property
    def words(self) -> str:
        """The rule as people read it: ``target_recognised <= 10.0 %``."""
        if self.at_most is not None:
            return f"{self.metric} <= {percent(self.at_most)}"
        assert self.at_least is not None  # a rule has exactly one limit
        return f"{self.metric} >= {percent(self.at_least)}"

    @model_validator(mode="after")
    def _one_limit(self) -> Rule:
        if (self.at_most is None) == (self.at_least is None):
            raise RuleViolation(
                "one-limit",
                f"rule {self.id!r} needs exactly one of at_most and at_least",
                hint="a rate to suppress has at_most, a rate to keep has at_least",
            )
        return self


class PolicySpec(Record):
    """The content of a policy."""

    suite: str = Field(min_length=1)
    """Name of a shipped suite, or the path of a suite relative to the policy."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    """The limits."""
    base_shows_at_least: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the probes of a concept, or of what must stay, in which the base must show it to prove anything."""
    no_effect_below: Annotated[float, Field(ge=0, le=1)] = 0.1
    """A target whose recognition drops by at most this is reported as "no effect"."""
    collapse_below: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Retained recognition below this share of the base's is reported as "collapse"."""
    collapse_degenerate: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of constant or NaN pictures above which it is "collapse" too."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval, two-sided."""

    @model_validator(mode="after")
    def _sound_ids(self) -> PolicySpec:
        seen: set[str] = set()
        problems = []
        for i, rule in enumerate(self.rules):
            if rule.id in RESERVED:
                problems.append(
                    RuleViolation(
                        "reserved-rule",
                        f"{rule.id!r} is the id of a finding that comes with every policy",
                        hint=f"choose another id; {', '.join(RESERVED)} are taken",
                        loc=("rules", i, "id"),
                    )
                )
            if rule.id in seen:
                problems.append(
                    RuleViolation(
                        "duplicate-rule",
                        f"two rules are called {rule.id!r}",
                        hint="reports refer to rules by id",
                        loc=("rules", i, "id"),
                    )
                )
            seen.add(rule.id)
        if problems:
            raise RuleViolations(problems)
        return self


class ReleasePolicy(Record):
    """A ``ReleasePolicy`` document."""

    api_version: Literal["fmn-guard/v1"] = Field(alias="apiVersion")
    """Format version, ``fmn-guard/v1``."""
    kind: Literal["ReleasePolicy"]
    """``ReleasePolicy``"""
    metadata: Metadata
    """Name and description."""
    spec: PolicySpec
    """Suite and limits."""


def load_policy(path: Path) -> ReleasePolicy:
    """Reads a policy.

    Raises:
        FileProblems: every error of the file, each with line, column, rule and hint.
    """
    return load_yaml(path, ReleasePolicy)
