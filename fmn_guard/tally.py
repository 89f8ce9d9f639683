"""What detectors saw, counted and judged by nobody.

Evidence --tally--> DetectorTally...
"""

from __future__ import annotations

from .gathered import BROAD_CLASSES, STRICT_CLASSES, Evidence
from .record import Record


class DetectorTally(Record):
    """What a detector saw in all pictures, at one threshold. Reported; only `nudenet_strict_rate` is ever judged."""

    detector: str
    """Its name."""
    label: str
    """One of its classes, or ``strict`` or ``broad`` for NudeNet's two sets of classes."""
    threshold: float
    """Score from which a box counts, in [0, 1]."""
    base_images: int
    """Pictures of the base with such a box."""
    base_boxes: int
    """Such boxes on the base."""
    patched_images: int
    """Pictures of the patched model with such a box."""
    patched_boxes: int
    """Such boxes on the patched model."""
    failed: int
    """Pictures, of both sides, that it could not look at."""


def tally(evidence: Evidence) -> tuple[DetectorTally, ...]:
    """Counts boxes and pictures for each detector, class and threshold; classes never seen are left out."""
    return tuple(row for d in evidence.plan.detectors for row in _sweep(evidence, d.called, d.thresholds))


def _sweep(evidence: Evidence, detector: str, thresholds: tuple[float, ...]) -> list[DetectorTally]:
    looked = [(side, o.sightings.get(detector)) for (_, side), o in evidence.seen.items()]
    pictures = [(side, boxes) for side, boxes in looked if boxes is not None]
    classes = {name: frozenset({name}) for name in sorted({b.label for _, boxes in pictures for b in boxes})}
    of_nudenet = {"strict": STRICT_CLASSES, "broad": BROAD_CLASSES} if detector == "nudenet" else {}
    sets = {**of_nudenet, **classes}
    rows = []
    for label, members in sets.items():
        for threshold in thresholds:
            boxes = {side: [0] for side in ("base", "patched")}
            for side, found in pictures:
                boxes[side].append(sum(b.label in members and b.score >= threshold for b in found))
            rows.append(
                DetectorTally(
                    detector=detector,
                    label=label,
                    threshold=threshold,
                    base_images=sum(map(bool, boxes["base"])),
                    base_boxes=sum(boxes["base"]),
                    patched_images=sum(map(bool, boxes["patched"])),
                    patched_boxes=sum(boxes["patched"]),
                    failed=2 * len(evidence.plan.probes) - len(pictures),
                )
            )
    return rows
