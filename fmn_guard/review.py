"""Human review: a person looks at pictures near the threshold, and confirms the recogniser or overrules it.

(Plan, Audit, Review) --nearest--> Close...        what to look at, the closest call first
Review + a ruling --ruled--> Review                review.json; a stage of the run, listed and signed like the others
(Evidence, Review) --reviewed--> Evidence          what findings are made of

An overruling changes what a picture is counted as, never whether it counts: nobody can score what was not scored. The
report tells the verdict with and without the review wherever the two differ. A policy may let a review tighten alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from .errors import BrokenChain, InputError
from .evidence import Audit, Side
from .findings import Finding, Outcome, verdict_of
from .gathered import Evidence
from .probes import Probe
from .record import Digest, Record, Slug, digest, read_record

FILE = "review.json"
_RANK: dict[Outcome, int] = {"fail": 0, "inconclusive": 1, "pass": 2}

Words = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^\S([^\x00-\x1f\x7f]*\S)?$")]


class Ruling(Record):
    """What a person says about one label in one picture."""

    probe: str
    """Id of the probe."""
    side: Side
    """Which model drew it."""
    label: str
    """What was looked for."""
    image_digest: Digest
    """Digest of the picture's pixels."""
    recognised: bool
    """What the recogniser says."""
    shown: bool
    """What the person says."""
    by: Words
    """Who."""
    because: Words
    """Why."""

    @property
    def overrules(self) -> bool:
        """Whether the person and the recogniser disagree."""
        return self.shown != self.recognised


class Review(Record):
    """review.json: every ruling on one audit."""

    schema_version: Literal["fmn-guard/review/v1"] = "fmn-guard/review/v1"
    """Format of this record."""
    plan_digest: Digest
    """The plan that was measured."""
    audit_digest: Digest
    """The audit whose pictures were looked at."""
    rulings: tuple[Ruling, ...]
    """In the plan's order, the base first; one for each picture and label."""


class Reversal(Record):
    """A finding that the review decided."""

    rule: Slug
    """Id of its rule."""
    about: str | None
    """Its subject; None when it is about the whole model."""
    without: Outcome | None
    """Its outcome by the recogniser alone; None where it was not found."""
    after: Outcome | None
    """Its outcome with the rulings; None where it is no longer found."""

    @property
    def of(self) -> str:
        """Its rule, and what it is about."""
        return f"{self.rule} of {self.about}" if self.about else self.rule


class ReviewSummary(Record):
    """What a report tells of a review."""

    review_digest: Digest
    """Digest of review.json's content."""
    confirmed: int
    """Rulings that agree with the recogniser."""
    overruled: int
    """Rulings that do not."""
    verdict: Outcome
    """The verdict with the rulings."""
    verdict_without: Outcome
    """The verdict by the recogniser alone."""
    reversals: tuple[Reversal, ...]
    """Findings whose outcome is another one with the rulings."""
    held: Annotated[tuple[Reversal, ...], Field(exclude_if=lambda held: not held)] = ()
    """Findings that the rulings would have eased, and that the policy holds as they are without."""
    rulings: tuple[Ruling, ...]
    """All of them."""

    @property
    def counts(self) -> str:
        """How many rulings there are, in words."""
        return f"{self.confirmed} pictures confirmed and {self.overruled} overruled by people"

    @property
    def warnings(self) -> Iterator[str]:
        """What to know of a verdict that rests on people, a sentence each; nobody is named."""
        if self.overruled:
            same = self.verdict_without == self.verdict
            than = "the same" if same else f"{self.verdict_without}, not {self.verdict}"
            yield f"Review: {self.counts}. By the recogniser alone the verdict is {than}."
        for each in self.reversals:
            yield f"Review: rule {each.of} is {each.without or 'not found'} by the recogniser alone."
        for each in self.held:
            yield (
                f"Review: rule {each.of} is {each.after or 'not found'} with the rulings, and stays {each.without}: "
                "the policy lets a review tighten alone."
            )


class Close(NamedTuple):
    """A call that a person may want to look at."""

    probe: Probe
    """What was asked."""
    side: Side
    """Which model drew it."""
    label: str
    """What was looked for."""
    score: float
    """The recogniser's probability."""
    recognised: bool
    """Whether that counts as shown."""
    ruling: Ruling | None
    """What was ruled on it already."""


def read_review(run: Path) -> Review | None:
    """The review of a run; None where there is none.

    Raises:
        InputError: it is unreadable.
    """
    return read_record(run / FILE, Review) if (run / FILE).exists() else None


def nearest(evidence: Evidence, review: Review | None, count: int) -> list[Close]:
    """The calls nearest the threshold, the closest first; what is not scored is no call.

    Args:
        evidence: What the recogniser saw.
        review: What was ruled so far.
        count: Most that are given.
    """
    ruled_on = {(r.probe, r.side, r.label): r for r in review.rulings} if review else {}
    threshold = evidence.plan.recogniser.threshold
    calls = [
        Close(probe, side, label, score, score >= threshold, ruled_on.get((probe.id, side, label)))
        for probe, side, label, score in _calls(evidence)
    ]
    return sorted(calls, key=lambda call: abs(call.score - threshold))[:count]


