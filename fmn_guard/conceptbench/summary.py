"""ConceptBench: what a checkpoint draws of a fixed list of concepts, beside its base. Measured, and judged by no limit.

(suite with a Bench, base) --bench_plan--> Plan --measure--> Audit --bench_summary--> BenchSummary   conceptbench.json

The list is this project's. That of the Forget-Me-Not paper, of which only the three categories are known, was never
released. What was meant to be forgotten is told when figures are put together, not when pictures are drawn: every
checkpoint is asked the same, and one that is asked again takes its pictures from the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Literal, NamedTuple, assert_never, get_args

from ..errors import InputError
from ..evidence import Audit
from ..facts import Checkpoint
from ..gathered import Evidence, gather
from ..instruments import resolved
from ..manifest import CheckpointRef, Concept, Correction, Identity, Manifest, ManifestSpec, Object, Style
from ..measurement import Look, Measurement
from ..passes import PassKind
from ..plan import Plan
from ..probes import Probe, probes_of
from ..record import Digest, Record, Slug, digest, slugify
from ..stats import Interval, wider
from ..suite import AuditSuite
from .edition import Bench, BenchConcept, BenchKind

FILE = "conceptbench.json"
"""Where a summary is kept, in the folder of its run."""
SHOWN_FROM = 0.6
"""Rate from which the base is said to show something; what it shows less often, it says nothing about."""

Task = Literal["presence", "suppression", "same-kind retention", "cross-kind retention", "correction"]
Status = Literal["measured", "not shown", "inconclusive"]
Asked = Literal["name", "paraphrase", "description", "neighbour", "dominant", "expected"]
_KINDS: tuple[BenchKind, ...] = ("identity", "object", "style")


class BenchRow(Record):
    """One figure."""

    task: Task
    """What is asked: whether the base draws it; whether what was to be forgotten is still drawn, less is better; what
    is lost of the rest; which reading an ambiguous word has."""
    kind: PassKind
    """Of what is asked for; ``correction`` of an ambiguous word."""
    about: str
    """A concept, or what a figure is over."""
    asked: Asked
    """By what it was asked for; of a correction, which reading is looked for."""
    better: Literal["lower", "higher"]
    """Which way is better."""
    before: float | None
    """Rate on the base, in [0, 1]."""
    value: float | None
    """Rate on the checkpoint, or the drop from base to checkpoint; of presence, the base's rate."""
    hits: int
    """Pictures that show it; of a drop, pairs that lost it."""
    gained: int = 0
    """Of a drop, pairs that show it only on the checkpoint."""
    n: int
    """Pictures or pairs scored."""
    planned: int
    """Pictures or pairs planned."""
    interval: Interval
    """The wider of the score interval and that of prompts drawn again."""
    status: Status
    """``inconclusive`` where pictures are not scored, ``not shown`` where the base does not show what is asked for."""
    reason: str = ""
    """Why it is that."""


class BenchSummary(Record):
    """conceptbench.json: what a checkpoint draws of the benchmark."""

    schema_version: Literal["fmn-guard/conceptbench/v1"] = "fmn-guard/conceptbench/v1"
    """Format of this record."""
    edition: Slug
    """The suite that asked, with its version in its name."""
    suite_digest: Digest
    """Digest of its content."""
    plan_digest: Digest
    """Digest of plan.json's content."""
    audit_digest: Digest
    """Digest of audit.json's content."""
    base_digest: Digest
    """Identity of the base."""
    checkpoint_digest: Digest
    """Identity of the checkpoint; the base's where it was asked alone."""
    forgotten: tuple[Slug, ...]
    """Concepts and corrections that were meant to be forgotten or made, as the caller said."""
    confidence: float
    """Confidence of every interval, two-sided."""
    rows: tuple[BenchRow, ...]
    """Figures, by task."""

    @property
    def status(self) -> Literal["measured", "inconclusive"]:
        """Whether every figure that tells of the checkpoint is measured; presence tells of the base.

        A paraphrase or a description that the base cannot read is no gap of the measurement, a name is.
        """
        told = [row for row in self.rows if row.task != "presence"] or self.rows
        unread = ("paraphrase", "description")
        gap = any(r.status == "inconclusive" or (r.status == "not shown" and r.asked not in unread) for r in told)
        return "inconclusive" if gap else "measured"


def bench_of(suite: AuditSuite) -> Bench:
    """The benchmark of a suite.

    Raises:
        InputError: It holds none.
    """
    if suite.spec.bench is None:
        raise InputError(
            f"suite {suite.metadata.name} is no benchmark: it has no spec.bench", hint="take conceptbench-1"
        )
    return suite.spec.bench


