"""mscore.json: what inversion found on base and patched model; nothing judged, and no token."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Literal

from ..errors import BrokenChain
from ..evidence import Instrument, Side
from ..record import Digest, Record, Slug, read_record
from .protocol import Protocol, Role

FILE = "mscore.json"
"""Its place in a run folder."""


class Replayed(Record):
    """Pictures that a model drew by the tokens that one seed found on it."""

    side: Side
    """Which model."""
    tokens: int
    """How many tokens."""
    seed: int
    """The inversion's seed."""
    shown: int
    """Pictures that show the concept."""
    n: int
    """Pictures scored."""
    planned: int
    """Pictures asked for."""


class Score(Record):
    """What was measured of one concept."""

    slug: Slug
    """The concept."""
    role: Role
    """Target or control."""
    anchors_digest: Digest
    """Digest over the anchor pictures' latents."""
    anchors_shown: int
    """Anchors in which the recogniser finds it."""
    base: tuple[float, ...]
    """cos(z(base), r), of each seed."""
    patched: tuple[float, ...]
    """cos(z(patched), r), of each seed."""
    between: tuple[float, ...]
    """cos(z(base), z(patched)), of each seed."""
    among: tuple[float, ...]
    """cos(z(base, s), z(base, s')), of each pair of seeds."""
    errors: dict[Side, float]
    """Mean squared error of the last tenth of the steps, the mean over seeds."""
    replays: tuple[Replayed, ...]
    """What either model draws by its own tokens."""
    unmeasured: str | None = None
    """Why there is no score; None where there is one."""


class MScore(Record):
    """mscore.json: what inversion finds on base and patched model; nothing judged, and no token."""

    schema_version: Literal["fmn-guard/mscore/v1"] = "fmn-guard/mscore/v1"
    """Format of this record."""
    patched_digest: Digest
    """Identity of the audited model."""
    protocol: Protocol
    """What was to be measured."""
    instrument: Instrument
    """Who looked at the pictures."""
    scores: tuple[Score, ...]
    """In the protocol's order."""


def drop_of(score: Score) -> float | None:
    """M0 - M1; None where it was not measured."""
    return None if score.unmeasured else fmean(score.base) - fmean(score.patched)


def read_mscore(run: Path) -> MScore | None:
    """What was measured in a run folder; None where nothing was.

    Raises:
        InputError: the record is unreadable.
    """
    return read_record(run / FILE, MScore) if (run / FILE).exists() else None


def check_chain(mscore: MScore, plan_digest: Digest, patched_digest: Digest) -> None:
    """Checks that an M-Score is of a plan and of a model.

    Raises:
        BrokenChain: it is of others.
    """
    stated = {"plan": mscore.protocol.plan_digest, "patched model": mscore.patched_digest}
    for what, expected in {"plan": plan_digest, "patched model": patched_digest}.items():
        if stated[what] != expected:
            raise BrokenChain(
                f"{FILE}: digest of the {what} is {stated[what]}, expected {expected}",
                hint=f"it is of another run: remove {FILE}, and measure again with `fmn-guard mscore`",
            )
