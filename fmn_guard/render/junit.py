"""JUnit XML: a suite per concept, a case per rule, so that CI systems list, plot and compare findings as tests.

Of an error rule, ``fail`` is a failure and ``inconclusive`` an error: neither lets a pipeline pass. A warning that does
not pass is skipped, as pytest tells expected failures, and so is what is waived or was not tested: CI shows them and
fails on none. Valid by the schema of Jenkins' xUnit plugin.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from ..findings import Finding
from ..plan import Plan
from ..policy import in_words
from ..report import Report
from .findings import interval_words, limit_words, place_of, waiver_words
from .text import confidence, one_line


def junit(report: Report, plan: Plan) -> str:
    """The report as JUnit XML."""
    root = ET.Element("testsuites", name=f"fmn-guard {report.name}")
    for subject in (*(c.slug for c in report.concepts), None):
        suite = _suite(root, report, subject or "whole model")
        for finding in report.findings:
            if finding.subject == subject:
                _tell(_case(suite, _name(finding)), finding, report, plan)
        if subject is None and not report.findings:
            # CI systems take a file without tests for a success.
            message = "No rule found anything to judge."
            ET.SubElement(_case(suite, "verdict"), "error", type=report.verdict, message=message)
    left_out = _suite(root, report, "not tested")
    for words in map(one_line, report.not_tested):
        ET.SubElement(_case(left_out, words), "skipped", type="not tested", message=words)
    if report.review and (told := list(map(one_line, report.review.warnings))):
        decided = _suite(root, report, "human review")
        for words in told:
            ET.SubElement(_case(decided, words), "skipped", type="human review", message=words)
    for suite in root:
        _count(suite)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.attrib[name]) for suite in root)))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(root: ET.Element, report: Report, name: str) -> ET.Element:
    # Dots part packages from classes in CI's trees; slugs have none.
    return ET.SubElement(root, "testsuite", name=name, package=f"fmn-guard.{report.name}")


def _case(suite: ET.Element, name: str) -> ET.Element:
    classname = f"{suite.attrib['package']}.{suite.attrib['name']}"
    return ET.SubElement(suite, "testcase", classname=classname, name=name)


def _name(finding: Finding) -> str:
    if finding.rule == "collapse":  # it may be found twice, by two metrics
        return f"collapse ({finding.metric})"
    return f"{finding.rule} ({finding.asked_by})" if finding.asked_by else finding.rule


def _tell(case: ET.Element, finding: Finding, report: Report, plan: Plan) -> None:
    if finding.outcome == "pass":
        return
    reason = one_line(finding.reason)
    if finding.waiver:
        message = f"{finding.outcome}, {one_line(waiver_words(finding.waiver))}: {reason}"
        ET.SubElement(case, "skipped", type="waived", message=message)
    elif finding.severity == "warning":
        ET.SubElement(case, "skipped", type="warning", message=f"warning: {finding.outcome}: {reason}")
    else:
        tag = "failure" if finding.outcome == "fail" else "error"
        ET.SubElement(case, tag, type=finding.outcome, message=reason).text = "\n".join(_details(finding, report, plan))


def _details(finding: Finding, report: Report, plan: Plan) -> Iterator[str]:
    if place := place_of(finding.subject, plan):
        yield f"{one_line(place.path)}:{place.line}"
    yield f"asked: {limit_words(finding)}"
    if finding.interval:
        value = "none" if finding.value is None else in_words(finding.metric, finding.value)
        yield f"measured: {value}, {confidence(report)} interval {interval_words(finding)}"
    if finding.before is not None:
        yield f"base: {in_words(finding.metric, finding.before)}"
    yield f"scored: {finding.n_scored} of {finding.n_planned} probes"
    yield f"protocol: suite {report.suite}, policy {report.policy}"


def _count(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in suite)))
