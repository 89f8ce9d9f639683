"""``fmn-guard review``: people look at the closest calls, and confirm or overrule the recogniser."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import rich_click as click

from ..attacks.measured import read_attacks
from ..chain import Files, check_files
from ..errors import InputError
from ..evidence import Audit, PassRecords, Side
from ..gate import check_run
from ..gathered import gather
from ..mscore import read_mscore
from ..plan import Plan
from ..policy import ReleasePolicy
from ..record import read_record, write_record
from ..report import judge
from ..review import FILE, Close, Review, nearest, read_review, ruled
from .console import Talk, emit, emit_json, keep_quiet, shown, talk
from .run import index, list_files, reports, write_report
from .today import today

Says = Literal["shown", "not-shown"]


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--count", default=20, show_default=True, type=click.IntRange(1), help="Most pictures that are listed.")
@click.option("--ask", is_flag=True, help="Ask about each of them at the terminal.")
@click.option("--overrule", metavar="PROBE", help="Say that the recogniser is wrong about the picture of a probe.")
@click.option("--confirm", metavar="PROBE", help="Say that it is right about it.")
@click.option("--side", type=click.Choice(("base", "patched")), help="Which model drew the picture.")
@click.option("--to", type=click.Choice(("shown", "not-shown")), help="What an overruled picture is counted as.")
@click.option("--label", help="What was looked for; by default what the probe is about.")
@click.option("--by", metavar="NAME", help="Who says so; stands in the report.")
@click.option("--because", metavar="TEXT", help="Why; stands in the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the list, or the report, as one JSON document.")
@click.option("--quiet", is_flag=True, help="No talk.")
def review(
    run: Path,
    count: int,
    ask: bool,
    overrule: str | None,
    confirm: str | None,
    side: Side | None,
    to: Says | None,
    label: str | None,
    by: str | None,
    because: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """List the pictures nearest the threshold, for people to confirm or overrule what the recogniser says of them.

    Rulings go into review.json with name and reason, and the run is judged again under its own policy. The report
    counts them apart, and tells the verdict with and without them. What is not scored cannot be ruled on.
    """
    say = keep_quiet if quiet else talk
    listed = check_files(run, without_pictures=True)
    check_run(run)
    open_run = _Run(run, listed)
    if overrule is None and confirm is None:
        if stray := [name for name, given in (("--to", to), ("--side", side), ("--label", label)) if given]:
            raise InputError(f"{stray[0]} says nothing by itself", hint="name a picture with --overrule or --confirm")
        if ask:
            _ask(open_run, count, _given("--by", by), say)
        else:
            _list(open_run, count, as_json)
        return
    if ask or (overrule is not None and confirm is not None):
        raise InputError("--ask, --overrule and --confirm are three ways to rule", hint="give one of them")
    if side is None:
        raise InputError("--side is missing", hint="base or patched: which of the two pictures is meant")
    if (overrule is None) != (to is None):
        raise InputError("--to goes with --overrule, and only with it", hint="shown, or not-shown")
    probe = overrule if overrule is not None else confirm
    assert probe is not None
    open_run.rule(
        probe, side, None if to is None else to == "shown", _given("--by", by), _given("--because", because), label
    )
    open_run.conclude(say, as_json)


class _Run:
    """A run under review, and the rulings so far."""

    def __init__(self, run: Path, listed: Files) -> None:
        self.path, self.listed = run, listed
        self.plan, self.audit = read_record(run / "plan.json", Plan), read_record(run / "audit.json", Audit)
        self.evidence = gather(self.plan, self.audit)
        self.review: Review | None = read_review(run)

    def picture(self, probe: str, side: Side) -> Path | None:
        """The picture of a probe, if it is still there."""
        names = (p.picture_name for p in self.plan.probes if p.id == probe)
        found = (f"images/{side}/{name}" for name in names)
        kept = [name for name in found if name in self.listed.files and (self.path / name).exists()]
        return self.path / kept[0] if kept else None

    def rule(self, probe: str, side: Side, says: bool | None, by: str, because: str, label: str | None = None) -> None:
        """Adds a ruling.

        Raises:
            InputError: see `ruled`; or the picture is not there, so that nobody can have looked at it.
        """
        made = ruled(
            self.evidence,
            self.audit,
            self.review,
            probe=probe,
            side=side,
            shown=says,
            by=by,
            because=because,
            label=label,
        )
        if self.picture(probe, side) is None:
            raise InputError(
                f"the {side} picture of {probe} is not here: nobody can have looked at it",
                hint="restore the run's images folder; `fmn-guard replay` draws pictures again",
            )
        self.review = made

    def conclude(self, say: Talk, as_json: bool = False) -> None:
        """Judges the run again under its own policy, and writes what was ruled and what follows."""
        from ..render.terminal import verdict_table

        assert self.review is not None
        run, audit = self.path, self.audit
        policy = read_record(run / "policy.json", ReleasePolicy)
        passes = read_record(run / "passes.json", PassRecords) if audit.passes_digest is not None else None
        report = judge(
            self.plan,
            audit,
            policy,
            passes,
            mscore=read_mscore(run),
            attacks=read_attacks(run),
            review=self.review,
            judged_on=today(),
        )
        write_record(run / FILE, self.review)
        write_report(run, policy, report, self.plan, audit, passes, say)
        list_files(run, self.listed, [run / FILE, *reports(run)], say)
        index(run, report, say)
        if as_json:
            emit_json(report)
        else:
            emit(verdict_table(report))


def _list(run: _Run, count: int, as_json: bool) -> None:
    calls = nearest(run.evidence, run.review, count)
    if as_json:
        emit_json([_plain(run, call) for call in calls])
        return
    threshold = run.plan.recogniser.threshold
    talk(f"the {len(calls)} calls nearest {threshold:g}, from which {run.plan.recogniser.name} counts it as shown")
    for call in calls:
        where = run.picture(call.probe.id, call.side)
        click.echo(
            f"{call.score:.4f}  {'shown' if call.recognised else 'not shown':9}  {call.side:7}  {call.probe.id}  "
            f"{call.label}  {shown(where) if where else 'picture not here'}{_ruled(call)}"
        )


def _ruled(call: Close) -> str:
    if call.ruling is None:
        return ""
    verb = "overruled" if call.ruling.overrules else "confirmed"
    return f"  {verb} by {call.ruling.by}: {call.ruling.because}"


def _plain(run: _Run, call: Close) -> dict[str, object]:
    where = run.picture(call.probe.id, call.side)
    return {
        "probe": call.probe.id,
        "side": call.side,
        "label": call.label,
        "score": call.score,
        "recognised": call.recognised,
        "picture": where.relative_to(run.path).as_posix() if where else None,
        "ruling": call.ruling.model_dump(mode="json") if call.ruling else None,
    }


def _ask(run: _Run, count: int, by: str, say: Talk) -> None:
    before = run.review
    for call in nearest(run.evidence, run.review, count):
        where = run.picture(call.probe.id, call.side)
        if where is None or call.ruling is not None:
            continue
        talk(f"{shown(where)}: {call.label}, asked for by {call.probe.prompt!r}")
        answer = click.prompt(
            "is it shown?", type=click.Choice(("yes", "no", "skip", "stop")), default="skip", err=True
        )
        if answer == "stop":
            break
        if answer == "skip":
            continue
        says = answer == "yes"
        because = click.prompt("because", err=True)
        run.rule(call.probe.id, call.side, says if says != call.recognised else None, by, because, call.label)
    if run.review == before:
        talk("nothing was ruled, and nothing written")
    else:
        run.conclude(say)


def _given(name: str, value: str | None) -> str:
    if not value or not value.strip() or not value.isprintable() or len(value) > 500:
        raise InputError(f"{name} is missing, or no line of text", hint="a ruling has a name and a reason")
    return value.strip()