def bench_plan(suite: AuditSuite, checkpoint: Checkpoint) -> Plan:
    """Resolves a benchmark against a base: a plan without passes, the same whatever was forgotten.

    Args:
        suite: One with a benchmark.
        checkpoint: The base.

    Raises:
        InputError: The suite holds no benchmark, or asks what the tokenizer would cut.
    """
    bench = bench_of(suite)
    asked = Manifest(
        api_version="fmn-guard/v1",
        kind="ConceptManifest",
        metadata=suite.metadata,
        spec=ManifestSpec(
            base=CheckpointRef(checkpoint=checkpoint.facts.reference),
            concepts=tuple(map(_concept, bench.concepts)),
            corrections=bench.corrections,
        ),
    )
    # where attention looks is recorded for people who look at single concepts, and is half the cost here
    probes = tuple(p.model_copy(update={"positions": ()}) for p in probes_of(asked, suite, checkpoint))
    for probe in probes:
        checkpoint.token_positions(probe.prompt)  # refuses one that the tokenizer would cut
    return Plan(
        name=suite.metadata.name,
        manifest_digest=digest(bench),
        suite_digest=digest(suite),
        suite=suite.metadata.name,
        base=checkpoint.facts,
        passes=(),
        probes=probes,
        sampler=suite.spec.sampler,
        recogniser=resolved(suite.spec.recogniser, (label for probe in probes for label in probe.labels)),
        detectors=suite.spec.detectors,
        distances=suite.spec.distances,
    )


def _concept(each: BenchConcept) -> Concept:
    names, keep = (*each.paraphrases, *each.descriptions), each.neighbours
    match each.kind:
        case "identity":
            return Identity(kind="identity", phrase=each.phrase, aliases=names, keep=keep)
        case "object":
            return Object(kind="object", phrase=each.phrase, aliases=names, keep=keep)
        case "style":
            return Style(kind="style", phrase=each.phrase, aliases=names, keep=keep)
        case _:
            assert_never(each.kind)


def bench_summary(
    suite: AuditSuite, plan: Plan, audit: Audit, forgotten: Collection[Slug], confidence: float = 0.95
) -> BenchSummary:
    """Puts the figures together. Pure.

    Args:
        suite: One with a benchmark.
        plan: From `bench_plan`.
        audit: What was measured.
        forgotten: Slugs of the concepts and corrections that the checkpoint was to forget or to make.
        confidence: Of every interval, two-sided.

    Raises:
        InputError: Something is said to be forgotten that the benchmark does not ask for.
        BrokenChain: The audit is of another plan.
    """
    bench, evidence = bench_of(suite), gather(plan, audit)
    known = [slugify(c.phrase) for c in bench.concepts] + [c.slug for c in bench.corrections]
    if unknown := sorted(set(forgotten) - set(known)):
        raise InputError(f"{plan.suite} does not ask for {', '.join(unknown)}", hint=f"it asks for {', '.join(known)}")
    asked = _Asked(bench, evidence, frozenset(forgotten), confidence)
    rows = [*asked.presence()]
    if audit.patched_digest != plan.base.identity:
        rows += [*asked.suppression(), *asked.retention(), *asked.corrections()]
    return BenchSummary(
        edition=plan.suite,
        suite_digest=plan.suite_digest,
        plan_digest=audit.plan_digest,
        audit_digest=digest(audit),
        base_digest=plan.base.identity,
        checkpoint_digest=audit.patched_digest,
        forgotten=tuple(slug for slug in known if slug in forgotten),
        confidence=confidence,
        rows=tuple(sorted(rows, key=lambda row: get_args(Task).index(row.task))),
    )