def ruled(
    evidence: Evidence,
    audit: Audit,
    review: Review | None,
    *,
    probe: str,
    side: Side,
    shown: bool | None,
    by: str,
    because: str,
    label: str | None = None,
) -> Review:
    """A review with one more ruling, in place of an earlier one on the same picture and label.

    Args:
        evidence: What the recogniser saw.
        audit: The audit it is of.
        review: What was ruled so far.
        probe: Id of the probe.
        side: Which model drew the picture.
        shown: What the person says; None confirms the recogniser.
        by: Who.
        because: Why.
        label: What was looked for; by default the probe's first label.

    Raises:
        InputError: there is no such picture or label, it is not scored, or it is overruled by what it says already.
    """
    asked = {p.id: p for p in evidence.plan.probes}
    if probe not in asked:
        raise InputError(f"no probe is called {probe!r}", hint="`fmn-guard review RUN` lists some; audit.json has all")
    labels = asked[probe].labels
    if label is not None and label not in labels:
        raise InputError(f"{probe} was not asked for {label!r}", hint=f"it was asked for {', '.join(labels)}")
    if why := evidence.why_unscored(asked[probe], side):
        raise InputError(
            f"the {side} picture of {probe} is not scored: {why}", hint="a review cannot score it; audit again"
        )
    if not labels:
        raise InputError(
            f"{probe} is of a published prompt set: the recogniser said nothing of it",
            hint="what detectors count is not overruled",
        )
    about = label or labels[0]
    recognised = evidence.seen[probe, side].scores[about] >= evidence.plan.recogniser.threshold
    if shown == recognised:
        raise InputError(
            f"the recogniser says so already: {about} is {'' if recognised else 'not '}shown in {probe}",
            hint="confirm it instead",
        )
    picture = evidence.seen[probe, side].image_digest
    assert picture is not None  # what was not drawn is not scored
    made = Ruling(
        probe=probe,
        side=side,
        label=about,
        image_digest=picture,
        recognised=recognised,
        shown=recognised if shown is None else shown,
        by=by,
        because=because,
    )
    kept = [r for r in (review.rulings if review else ()) if _key(r) != _key(made)]
    place = {key: i for i, key in enumerate((p.id, s, name) for p, s, name, _ in _calls(evidence))}
    rulings = tuple(sorted((*kept, made), key=lambda r: place.get(_key(r), len(place))))
    return Review(plan_digest=audit.plan_digest, audit_digest=digest(audit), rulings=rulings)


def reviewed(evidence: Evidence, audit: Audit, review: Review) -> Evidence:
    """What was seen, with what people say in place of what the recogniser says where they ruled.

    Raises:
        BrokenChain: the review is of another audit, or rules on what is not there, not scored, or seen otherwise.
    """
    again = f"review the run again with `fmn-guard review`, after moving {FILE} away"
    if review.plan_digest != audit.plan_digest or review.audit_digest != digest(audit):
        raise BrokenChain(f"{FILE} is not of this audit", hint=again)
    threshold = evidence.plan.recogniser.threshold
    calls = {(p.id, side, label): score >= threshold for p, side, label, score in _calls(evidence)}
    for ruling in review.rulings:
        said = calls.pop(_key(ruling), None)  # none is left for a second ruling on the same
        if said is None or said != ruling.recognised:
            raise BrokenChain(f"{FILE} rules on what the audit does not say of {ruling.probe!r}", hint=again)
        if evidence.seen[ruling.probe, ruling.side].image_digest != ruling.image_digest:
            raise BrokenChain(f"{FILE} rules on another picture of {ruling.probe!r}", hint=again)
    return replace(evidence, rulings={_key(r): r.shown for r in review.rulings})


def stricter(findings: Sequence[Finding], alone: Sequence[Finding]) -> tuple[Finding, ...]:
    """Of each finding with and without a review the stricter one; what only one of the two has stays.

    Args:
        findings: What was found with the rulings; of two equal outcomes theirs is taken.
        alone: What was found by the recogniser alone.
    """
    left = {_about(f): f for f in alone}
    kept = [min((f, left.pop(_about(f), f)), key=lambda each: _RANK[each.outcome]) for f in findings]
    return (*kept, *left.values())


def compare(
    review: Review, findings: Sequence[Finding], alone: Sequence[Finding], eased: Sequence[Finding]
) -> ReviewSummary:
    """What a report tells of a review.

    Args:
        review: The rulings.
        findings: What counts: what was found with them, or the stricter of that and ``alone``.
        alone: What was found by the recogniser alone.
        eased: What was found with them.
    """
    with_it, without, said = ({_about(f): f.outcome for f in each} for each in (findings, alone, eased))
    return ReviewSummary(
        review_digest=digest(review),
        confirmed=sum(not ruling.overrules for ruling in review.rulings),
        overruled=sum(ruling.overrules for ruling in review.rulings),
        verdict=verdict_of(findings),
        verdict_without=verdict_of(alone),
        reversals=tuple(
            Reversal(rule=key[0], about=key[2], without=without.get(key), after=with_it.get(key))
            for key in dict.fromkeys((*without, *with_it))
            if without.get(key) != with_it.get(key)
        ),
        held=tuple(
            Reversal(rule=key[0], about=key[2], without=outcome, after=said.get(key))
            for key, outcome in with_it.items()
            if outcome != said.get(key)
        ),
        rulings=review.rulings,
    )


def _about(finding: Finding) -> tuple[Slug, str, str | None]:
    return finding.rule, finding.metric, finding.about


def _key(ruling: Ruling) -> tuple[str, Side, str]:
    return ruling.probe, ruling.side, ruling.label


def _calls(evidence: Evidence) -> Iterator[tuple[Probe, Side, str, float]]:
    sides: tuple[Side, ...] = ("base", "patched")
    for side in sides:
        for probe in evidence.plan.probes:
            if evidence.why_unscored(probe, side) is None:
                scores = evidence.seen[probe.id, side].scores
                yield from ((probe, side, label, scores[label]) for label in probe.labels)
