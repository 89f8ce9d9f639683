"""The formats that programs read: golden files, official schemas, and the parsers of those who will read them."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import jsonschema
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lxml import etree

from fmn_guard.errors import InputError
from fmn_guard.findings import NAMED, PresenceMetric
from fmn_guard.policy import Metric
from fmn_guard.record import digest
from fmn_guard.render import FORMATS, Run, format_of, render
from fmn_guard.render.findings import MEANING, open_findings
from fmn_guard.report import judge
from fmn_guard.source import Source

from .builder import BASE, SUPPRESSED, forget, make_audit, make_passes, make_plan, make_policy, probes
from .golden import ENDINGS, FOLDER, PLAN, POLICY, REPORT, RUN, file_of, written

SCHEMAS = Path(__file__).parent / "schemas"
SARIF_SCHEMA = json.loads((SCHEMAS / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
JUNIT_SCHEMA = etree.XMLSchema(etree.parse(SCHEMAS / "junit-10.xsd"))


def problems(ending: str, text: str) -> list[str]:
    """What the official validator of a format finds."""
    match ending:
        case "sarif":
            validator = jsonschema.Draft4Validator(SARIF_SCHEMA)
            return [error.message for error in validator.iter_errors(json.loads(text))]
        case "junit.xml":
            JUNIT_SCHEMA.validate(etree.fromstring(text.encode()))
            return [str(error) for error in JUNIT_SCHEMA.error_log]
        case "cdx.json":
            error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
            return [] if error is None else [str(error)]
        case _:
            raise AssertionError(ending)


VALIDATED = ("sarif", "junit.xml", "cdx.json")


def as_text(ending: str, run: Run = RUN) -> str:
    return render(Path(f"report.{ending}"), *run)


def as_json(ending: str, run: Run = RUN) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(as_text(ending, run))
    return document


def passing() -> Run:
    """A run of which every finding passes."""
    plan = make_plan()
    audit = make_audit(plan)
    return Run(judge(plan, audit, make_policy()), plan, audit, None)


def unchanged() -> Run:
    """A run whose weights are the base's own, without a rule that judges, of a plan that knows no manifest."""
    plan = make_plan(forget("pistol"), forget("ada", "identity"))
    audit = make_audit(plan, lambda probe, side, label: True, patched_digest=BASE.identity)
    policy = make_policy(SUPPRESSED.model_copy(update={"severity": "warning"}))
    return Run(judge(plan, audit, policy), plan, audit, None)


def nothing_found() -> Run:
    """A report without findings, which the rest of fmn-guard never writes."""
    report = REPORT.model_copy(update={"findings": (), "verdict": "inconclusive"})
    return RUN._replace(report=report)


# ---- all of them


@pytest.mark.parametrize("ending", ENDINGS)
def test_report_is_written_as_the_golden_file_has_it(ending: str) -> None:
    assert written(ending) == file_of(ending).read_bytes(), "if that is meant: python -m tests.golden"


def test_golden_folder_holds_every_format_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"report.{ending}" for ending in ENDINGS}


@pytest.mark.parametrize("run", [RUN, passing(), unchanged(), nothing_found()], ids=["golden", "pass", "same", "none"])
@pytest.mark.parametrize("ending", VALIDATED)
def test_file_is_valid_by_the_official_schema(ending: str, run: Run) -> None:
    assert problems(ending, as_text(ending, run)) == []


@pytest.mark.parametrize("ending", VALIDATED)
def test_validators_refuse_what_is_wrong(ending: str) -> None:
    spoilt = {
        "sarif": as_text("sarif").replace('"startLine": 17', '"startLine": 0'),
        "junit.xml": as_text("junit.xml").replace("<testcase ", "<test "),
        "cdx.json": as_text("cdx.json").replace('"bom-ref": "claim:finding:1"', '"bom-ref": 1'),
    }[ending].replace("</testcase>", "</test>")
    assert spoilt != as_text(ending)
    assert problems(ending, spoilt)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("report.md", "md"),
        ("REPORT.MD", "md"),
        ("r.sarif", "sarif"),
        ("junit.xml", "junit.xml"),
        ("ci-junit.xml", "junit.xml"),
        ("bom.cdx.json", "cdx.json"),
        ("model-card.md", "card.md"),
        ("model_card.md", "card.md"),
        ("postcard.md", "md"),
        ("badge.json", "badge.json"),
        ("badges.json", "json"),
        ("-.csv", "csv"),
        ("folder.csv/step.summary.md", "summary.md"),
    ],
)
def test_name_of_a_file_says_its_format(name: str, ending: str) -> None:
    assert format_of(Path(name)) is FORMATS[ending]


