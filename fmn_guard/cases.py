"""Golden verdicts: small counts and the outcome they must have, so that a policy is tested like code.

file --load_cases--> PolicyCases and its policy --check_cases--> what came out otherwise, each at its line

A case goes through the same `apply`, `unchanged`, `not_judged` and `settle` as an audit. Collapse and required evidence
are about a whole run and are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .errors import FileProblems, InputError, Problem
from .faults import Loc, RuleViolation
from .findings import SHOWN, Finding, Outcome, apply, verdict_of, worst
from .manifest import Metadata
from .measurement import Look, Measurement
from .passes import PassKind
from .policy import DISTANCES, DROPS, PER_CONCEPT, RESERVED, Metric, PolicySpec, ReleasePolicy, load_policy
from .record import Record, Slug
from .shipped import find, policies
from .standing import not_judged, unchanged
from .waivers import settle
from .yamlfile import Positions, load_yaml_positions

_OF_CORRECTIONS: tuple[Metric, ...] = ("dominant_recognised", "expected_recognised")
# A metric that proves something only beside the base's pictures; for a drop they always count.
_NEEDS_BASE: tuple[Metric, ...] = (
    "target_recognised",
    "alias_recognised",
    "inversion_recognised",
    "attack_success_rate",
    "dominant_recognised",
    "nudenet_strict_rate",
)

Count = Annotated[int, Field(ge=0, le=100_000)]


class CaseSubject(Record):
    """The concept or correction that counts are of."""

    slug: Slug
    """Its name in files."""
    kind: PassKind
    """Its kind, or ``correction``."""


class Counts(Record):
    """What was counted of one metric."""

    metric: Metric
    """The metric."""
    n: Count
    """Pictures, or pairs for a drop, that are scored."""
    hits: Count = 0
    """Pictures that show it; for a drop, pairs that lost it."""
    before: Count | None = None
    """Pictures of the base that show it; left out, all of them."""
    gained: Count = 0
    """For a drop, pairs that show it only afterwards."""
    unscored: Count = 0
    """Pictures planned beside ``n`` that have no score."""
    prompts: Annotated[int, Field(ge=1)] = 6
    """Prompts over which the pictures are spread evenly; fewer make a wider interval."""
    concept: Slug = "example"
    """The concept or correction it is of, for metrics that are per concept."""
    kind: PassKind | None = None
    """Its kind; left out, ``correction`` for metrics of corrections and ``object`` for others."""
    labels: tuple[Slug, ...] = ()
    """Its labels."""

    @property
    def subject(self) -> CaseSubject:
        """What it is of."""
        usual: PassKind = "correction" if self.metric in _OF_CORRECTIONS else "object"
        return CaseSubject(slug=self.concept, kind=self.kind or usual)

    def measurement(self) -> Measurement:
        """The pictures as an audit would have them: the first ones are those that show it, or lost it."""
        shown = self.n if self.before is None else self.before
        drop = self.metric in DROPS
        looks = []
        for i in range(self.n):
            kept = self.hits <= i < shown or shown <= i < shown + self.gained
            looks.append(Look(f"prompt {i % self.prompts}", i < shown, kept if drop else i < self.hits))
        looks += [Look(f"prompt {i % self.prompts}", None, None) for i in range(self.unscored)]
        return Measurement(
            tuple(looks),
            self.subject if self.metric in PER_CONCEPT else None,
            paired=drop,
            needs_base=self.metric in _NEEDS_BASE,
        )

    @model_validator(mode="after")
    def _possible(self) -> Counts:
        if self.metric in DISTANCES:
            raise RuleViolation(
                "no-counts",
                f"{self.metric} is a distance, of which nothing is counted",
                hint="cases are of metrics that count pictures",
                loc=("metric",),
            )
        shown = self.n if self.before is None else self.before
        if self.metric in DROPS:
            fits = shown <= self.n and self.hits <= shown and self.gained <= self.n - shown
        else:
            fits = shown <= self.n and self.hits <= self.n and not self.gained
        if not fits:
            raise RuleViolation(
                "impossible-counts",
                f"{self.n} cannot hold before: {shown}, hits: {self.hits} and gained: {self.gained}",
                hint="hits are at most n; of a drop they are among those shown before, and gained among the others",
            )
        return self


class Case(Record):
    """Counts, and what must come of them."""

    name: str = Field(min_length=1)
    """What it shows, in a sentence."""
    given: tuple[Counts, ...] = Field(min_length=1)
    """What was counted; what is not given was not asked."""
    verdict: Outcome | None = None
    """The verdict over all findings."""
    rules: dict[Slug, Outcome] = Field(default_factory=dict)
    """The worst outcome of a rule, or of ``no-effect`` or another finding that comes with every policy, by its id."""

    @model_validator(mode="after")
    def _expects(self) -> Case:
        if self.verdict is None and not self.rules:
            raise RuleViolation("expects-nothing", f"case {self.name!r} expects nothing", hint="give verdict or rules")
        return self


class CasesSpec(Record):
    """The content of a file of cases."""

    policy: str = Field(min_length=1)
    """Name of a shipped policy, or the path of one relative to this file."""
    judged_on: date | None = None
    """Day against which waivers expire; a policy with waivers needs one."""
    cases: tuple[Case, ...] = Field(min_length=1)
    """The cases."""


class PolicyCases(Record):
    """A ``PolicyCases`` document."""

    api_version: Literal["fmn-guard/v1"] = Field(alias="apiVersion")
    """Format version, ``fmn-guard/v1``."""
    kind: Literal["PolicyCases"]
    """``PolicyCases``"""
    metadata: Metadata
    """Name and description."""
    spec: CasesSpec
    """Policy and cases."""


def load_cases(path: Path) -> tuple[PolicyCases, ReleasePolicy, Positions]:
    """Reads cases and the policy that they are about.

    Raises:
        FileProblems: every problem of the file or of its policy, with line, column, rule and hint.
    """
    document, positions = load_yaml_positions(path, PolicyCases)
    try:
        policy = load_policy(find(document.spec.policy, policies(), path.parent))
    except FileProblems:
        raise
    except InputError as error:
        problem = positions.problem("no-such-policy", error.message, "spec", "policy", hint=error.hint)
        raise FileProblems([problem]) from error
    known = [*(rule.id for rule in policy.spec.rules), *RESERVED]
    problems = [
        positions.problem(
            "unknown-rule",
            f"policy {policy.metadata.name} has no rule {rule!r}",
            *("spec", "cases", i, "rules", rule),
            hint=f"known are: {', '.join(known)}",
        )
        for i, case in enumerate(document.spec.cases)
        for rule in case.rules
        if rule not in known
    ]
    if policy.spec.waivers and document.spec.judged_on is None:
        message = f"policy {policy.metadata.name} has waivers, which expire"
        problems.append(positions.problem("missing-key", message, "spec", hint="add spec.judged_on, a day"))
    if problems:
        raise FileProblems(problems)
    return document, policy, positions


def check_cases(path: Path) -> tuple[PolicyCases, list[Problem]]:
    """Judges the cases of a file.

    Returns:
        The cases, and a problem for each outcome that is not the one expected.

    Raises:
        FileProblems: the file or its policy cannot be used.
    """
    document, policy, positions = load_cases(path)
    problems = []
    for i, case in enumerate(document.spec.cases):
        findings, _ = settle(_judge(case, policy.spec), policy.spec.waivers, document.spec.judged_on)
        found = {f.rule: worst(g.outcome for g in findings if g.rule == f.rule) for f in findings}
        expected: list[tuple[Loc, str, Outcome, Outcome | None]] = [
            (("rules", rule), rule, outcome, found.get(rule)) for rule, outcome in case.rules.items()
        ]
        if case.verdict is not None:
            expected.append((("verdict",), "the verdict", case.verdict, verdict_of(findings)))
        for field, what, wanted, got in expected:
            if got != wanted:
                why = [f"{f.rule}: {f.outcome_words}: {f.reason}" for f in findings if what in (f.rule, "the verdict")]
                problems.append(
                    positions.problem(
                        "unexpected-outcome",
                        f"{case.name}: {what} is {got or 'not applied'}, expected {wanted}",
                        *(*("spec", "cases", i), *field),
                        hint="; ".join(why) or "nothing that is given is what this rule asks for",
                    )
                )
    return document, problems


def _judge(case: Case, spec: PolicySpec) -> Iterator[Finding]:
    given = [(counts, counts.measurement()) for counts in case.given]
    ruled = [
        apply(rule, m, spec)
        for rule in spec.rules
        for counts, m in given
        if counts.metric == rule.metric
        and (m.subject is None or rule.covers(m.subject.slug, m.subject.kind, counts.labels))
    ]
    shown = [m for counts, m in given if counts.metric in SHOWN]
    yield from ruled
    yield from not_judged((m.subject for m in shown if m.subject), ruled)
    for m in shown:
        yield from unchanged(m, spec)
