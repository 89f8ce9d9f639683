"""SARIF 2.1.0: a result per finding that does not pass, at the line of the manifest that asked for it.

What passes is told by counts only: the standard has ``kind: pass`` for it, but code scanning on GitHub does not read
kinds and would open an alert. A result is as severe as its rule, for an inconclusive error stops a release as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from pydantic.alias_generators import to_camel

from ..findings import Finding
from ..plan import Plan
from ..record import Record, bytes_digest
from ..report import Report
from .findings import (
    MEANING,
    Place,
    limit_words,
    open_findings,
    place_of,
    rules_of,
    title_of,
    waived_findings,
    waiver_words,
)
from .text import confidence, one_line

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
# Of a plan that does not know its manifest: the file of the run folder that lists the concepts.
_NO_MANIFEST = Place("plan.json", 1)
_HELP_WITHOUT_INTERVAL = (
    "This comes with every policy, and is found only where something went wrong: nothing was changed, everything was "
    "lost, or no rule judges a concept. The run's report.md says which."
)

Level = Literal["error", "warning", "note"]


class _Sarif(Record, alias_generator=to_camel):
    """Base of the parts of SARIF that are written here, by the names and in the order of the standard."""


class Message(_Sarif):
    """Text; `_message` escapes what the standard gives a meaning."""

    text: str
    """Plain text."""


class ArtifactLocation(_Sarif):
    """A file."""

    uri: str
    """Relative to the top of the repository."""
    uri_base_id: str = "%SRCROOT%"
    """What it is relative to."""


class Region(_Sarif):
    """A line of a file."""

    start_line: int
    """Counted from 1."""


class PhysicalLocation(_Sarif):
    """A line, and the file it is in."""

    artifact_location: ArtifactLocation
    """The file."""
    region: Region
    """The line."""


class Location(_Sarif):
    """Where a result stands."""

    physical_location: PhysicalLocation
    """In the manifest."""


class Configuration(_Sarif):
    """How severe a rule is."""

    level: Level
    """By the policy's severity."""


class Rule(_Sarif):
    """A rule of the policy, or one that comes with every policy."""

    id: str
    """Its id."""
    short_description: Message
    """Its limit."""
    full_description: Message
    """What it measures."""
    help: Message
    """How it is judged, and the way out."""
    default_configuration: Configuration
    """Its severity."""


class Suppression(_Sarif):
    """Why a result is let through."""

    kind: Literal["external"] = "external"
    """Not in the code that was analysed, but in the policy."""
    status: Literal["accepted"] = "accepted"
    """A waiver in a policy is a decision, not a request."""
    justification: str
    """The waiver in words."""


class Result(_Sarif):
    """A finding that does not pass."""

    rule_id: str
    """The rule."""
    rule_index: int
    """Its place among the rules."""
    level: Level
    """As severe as its rule."""
    message: Message
    """What was found."""
    locations: tuple[Location]
    """Where the manifest asks for it."""
    partial_fingerprints: dict[str, str]
    """What makes it the same alert in the next run, wherever its line has moved."""
    suppressions: tuple[Suppression, ...]
    """Its waiver; empty where it has none."""
    properties: dict[str, str | int | float | None]
    """The numbers."""


class Notification(_Sarif):
    """Something to know beside the results."""

    level: Level
    """``warning`` for trouble, ``note`` for what was not tested."""
    message: Message
    """In words."""


class Invocation(_Sarif):
    """How the run went."""

    execution_successful: bool
    """Whether everything planned was drawn and scored."""
    tool_execution_notifications: tuple[Notification, ...]
    """Warnings, failed instruments, unscored pictures, what was not tested."""


class Driver(_Sarif):
    """fmn-guard itself."""

    name: str
    """``fmn-guard``"""
    version: str
    """The version that judged."""
    rules: tuple[Rule, ...]
    """Every rule that found something to judge."""


class Tool(_Sarif):
    """Who analysed."""

    driver: Driver
    """fmn-guard itself."""


class AutomationDetails(_Sarif):
    """Which analysis this is, so that those of several manifests and policies stand beside each other."""

    id: str
    """``fmn-guard/<manifest>/<policy>/``"""


class Run(_Sarif):
    """One audit, judged by one policy."""

    tool: Tool
    """Who analysed."""
    automation_details: AutomationDetails
    """Which analysis it is."""
    invocations: tuple[Invocation]
    """How it went."""
    results: tuple[Result, ...]
    """The worst first, then what is waived."""
    properties: dict[str, str | int]
    """Verdict, counts and digests."""


