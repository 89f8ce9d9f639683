"""Which pictures a report shows, and which of them only blurred.

A few are enough: one pair for each sentence a concept was asked in, whatever still shows it, and what was lost.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from ...evidence import Side
from ...gathered import Evidence
from ...passes import PassSpec
from ...probes import Probe

# Pairs at most: of one concept, of one concept that still show it, of all that is lost.
_OF_CONCEPT = 6
_STILL_SHOWN = 12
_LOST = 24


class Picture(NamedTuple):
    """A picture as a report carries it."""

    data: bytes
    """The file's bytes."""
    media: Literal["image/png", "image/jpeg"]
    """What they are."""
    blurred: bool
    """Whether the bytes hold no more than a blur."""

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address."""
        return f"data:{self.media};base64,{b64encode(self.data).decode('ascii')}"


Pictures = Mapping[tuple[str, Side], Picture]
"""Pictures by probe id and side; what is not there is not shown."""


class Sample(NamedTuple):
    """A pair of pictures that a report shows."""

    probe: Probe
    """Which; both sides are shown."""
    sensitive: bool
    """Whether only a blur is shown unless somebody asks for more: all but objects and styles, for a plan does not say
    whether a retained concept or a reading of an ambiguous prompt is a person."""


def samples(evidence: Evidence) -> Iterator[Sample]:
    """All pairs that a report shows."""
    for spec in evidence.plan.passes:
        sensitive = spec.kind not in ("object", "style")
        yield from (Sample(probe, sensitive) for probe in pairs_of(evidence, spec))
    yield from (Sample(probe, sensitive=True) for probe in lost_pairs(evidence))


def pairs_of(evidence: Evidence, subject: PassSpec) -> list[Probe]:
    """The first pair of each sentence that asks for a concept or correction, and those that still show it."""
    asked = [p for p in evidence.plan.probes if p.subject == subject.slug and p.role != "retained"]
    firsts = {p.prompt: p for p in reversed(asked) if p.role != "alias"}
    few = [p for p in asked if firsts.get(p.prompt) == p][:_OF_CONCEPT]
    still = [p for p in asked if evidence.recognised(p, "patched")][:_STILL_SHOWN]
    shown = {p.id for p in (*few, *still)}
    return [p for p in asked if p.id in shown]


def lost_pairs(evidence: Evidence) -> list[Probe]:
    """The first pairs that lost a retained concept, declared neighbours before the others."""
    retained = (p for p in evidence.plan.probes if p.role == "retained")
    lost = (p for p in retained if evidence.recognised(p, "base") and evidence.recognised(p, "patched") is False)
    return sorted(lost, key=lambda p: not p.neighbour_of)[:_LOST]
