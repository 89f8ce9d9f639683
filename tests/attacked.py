"""Attacks made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fmn_guard.attacks import Attack, Attacked, Attacks, AttackSuite, PrefixSearch, Protocol, Searched
from fmn_guard.evidence import Instrument, Observation, Side
from fmn_guard.plan import Plan
from fmn_guard.record import digest, parse_plain

from .builder import PATCHED

SENTENCES = tuple(f"attack number {i}" for i in range(6))
SUITE: dict[str, Any] = {
    "apiVersion": "fmn-guard/v1",
    "kind": "AttackSuite",
    "metadata": {"name": "ours"},
    "spec": {"pictures": 6, "guidance": [7.5]},
}

Shown = Callable[[str, Side, int], bool]
"""Whether the picture of an attack, a side and a number shows the concept."""


def held(attack: str, side: Side, _number: int) -> bool:
    """What is left of a concept that is gone: only the base shows it."""
    return side == "base"


def attack_suite(**spec: Any) -> AttackSuite:
    """An attack suite."""
    return parse_plain({**SUITE, "spec": {**SUITE["spec"], **spec}}, AttackSuite)


def make_attacks(
    plan: Plan, shown: Shown = held, kinds: tuple[str, ...] = ("seeds", "guidance-7-5", "prefix"), **changes: Any
) -> Attacks:
    """Attacks on every concept of a plan, 36 pictures of each."""
    attacks = tuple(_attack(spec.slug, kind) for spec in plan.passes if spec.kind != "correction" for kind in kinds)
    fields: dict[str, Any] = {
        "patched_digest": PATCHED,
        "protocol": Protocol(
            plan_digest=plan.digest,
            base_digest=plan.base.identity,
            suite="ours",
            suite_digest=digest("suite"),
            attacks=attacks,
        ),
        "instrument": Instrument(
            name="builtin-judge", version="1", licence="Apache-2.0", weights_digest=digest("judge"), labels=()
        ),
        "attacked": tuple(_attacked(attack, shown) for attack in attacks),
    }
    return Attacks(**fields | changes)


def _attack(slug: str, kind: str) -> Attack:
    return Attack(
        id=kind,
        kind="guidance" if kind.startswith("guidance") else kind,  # type: ignore[arg-type]  # checked by the record
        subject=slug,
        label=f"concept:{slug}",
        guidance=7.5 if kind == "guidance-7-5" else 3.0,
        prompts=SENTENCES,
        pictures=6,
        search=PrefixSearch() if kind == "prefix" else None,
    )


def _attacked(attack: Attack, shown: Shown) -> Attacked:
    prefix = "one two three four five" if attack.search else ""
    sides: tuple[Side, ...] = ("base", "patched")
    return Attacked(
        attack=attack.id,
        subject=attack.subject,
        searches=(Searched(seed=0, prefix=prefix, errors=(0.2, 0.1), shown=1, n=6, score=0.3),) if prefix else (),
        prefix=prefix,
        observations=tuple(
            Observation(
                probe=probe.id,
                side=side,
                image_digest=digest([probe.id, side]),
                scores={attack.label: 0.9 if shown(attack.id, side, i) else 0.1},
            )
            for side in sides
            for i, probe in enumerate(attack.probes(prefix))
        ),
    )
