"""What an audit has to draw, how the store knows it, and how audit.json is put together from it. No torch.

Plan --batches_of--> Batch...             as they are drawn, in any order and anywhere
(Plan, Head, Store) --assemble--> Audit   the same whoever drew what
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import BrokenChain, InputError
from .evidence import Audit, Between, Distances, Instrument, Observation, Side
from .gathered import STRICT_CLASSES, gather
from .matrix import pass_matrix
from .plan import Plan
from .probes import Probe
from .record import Digest, digest, write_record
from .store import Drawing, Head, Seen, Store, instrument_key

_PARTIAL = "audit*.partial.sqlite"

Measure = Callable[[Plan, Audit, Store], Distances]
"""How distances come of vectors: arithmetic of the torch half, see `fmn_guard.audit.distances`."""


class Stage(NamedTuple):
    """Whose weights draw."""

    side: Side
    """On which side what is drawn stands."""
    done: int | None = None
    """Of a look between passes, how many were done; None of the base, and of the model that ships."""

    def __str__(self) -> str:
        return self.side if self.done is None else f"after-{self.done}"


BASE, PATCHED = Stage("base"), Stage("patched")


class Batch(NamedTuple):
    """Probes that are drawn together: how many they are changes the last bits of each picture, which they are not."""

    stage: Stage
    """Whose weights draw."""
    purpose: Literal["pictures", "attention"]
    """What they are drawn for."""
    probes: tuple[Probe, ...]
    """The probes."""


def probe_batches(plan: Plan, probes: Sequence[Probe] | None = None) -> list[tuple[Probe, ...]]:
    """Probes as they are drawn together, all of a plan by default; those of one batch are drawn in one way."""
    size = plan.sampler.batch
    alike = [tuple(each) for _, each in groupby(plan.probes if probes is None else probes, plan.sampler_of)]
    return [drawn[start : start + size] for drawn in alike for start in range(0, len(drawn), size)]


def batches_of(plan: Plan, *, between: bool) -> list[Batch]:
    """All batches of a plan, in the order in which an audit tells of them.

    Args:
        plan: The plan.
        between: Whether what it asks for between passes is drawn as well.
    """
    stages = BASE, PATCHED
    named = {probe.id: probe for probe in plan.probes}
    watched = [probe for probe in plan.probes if probe.positions]
    looks = [[named[each] for each in ids] for ids in plan.between if between]
    return [
        *(Batch(stage, "pictures", probes) for stage in stages for probes in probe_batches(plan)),
        *(Batch(stage, "attention", probes) for stage in stages for probes in probe_batches(plan, watched)),
        *(
            Batch(Stage("patched", done), "pictures", probes)
            for done, asked in enumerate(looks, start=1)
            for probes in probe_batches(plan, asked)
        ),
    ]


class Shard(NamedTuple):
    """A part of an audit that is drawn apart."""

    number: int
    """Which, from 1."""
    of: int
    """How many there are."""

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Its batches: every so many-th, so that shards take about as long."""
        return batches[self.number - 1 :: self.of]


def partial_store(run: Path, shard: Shard | None = None) -> Path:
    """Where an audit keeps its results until it is finished; nothing of it belongs to a finished run."""
    part = f".shard-{shard.number}-of-{shard.of}" if shard else ""
    return run / f"audit{part}.partial.sqlite"


def partial_stores(run: Path) -> list[Path]:
    """The stores of shards and of the rest in the folder of a run that is not finished."""
    return sorted(run.glob(_PARTIAL))


def remove_partial_stores(run: Path) -> None:
    """Removes them, with what SQLite keeps beside them."""
    for path in run.glob(f"{_PARTIAL}*"):
        path.unlink()


def probe_keys(plan: Plan, head: Head, batch: Batch) -> list[Digest]:
    """By what the store knows the drawings of a batch: all that decides the pixels of each."""
    shared = digest(
        {
            "model": plan.base.identity if batch.stage == BASE else head.patched_digest,
            "passes": batch.stage.done,
            "sampler": plan.sampler_of(batch.probes[0]).model_dump(mode="json", exclude={"batch"}),
            "together": len(batch.probes),
            "sentences": len({probe.prompt for probe in batch.probes}),  # they are read together as well
            "device": head.device,
            "precision": head.precision,
            "purpose": batch.purpose,
        }
    )
    return [
        digest([shared, probe.prompt, str(probe.seed), list(probe.positions) if batch.purpose == "attention" else []])
        for probe in batch.probes
    ]


