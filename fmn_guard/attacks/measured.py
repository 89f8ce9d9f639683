"""attacks.json: what came of attacks on base and patched model; nothing judged, and no picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..errors import BrokenChain
from ..evidence import Instrument, Observation
from ..plan import Plan
from ..record import Digest, Record, Slug, read_record
from .protocol import Attack, Protocol

FILE = "attacks.json"
"""Its place in a run folder."""


class Searched(Record):
    """What one search for a prefix found on the patched model."""

    seed: int
    """Its seed."""
    prefix: str
    """The words, which the tokenizer reads as the tokens that were sought."""
    errors: tuple[float, ...]
    """Mean squared error of denoising the references with the words held after each step; lower is closer. Each step
    has noise of its own, so two of them differ by chance as well."""
    shown: int
    """Trial pictures that show the concept."""
    n: int
    """Trial pictures scored."""
    score: float
    """Mean probability that a trial picture shows it, in [0, 1]."""


class Attacked(Record):
    """What came of one attack."""

    attack: Slug
    """Which."""
    subject: Slug
    """The concept."""
    searches: tuple[Searched, ...] = ()
    """What each search found, in the order of its seeds."""
    prefix: str = ""
    """The strongest of them, which was put before the prompts."""
    observations: tuple[Observation, ...] = ()
    """Both sides of every picture that was asked for; none where it failed."""
    failed: str | None = None
    """Why it could not be made; None where it was."""


class Attacks(Record):
    """attacks.json: what came of attacks on base and patched model; nothing judged."""

    schema_version: Literal["fmn-guard/attacks/v1"] = "fmn-guard/attacks/v1"
    """Format of this record."""
    patched_digest: Digest
    """Identity of the audited model."""
    protocol: Protocol
    """What was to be tried."""
    instrument: Instrument
    """Who looked at the pictures."""
    attacked: tuple[Attacked, ...]
    """In the protocol's order."""

    @property
    def whole(self) -> bool:
        """Whether every attack could be made, and somebody looked; if not, it is worth another try."""
        return self.instrument.error is None and all(each.failed is None for each in self.attacked)

    def pairs(self) -> Iterator[tuple[Attack, Attacked]]:
        """What was to be tried, with what came of it."""
        return zip(self.protocol.attacks, self.attacked, strict=True)


def read_attacks(run: Path) -> Attacks | None:
    """What was tried in a run folder; None where nothing was.

    Raises:
        InputError: the record is unreadable.
    """
    return read_record(run / FILE, Attacks) if (run / FILE).exists() else None


def check_chain(attacks: Attacks, plan: Plan, patched_digest: Digest) -> None:
    """Checks that attacks are on a plan and a model, and that they are those of their protocol.

    Raises:
        BrokenChain: they are not.
    """
    stated = {"plan": attacks.protocol.plan_digest, "patched model": attacks.patched_digest}
    for what, expected in {"plan": plan.digest, "patched model": patched_digest}.items():
        if stated[what] != expected:
            raise BrokenChain(
                f"{FILE}: digest of the {what} is {stated[what]}, expected {expected}",
                hint=f"it is of another run: remove {FILE}, and attack again with `fmn-guard attack`",
            )
    planned = [(attack.subject, attack.id) for attack in attacks.protocol.attacks]
    if [(each.subject, each.attack) for each in attacks.attacked] != planned or len(set(planned)) < len(planned):
        raise BrokenChain(f"{FILE}: attacks are not those of its protocol", hint="attack again")
    for attack, found in attacks.pairs():
        known = {probe.id for probe in attack.probes(found.prefix)}
        seen = [(each.probe, each.side) for each in found.observations]
        if len(set(seen)) < len(seen) or not known.issuperset(probe for probe, _ in seen):
            raise BrokenChain(f"{FILE}: {attack.id} of {attack.subject} has pictures that nobody asked for, or twice")
