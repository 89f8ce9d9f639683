"""report.html: what a reviewer looks at, in one file that needs nothing else.

The page holds no script, and its security policy allows nothing but its own style sheet and the pictures inside it: it
opens from a mail attachment as from a server, and asks no one for anything. The verdict comes first; then what it
rests on, concept by concept, what the rest of the model lost, what the eraser did, and what was not tested.

The template draws the charts as SVG, for they are a few lines, dots and bars. matplotlib would bring numpy into the
base install, and charts whose colours follow neither a dark theme nor the table they stand in.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...evidence import AttentionMap, Audit, PassRecord, PassRecords, Side
from ...findings import Finding
from ...gathered import Evidence, gather
from ...passes import PassSpec
from ...plan import Plan
from ...policy import in_words
from ...probes import Probe
from ...report import Report
from ...sequence import IN_WORDS
from ...summaries import ConceptSummary, RetainedSummary
from ...tally import DetectorTally
from ..attacks import budget_words, details
from ..controls import Frameworks, answers, rests_on
from ..distances import HEADER as DISTANCES
from ..distances import measured_by
from ..distances import row_of as distance_row
from ..findings import interval_words, open_findings, waived_findings, waiver_words
from ..inversion import figure, floor_words, judged_words
from ..prompts import HEADER, row_of, title_of
from ..text import DEPARTS, classes_in_brief, confidence, departures_in_words, one_line, own_errors, share
from .figures import HEIGHT, WIDTH, Curve, HeatMap, curve, heat_map, interval_plot
from .samples import Picture, Pictures, lost_pairs, pairs_of

_HERE = Path(__file__).parent


def html(
    report: Report,
    plan: Plan,
    audit: Audit,
    passes: PassRecords | None,
    pictures: Pictures,
    frameworks: Frameworks = (),
) -> str:
    """The report as one HTML page, without absolute paths.

    Args:
        report: What to show.
        plan: What was planned.
        audit: What was measured: which pictures matter, and what was seen in them.
        passes: What the eraser did; None for a checkpoint that fmn-guard did not make.
        pictures: Those of `fmn_guard.render.html.samples.samples` that the page is to hold.
        frameworks: What it is to name evidence for.

    Raises:
        BrokenChain: the audit is not of this plan.
    """
    evidence = gather(plan, audit)
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    ids = dict.fromkeys(f.rule for f in report.findings)
    subjects = zip(report.concepts, plan.passes, strict=True)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            plan=plan,
            style=style,
            style_digest=b64encode(sha256(style.encode()).digest()).decode("ascii"),
            open=open_findings(report),
            waived=[(f, waiver_words(waiver)) for f, waiver in waived_findings(report)],
            decisive=[f for f in report.findings if f.decides],
            counts=Counter(f.outcome for f in report.findings if f.decides),
            concepts=[_concept(c, spec, report, evidence, audit, pictures) for c, spec in subjects],
            whole=[f for f in report.findings if f.subject is None],
            rules={rule: [f for f in report.findings if f.rule == rule] for rule in ids},
            retained=list(_groups(report)),
            changed=_changed(evidence),
            losers=sorted((r for r in report.retained if r.lost), key=lambda r: (r.gained - r.lost, r.slug)),
            lost=list(_pairs(lost_pairs(evidence), evidence, pictures, worse="lost")),
            passes=_courses(passes),
            departs=DEPARTS,
            departures=departures_in_words(plan),
            patch_digest=passes.patch_digest if passes else None,
            sweeps=list(_sweeps(report)),
            answers=list(answers(report, frameworks)),
            blurred=any(picture.blurred for picture in pictures.values()),
            pictured=bool(pictures),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.globals.update(
        cosine=figure,
        figure_row=row_of,
        figure_header=HEADER,
        set_title=title_of,
        distance_row=distance_row,
        distance_header=DISTANCES,
        measured_by=measured_by,
        in_words=in_words,
        interval_words=interval_words,
        floor_words=floor_words,
        judged_words=judged_words,
        budget_words=budget_words,
        details=details,
        sequence_words=IN_WORDS,
        interval_plot=interval_plot,
        most_pictures=_most_pictures,
        rests_on=rests_on,
        width=WIDTH,
        height=HEIGHT,
    )
    environment.filters.update(share=share, confidence=confidence, figure="{:.3f}".format)
    environment.filters.update(classes_in_brief=classes_in_brief, own_errors=own_errors)
    return environment


def _clean(value: object) -> object:
    """Whatever is written into the page, on one line and without folders; markup is ours."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return one_line(value).replace(" %", "\u00a0%")


class _Shot(NamedTuple):
    """One side of a pair."""

    side: Side
    picture: Picture | None
    score: float | None


class _Pair(NamedTuple):
    """A probe as base and patched model drew it."""

    probe: Probe
    shots: tuple[_Shot, ...]
    worse: str
    """What is wrong with it, in two words; empty where nothing is."""


class _Concept(NamedTuple):
    """All that is shown of a concept or correction."""

    summary: ConceptSummary
    names: tuple[str, ...]
    findings: list[Finding]
    pairs: list[_Pair]
    neighbours: list[RetainedSummary]
    drawn: list[tuple[str, int]]
    """What its pictures are most like now, the most frequent first."""
    gazes: list[_Gaze]
    """Where either model looks for its name; empty where that was not recorded."""


class _Gaze(NamedTuple):
    """Where one model looks for a name."""

    probe: Probe
    seen: AttentionMap
    heat: HeatMap
    top: float
    """What full colour stands for, on either side."""


