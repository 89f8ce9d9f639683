"""What a checkpoint draws of ConceptBench, as a table for a terminal."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from ..conceptbench.summary import BenchRow, BenchSummary
from ..stats import percent


def bench_table(summary: BenchSummary) -> Table:
    """One line per figure, task by task; fits 80 columns."""
    forgotten = ", ".join(summary.forgotten) or "nothing"
    table = Table(
        title=Text(f"{summary.edition}: {summary.status.upper()}; to be forgotten or corrected: {forgotten}"),
        caption=Text("Retention is the drop from base to checkpoint over pairs. Measured, and judged by no limit."),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for name in ("Asked for", "By"):
        table.add_column(name, overflow="fold")
    for name in ("Base", "Checkpoint", f"{100 * summary.confidence:g} % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for task, rows in groupby(summary.rows, lambda row: row.task):
        table.add_section()
        table.add_row(Text(task, "bold"))
        for row in rows:
            table.add_row(*_cells(row))
    return table


def _cells(row: BenchRow) -> tuple[Text | str, ...]:
    def share(value: float | None) -> str:
        return "none" if value is None else percent(value)

    if row.task == "presence":
        shown = share(row.value), ""
    elif row.task.endswith("retention"):
        shown = share(row.before), f"{share(row.value)} lost"
    else:
        shown = share(row.before), share(row.value)
    about = row.about if row.task in ("presence", "suppression", "correction") else f"{row.kind}: {row.about}"
    doubt = f" ({row.reason})" if row.reason else ""
    return Text(about), Text(f"{row.asked}{doubt}"), *shown, str(row.interval), str(row.n)