@pytest.mark.parametrize("name", ["report.xml", "report.txt", "reportmd", "report.sarif.gz", "-"])
def test_other_name_is_an_error_that_lists_every_format(name: str) -> None:
    with pytest.raises(InputError) as caught:
        format_of(Path(name))
    assert caught.value.hint == f"known are {', '.join(FORMATS)}"


def test_every_metric_has_its_meaning_in_words() -> None:
    assert set(MEANING) == {*get_args(Metric), *NAMED, *get_args(PresenceMetric)}


@pytest.mark.parametrize("ending", FORMATS)
def test_no_format_says_deleted_or_compliant(ending: str) -> None:
    text = as_text(ending).lower().replace("suppression is not deletion", "").replace("does not delete", "")
    for word in ("delet", "removed", "erased", "complian", "conforms"):
        assert word not in text


# ---- SARIF


def results(run: Run = RUN) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_json("sarif", run)["runs"][0]["results"]
    return found


def place(result: dict[str, Any]) -> tuple[str, int]:
    where = result["locations"][0]["physicalLocation"]
    return where["artifactLocation"]["uri"], where["region"]["startLine"]


def test_sarif_has_a_result_for_each_finding_that_does_not_pass_at_its_line() -> None:
    assert {(r["ruleId"], r["level"], place(r)) for r in results()} == {
        ("correction-dominant", "error", ("release/manifest.yaml", 17)),
        ("no-effect", "error", ("release/manifest.yaml", 17)),
        ("target-suppressed", "error", ("release/manifest.yaml", 13)),
        ("alias-suppressed", "error", ("release/manifest.yaml", 13)),
        ("neighbours-kept", "error", ("release/manifest.yaml", 13)),
        ("retained-kept", "error", ("release/manifest.yaml", 1)),
        ("correction-expected", "warning", ("release/manifest.yaml", 17)),
    }
    assert results(passing()) == []


def test_a_waived_finding_is_suppressed_in_sarif_skipped_in_junit_and_no_annotation() -> None:
    words = "waived by release team until 2027-01-31: the trumpet comes back with the next base"
    suppressed = {r["ruleId"]: r["suppressions"] for r in results() if r["suppressions"]}
    assert suppressed == {"neighbours-kept": [{"kind": "external", "status": "accepted", "justification": words}]}
    [case] = junit().findall(".//testcase[@name='neighbours-kept']/skipped[@type='waived']")
    assert words in case.attrib["message"]
    assert "neighbours-kept" not in as_text("annotations.txt")
    [row] = [row for row in csv.DictReader(io.StringIO(as_text("csv"))) if row["waiver_owner"]]
    assert (row["rule"], row["waiver_expires"], row["outcome"]) == ("neighbours-kept", "2027-01-31", "inconclusive")


def test_sarif_result_names_its_rule_by_index_too() -> None:
    rules = as_json("sarif")["runs"][0]["tool"]["driver"]["rules"]
    assert [rules[r["ruleIndex"]]["id"] for r in results()] == [r["ruleId"] for r in results()]
    assert [rule["id"] for rule in rules] == list(dict.fromkeys(f.rule for f in REPORT.findings))


def test_sarif_fingerprints_differ_between_results_and_not_between_runs() -> None:
    moved = PLAN.model_copy(update={"source": Source(path="other.yaml", lines={"pistol": 99, "the-captain": 3})})
    noted = [r["partialFingerprints"] for r in results()]
    assert len({json.dumps(each) for each in noted}) == len(noted)
    assert noted == [r["partialFingerprints"] for r in results(RUN._replace(plan=moved))]


def test_sarif_without_a_known_manifest_points_at_the_plan() -> None:
    assert {place(r) for r in results(unchanged())} == {("plan.json", 1)}


