"""The probes: which pictures base and patched model are both asked for, to see what is gone and what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from .errors import InputError
from .facts import Checkpoint
from .manifest import Kind, Manifest, label_of
from .record import Record, Slug, slugify
from .sentences import Sentence, sentence_of
from .suite import AuditSuite, ProbeCounts

Role = Literal["target", "alias", "correction", "retained", "prompted"]
"""``prompted`` is a prompt of a published set, which names nothing the recogniser knows: detectors count it."""


class Probe(Record):
    """One picture that base and patched model both draw, and what is looked for in it."""

    id: str
    """Unique within the plan: role, the name asked, prompt number, seed."""
    role: Role
    """Which question it answers."""
    subject: Slug
    """The concept, correction or retained concept it is about; of a published prompt, its preset."""
    prompt: str
    """What the model is asked."""
    seed: int
    """Seed of its starting noise."""
    labels: tuple[str, ...]
    """Labels the recogniser is asked for; the first is the one the role is about. None of a published prompt."""
    neighbour_of: tuple[Slug, ...] = ()
    """Concepts that declare this retained one as their neighbour."""
    held_out: bool = False
    """Retained and left out of the eraser's retain vocabulary."""
    positions: Annotated[tuple[int, ...], Field(exclude_if=lambda positions: not positions)] = ()
    """Token positions of the name in ``prompt``, start-of-text being 0, for the audit to see where attention looks for
    it; of the first picture of each concept and correction, and of no other."""
    guidance: Annotated[float | None, Field(exclude_if=lambda scale: scale is None)] = None
    """Guidance scale of its own; None where that of its sampler holds."""
    facts: Annotated[tuple[tuple[str, str], ...], Field(exclude_if=lambda facts: not facts)] = ()
    """What its row in a published file says that it is counted by, such as the style it asks for: columns and cells."""

    @property
    def row(self) -> dict[str, str]:
        """Its facts by column."""
        return dict(self.facts)

    @property
    def picture_name(self) -> str:
        """Name of its pictures' files, in the folder of a side."""
        return f"{self.id.replace('/', '-')}.png"


def probes_of(manifest: Manifest, suite: AuditSuite, checkpoint: Checkpoint) -> Iterator[Probe]:
    """Resolves a suite's templates and counts against what a manifest forgets, corrects and keeps.

    Args:
        manifest: What to forget, correct and keep.
        suite: How it is measured.
        checkpoint: The base, whose tokenizer says where a name is.

    Raises:
        InputError: the suite has no templates for a kind of the manifest.
    """
    spec, counts = suite.spec, suite.spec.counts
    named: set[str] = set()
    for concept in manifest.spec.concepts:
        label = (label_of(concept.kind, concept.phrase),)
        for name in concept.names:
            named.add(name.casefold())
            alias = name != concept.phrase
            prompts = tuple(_fill_all(_templates(suite, concept.kind), name, spec.style_subjects))
            each = counts.alias if alias else counts.target
            role: Role = "alias" if alias else "target"
            watched = None if alias else checkpoint
            yield from _drawn(role, concept.slug, name, prompts, each, spec.first_seed, label, watched=watched)
    for correction in manifest.spec.corrections:
        readings = [label_of(correction.dominant_kind, correction.dominant)]
        if correction.expected:
            readings.append(label_of(correction.dominant_kind, correction.expected))
        prompts = tuple(_fill_all(spec.correction_templates, correction.prompt, spec.style_subjects))
        yield from _drawn(
            "correction",
            correction.slug,
            correction.prompt,
            prompts,
            counts.target,
            spec.first_seed,
            tuple(readings),
            watched=checkpoint,
        )

    yield from _retained(manifest, suite, named)


