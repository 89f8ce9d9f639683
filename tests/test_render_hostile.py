"""Names, reasons and error messages come from outside: whatever they hold, no format is broken by them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmn_guard.evidence import Instrument
from fmn_guard.render import FORMATS, Run, render
from fmn_guard.render.findings import open_findings
from fmn_guard.render.text import one_line
from fmn_guard.source import Source
from fmn_guard.summaries import Unscored

from .builder import make_framework
from .golden import PLAN, REPORT, RUN
from .test_render_formats import VALIDATED, problems

TRICKS = (
    *("=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\uff1d1+1", "\t=1", '"', "'", '","', "\r\n=1,2"),
    *("]]>", "<script>alert(1)</script>", "</testsuite>", "<!--", "&lt;", "&#0;", "<![CDATA["),
    *("\n::error::x", "%0A::set-output name=a::b", "::stop-commands::x", ",line=1", ":", "%"),
    *("---\n", "\n---\n", "no", "~", "null", ": ", "# ", "!!python/object:x", "*a", "&a", "{{ x }}", "\\u0041"),
    *("| a | b |", "`x`", "[x](javascript:1)", "**", "\n# h", "\\", "{0}", "[a](1)", "$x$", "~~x~~", "\\|"),
    *("\x00", "\x1b[31m", "\x85", "\u2028", "\u202e", "\ufffe", "\U0001f600", "é", "\u200b"),
)
hostile = st.lists(st.one_of(st.sampled_from(TRICKS), st.text(max_size=8)), min_size=1, max_size=4).map("".join)
few = settings(max_examples=60, deadline=None)


def spoilt(text: str) -> Run:
    """The golden run with a text in every place that takes any."""
    findings = tuple(finding.model_copy(update={"reason": text}) for finding in REPORT.findings)
    instrument = Instrument(name=text, version=text, licence=text, weights_digest=None, labels=(), error=text)
    report = REPORT.model_copy(
        update={
            "findings": findings,
            "concepts": tuple(c.model_copy(update={"phrase": text}) for c in REPORT.concepts),
            "warnings": (text,),
            "not_tested": (text,),
            "unscored": (Unscored(side="base", reason=text, count=1),),
            "instruments": (instrument,),
        }
    )
    source = Source(path=f"{text}.yaml", lines={"pistol": 13})
    base = PLAN.base.model_copy(update={"reference": text})
    plan = PLAN.model_copy(update={"source": source, "base": base})
    return Run(report, plan, RUN.audit, RUN.passes, frameworks=(make_framework(text or "none"),))


def written(ending: str, text: str) -> str:
    return render(Path(f"r.{ending}"), *spoilt(text))


@few
@example("\\\\u0041")
@example(r"\\server\share\file.yaml")
@given(hostile | st.just("\ud800"))  # half a surrogate pair: no record that was read from a file holds one
def test_one_line_is_one_line_that_every_encoding_can_hold(text: str) -> None:
    line = one_line(text)
    assert line.splitlines() in ([], [line])
    assert line.encode().decode() == line
    assert one_line(line) == line
    ElementTree.fromstring(f"<a>{re.sub('[<&>]', '', line)}</a>")


@pytest.mark.parametrize("ending", VALIDATED)
@settings(max_examples=15, deadline=None)
@given(text=hostile)
def test_file_stays_valid_by_its_official_schema(ending: str, text: str) -> None:
    assert problems(ending, written(ending, text)) == []


@few
@given(hostile)
def test_xml_gives_the_text_back_and_nothing_beside_it(text: str) -> None:
    root = ElementTree.fromstring(written("junit.xml", text))
    told = [node.attrib["message"] for node in root.iter() if node.tag in ("failure", "error")]
    assert told == [one_line(text)] * len(told) != []
    assert len(list(root.iter("testcase"))) == len(REPORT.findings) + 1


@few
@given(hostile)
def test_sarif_gives_the_text_back_once_its_escapes_are_undone(text: str) -> None:
    [run] = json.loads(written("sarif", text))["runs"]
    for result in run["results"]:
        escaped = result["message"]["text"]
        bare = re.sub(r"\\.", "", escaped)
        assert "[" not in bare and "]" not in bare
        assert not re.search(r"(?<!\{)(\{\{)*\{(?!\{)", escaped)
        assert one_line(text) in re.sub(r"\\(.)", r"\1", escaped).replace("{{", "{").replace("}}", "}")


@few
@given(hostile)
def test_csv_has_the_same_cells_and_no_formula(text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", text), newline=""), strict=True))
    assert len(rows) == len(REPORT.findings)
    for row in rows:
        assert None not in row and None not in row.values()
        assert row["reason"].removeprefix("'") == one_line(text).removeprefix("'")
        for name in ("reason", "file"):
            assert not row[name].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))


@few
@given(hostile)
def test_no_text_becomes_a_workflow_command_of_its_own(text: str) -> None:
    lines = written("annotations.txt", text).split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(open_findings(REPORT)) + 1
    for line in lines[:-1]:
        assert "\r" not in line
        command = re.fullmatch(r"::(error|warning) file=([^:,]*),line=\d+,title=[^:,]*::(.*)", line)
        assert command
        assert re.sub("%25", "%", command[3]).endswith(one_line(text))


@few
@given(hostile)
def test_front_matter_is_read_as_it_was_meant_by_yaml_1_1(text: str) -> None:
    from huggingface_hub import ModelCard

    shown = [result.metric_name for result in ModelCard(written("card.md", text)).data.eval_results]
    assert len(shown) == sum(finding.interval is not None for finding in REPORT.findings)
    assert one_line(f"target_recognised, {text}") in shown


@pytest.mark.parametrize("ending", ["md", "summary.md", "card.md"])
@few
@given(text=hostile)
def test_markdown_keeps_its_lines_and_columns(ending: str, text: str) -> None:
    found, plain = written(ending, text).split("\n"), written(ending, "plain").split("\n")
    assert len(found) == len(plain)
    for line, expected in zip(found, plain, strict=True):
        if expected.startswith("|"):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(re.findall(r"\|", expected))
        if not line.startswith(" "):  # front matter is YAML
            assert not re.search(r"(?<!\\)(?:\\\\)*<[a-z!/]", line)


@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {"json"}))
def test_no_format_but_the_record_itself_names_a_folder_of_the_machine(ending: str) -> None:
    home = "/".join(["", "home", "ada"])  # no text of the repository names such a folder
    run = spoilt(f"cannot open '{home}/secret/x.onnx'")
    text = render(Path(f"r.{ending}"), *run._replace(plan=run.plan.model_copy(update={"source": None})))
    for folder in ("home", "secret"):
        assert folder not in text
