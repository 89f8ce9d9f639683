"""report.md: the verdict first, then what it rests on, then what it leaves open.

Wording is part of the promise: concepts are "suppressed under protocol X, n of N, 95 % interval", never "deleted".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..evidence import Instrument, MatrixCell, PassMatrix, PassRecords
from ..findings import Finding
from ..frameworks import ControlEvidence
from ..plan import Plan
from ..report import Report
from ..sequence import IN_WORDS
from ..summaries import ConceptSummary, RetainedSummary
from ..tally import DetectorTally
from .attacks import budget_words, details
from .controls import Answer, Frameworks, answers, rests_on
from .distances import HEADER as DISTANCES
from .distances import measured_by
from .distances import row_of as distance_row
from .inversion import figure, floor_words, judged_words
from .markup import bullets, cell, sections, table
from .prompts import HEADER, row_of, title_of
from .text import DEPARTS, classes_in_brief, confidence, departures_in_words, own_errors, share, short


def markdown(report: Report, plan: Plan, passes: PassRecords | None, frameworks: Frameworks = ()) -> str:
    """The report as GitHub-flavoured Markdown, without absolute paths."""
    parts = {
        "Concepts": concepts(report),
        "Findings": _findings(report),
        "Waivers": _waivers(report),
        "Human review": _review(report),
        "Retained": retained(report),
        "Concepts by passes": _matrix(report.matrix),
        "Drawn instead": _drawn(report),
        "M-Score": _mscore(report),
        "Attacks": _attacks(report),
        "Prompt sets": _prompt_sets(report),
        "Distances to the base": _distances(report),
        "Detectors": _detectors(report),
        "Passes": _passes(passes, plan),
        "Pictures": _pictures(report),
        "Warnings": bullets(map(cell, report.warnings)),
        "Not tested": bullets(map(cell, report.not_tested)),
        "Evidence for controls": _controls(answers(report, frameworks)),
        "Provenance": provenance(report, plan),
    }
    return "\n".join([*head(report), *sections(parts, level=2)]) + "\n"


def head(report: Report, level: int = 1) -> Iterator[str]:
    """The verdict as a heading of this level, and what it comes from."""
    judged = [f for f in report.findings if f.decides]
    waived = sum(f.waiver is not None for f in report.findings)
    points = any(f.point for f in report.findings)
    counts = Counter(f.outcome for f in judged)
    yield f"{'#' * level} {report.verdict_words.upper()}: {report.name} under policy {report.policy}"
    yield ""
    if report.outcomes:
        yield f"Named outcomes: **{', '.join(report.outcomes)}**."
        yield ""
    yield (
        f"{len(judged)} findings decide: {counts['pass']} pass, {counts['fail']} fail, "
        f"{counts['inconclusive']} inconclusive{f'; {waived} waived' if waived else ''}. "
        f"Protocol: suite {report.suite}, {confidence(report)} intervals; a pass needs the whole interval within the "
        f"limit{', save for point estimates, which leave chance out of account' if points else ''}."
    )


def concepts(report: Report) -> Iterator[str]:
    """Each concept before and after, as a table and in sentences."""
    header = ("Concept", "Kind", "Before", "After", f"{confidence(report)} interval", "Limit", "Outcome")
    rows = (
        (c.phrase, c.kind, share(c.before), share(c.after), str(c.interval), share(c.limit), c.outcome_words)
        for c in report.concepts
    )
    yield from table(header, rows)
    yield ""
    yield from bullets(_claim(c, report) for c in report.concepts)
    if known := list(own_errors(report)):
        yield ""
        yield from known


def _claim(c: ConceptSummary, report: Report) -> str:
    marks = f"{', waived' if c.waived else ''}{', point estimate' if c.point else ''}"
    judged = f"{c.outcome} (rule {c.decided_by}{marks})"
    what = "dominant reading suppressed" if c.kind == "correction" else "suppressed"
    return (
        f"{cell(c.phrase)}: {what if c.outcome == 'pass' and not c.point else judged} under protocol {report.suite}, "
        f"{c.hits} of {c.n}, {confidence(report)} interval {c.interval}."
    )


def _findings(report: Report) -> Iterator[str]:
    header = ("Outcome", "Rule", "Subject", "Scored", "Why")
    yield from table(header, (_finding_row(f) for f in report.findings if f.waiver is None))


def _waivers(report: Report) -> Iterator[str]:
    waived = ((f, f.waiver) for f in report.findings if f.waiver)
    header = ("Outcome", "Rule", "Subject", "Scored", "Why", "Waived because", "By", "Until")
    rows = [(*_finding_row(f), waiver.reason, waiver.owner, str(waiver.expires)) for f, waiver in waived]
    yield from table(header, rows)
    idle = [use for use in report.waivers if use.state != "in force"]
    if rows and idle:
        yield ""
    yield from bullets(
        f"{cell(use.waiver.about)}, by {cell(use.waiver.owner)} until {use.waiver.expires}: {use.state}" for use in idle
    )


def _finding_row(f: Finding) -> tuple[str, ...]:
    return f.outcome_words, f.rule, f.about or "whole model", f"{f.n_scored} of {f.n_planned}", f.reason


def _review(report: Report) -> Iterator[str]:
    if report.review is None:
        return
    yield (
        f"{report.review.counts.capitalize()}. By the recogniser alone the verdict is "
        f"**{report.review.verdict_without}**, with the rulings it is **{report.verdict}**."
    )
    yield ""
    header = ("Picture", "Side", "Looked for", "Recogniser", "Person", "By", "Because")
    said = {True: "shown", False: "not shown"}
    rows = (
        (r.probe, r.side, r.label, said[r.recognised], said[r.shown], r.by, r.because) for r in report.review.rulings
    )
    yield from table(header, rows)
    if report.review.reversals:
        yield ""
        yield "Findings that the rulings decide:"
        yield ""
        columns = ("Rule", "Subject", "Recogniser alone", "With the rulings")
        changed = report.review.reversals
        yield from table(columns, ((r.rule, r.about or "whole model", r.without or "", r.after or "") for r in changed))
    if report.review.held:
        yield ""
        yield "The policy lets a review tighten alone. What the rulings would have eased, and does not count:"
        yield ""
        yield from bullets(f"{cell(r.of)}: {r.without}, not {r.after or 'gone'}" for r in report.review.held)


def retained(report: Report) -> Iterator[str]:
    """What was lost among the retained concepts."""
    split = {
        "all": report.retained,
        "not held out": [r for r in report.retained if not r.held_out],
        "held out": [r for r in report.retained if r.held_out],
    }
    header = ("Retained", "Concepts", "Pairs", "Before", "Lost", "Gained", "Drop")
    yield from table(header, (_retained_row(name, group) for name, group in split.items() if group))
    if lost := sorted((r for r in report.retained if r.lost), key=lambda r: (r.gained - r.lost, r.slug)):
        yield ""
        yield "Concepts that lost pictures:"
        yield ""
        columns = ("Concept", "Neighbour of", "Held out", "Before", "Lost", "Gained")
        yield from table(columns, (_lost_row(r) for r in lost))


def _retained_row(name: str, group: Iterable[RetainedSummary]) -> tuple[str, ...]:
    rows = list(group)
    n, lost, gained = sum(r.n for r in rows), sum(r.lost for r in rows), sum(r.gained for r in rows)
    before = sum(r.before for r in rows)
    drop = share((lost - gained) / n if n else None)
    return name, str(len(rows)), str(n), str(before), str(lost), str(gained), drop


def _lost_row(r: RetainedSummary) -> tuple[str, ...]:
    held_out = "yes" if r.held_out else ""
    return r.slug, ", ".join(r.neighbour_of), held_out, f"{r.before} of {r.n}", str(r.lost), str(r.gained)


def _drawn(report: Report) -> Iterator[str]:
    rows = []
    for c in report.concepts:
        top = sorted(c.drawn.items(), key=lambda item: (-item[1], item[0]))[:4]
        if top:
            rows.append((c.phrase, ", ".join(f"{label} {n}" for label, n in top)))
    yield from table(("Asked for", "What the patched pictures are most like"), rows)


def _mscore(report: Report) -> Iterator[str]:
    found = report.mscore
    if found is None:
        return
    yield (
        f"What textual inversion finds on either model, from the word {cell(found.word)}, over {found.seeds} seeds of "
        f"{found.steps} steps. {judged_words(report.findings)} {floor_words(found)}"
    )
    yield ""
    header = (
        "Concept",
        "Role",
        "M0 (base)",
        "M1 (patched)",
        "Drop",
        "Base and patched alike",
        "Seeds alike",
        "Reading",
    )
    rows = ((r.phrase, r.role, *map(figure, (r.m0, r.m1, r.drop, r.between, r.among)), r.reading) for r in found.rows)
    yield from table(header, rows)
    yield ""
    yield "In how many pictures that each model draws by its own inverted tokens the concept is recognised:"
    yield ""
    replays = ((row, r) for row in found.rows for r in row.replays)
    columns = ("Concept", "Role", "Tokens", "Recognised, patched", f"{confidence(report)} interval")
    yield from table(columns, ((row.phrase, row.role, str(r.tokens), r.words, str(r.interval)) for row, r in replays))


def _attacks(report: Report) -> Iterator[str]:
    found = report.attacks
    if found is None:
        return
    yield (
        f"Attack suite {cell(found.suite)} (`{short(found.suite_digest)}`). In how many pictures the concept is "
        "recognised: of the base under the attack, without which little follows from a low rate; of the patched model "
        "asked as the audit asks, from other seeds; and of the patched model under the attack, with both "
        f"{confidence(report)} intervals. {budget_words(found)[:1].upper()}{budget_words(found)[1:]}."
    )
    yield ""
    header = ("Concept", "Attack", "Guidance", "Prompts", "Base", "Without", "Attacked", "Wilson", "Over prompts")
    yield from table(
        header,
        (
            (
                *(r.phrase, r.attack, f"{r.guidance:g}", str(r.prompts)),
                *(r.base.words, r.without.words, r.patched.words, str(r.patched.wilson), str(r.patched.bootstrap)),
            )
            for r in found.rows
        ),
    )
    if told := list(details(found)):
        yield ""
        yield from bullets(map(cell, told))


def _prompt_sets(report: Report) -> Iterator[str]:
    for i, found in enumerate(report.prompt_sets):
        yield from ("",) * bool(i)
        yield f"**{title_of(found)}**: {cell(found.words)} {found.counts}."
        yield ""
        yield from table(HEADER, map(row_of, found.figures))


def _distances(report: Report) -> Iterator[str]:
    if report.distances is not None:
        yield cell(measured_by(report.distances))
        yield ""
        yield from table(DISTANCES, map(distance_row, report.distances.figures))


def _detectors(report: Report) -> Iterator[str]:
    header = ("Detector", "Class", "Score from", "Base: pictures", "boxes", "Patched: pictures", "boxes", "Failed")
    yield from table(header, (_tally_row(t) for t in report.tallies))


def _tally_row(t: DetectorTally) -> tuple[str, ...]:
    counts = (t.base_images, t.base_boxes, t.patched_images, t.patched_boxes, t.failed)
    return t.detector, t.label, f"{t.threshold:g}", *map(str, counts)


def _passes(passes: PassRecords | None, plan: Plan) -> Iterator[str]:
    if passes and plan.sequence != "sequential":
        yield f"Concepts were forgotten {IN_WORDS[plan.sequence]}."
        yield ""
    header = (
        "Pass",
        "Steps",
        "Stopped",
        "Own pictures",
        "Attention mass, first to last",
        "Drift of language",
    )
    rows = (
        (
            p.slug,
            str(p.steps),
            p.stopped,
            ", ".join(f"{100 * mean:.0f} %" for mean in p.still_shown) or "not looked at",
            f"{p.attention_mass[0]:.3f} to {p.attention_mass[-1]:.3f}" if p.attention_mass else "none",
            "not read" if p.drift is None else f"{100 * p.drift:.2f} %",
        )
        for p in (passes.passes if passes else ())
    )
    yield from table(header, rows)
    if passes and (departures := departures_in_words(plan)):
        yield ""
        yield f"Algorithm: preset {plan.passes[0].preset}. {DEPARTS}"
        yield ""
        yield from bullets(map(cell, departures))


def _matrix(matrix: PassMatrix | None) -> Iterator[str]:
    if matrix is not None:
        yield "How often each was shown after each pass. Between passes few pictures are drawn, and none is judged."
        yield ""
        header = ("Shown", "Base", *(f"After {done}" for done in range(1, len(matrix.concepts) + 1)))
        named = [(f"{done} {row.name}", row) for done, row in enumerate(matrix.concepts, start=1)]
        rows = [*named, ("retained", matrix.retained)]
        yield from table(header, ((name, *map(_shown, (row.base, *row.after))) for name, row in rows))


def _shown(cell: MatrixCell | None) -> str:
    return f"{share(cell.share)} of {cell.n}" if cell else ""


def _controls(told: Iterable[Answer]) -> Iterator[str]:
    lines = [line for each in told for line in sections({cell(each.framework.spec.title): _answer(each)}, level=3)]
    yield from lines[1:]


def _answer(told: Answer) -> Iterator[str]:
    yield f"{cell(told.words.capitalize())}: evidence, and no more. {cell(told.source)}"
    yield ""
    yield from table(("Control", "Asks", "This report", "Findings", "Not covered"), map(_control_row, told.controls))


def _control_row(each: ControlEvidence) -> tuple[str, ...]:
    control = each.control
    rules = (
        f"{rule}: {', '.join(f'{outcome} {_subjects(found)}' for outcome, found in outcomes.items())}"
        for rule, outcomes in rests_on(each).items()
    )
    findings = "; ".join(rules) or f"none on {control.evidence}"
    return control.id, control.title, each.standing, findings, control.not_covered


def _subjects(findings: Iterable[Finding]) -> str:
    return f"({', '.join(f.about or 'whole model' for f in findings)})"


def _pictures(report: Report) -> Iterator[str]:
    rows = ((c.side, str(c.planned), str(c.generated), str(c.scored)) for c in report.counts)
    yield from table(("Side", "Planned", "Generated", "Scored"), rows)
    if report.unscored:
        yield ""
        yield from bullets(f"{u.count} unscored on the {u.side} side: {cell(u.reason)}" for u in report.unscored)


def provenance(report: Report, plan: Plan) -> Iterator[str]:
    """Digests of all that the verdict comes from, and who measured."""
    digests = {
        f"base {plan.base.reference}": report.base_digest,
        "patched model": report.patched_digest,
        "plan": report.plan_digest,
        "passes": report.passes_digest,
        "audit": report.audit_digest,
        f"policy {report.policy}": report.policy_digest,
        f"suite {report.suite}": plan.suite_digest,
    }
    yield from table(("What", "Digest"), ((what, short(value)) for what, value in digests.items()))
    yield ""
    instruments = ((i.name, i.version, i.licence, short(i.weights_digest), i.error or "") for i in report.instruments)
    yield from table(("Instrument", "Version", "Licence", "Weights", "Error"), instruments)
    yield ""
    yield from table(("Instrument", "Classes", "Scores", "Preprocessing"), map(_looks_how, _said(report)))
    if any(_said(report)):
        yield ""
    day = f" on {report.judged_on}" if report.judged_on else ""
    yield f"Judged by fmn-guard {report.tool_version}{day}."


def _said(report: Report) -> Iterator[Instrument]:
    """Instruments that say how they look; those of older versions did not."""
    return (i for i in report.instruments if i.direction)


def _looks_how(instrument: Instrument) -> tuple[str, ...]:
    return instrument.name, classes_in_brief(instrument), instrument.direction, instrument.preprocessing
