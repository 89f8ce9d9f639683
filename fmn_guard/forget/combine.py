"""Patches of one base, put together and taken apart: edits are added to the weights, whatever their order.

That is arithmetic, not forgetting. A pass leaves alone what it was told to, on the model that it found: with other
passes before it, it would have come out otherwise. What was put together or taken apart has to be audited again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import InputError, RefusedArtefact
from ..record import Digest, Slug
from .patch import Part, Patch


def joined(patches: Sequence[Patch], also: Digest | None = None) -> Patch:
    """One patch that adds what all of them add, their passes one after another.

    Args:
        patches: at least one.
        also: identity of another base that all but the first may have been made for: the first one's, patched.

    Raises:
        RefusedArtefact: they are of different bases.
        InputError: two of them hold the same concept.
    """
    first, *others = patches
    for other in others:
        if other.base_digest not in (first.base_digest, also):
            raise RefusedArtefact(
                f"one patch was made for the base {first.base_digest[:19]}, another for {other.base_digest[:19]}",
                hint="only patches of one base can be put together",
            )
    concepts = [slug for patch in patches for slug in patch.concepts]
    if twice := sorted({slug for slug in concepts if concepts.count(slug) > 1}):
        raise InputError(
            f"more than one patch holds {', '.join(twice)}", hint="drop it from all but one; twice is another dose"
        )
    parts = tuple(part for patch in patches for part in patch.parts)
    return Patch(first.base_digest, max(patch.unet_bytes for patch in patches), parts)


def without(patch: Patch, concepts: Collection[Slug]) -> Patch:
    """The patch without what was added for some concepts.

    Raises:
        InputError: it does not hold one of them, or only together with others that are to stay.
    """
    chosen = _chosen(patch, concepts)
    return patch._replace(parts=tuple(part for part in patch.parts if part not in chosen))


def only(patch: Patch, concepts: Collection[Slug]) -> Patch:
    """The patch with nothing but what was added for some concepts, in its own order.

    Raises:
        InputError: as `without`.
    """
    return patch._replace(parts=tuple(_chosen(patch, concepts)))


def after(patch: Patch, concepts: Collection[Slug]) -> tuple[Slug, ...]:
    """Concepts that were forgotten on top of any of these."""
    found = [i for i, part in enumerate(patch.parts) if not set(concepts).isdisjoint(part.facts.concepts)]
    later = patch.parts[found[0] + 1 :] if found else ()
    return tuple(slug for part in later for slug in part.facts.concepts if slug not in concepts)


def _chosen(patch: Patch, concepts: Collection[Slug]) -> list[Part]:
    if unknown := sorted(set(concepts) - set(patch.concepts)):
        raise InputError(
            f"the patch holds no {', '.join(unknown)}", hint=f"it holds {', '.join(patch.concepts) or 'nothing'}"
        )
    chosen = [part for part in patch.parts if not set(concepts).isdisjoint(part.facts.concepts)]
    for part in chosen:
        if others := [slug for slug in part.facts.concepts if slug not in concepts]:
            raise InputError(
                f"{', '.join(others)} went together with {', '.join(set(part.facts.concepts) & set(concepts))}",
                hint="their edits do not stand apart: name all of them, or forget them in passes of their own",
            )
    return chosen
