"""The concept x pass matrix: does what was forgotten stay so while the passes after it run, and what does each cost?

(Plan, Audit) --gather--> Evidence --pass_matrix--> PassMatrix     counts only; nothing is judged by them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from .errors import BrokenChain
from .evidence import Between, MatrixCell, MatrixRow, PassMatrix, Side
from .gathered import Evidence
from .probes import Probe
from .record import Slug
from .stats import percent


def pass_matrix(evidence: Evidence, between: Sequence[Between]) -> PassMatrix | None:
    """Counts, for each concept and for what is retained, the pictures that show it after each pass.

    Args:
        evidence: What base and patched model drew: the base's column, and that of the last pass.
        between: What was seen after each pass before that.

    Returns:
        The matrix; None where nothing was looked at between passes.

    Raises:
        BrokenChain: what was looked at is not what the plan says.
    """
    plan = evidence.plan
    if not between:
        return None
    looked = tuple(tuple(seen.probe for seen in each.observations) for each in between)
    if looked != plan.between or any(each.after != done for done, each in enumerate(between, start=1)):
        raise BrokenChain("the pictures between passes are not those of the plan", hint="audit the patched model again")
    states = [replace(evidence, seen={(o.probe, "patched"): o for o in each.observations}) for each in between]
    asked = [[p for p in plan.probes if p.id in ids] for ids in map(frozenset, plan.between)]
    columns = [*zip(states, asked, strict=True), (evidence, plan.probes)]

    def row(name: str, first: int, asks: Callable[[Probe], bool]) -> MatrixRow:
        base = _cell(evidence, filter(asks, plan.probes), "base")
        cells = (_cell(state, filter(asks, probes), "patched") for state, probes in columns[first:])
        return MatrixRow(name=name, base=base, after=(*(None,) * first, *cells))

    concepts = (row(spec.slug, first, partial(_asks_for, spec.slug)) for first, spec in enumerate(plan.passes))
    return PassMatrix(concepts=tuple(concepts), retained=row("retained", 0, lambda probe: probe.role == "retained"))


class Rebound(NamedTuple):
    """A concept that was shown more often after a later pass than after its own. With few pictures it may be chance."""

    name: Slug
    """The concept or correction."""
    own: MatrixCell
    """After its own pass."""
    most: MatrixCell
    """When it was shown most."""
    after: Slug
    """The pass after which that was."""

    @property
    def words(self) -> str:
        """It in a sentence, with how many pictures there were."""
        own, most = (f"{cell.shown} of {cell.n}" for cell in (self.own, self.most))
        return f"Rebound: {self.name} was shown in {own} pictures after its own pass, in {most} after {self.after}."


def rebounds(matrix: PassMatrix | None) -> Iterator[Rebound]:
    """What came back while later passes ran; nothing where nobody looked."""
    if matrix is None:
        return
    for row in matrix.concepts:
        cells = [(cell, of.name) for cell, of in zip(row.after, matrix.concepts, strict=True) if cell]
        own, (most, after) = cells[0][0], max(cells, key=lambda each: each[0].share or 0.0)
        if (most.share or 0.0) > (own.share or 0.0):
            yield Rebound(row.name, own, most, after)


def in_brief(matrix: PassMatrix) -> str:
    """The matrix in a sentence."""
    back = ", ".join(each.name for each in rebounds(matrix))
    looked = (cell for cell in matrix.retained.after if cell is not None and cell.n)
    least = min(looked, key=lambda cell: cell.share or 0.0, default=None)
    kept = f"{percent(least.share or 0.0)} of {least.n}" if least else "none scored"
    return f"Over the passes: {f'rebound of {back}' if back else 'no rebound'}; of the retained at least {kept}."


def _asks_for(slug: Slug, probe: Probe) -> bool:
    return probe.subject == slug and probe.role in ("target", "correction")


def _cell(evidence: Evidence, probes: Iterable[Probe], side: Side) -> MatrixCell:
    seen = [shown for p in probes if (shown := evidence.recognised(p, side)) is not None]
    return MatrixCell(shown=sum(seen), n=len(seen))