def probes_between(probes: Sequence[Probe], passes: Sequence[Slug], counts: ProbeCounts) -> tuple[tuple[str, ...], ...]:
    """Chooses the probes that are drawn after each pass but the last as well, with the model as it then is.

    They are some of the plan's own, at even distances so that all sentences come: what base and patched model draw of
    them is known from the full audit.

    Args:
        probes: All of the plan.
        passes: Concepts and corrections, in the order in which they are forgotten.
        counts: How many of each.

    Returns:
        Ids, in the plan's order, for each pass but the last; nothing where no pictures are asked for.
    """
    if not counts.between:
        return ()
    own = {slug: [p for p in probes if p.subject == slug and p.role in ("target", "correction")] for slug in passes}
    kept = _at_even_distances([p for p in probes if p.role == "retained"], counts.between_retained)
    return tuple(
        tuple(p.id for slug in passes[:done] for p in _at_even_distances(own[slug], counts.between))
        + tuple(p.id for p in kept)
        for done in range(1, len(passes))
    )


def _at_even_distances(probes: Sequence[Probe], n: int) -> list[Probe]:
    return [probes[i * len(probes) // n] for i in range(n)] if n < len(probes) else list(probes)


def _retained(manifest: Manifest, suite: AuditSuite, named: set[str]) -> Iterator[Probe]:
    """Probes of what is to be kept: the suite's list and the manifest's own, without what is ``named``."""
    spec, counts = suite.spec, suite.spec.counts
    # By name in any case, as first spelled. A neighbour the suite does not know is of its concept's kind.
    retained: dict[str, tuple[str, Kind]] = {r.phrase.casefold(): (r.phrase, r.kind) for r in spec.retained}
    neighbours: dict[str, list[str]] = {}
    for concept in manifest.spec.concepts:
        for name in concept.keep:
            neighbours.setdefault(name.casefold(), []).append(concept.slug)
            retained.setdefault(name.casefold(), (name, concept.kind))
    for correction in manifest.spec.corrections:
        neighbours.setdefault(correction.dominant.casefold(), []).append(correction.slug)
        retained.setdefault(correction.dominant.casefold(), (correction.dominant, correction.dominant_kind))
    for name in manifest.spec.keep:
        retained.setdefault(name.casefold(), (name, "object"))
    held_out = {name.casefold() for name in manifest.spec.eraser.hold_out}
    expected = [c.expected for c in manifest.spec.corrections if c.expected]
    kept = {name.casefold() for name in (*manifest.spec.keep, *expected, *neighbours)}
    for i, (key, (phrase, kind)) in enumerate(retained.items()):
        if key in named:
            continue
        templates = _templates(suite, kind)
        # declared neighbours are asked in every sentence, the others in some, in turn
        asked = len(templates) if key in neighbours else counts.retained_prompts
        chosen = [templates[(i + j) % len(templates)] for j in range(asked)]
        yield from _drawn(
            "retained",
            slugify(phrase),
            phrase,
            tuple(_fill_all(chosen, phrase, spec.style_subjects)),
            counts.retained,
            spec.first_seed + 7 * i,
            (label_of(kind, phrase),),
            tuple(dict.fromkeys(neighbours.get(key, ()))),
            key in held_out and key not in kept,
        )


def _templates(suite: AuditSuite, kind: Kind) -> tuple[str, ...]:
    if kind not in suite.spec.templates:
        raise InputError(
            f"suite {suite.metadata.name} has no templates for the kind {kind}",
            hint="choose a policy whose suite covers every kind of the manifest",
        )
    return suite.spec.templates[kind]


def _fill_all(templates: Iterable[str], name: str, subjects: tuple[str, ...]) -> Iterator[Sentence]:
    for i, template in enumerate(templates):
        subject = subjects[i % len(subjects)] if subjects else ""
        yield sentence_of(template.replace("{subject}", subject), name)


def _drawn(
    role: Role,
    subject: str,
    name: str,
    prompts: tuple[Sentence, ...],
    each: int,
    first_seed: int,
    labels: tuple[str, ...],
    neighbour_of: tuple[str, ...] = (),
    held_out: bool = False,
    watched: Checkpoint | None = None,
) -> Iterator[Probe]:
    for i, prompt in enumerate(prompts):
        for j in range(each):
            seed = first_seed + i * each + j
            where = watched.token_positions(prompt.text, name, prompt.start) if watched and i == j == 0 else ()
            yield Probe(
                id=f"{role}/{slugify(name)}/{i}/{seed}",
                role=role,
                subject=subject,
                prompt=prompt.text,
                seed=seed,
                labels=labels,
                neighbour_of=neighbour_of,
                held_out=held_out,
                positions=where,
            )