def test_sarif_path_is_a_uri() -> None:
    spaced = PLAN.model_copy(update={"source": Source(path="my files/ä#1.yaml", lines={})})
    assert {place(r)[0] for r in results(RUN._replace(plan=spaced))} == {"my%20files/%C3%A4%231.yaml"}


def test_sarif_tells_that_pictures_are_unscored_and_what_was_not_tested() -> None:
    [invocation] = as_json("sarif")["runs"][0]["invocations"]
    told = [(n["level"], n["message"]["text"]) for n in invocation["toolExecutionNotifications"]]
    assert invocation["executionSuccessful"] is False
    assert ("warning", "1 pictures of the patched model are unscored: picture is constant") in told
    assert [text for level, text in told if level == "note"] == [f"Not tested: {words}" for words in REPORT.not_tested]


# ---- JUnit


def junit(run: Run = RUN) -> ElementTree.Element:
    return ElementTree.fromstring(as_text("junit.xml", run))


def outcome_of(case: ElementTree.Element) -> str:
    return case[0].tag if len(case) else "pass"


def test_junit_tells_fail_as_failure_inconclusive_as_error_and_what_decides_nothing_as_skipped() -> None:
    told = {(c.attrib["classname"].split(".")[-1], c.attrib["name"]): outcome_of(c) for c in junit().iter("testcase")}
    as_told = {"pass": "pass", "fail": "failure", "inconclusive": "error"}
    for finding in REPORT.findings:
        name = f"{finding.rule} ({finding.alias})" if finding.alias else finding.rule
        expected = "skipped" if not finding.decides else as_told[finding.outcome]
        assert told.pop((finding.subject or "whole model", name)) == expected
    assert told == {("not tested", words): "skipped" for words in REPORT.not_tested}


@pytest.mark.parametrize("run", [RUN, passing(), unchanged(), nothing_found()], ids=["golden", "pass", "same", "none"])
def test_junit_counts_what_it_holds(run: Run) -> None:
    root = junit(run)
    for node in (root, *root):
        told = Counter(outcome_of(case) for case in node.iter("testcase"))
        assert int(node.attrib["tests"]) == told.total()
        assert (int(node.attrib["failures"]), int(node.attrib["errors"])) == (told["failure"], told["error"])


def test_junit_names_no_two_cases_alike() -> None:
    for run in (RUN, unchanged()):
        named = Counter((c.attrib["classname"], c.attrib["name"]) for c in junit(run).iter("testcase"))
        assert set(named.values()) == {1}


@pytest.mark.parametrize("run", [RUN, passing(), unchanged(), nothing_found()], ids=["golden", "pass", "same", "none"])
def test_junit_is_green_only_if_the_verdict_is_pass(run: Run) -> None:
    root = junit(run)
    green = root.attrib["failures"] == root.attrib["errors"] == "0"
    assert green == (run.report.verdict == "pass")


def test_junit_failure_says_where_the_manifest_asks_for_it() -> None:
    [failure] = (c[0] for c in junit().iter("testcase") if c.attrib["name"] == "correction-dominant")
    assert (failure.text or "").splitlines()[:2] == [
        "release/manifest.yaml:17",
        "asked: dominant_recognised at most 10.0 %",
    ]


# ---- CSV


def rows(run: Run = RUN) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_text("csv", run), newline=""), strict=True))


def test_csv_has_a_row_for_each_finding_with_its_numbers() -> None:
    told = rows()
    assert len(told) == len(REPORT.findings)
    for row, finding in zip(told, REPORT.findings, strict=True):
        assert (row["rule"], row["subject"], row["outcome"]) == (finding.rule, finding.subject or "", finding.outcome)
        assert float(row["value"]) == finding.value
        assert [row["low"], row["high"]] == (
            [str(finding.interval.low), str(finding.interval.high)] if finding.interval else ["", ""]
        )


def test_csv_ends_its_lines_as_the_rfc_asks() -> None:
    text = as_text("csv")
    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r\n") == len(REPORT.findings) + 1


def test_negative_number_in_csv_stays_a_number() -> None:
    first = REPORT.findings[0].model_copy(update={"value": -0.25})
    [row, *_] = rows(RUN._replace(report=REPORT.model_copy(update={"findings": (first,)})))
    assert float(row["value"]) == -0.25


