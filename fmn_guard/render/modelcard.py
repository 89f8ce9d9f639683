"""A section for a model's card on the Hugging Face hub, with its metrics as ``model-index`` in the front matter.

Cards are public: people among the concepts are numbered, not named.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ..findings import Finding
from ..plan import Plan
from ..report import Report
from .findings import PublicNames
from .markup import bullets, cell, table
from .text import confidence, one_line, share, short


def modelcard(report: Report, plan: Plan) -> str:
    """The section as Markdown, with front matter that huggingface_hub reads."""
    yaml = YAML()
    yaml.width = 1000
    front = io.StringIO()
    yaml.dump(_quoted(_front_matter(report, plan)), front)
    return f"---\n{front.getvalue()}---\n\n" + "\n".join(_section(report, plan)) + "\n"


def _front_matter(report: Report, plan: Plan) -> dict[str, object]:
    names = PublicNames(report)
    measured = [f for f in report.findings if f.value is not None and f.interval is not None]
    result = {
        "task": {"type": "text-to-image", "name": "Suppression of concepts"},
        "dataset": {
            "type": f"fmn-guard-{report.suite}",
            "name": f"fmn-guard suite {report.suite}",
            "revision": plan.suite_digest,
        },
        "metrics": [_metric(finding, names, report) for finding in measured],
    }
    return {
        "pipeline_tag": "text-to-image",
        "tags": ["concept-suppression", "fmn-guard"],
        "model-index": [{"name": report.name, "results": [result] if measured else []}],
    }


def _metric(finding: Finding, names: PublicNames, report: Report) -> dict[str, object]:
    assert finding.interval is not None  # only what was measured is asked for
    return {
        "type": finding.metric,
        "name": f"{finding.metric}, {names.of_subject(finding)}",
        "value": _number(finding.value),
        "args": {
            "base": _number(finding.before),
            "pictures": finding.n,
            "confidence": report.confidence,
            "low": _number(finding.interval.low),
            "high": _number(finding.interval.high),
            finding.direction: finding.limit,
            "outcome": finding.outcome,
        },
    }


def _number(value: float | None) -> float | None:
    # Four decimals are written without an exponent, which YAML 1.1 would take for text.
    return None if value is None else round(value, 4)


def _quoted(value: object) -> object:
    """The same data with all text in double quotes: YAML 1.1, which the hub reads, takes a bare ``no`` for false."""
    match value:
        case str():
            return DoubleQuotedScalarString(one_line(value))
        case dict():
            return {key: _quoted(item) for key, item in value.items()}
        case list():
            return [_quoted(item) for item in value]
        case _:
            return value


def _section(report: Report, plan: Plan) -> Iterator[str]:
    names = PublicNames(report)
    yield "## Suppression of concepts"
    yield ""
    yield f"Verdict: **{report.verdict_words}** under policy {report.policy}, by suite {report.suite}."
    if report.outcomes:
        yield f"Named outcomes: {', '.join(report.outcomes)}."
    yield (
        "Shares are of pictures drawn for prompts that ask for it; of a correction, those that show its dominant "
        f"reading. The {confidence(report)} interval is held against the limit."
    )
    yield ""
    header = ("Concept", "Kind", "Base", "This model", f"{confidence(report)} interval", "Limit", "Outcome")
    yield from table(
        header,
        (
            (
                names.of_concept(c.slug),
                c.kind,
                share(c.before),
                f"{share(c.after)} ({c.hits} of {c.n})",
                str(c.interval),
                share(c.limit),
                c.outcome_words,
            )
            for c in report.concepts
        ),
    )
    yield ""
    pairs, lost, gained = (sum(getattr(r, name) for r in report.retained) for name in ("n", "lost", "gained"))
    yield (
        f"Of {len(report.retained)} concepts that were to stay, {lost} of {pairs} pictures lost what the base shows in "
        f"them, and {gained} gained it."
    )
    yield ""
    yield (
        "Suppressed means: under this protocol, the model hardly draws it any more. It does not mean that anything it "
        "learned from is gone from its weights; other prompts, textual inversion or further training may bring a "
        "concept back. What this says nothing about:"
    )
    yield ""
    yield from bullets(map(cell, report.not_tested))
    yield ""
    yield (
        f"Evidence: base {short(report.base_digest)}, this model {short(report.patched_digest)}, plan "
        f"{short(report.plan_digest)}, audit {short(report.audit_digest)}, policy {short(report.policy_digest)}, suite "
        f"{short(plan.suite_digest)}; judged by fmn-guard {report.tool_version}."
    )