class Log(_Sarif):
    """The whole file."""

    schema_: str = Field(default=_SCHEMA, alias="$schema")
    """Where its schema is."""
    version: Literal["2.1.0"] = "2.1.0"
    """Version of the standard."""
    runs: tuple[Run]
    """One run."""


def sarif(report: Report, plan: Plan) -> str:
    """The report as SARIF."""
    rules = rules_of(report.findings)
    order = {rule: i for i, rule in enumerate(rules)}
    waived = [finding for finding, _ in waived_findings(report)]
    log = Log(
        runs=(
            Run(
                tool=Tool(
                    driver=Driver(
                        name="fmn-guard",
                        version=report.tool_version,
                        rules=tuple(_rule(found, report) for found in rules.values()),
                    )
                ),
                automation_details=AutomationDetails(id=f"fmn-guard/{report.name}/{report.policy}/"),
                invocations=(_invocation(report),),
                results=tuple(_result(f, order[f.rule], plan) for f in (*open_findings(report), *waived)),
                properties=_properties(report),
            ),
        )
    )
    return json.dumps(log.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"


def _rule(findings: list[Finding], report: Report) -> Rule:
    # One that comes with every policy may be found by several metrics.
    by_metric = {finding.metric: finding for finding in findings}
    return Rule(
        id=findings[0].rule,
        short_description=_message("; ".join(map(limit_words, by_metric.values()))),
        full_description=_message(" ".join(MEANING[metric] for metric in by_metric)),
        help=_message(_help(report) if any(f.interval for f in findings) else _HELP_WITHOUT_INTERVAL),
        default_configuration=Configuration(level=findings[0].severity),
    )


def _help(report: Report) -> str:
    return (
        f"The limit is held against the whole {confidence(report)} interval, not the average: a pass needs all of it "
        "within the limit, a fail all of it beyond. In between, or where too little was scored, it is inconclusive and "
        "no pass: draw more pictures, or mend what could not be scored. After a fail, forget more forcefully or keep "
        "more; the run's report.md has the numbers."
    )


def _result(finding: Finding, rule_index: int, plan: Plan) -> Result:
    place = place_of(finding.subject, plan) or _NO_MANIFEST
    identity = json.dumps([finding.rule, finding.metric, finding.subject, finding.asked_by]).encode()
    fingerprint = bytes_digest(identity).removeprefix("sha256:")
    return Result(
        rule_id=finding.rule,
        rule_index=rule_index,
        level=finding.severity,
        message=_message(f"{title_of(finding)}: {finding.outcome}. {finding.reason}"),
        locations=(
            Location(
                physical_location=PhysicalLocation(
                    artifact_location=ArtifactLocation(uri=quote(place.path)), region=Region(start_line=place.line)
                )
            ),
        ),
        suppressions=(Suppression(justification=one_line(waiver_words(finding.waiver))),) if finding.waiver else (),
        # GitHub reads the first, and would otherwise take all aliases of a line for one alert.
        partial_fingerprints={"primaryLocationLineHash": f"{fingerprint[:16]}:1", "fmnGuardFinding/v1": fingerprint},
        properties={
            **finding.model_dump(
                include={"outcome", "metric", "value", "before", "limit", "n", "n_scored", "n_planned"}
            ),
            "low": finding.interval.low if finding.interval else None,
            "high": finding.interval.high if finding.interval else None,
        },
    )


def _invocation(report: Report) -> Invocation:
    trouble, untested = list(_trouble(report)), report.not_tested
    return Invocation(
        execution_successful=all(c.scored == c.planned for c in report.counts),
        tool_execution_notifications=(
            *(Notification(level="warning", message=_message(words)) for words in trouble),
            *(Notification(level="note", message=_message(f"Not tested: {words}")) for words in untested),
        ),
    )


def _trouble(report: Report) -> Iterator[str]:
    yield from report.warnings
    for instrument in report.instruments:
        if instrument.error:
            yield f"{instrument.name} did not load: {instrument.error}"
    for unscored in report.unscored:
        yield f"{unscored.count} pictures of the {unscored.side} model are unscored: {unscored.reason}"


def _properties(report: Report) -> dict[str, str | int]:
    counts = Counter(finding.outcome for finding in report.findings if finding.decides)
    return {
        "verdict": report.verdict,
        "passed": counts["pass"],
        "failed": counts["fail"],
        "inconclusive": counts["inconclusive"],
        "waived": len(waived_findings(report)),
        **{
            f"{name}Digest": getattr(report, f"{name}_digest")
            for name in ("audit", "base", "patched", "plan", "policy")
        },
    }


def _message(text: str) -> Message:
    """Plain text: brackets would be links, and braces places for arguments."""
    line = one_line(text).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return Message(text=line.replace("{", "{{").replace("}", "}}"))