def _concept(
    summary: ConceptSummary, spec: PassSpec, report: Report, evidence: Evidence, audit: Audit, pictures: Pictures
) -> _Concept:
    return _Concept(
        summary=summary,
        names=spec.names,
        findings=[f for f in report.findings if f.subject == summary.slug],
        pairs=list(_pairs(pairs_of(evidence, spec), evidence, pictures, worse="still shown")),
        neighbours=[r for r in report.retained if summary.slug in r.neighbour_of],
        drawn=[(_seen(label), n) for label, n in sorted(summary.drawn.items(), key=lambda item: (-item[1], item[0]))],
        gazes=list(_gazes(spec, evidence, audit)),
    )


def _gazes(spec: PassSpec, evidence: Evidence, audit: Audit) -> Iterator[_Gaze]:
    asked = {p.id: p for p in evidence.plan.probes if p.subject == spec.slug and p.role != "retained"}
    maps = [seen for seen in audit.attention if seen.probe in asked]
    top = max((seen.peak for seen in maps), default=0.0)
    for seen in maps:
        yield _Gaze(asked[seen.probe], seen, heat_map(seen.places, top), top)


def _pairs(probes: list[Probe], evidence: Evidence, pictures: Pictures, worse: str) -> Iterator[_Pair]:
    """The pairs of which there is a picture."""
    sides: tuple[Side, ...] = get_args(Side)
    for probe in probes:
        shots = tuple(_Shot(side, pictures.get((probe.id, side)), _score(probe, side, evidence)) for side in sides)
        if any(shot.picture for shot in shots):
            # What is retained is only shown where it is lost.
            bad = probe.role == "retained" or evidence.recognised(probe, "patched")
            yield _Pair(probe, shots, worse if bad else "")


def _score(probe: Probe, side: Side, evidence: Evidence) -> float | None:
    scored = evidence.why_unscored(probe, side) is None
    return evidence.seen[probe.id, side].scores[probe.labels[0]] if scored else None


def _seen(label: str) -> str:
    """A recogniser's label without its axis; the reject class in words."""
    phrase = label.rpartition(":")[2]
    return "nothing it knows" if phrase == "none" else phrase


def _changed(evidence: Evidence) -> dict[str, dict[str, list[Probe]]]:
    """Of each retained concept the probes that lost it, and those that gained it."""
    found: dict[str, dict[str, list[Probe]]] = {}
    for probe in (p for p in evidence.plan.probes if p.role == "retained"):
        sides = evidence.recognised(probe, "base"), evidence.recognised(probe, "patched")
        if None not in sides and sides[0] != sides[1]:
            found.setdefault(probe.subject, {}).setdefault("lost" if sides[0] else "gained", []).append(probe)
    return found


class _Group(NamedTuple):
    """Retained concepts together."""

    name: str
    concepts: int
    pairs: int
    before: int
    lost: int
    gained: int

    @property
    def drop(self) -> float | None:
        """Share of the pairs that were lost, net; None where there are none."""
        return (self.lost - self.gained) / self.pairs if self.pairs else None


def _groups(report: Report) -> Iterator[_Group]:
    groups = {
        "All": list(report.retained),
        "Not held out": [r for r in report.retained if not r.held_out],
        "Held out": [r for r in report.retained if r.held_out],
    }
    for name, group in groups.items():
        if group:
            n, before, lost, gained = (
                sum(getattr(r, field) for r in group) for field in ("n", "before", "lost", "gained")
            )
            yield _Group(name, len(group), n, before, lost, gained)


class _Course(NamedTuple):
    """What a pass did, as curves."""

    record: PassRecord
    still_shown: Curve
    attention_mass: Curve
    redirect_error: Curve
    drift: float
    """In percent of the largest one."""


class _Courses(NamedTuple):
    """All passes; curves of one sort share a scale."""

    passes: list[_Course]
    tops: dict[str, float]
    """What the upper edge of each sort stands for."""


def _courses(passes: PassRecords | None) -> _Courses | None:
    if passes is None:
        return None
    records = passes.passes
    sorts = ("attention_mass", "redirect_error")
    tops = {sort: max((v for r in records for v in getattr(r, sort)), default=0.0) for sort in sorts}
    most = max((r.drift or 0.0 for r in records), default=0.0)
    return _Courses(
        [
            _Course(
                r,
                curve(r.still_shown, 1.0),  # a probability: what is almost nothing should look so
                curve(r.attention_mass, tops["attention_mass"]),
                curve(r.redirect_error, tops["redirect_error"]),
                round(100 * (r.drift or 0.0) / most, 2) if most else 0.0,
            )
            for r in records
        ],
        tops,
    )


_Classes = list[tuple[str, list[DetectorTally]]]
"""Classes of a detector, each with a row for every score."""


class _Sweep(NamedTuple):
    """What one detector saw."""

    detector: str
    sets: _Classes
    classes: _Classes


def _sweeps(report: Report) -> Iterator[_Sweep]:
    for detector, tallies in groupby(report.tallies, key=lambda t: t.detector):
        rows = [(label, list(found)) for label, found in groupby(tallies, key=lambda t: t.label)]
        sets = [each for each in rows if each[0] in ("strict", "broad")]
        yield _Sweep(detector, sets, classes=[each for each in rows if each not in sets])


def _most_pictures(classes: _Classes) -> int:
    """What the longest bar of a table stands for."""
    return max((max(t.base_images, t.patched_images) for _, rows in classes for t in rows), default=0) or 1
