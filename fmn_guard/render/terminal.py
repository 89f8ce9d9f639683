"""Tables for a terminal. Colour repeats what the words say and can be left out."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from ..cost import Cost
from ..findings import Outcome
from ..matrix import in_brief
from ..plan import Plan
from ..report import Report
from ..sequence import IN_WORDS
from ..stats import percent
from .controls import Frameworks, framework_lines
from .distances import in_brief as distances_in_brief
from .prompts import in_brief as prompts_in_brief
from .text import departures_of

_STYLES: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def verdict_table(report: Report, frameworks: Frameworks = ()) -> Table:
    """The verdict, one line per concept and correction, every finding that does not pass, and a line per framework.

    It fits 80 columns.
    """
    table = Table(
        title=Text(
            f"{report.verdict_words.upper()}: {report.name} under policy {report.policy}", _STYLES[report.verdict]
        ),
        caption=_caption(report, frameworks),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("Concept", overflow="fold")
    table.add_column("Kind", no_wrap=True)
    for name in ("Before", "After", f"{100 * report.confidence:g} % interval", "Limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Outcome", no_wrap=True)
    for c in report.concepts:
        table.add_row(
            Text(c.phrase),
            c.kind,
            *("none" if share is None else percent(share) for share in (c.before, c.after)),
            str(c.interval),
            "none" if c.limit is None else percent(c.limit),
            Text(c.outcome_words, _STYLES[c.outcome]),
        )
    return table


def _caption(report: Report, frameworks: Frameworks) -> Text:
    lines = [
        f"{f.outcome_words}: {f.rule}{f', {f.about}' if f.about else ''}: {f.reason}"
        for f in sorted(report.findings, key=lambda f: f.waiver is not None)
        if f.outcome != "pass"
    ]
    if waived := sum(f.waiver is not None for f in report.findings):
        lines.append(f"{waived} waived, the verdict is over the others.")
    lines += [
        f"waiver {use.state}: {use.waiver.about}, by {use.waiver.owner} until {use.waiver.expires}"
        for use in report.waivers
        if use.state != "in force"
    ]
    lines = lines or ["Every finding passes." if report.findings else "No rule found anything to judge."]
    if report.review:
        lines.append(f"{report.review.counts}.")
    lines += prompts_in_brief(report)
    lines += distances_in_brief(report)
    if report.matrix:
        lines.append(in_brief(report.matrix))
    return Text("\n".join([*lines, *framework_lines(report, frameworks)]))


def plan_table(plan: Plan, cost: Cost) -> Table:
    """One line per pass, then what the whole plan costs; fits 80 columns."""
    how = f", {IN_WORDS[plan.sequence]}" if cost.passes > 1 else ""
    table = Table(
        title=Text(f"{plan.name}: {cost.passes} passes{how}, suite {plan.suite}"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("Pass", justify="right")
    table.add_column("Concept", overflow="fold")
    for name in ("Kind", "Preset"):
        table.add_column(name)
    for name in ("Steps", "Probes"):
        table.add_column(name, justify="right")
    for spec in plan.passes:
        probes = sum(p.subject == spec.slug and p.role != "retained" for p in plan.probes)
        names = Text(", ".join(spec.names))
        table.add_row(str(spec.index + 1), names, spec.kind, spec.preset, str(spec.steps), str(probes))
    retained = sum(p.role == "retained" for p in plan.probes)
    table.add_section()
    table.add_row("", "what must stay", "retained", "", "", str(retained))
    table.caption = Text(
        f"at most {cost.training_steps:,} training steps, {cost.images:,} pictures"
        f"{f' ({cost.between:,} between passes)' if cost.between else ''}, "
        f"{cost.unet_evaluations:,} UNet evaluations\n"
        f"departs from the published algorithm by {', '.join(departures_of(plan))}"
    )
    return table
