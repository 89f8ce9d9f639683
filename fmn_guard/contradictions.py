"""What of a manifest cannot be true at once, though each line by itself could: a name both forgotten and kept, say.

Names are compared by slug, which is what files, labels and probes are called by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .presets import PRESETS
from .record import slugify
from .yamlfile import Loc, RuleViolation

if TYPE_CHECKING:
    from .manifest import ManifestSpec


def contradictions(spec: ManifestSpec) -> Iterator[RuleViolation]:
    """All that contradicts itself in a manifest.

    Args:
        spec: The manifest's content, each field of it valid.
    """
    if not spec.concepts and not spec.corrections:
        yield RuleViolation(
            "nothing-to-do",
            "neither concepts nor corrections are listed",
            hint="list at least one concept",
        )
    yield from _twice(spec)
    owners: dict[str, str] = {}
    for concept in spec.concepts:
        for name in concept.names:
            owners.setdefault(slugify(name), concept.slug)
    yield from _forgotten_and_kept(spec, owners)
    yield from _misled(spec, owners)
    yield from _miscorrected(spec, owners)


def _twice(spec: ManifestSpec) -> Iterator[RuleViolation]:
    """Concepts and names that are listed more than once."""
    owners: dict[str, str] = {}
    slugs: dict[str, str] = {}
    for i, concept in enumerate(spec.concepts):
        where = ("concepts", i)
        if concept.slug in slugs:
            yield RuleViolation(
                "duplicate-concept",
                f"{concept.phrase!r} and {slugs[concept.slug]!r} are the same concept",
                hint="list a concept once; other names go into its aliases",
                loc=(*where, "phrase"),
            )
        for j, name in enumerate(concept.names):
            key = slugify(name)
            if key in owners and not (j == 0 and concept.slug in slugs):
                yield RuleViolation(
                    "ambiguous-name",
                    f"{name!r} already names the concept {owners[key]!r}",
                    hint="each name is listed once and belongs to one concept; remove the other",
                    loc=(*where, "phrase") if j == 0 else (*where, "aliases", j - 1),
                )
            owners.setdefault(key, concept.slug)
        slugs.setdefault(concept.slug, concept.phrase)


def _forgotten_and_kept(spec: ManifestSpec, owners: Mapping[str, str]) -> Iterator[RuleViolation]:
    """Names to be kept that a concept forgets, and names held out that the eraser is told of.

    Args:
        spec: The manifest's content.
        owners: The concept that forgets a name, by the name's slug.
    """
    kept: list[tuple[Loc, str]] = [(("keep", i), name) for i, name in enumerate(spec.keep)]
    for i, concept in enumerate(spec.concepts):
        kept += [(("concepts", i, "keep", j), name) for j, name in enumerate(concept.keep)]
    for loc, name in kept:
        if slugify(name) in owners:
            yield RuleViolation(
                "forgotten-and-kept",
                f"{name!r} is to be kept, but the concept {owners[slugify(name)]!r} forgets it",
                hint="remove it from keep, or from the concepts",
                loc=loc,
            )
    keeps = {slugify(name) for _, name in kept}
    for i, name in enumerate(spec.eraser.hold_out):
        if (slug := slugify(name)) in keeps or slug in owners:
            yield RuleViolation(
                "held-out-and-named",
                f"{name!r} is held out, but {'forgotten by a concept' if slug in owners else 'to be kept'}",
                hint="hold out what the eraser is told nothing of; remove it here or there",
                loc=("eraser", "hold_out", i),
            )


def _misled(spec: ManifestSpec, owners: Mapping[str, str]) -> Iterator[RuleViolation]:
    """Phrases that a concept is redirected to and cannot be; arguments as above."""
    for i, concept in enumerate(spec.concepts):
        if concept.redirect_to is None:
            continue
        loc = ("concepts", i, "redirect_to")
        if PRESETS[spec.eraser.preset].published:
            yield RuleViolation(
                "setting-without-effect",
                f"redirect_to does nothing under the preset {spec.eraser.preset}",
                hint="remove it: the algorithm as published leads nowhere",
                loc=loc,
            )
        told = f"-{slugify(concept.redirect_to)}-"
        for name, owner in owners.items():
            if f"-{name}-" in told:
                yield RuleViolation(
                    "redirected-to-forgotten",
                    f"{concept.redirect_to!r} names what the concept {owner!r} forgets",
                    hint="name something the model still draws, or leave redirect_to out",
                    loc=loc,
                )


def _miscorrected(spec: ManifestSpec, owners: Mapping[str, str]) -> Iterator[RuleViolation]:
    """Corrections listed twice, or that expect what cannot be; arguments as above."""
    prompts: set[str] = set()
    for i, correction in enumerate(spec.corrections):
        if correction.slug in prompts or correction.slug in owners:
            yield RuleViolation(
                "duplicate-correction",
                f"{correction.prompt!r} is already listed",
                hint="a prompt is corrected once, and is not at the same time forgotten",
                loc=("corrections", i, "prompt"),
            )
        prompts.add(correction.slug)
        if correction.expected and slugify(correction.expected) in owners:
            yield RuleViolation(
                "forgotten-and-expected",
                f"{correction.expected!r} is expected here, but a concept forgets it",
                hint="expect something the model still draws, or leave expected out",
                loc=("corrections", i, "expected"),
            )
        if correction.expected and slugify(correction.expected) == slugify(correction.dominant):
            yield RuleViolation(
                "expected-is-dominant",
                f"{correction.expected!r} is both the dominant and the expected reading",
                hint="expected is what the prompt should show instead",
                loc=("corrections", i, "expected"),
            )