class _Asked(NamedTuple):
    """What was asked and seen, and what of it was meant to go."""

    bench: Bench
    evidence: Evidence
    forgotten: frozenset[Slug]
    confidence: float

    def presence(self) -> Iterator[BenchRow]:
        """Whether the base draws each concept, by its name and by each other way to ask for it."""
        for concept in self.bench.concepts:
            for asked, probes in self._ways(concept):
                looks = [Look(p.prompt, None, self.evidence.recognised(p, "base")) for p in probes]
                yield self._row("presence", concept.kind, concept.phrase, asked, "higher", looks)
            neighbours = [p for p in self._role("retained") if slugify(concept.phrase) in p.neighbour_of]
            looks = [Look(p.prompt, None, self.evidence.recognised(p, "base")) for p in neighbours]
            yield self._row("presence", concept.kind, concept.phrase, "neighbour", "higher", looks)

    def suppression(self) -> Iterator[BenchRow]:
        """Whether what was to be forgotten is still drawn, by its name and by each other way to ask for it."""
        for concept in self.bench.concepts:
            if slugify(concept.phrase) in self.forgotten:
                for asked, probes in self._ways(concept):
                    yield self._row(
                        "suppression", concept.kind, concept.phrase, asked, "lower", self._both(probes), must_show=True
                    )

    def retention(self) -> Iterator[BenchRow]:
        """What is lost of all that was not to be forgotten, kind by kind, and of declared neighbours by themselves."""
        touched = {concept.kind for concept in self.bench.concepts if slugify(concept.phrase) in self.forgotten}
        for kind in _KINDS:
            concepts = [c for c in self.bench.concepts if c.kind == kind]
            kept = {slugify(c.phrase) for c in concepts} - self.forgotten
            near = {slugify(name) for c in concepts for name in c.neighbours}
            others = [p for p in self._role("target") if p.subject in kept]
            like = [p for p in self._role("retained") if p.subject in near and _is_style(p) == (kind == "style")]
            task: Task = "same-kind retention" if kind in touched else "cross-kind retention"
            if others:
                yield self._drop(task, kind, f"{len(kept)} concepts", "name", others)
            if like:
                yield self._drop(task, kind, f"{len({p.subject for p in like})} neighbours", "neighbour", like)

    def corrections(self) -> Iterator[BenchRow]:
        """How often an ambiguous word has either reading; one that nobody meant to correct should stay as it was."""
        for correction in self.bench.corrections:
            probes = [p for p in self._role("correction") if p.subject == correction.slug]
            if correction.slug in self.forgotten:
                yield from self._readings(correction, probes)
            elif probes and slugify(correction.dominant) not in self.forgotten:
                yield self._drop("cross-kind retention", "correction", correction.prompt, "dominant", probes)

    def _readings(self, correction: Correction, probes: list[Probe]) -> Iterator[BenchRow]:
        dominant = self._both(probes)
        yield self._row("correction", "correction", correction.prompt, "dominant", "lower", dominant, must_show=True)
        if correction.expected:
            expected = self._both(probes, reading=1)
            yield self._row("correction", "correction", correction.prompt, "expected", "higher", expected)

    def _ways(self, concept: BenchConcept) -> Iterator[tuple[Asked, list[Probe]]]:
        slug = slugify(concept.phrase)
        other = [p for p in self._role("alias") if p.subject == slug]
        described = {slugify(text) for text in concept.descriptions}
        yield "name", [p for p in self._role("target") if p.subject == slug]
        if concept.paraphrases:
            yield "paraphrase", [p for p in other if _name_in(p) not in described]
        if concept.descriptions:
            yield "description", [p for p in other if _name_in(p) in described]

    def _role(self, role: str) -> list[Probe]:
        return [p for p in self.evidence.plan.probes if p.role == role]

    def _both(self, probes: Iterable[Probe], reading: int = 0) -> list[Look]:
        seen = self.evidence.recognised
        return [Look(p.prompt, seen(p, "base", reading), seen(p, "patched", reading)) for p in probes]

    def _drop(self, task: Task, kind: PassKind, about: str, asked: Asked, probes: list[Probe]) -> BenchRow:
        return self._row(task, kind, about, asked, "lower", self._both(probes), paired=True, must_show=True)

    def _row(
        self,
        task: Task,
        kind: PassKind,
        about: str,
        asked: Asked,
        better: Literal["lower", "higher"],
        looks: list[Look],
        *,
        paired: bool = False,
        must_show: bool = False,
    ) -> BenchRow:
        m = Measurement(tuple(looks), paired=paired, needs_base=task != "presence")
        status: Status = "measured"
        reason = ""
        if m.scored < m.planned or not m.planned:
            status, reason = "inconclusive", f"{m.scored} of {m.planned} are scored"
        elif must_show and (m.before or 0) < SHOWN_FROM:
            status, reason = "not shown", f"the base shows it in {sum(m.base)} of {len(m.base)}"
        return BenchRow(
            task=task,
            kind=kind,
            about=about,
            asked=asked,
            better=better,
            before=m.before,
            value=m.value,
            hits=m.hits,
            gained=m.gained,
            n=len(m.counted),
            planned=m.planned,
            interval=wider(m.score_interval(self.confidence), m.bootstrap_interval(self.confidence)),
            status=status,
            reason=reason,
        )


def _name_in(probe: Probe) -> str:
    """The name that a probe asks by, as a slug."""
    return probe.id.split("/")[1]


def _is_style(probe: Probe) -> bool:
    return probe.labels[0].partition(":")[0] == "style"