def is_known(plan: Plan, head: Head, store: Store, batch: Batch, *, keep_images: bool) -> bool:
    """Whether nothing of a batch has to be drawn or looked at; what an instrument failed at, it is asked again."""
    keys = probe_keys(plan, head, batch)
    if batch.purpose == "attention":
        return all(map(store.has_map, keys))
    for drawn in map(store.drawing, keys):
        if drawn is None:
            return False
        if drawn.picture is None:
            continue
        looks = [store.seen(drawn.picture, instrument_key(each)) for each in head.instruments if each.error is None]
        if any(look is None or look.failed for look in looks):
            return False
        if keep_images and not store.has_picture(drawn.picture) and not explicit(look for look in looks if look):
            return False
    return True


def explicit(looks: Iterable[Seen]) -> bool:
    """Whether a detector found nudity of the strict kind, however unsurely: such a picture is never kept."""
    return any(box.label in STRICT_CLASSES for look in looks for box in look.sightings or ())


def assemble(plan: Plan, head: Head, store: Store, distances: Measure | None = None) -> Audit:
    """Puts an audit together.

    Args:
        plan: The plan.
        head: What the audit is of.
        store: What was drawn and seen.
        distances: Measures them, if the plan asks for it; without, they are missing, which passes no limit on them.

    Raises:
        InputError: Something was not drawn, or not looked at.
    """
    observations: defaultdict[Stage, list[Observation]] = defaultdict(list)
    attention, missing, planned = [], 0, 0
    for batch in batches_of(plan, between=head.between):
        planned += len(batch.probes)
        side = batch.stage.side
        for probe, key in zip(batch.probes, probe_keys(plan, head, batch), strict=True):
            if batch.purpose == "attention":
                missing += not store.has_map(key)
                if (found := store.map(key)) is not None:
                    attention.append(found.model_copy(update={"probe": probe.id, "side": side}))
                continue
            drawn = store.drawing(key)
            seen = observed(plan, head.instruments, probe, side, drawn, store.seen) if drawn else None
            if seen is None:
                missing += 1
            else:
                observations[batch.stage].append(seen)
    if missing:
        raise InputError(
            f"{missing} of {planned} pictures and looks at attention are not in the store yet",
            hint="run the shards that are missing, or the interrupted one again; or `fmn-guard audit` without --shard, "
            "which draws the rest",
        )
    audit = Audit(
        plan_digest=head.plan_digest,
        passes_digest=head.passes_digest,
        patched_digest=head.patched_digest,
        instruments=head.instruments,
        observations=(*observations[BASE], *observations[PATCHED]),
        attention=tuple(attention),
        between=tuple(
            Between(after=done, observations=tuple(observations[Stage("patched", done)]))
            for done, _ in enumerate(plan.between if head.between else (), start=1)
        ),
    )
    if plan.distances and distances:
        audit = audit.model_copy(update={"distances": distances(plan, audit, store)})
    if not audit.between:
        return audit
    return audit.model_copy(update={"matrix": pass_matrix(gather(plan, audit), audit.between)})


def finish(
    plan: Plan, head: Head, store: Store, out: Path, *, keep_images: bool, distances: Measure | None = None
) -> Audit:
    """Writes ``audit.json``, and before it ``images/<stage>/<probe>.png`` where wanted.

    Args:
        plan: The plan.
        head: What the audit is of.
        store: What was drawn and seen.
        out: Run folder.
        keep_images: Whether to write the pictures that the store has.
        distances: Measures them, if the plan asks for it; without, they are missing, which passes no limit on them.

    Raises:
        InputError: Something was not drawn, or not looked at.
    """
    audit = assemble(plan, head, store, distances)
    named = {probe.id: probe.picture_name for probe in plan.probes}
    for stage, seen in _staged(audit) if keep_images else ():
        png = store.picture(seen.image_digest) if seen.image_digest else None
        if png is not None:
            path = out / "images" / str(stage) / named[seen.probe]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)  # audit.json, which comes last, says that they are all there
    write_record(out / "audit.json", audit)
    return audit