# ---- ML-BOM


def test_bom_names_the_model_its_base_and_the_bytes_of_the_patch() -> None:
    model = as_json("cdx.json")["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model",
        "small",
        REPORT.patched_digest,
    )
    assert [a["version"] for a in model["pedigree"]["ancestors"]] == [REPORT.base_digest]
    [patch] = model["components"]
    assert f"sha256:{patch['hashes'][0]['content']}" == make_passes(PLAN).patch_digest


def test_bom_of_a_model_that_fmn_guard_did_not_make_claims_no_ancestor() -> None:
    model = as_json("cdx.json", passing())["metadata"]["component"]
    assert "pedigree" not in model
    assert "components" not in model
    assert {"name": "fmn-guard:compared-with", "value": BASE.identity} in model["properties"]


def test_bom_maps_each_rule_to_claims_for_and_against_it() -> None:
    document = as_json("cdx.json")
    claims = {claim["bom-ref"]: claim for claim in document["declarations"]["claims"]}
    [attestation] = document["declarations"]["attestations"]
    told = {each["requirement"]: (len(each["claims"]), len(each["counterClaims"])) for each in attestation["map"]}
    expected = {
        f"rule:{rule}": tuple(
            sum(f.rule == rule and f.outcome == outcome for f in REPORT.findings) for outcome in ("pass", "fail")
        )
        for rule in {f.rule for f in REPORT.findings}
    }
    assert told == expected
    mapped = [ref for each in attestation["map"] for ref in (*each["claims"], *each["counterClaims"])]
    assert sorted(mapped) == sorted(claims)
    assert len(claims) == sum(f.outcome != "inconclusive" for f in REPORT.findings)


@pytest.mark.parametrize("run", [RUN, passing(), unchanged()], ids=["golden", "pass", "same"])
def test_bom_references_are_unique_and_lead_somewhere(run: Run) -> None:
    document = as_json("cdx.json", run)
    defined = re.findall(r'"bom-ref": "([^"]+)"', as_text("cdx.json", run))
    assert len(defined) == len(set(defined))
    declared = document["declarations"]
    used = [ref for claim in declared["claims"] for ref in (claim["target"], *claim["evidence"])]
    used += [each["requirement"] for each in declared["attestations"][0]["map"]]
    assert set(used) <= set(defined)


def test_bom_serial_number_follows_from_the_report_alone() -> None:
    number = as_json("cdx.json")["serialNumber"]
    assert number == as_json("cdx.json")["serialNumber"]
    assert uuid.UUID(number.removeprefix("urn:uuid:")).version == 5
    other = RUN._replace(report=REPORT.model_copy(update={"audit_digest": digest("other")}))
    assert as_json("cdx.json", other)["serialNumber"] != number
    assert "timestamp" not in as_text("cdx.json")


# ---- model card


@pytest.mark.parametrize("ending", ["card.md", "cdx.json"])
def test_what_is_published_beside_a_model_numbers_people_and_names_none(ending: str) -> None:
    text = as_text(ending)
    assert not re.search(r"\bada\b|thorne", text, re.IGNORECASE)
    assert "identity 1 (alias 1)" in text
    assert "pistol (gun)" in text


def test_model_card_is_read_by_the_hub_library_with_every_measured_finding() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(as_text("card.md"))
    measured = [f for f in REPORT.findings if f.interval]
    assert card.data.model_name == "small"
    assert [(e.metric_type, e.metric_value) for e in card.data.eval_results] == [
        (f.metric, pytest.approx(f.value, abs=5e-5)) for f in measured
    ]
    assert [e.metric_args["outcome"] for e in card.data.eval_results] == [f.outcome for f in measured]
    assert {e.task_type for e in card.data.eval_results} == {"text-to-image"}
    assert {e.dataset_revision for e in card.data.eval_results} == {PLAN.suite_digest}


def test_model_card_of_a_run_without_measured_findings_is_read_too() -> None:
    from huggingface_hub import ModelCard

    assert ModelCard(as_text("card.md", nothing_found())).data.eval_results == []


# ---- GitHub and shields


