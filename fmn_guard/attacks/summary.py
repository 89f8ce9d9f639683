"""What a report tells of attacks: success rates before and after, with intervals, and at which budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from ..evidence import Side
from ..gathered import Tried
from ..measurement import Measurement
from ..plan import Plan
from ..record import Digest, Record, Slug, digest
from ..stats import Interval, wider
from .measured import Attacks
from .protocol import AttackKind
from .suite import PrefixSearch


class Rate(Record):
    """How often one model shows a concept under an attack."""

    shown: int
    """Pictures that show it."""
    n: int
    """Pictures scored; what is not scored is not safe."""
    generated: int
    """Pictures drawn."""
    planned: int
    """Pictures asked for."""
    wilson: Interval
    """Wilson's interval of the share shown."""
    bootstrap: Interval
    """Its interval under resampling of prompts."""
    unscored: dict[str, int] = Field(default_factory=dict)
    """Why pictures do not count, and how many."""

    @property
    def share(self) -> float | None:
        """Share of the scored pictures that show it, in [0, 1]; None where none is scored."""
        return self.shown / self.n if self.n else None

    @property
    def interval(self) -> Interval:
        """The hull of both intervals."""
        return wider(self.wilson, self.bootstrap)

    @property
    def words(self) -> str:
        """In a few words, such as ``3 of 36`` or ``3 of 30, 6 unscored``."""
        left = self.planned - self.n
        return f"{self.shown} of {self.n}{f', {left} unscored' if left else ''}"


class AttackRow(Record):
    """One attack on one concept."""

    subject: Slug
    """The concept, by its name in files."""
    phrase: str
    """Its name."""
    attack: Slug
    """The attack."""
    kind: AttackKind
    """What sort of attack."""
    guidance: float
    """Guidance scale of its pictures."""
    prompts: int
    """Distinct prompts."""
    base: Rate
    """Of the base under the attack."""
    without: Rate
    """Of the patched model without it: the audit's sentences from other seeds."""
    patched: Rate
    """Of the patched model under the attack."""
    search: PrefixSearch | None = None
    """Budget of a search."""
    prefix: str = ""
    """The strongest words that a search found."""
    failed: str | None = None
    """Why the attack could not be made."""


class AttackSummary(Record):
    """The report's section."""

    attacks_digest: Digest
    """Digest of attacks.json's content."""
    suite: Slug
    """The attack suite's name."""
    suite_digest: Digest
    """Digest of its content."""
    undescribed: tuple[Slug, ...]
    """Concepts that it has no descriptions of."""
    rows: tuple[AttackRow, ...]
    """In the protocol's order."""

    @property
    def budgets(self) -> dict[str, int]:
        """Pictures planned, generated and scored, all attacks on both models together."""
        rates = [rate for row in self.rows for rate in (row.base, row.patched)]
        return {
            "planned": sum(rate.planned for rate in rates),
            "generated": sum(rate.generated for rate in rates),
            "scored": sum(rate.n for rate in rates),
        }


InReport = Annotated[AttackSummary | None, Field(exclude_if=lambda summary: summary is None)]
"""Left out where nothing was tried, so that reports of runs without it keep their digests."""


def summarise(attacks: Attacks, tried: tuple[Tried, ...], plan: Plan, confidence: float) -> AttackSummary:
    """What a report tells of attacks. Pure.

    Args:
        attacks: What came of them.
        tried: The same as evidence, in their order.
        plan: The plan.
        confidence: Of the intervals, two-sided, in (0, 1).
    """
    phrases = {spec.slug: spec.names[0] for spec in plan.passes}
    usual = {each.attack.subject: each for each in tried if each.attack.kind == "seeds"}
    return AttackSummary(
        attacks_digest=digest(attacks),
        suite=attacks.protocol.suite,
        suite_digest=attacks.protocol.suite_digest,
        undescribed=attacks.protocol.undescribed,
        rows=tuple(
            AttackRow(
                subject=each.attack.subject,
                phrase=phrases[each.attack.subject],
                attack=each.attack.id,
                kind=each.attack.kind,
                guidance=each.attack.guidance,
                prompts=len(each.attack.prompts),
                base=rate_of(each, "base", confidence),
                without=rate_of(usual[each.attack.subject], "patched", confidence),
                patched=rate_of(each, "patched", confidence),
                search=each.attack.search,
                prefix=found.prefix,
                failed=found.failed,
            )
            for each, found in zip(tried, attacks.attacked, strict=True)
        ),
    )


def rate_of(tried: Tried, side: Side, confidence: float) -> Rate:
    """How often a model shows the concept under an attack."""
    probes = tried.evidence.plan.probes
    shown = Measurement(tuple(tried.look(probe, side) for probe in probes))
    reasons = Counter(why for probe in probes if (why := tried.evidence.why_unscored(probe, side)) is not None)
    return Rate(
        shown=shown.hits,
        n=len(shown.counted),
        generated=sum(o.image_digest is not None for (_, s), o in tried.evidence.seen.items() if s == side),
        planned=shown.planned,
        wilson=shown.score_interval(confidence),
        bootstrap=shown.bootstrap_interval(confidence),
        unscored=dict(reasons),
    )


def not_tested(summary: AttackSummary | None, plan: Plan, judged: bool) -> Iterator[str]:
    """What is said of attacks in the list of what a verdict says nothing about.

    Args:
        summary: What was tried.
        plan: The plan.
        judged: Whether a rule of the policy limits how often they succeed.
    """
    if summary is None:
        yield UNTESTED
        return
    if not any(row.search for row in summary.rows):
        yield UNTESTED
        if not judged:
            tried = f"tried by attack suite {summary.suite}, and judged by no rule"
            yield f"Other seeds, guidance scales and descriptions: {tried}."
    elif judged:
        yield f"Adversarial prompts beyond the budget of attack suite {summary.suite}."
    else:
        yield f"Adversarial prompts: tried by attack suite {summary.suite}, and judged by no rule."
    for row in summary.rows:
        if row.failed:
            yield f"Attack {row.attack} on {row.subject}: it failed, {row.failed}."
    for slug in summary.undescribed:
        yield f"Descriptions of {slug}: attack suite {summary.suite} has none."
    if any(spec.kind == "correction" for spec in plan.passes):
        yield "Attacks on corrections: concepts only are attacked."


UNTESTED = "Adversarial prompts: whether a prompt that was searched for brings a concept back."
"""What a report without attacks says."""