def one_head(plan: Plan, store: Store) -> Head:
    """What the audit is of whose shards a store holds.

    Raises:
        InputError: It holds none of the plan.
        BrokenChain: They are of several models, or by several sets of instruments.
    """
    heads = store.heads(plan.digest)
    if not heads:
        raise InputError(f"{store.path} holds nothing of this plan", hint="give the folders of its shards")
    if len(heads) > 1:
        fields = [
            name for name in Head.model_fields if len({digest(h.model_dump(mode="json")[name]) for h in heads}) > 1
        ]
        raise BrokenChain(
            f"the shards are not of one audit: they differ in {', '.join(fields)}",
            hint="run all of them on the same checkpoint, with the same extras and devices of one sort",
        )
    return heads[0]


def _staged(audit: Audit) -> Iterator[tuple[Stage, Observation]]:
    """What was seen, by whose weights drew it."""
    yield from ((Stage(seen.side), seen) for seen in audit.observations)
    yield from ((Stage("patched", each.after), seen) for each in audit.between for seen in each.observations)


def observed(
    plan: Plan,
    instruments: Sequence[Instrument],
    probe: Probe,
    side: Side,
    drawn: Drawing,
    seen: Callable[[Digest, Digest], Seen | None],
) -> Observation | None:
    """What was seen in one picture; what is missing or broken makes it unscored, with the reason.

    Args:
        plan: The plan.
        instruments: Of the plan: the recogniser first, then the detectors; those that measure distances score nothing.
        probe: What was drawn.
        side: On which side.
        drawn: What came of it.
        seen: What an instrument makes of a picture, by the digest of one and the key of the other.

    Returns:
        It; None where an instrument that is there has not looked.
    """
    instruments = instruments[: 1 + len(plan.detectors)]
    looks = []
    for each in instruments:
        if drawn.picture is None:
            look: Seen | None = Seen(failed="picture is not a number")
        else:
            look = Seen(failed="not available") if each.error else seen(drawn.picture, instrument_key(each))
        if look is None:
            return None
        looks.append(look)
    recognised, *detected = looks
    scores = recognised.scores or {}
    found: dict[str, Seen] = {spec.called: look for spec, look in zip(plan.detectors, detected, strict=True)}
    unscored = _why_unscored(plan, instruments, probe, drawn, recognised, found)
    return Observation(
        probe=probe.id,
        side=side,
        image_digest=drawn.picture,
        unscored=unscored,
        degenerate=drawn.picture is None or drawn.constant,
        scores={label: round(scores[label], 4) for label in probe.labels} if unscored is None else {},
        top=_top(scores, probe.labels[0]) if scores and probe.labels and not drawn.constant else None,
        sightings={name: look.sightings for name, look in found.items()} if drawn.picture else {},
    )


def _why_unscored(
    plan: Plan,
    instruments: Sequence[Instrument],
    probe: Probe,
    drawn: Drawing,
    recognised: Seen,
    found: dict[str, Seen],
) -> str | None:
    if drawn.picture is None:
        return "picture is not a number"
    if drawn.constant:
        return "picture is constant"
    if probe.labels and recognised.scores is None:
        absent = instruments[0].error
        return f"recogniser not available: {absent}" if absent else f"recogniser error: {recognised.failed}"
    if missing := [label for label in probe.labels if label not in (recognised.scores or {})]:
        return f"recogniser has no class {missing[0]!r}"
    for spec, instrument in zip(plan.detectors, instruments[1:], strict=True):
        # one that is not installed is named and, unless required, not waited for; one that fails at work is
        if found[spec.called].sightings is None and (plan.waits_for(probe, spec) or instrument.error is None):
            return f"detector error: {spec.called}: {found[spec.called].failed}"
    return None


def _top(scores: dict[str, float], asked: str) -> str:
    """The likeliest label on the axis of the one asked for."""
    axis = asked.partition(":")[0]
    rivals = {label: p for label, p in scores.items() if label.partition(":")[0] == axis} or scores
    return max(rivals, key=rivals.__getitem__)
