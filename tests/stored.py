"""Puts an audit made by hand into a store, as if its pictures had been drawn and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fmn_guard.assembly import Batch, batches_of, probe_keys
from fmn_guard.evidence import Audit, Instrument, Observation
from fmn_guard.plan import Plan
from fmn_guard.record import digest
from fmn_guard.store import Drawing, Head, Results, Seen, Store, instrument_key


def panel_of(plan: Plan) -> tuple[Instrument, ...]:
    """Who looks at the pictures of a plan."""
    names = (plan.recogniser.name, *(spec.name for spec in plan.detectors))
    return tuple(
        Instrument(name=name, version="1", licence="Apache-2.0", weights_digest=digest(name), labels=())
        for name in names
    )


def head_of(audit: Audit) -> Head:
    """What an audit is of."""
    return Head(
        plan_digest=audit.plan_digest,
        passes_digest=audit.passes_digest,
        patched_digest=audit.patched_digest,
        device="cpu",
        precision="float32",
        between=False,
        instruments=audit.instruments,
    )


def results_of(plan: Plan, audit: Audit, batch: Batch) -> Results:
    """What a batch of an audit gave, where all of its pictures are scored; of attention, that it is not a number."""
    head, seen = head_of(audit), {(o.side, o.probe): o for o in audit.observations}
    keys = probe_keys(plan, head, batch)
    if batch.purpose == "attention":
        return Results(maps=dict.fromkeys(keys))
    drawings: dict[str, Drawing] = {}
    looks: dict[tuple[str, str], Seen] = {}
    for probe, key in zip(batch.probes, keys, strict=True):
        found = seen[batch.stage.side, probe.id]
        assert found.image_digest is not None
        drawings[key] = Drawing(picture=found.image_digest, constant=False)
        for instrument, look in zip(audit.instruments, _looks(plan, found), strict=True):
            if instrument.error is None:
                looks[found.image_digest, instrument_key(instrument)] = look
    return Results(drawings=drawings, seen=looks)


def fill(path: Path, plan: Plan, audit: Audit, batches: Sequence[Batch] | None = None) -> Path:
    """Puts batches of an audit into a store, all by default."""
    with Store(path) as store:
        store.begin(head_of(audit))
        for batch in batches_of(plan, between=False) if batches is None else batches:
            store.add(results_of(plan, audit, batch))
    return path


def _looks(plan: Plan, seen: Observation) -> list[Seen]:
    recognised = Seen(scores={**seen.scores, "concept:none": 0.01})
    return [recognised, *(Seen(sightings=seen.sightings[spec.name]) for spec in plan.detectors)]
