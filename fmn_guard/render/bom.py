"""CycloneDX 1.6 ML-BOM: the audited model as a component, with its base, its metrics, and the evidence for each rule.

The policy is the standard, its rules are the requirements, findings are claims for or against them. BOMs travel with a
model: people among the concepts are numbered, not named. Nothing in it depends on when or where it was written.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from ..evidence import PassRecords
from ..findings import Finding
from ..plan import Plan
from ..record import canonical_json, digest, pretty_json
from ..report import Report
from .findings import MEANING, PublicNames, limit_words, rules_of, waiver_words
from .text import confidence, one_line

Json = dict[str, Any]

# Of a finding, what may be published: neither its subject nor its alias is.
_COUNTS = {
    *("metric", "before", "value", "hits", "gained", "n", "n_planned", "n_scored", "limit", "direction"),
    *("interval", "wilson", "newcombe", "bootstrap"),
}


def bom(report: Report, plan: Plan, passes: PassRecords | None) -> str:
    """The BOM as JSON.

    Args:
        report: What was found.
        plan: What was planned.
        passes: What the eraser did; without them nothing says that the model came from the base, and no ancestor is
            named.
    """
    names = PublicNames(report)
    return pretty_json(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest(report))}",
            "version": 1,
            "metadata": {
                "tools": {"components": [_fmn_guard(report), *_instruments(report)]},
                "component": _model(report, plan, passes, names),
            },
            "definitions": {"standards": [_policy(report)]},
            "declarations": _declarations(report, names),
        }
    )


def _fmn_guard(report: Report) -> Json:
    return {"type": "application", "bom-ref": "fmn-guard", "name": "fmn-guard", "version": report.tool_version}


def _instruments(report: Report) -> Iterator[Json]:
    for i, instrument in enumerate(report.instruments):
        component: Json = {
            "type": "machine-learning-model",
            "bom-ref": f"instrument:{i}",
            "name": one_line(instrument.name),
        }
        if instrument.version:
            component["version"] = one_line(instrument.version)
        if instrument.licence:
            component["licenses"] = [{"license": {"name": one_line(instrument.licence)}}]
        stated = {
            "weights-digest": instrument.weights_digest,
            "direction": instrument.direction,
            "preprocessing": instrument.preprocessing,
            "error": instrument.error,
        }
        if properties := _properties(stated):
            component["properties"] = properties
        yield component


def _model(report: Report, plan: Plan, passes: PassRecords | None, names: PublicNames) -> Json:
    base = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{report.base_digest}",
        "name": one_line(plan.base.reference),
        "version": report.base_digest,
        "properties": _properties(
            {
                "weights-digest": plan.base.weights_digest,
                "tokenizer-digest": plan.base.tokenizer_digest,
                "config-digest": plan.base.config_digest,
            }
        ),
    }
    model: Json = {
        "type": "machine-learning-model",
        "bom-ref": _ref(report),
        "name": report.name,
        "version": report.patched_digest,
        "modelCard": _card(report, plan, names),
        "properties": _properties(
            {
                "verdict": report.verdict_words,
                "compared-with": report.base_digest,
                "plan-digest": report.plan_digest,
                "passes-digest": report.passes_digest,
                "audit-digest": report.audit_digest,
                "suite-digest": plan.suite_digest,
            }
        ),
    }
    if passes is not None:
        model["pedigree"] = {
            "ancestors": [base],
            "notes": f"{sum(done.stopped != 'merged' for done in passes.passes)} Forget-Me-Not passes; "
            "patch.safetensors holds the difference.",
        }
        # The only digest that is one of a file's bytes, which is what a hash says.
        content = passes.patch_digest.removeprefix("sha256:")
        patch = {"type": "file", "bom-ref": "patch", "name": "patch.safetensors"}
        model["components"] = [{**patch, "hashes": [{"alg": "SHA-256", "content": content}]}]
    return model


def _ref(report: Report) -> str:
    # Weights that were not changed have the base's digest; a reference must be of one component.
    return f"model:audited:{report.patched_digest}"


def _card(report: Report, plan: Plan, names: PublicNames) -> Json:
    pairs, lost, gained = (sum(getattr(r, name) for r in report.retained) for name in ("n", "lost", "gained"))
    return {
        "modelParameters": {
            "task": "text-to-image",
            "architectureFamily": plan.base.family,
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "image"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(report, names))},
        "considerations": {
            "technicalLimitations": [
                "Suppression is not deletion: what was learned may still be in the weights.",
                *(f"Not tested: {one_line(words)}" for words in report.not_tested),
            ],
            "performanceTradeoffs": [
                f"Of {pairs} pictures of {len(report.retained)} retained concepts, {lost} lost what the base shows in "
                f"them and {gained} gained it."
            ],
        },
    }


def _metrics(report: Report, names: PublicNames) -> Iterator[Json]:
    for finding in report.findings:
        if finding.value is not None and finding.interval is not None:
            yield {
                "type": finding.metric,
                "slice": one_line(names.of_subject(finding)),
                "value": f"{finding.value:.6g}",
                "confidenceInterval": {
                    "lowerBound": f"{finding.interval.low:.6g}",
                    "upperBound": f"{finding.interval.high:.6g}",
                },
            }


def _policy(report: Report) -> Json:
    return {
        "bom-ref": f"policy:{report.policy_digest}",
        "name": report.policy,
        "version": report.policy_digest,
        "description": f"Release policy of fmn-guard. A rule holds if the whole {confidence(report)} interval is "
        "within its limit.",
        "requirements": [_requirement(rule, findings) for rule, findings in rules_of(report.findings).items()],
    }


def _requirement(rule: str, findings: list[Finding]) -> Json:
    by_metric = {finding.metric: finding for finding in findings}
    return {
        "bom-ref": f"rule:{rule}",
        "identifier": rule,
        "title": "; ".join(map(limit_words, by_metric.values())),
        "text": " ".join(MEANING[metric] for metric in by_metric),
        "properties": _properties({"severity": findings[0].severity}),
    }


def _declarations(report: Report, names: PublicNames) -> Json:
    numbered = [(f"finding:{i}", finding) for i, finding in enumerate(report.findings, start=1)]
    return {
        "assessors": [{"bom-ref": "assessor", "thirdParty": False, "organization": {"name": "fmn-guard"}}],
        "attestations": [
            {
                "assessor": "assessor",
                "summary": f"{report.verdict_words.upper()} under policy {report.policy}. This is evidence for the "
                "policy's rules, measured on this model; it states no conformity with any law or other standard.",
                "map": [_mapped(rule, numbered) for rule in rules_of(report.findings)],
            }
        ],
        "claims": [_claim(ref, f, report, names) for ref, f in numbered if f.outcome != "inconclusive"],
        "evidence": [_evidence(ref, f, names) for ref, f in numbered],
    }


def _mapped(rule: str, numbered: list[tuple[str, Finding]]) -> Json:
    own = [(ref, finding) for ref, finding in numbered if finding.rule == rule]
    outcomes = ("claims", "pass"), ("counterClaims", "fail")
    mapped: Json = {
        name: [f"claim:{ref}" for ref, finding in own if finding.outcome == outcome] for name, outcome in outcomes
    }
    passed, open_ones = len(mapped["claims"]), sum(finding.outcome == "inconclusive" for _, finding in own)
    waived = [finding.waiver for _, finding in own if finding.waiver]
    rationale = " ".join(
        [
            f"{passed} of {len(own)} findings pass, {open_ones} are inconclusive and claim nothing.",
            *(f"One is {one_line(waiver_words(waiver))}." for waiver in waived),
        ]
    )
    return {"requirement": f"rule:{rule}", **mapped, "conformance": {"rationale": rationale}}


def _claim(ref: str, finding: Finding, report: Report, names: PublicNames) -> Json:
    holds = "holds" if finding.outcome == "pass" else "does not hold"
    return {
        "bom-ref": f"claim:{ref}",
        "target": _ref(report),
        "predicate": f"{limit_words(finding)} {holds} for {one_line(names.of_subject(finding))}.",
        "reasoning": one_line(finding.reason),
        "evidence": [f"evidence:{ref}"],
    }


def _evidence(ref: str, finding: Finding, names: PublicNames) -> Json:
    counts = finding.model_dump(include=_COUNTS, mode="json")
    content = canonical_json(counts | {"subject": one_line(names.of_subject(finding))}).decode()
    return {
        "bom-ref": f"evidence:{ref}",
        "propertyName": f"fmn-guard:{finding.metric}",
        "description": one_line(finding.reason),
        "data": [
            {
                "name": f"counts and intervals: {finding.outcome}",
                "contents": {"attachment": {"contentType": "application/json", "content": content}},
            }
        ],
    }


def _properties(stated: dict[str, str | None]) -> list[Json]:
    return [{"name": f"fmn-guard:{name}", "value": one_line(value)} for name, value in stated.items() if value]