def commands(run: Run = RUN) -> list[tuple[str, dict[str, str], str]]:
    """Annotations as GitHub's runner reads them."""

    def read(text: str) -> str:
        for code, mark in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            text = text.replace(code, mark)
        return text

    found = []
    for line in as_text("annotations.txt", run).splitlines():
        command = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
        assert command, line
        stated = dict(each.split("=", 1) for each in command[2].split(","))
        found.append((command[1], {name: read(value) for name, value in stated.items()}, read(command[3])))
    return found


def test_annotations_stand_at_the_manifest_the_worst_first_and_end_with_the_verdict() -> None:
    first, *_, last_finding, verdict = commands()
    assert first == (
        "error",
        {"file": "release/manifest.yaml", "line": "17", "title": "correction-dominant: the-captain"},
        "fail: 36 of 36 pictures show it: even the lower bound 90.4 % is beyond the limit of 10.0 %.",
    )
    assert last_finding[0] == "warning"
    assert verdict == ("notice", {"title": "fmn-guard"}, "FAIL: small under policy house.")


def many(n: int) -> Run:
    """A run of n concepts, none of which is forgotten."""
    plan = make_plan(
        *(forget(f"thing-{i}") for i in range(n)),
        asked=tuple(probe for i in range(n) for probe in probes("target", f"thing-{i}", 2)),
    )
    audit = make_audit(plan, lambda probe, side, label: True)
    return Run(judge(plan, audit, make_policy(SUPPRESSED)), plan, audit, None)


def test_annotations_are_the_ten_worst_and_say_how_many_are_left() -> None:
    run = many(8)
    told = commands(run)
    assert len(told) == 11
    left = sum(f.outcome != "pass" for f in run.report.findings) - 10
    assert left > 0
    assert told[-1][2].endswith(f"; {left} more findings do not pass.")


def test_annotations_of_a_passing_run_are_its_verdict() -> None:
    assert commands(passing()) == [("notice", {"title": "fmn-guard"}, "PASS: small under policy house.")]


def test_step_summary_has_the_worst_first_and_its_place() -> None:
    lines = as_text("summary.md").splitlines()
    table = lines.index("### Findings that do not pass") + 4
    assert lines[0] == "## FAIL: small under policy house"
    assert lines[table].startswith("| fail | correction-dominant | the-captain | release/manifest.yaml:17 |")


def test_step_summary_that_would_be_too_long_loses_its_end_and_says_so() -> None:
    long = REPORT.findings[0].model_copy(update={"outcome": "fail", "reason": "x" * 1000})
    waived = tuple(f for f in REPORT.findings if f.waiver)
    report = REPORT.model_copy(update={"findings": (long,) * 2000 + waived})
    text = as_text("summary.md", RUN._replace(report=report))
    assert 890_000 < len(text.encode()) <= 900_000
    lines = text.splitlines()
    left = re.fullmatch(r"\.\.\. (\d+) more lines are left out here; the run's report\.md has them\.", lines[-1])
    assert left
    whole = as_text("summary.md").splitlines()
    rows_more = 2000 - len(open_findings(REPORT))
    assert len(lines) - 2 + int(left[1]) == len(whole) + rows_more


@pytest.mark.parametrize(
    ("run", "message", "colour"),
    [(RUN, "fail, 1 of 3 suppressed", "red"), (passing(), "pass, 1 of 1 suppressed", "brightgreen")],
    ids=["fail", "pass"],
)
def test_badge_is_what_the_endpoint_of_shields_asks_for(run: Run, message: str, colour: str) -> None:
    label = {"label": "fmn-guard house", "message": message, "color": colour}
    assert as_json("badge.json", run) == {"schemaVersion": 1, **label}


def test_inconclusive_badge_is_yellow() -> None:
    assert as_json("badge.json", nothing_found())["color"] == "yellow"


def test_golden_run_has_every_outcome_of_either_severity_but_a_passing_warning() -> None:
    assert {(f.severity, f.outcome) for f in REPORT.findings} == {
        ("error", "pass"),
        ("error", "fail"),
        ("error", "inconclusive"),
        ("warning", "fail"),
    }
    assert judge(PLAN, RUN.audit, POLICY, RUN.passes, judged_on=REPORT.judged_on).verdict == REPORT.verdict == "fail"
