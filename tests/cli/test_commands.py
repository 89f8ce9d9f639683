"""Commands of the paper half: what they print where, and how they exit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import date
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.chain import write_files
from fmn_guard.cli.console import keep_quiet
from fmn_guard.cli.patch import patch
from fmn_guard.cli.policy import policy
from fmn_guard.cli.program import Program
from fmn_guard.cli.run import lacks_instrument, write_report
from fmn_guard.errors import FmnGuardError
from fmn_guard.evidence import Audit, Instrument, PassRecords
from fmn_guard.lint import lint_policy
from fmn_guard.plan import Plan
from fmn_guard.policy import RESERVED, load_policy
from fmn_guard.record import read_record
from fmn_guard.report import judge
from fmn_guard.schema import DOCUMENTS
from fmn_guard.shipped import frameworks, manifests, policies

from ..paper import MANIFEST, save_paper_checkpoint
from .finished import POLICY, finished_run

QUICKSTART = str(manifests() / "quickstart.yaml")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="fmn-guard")


# ---- how the program ends


def _failing(raised: BaseException) -> click.Group:
    """A program with one command, which raises."""

    def fail() -> None:
        raise raised

    return Program("program", commands={"fail": click.Command("fail", callback=fail)})


GROUPS = {"patch": patch, "policy": policy}


@pytest.mark.parametrize(
    "command", [*cli.main.commands, *(f"{name} {each}" for name, group in GROUPS.items() for each in group.commands)]
)
def test_command_has_help(command: str) -> None:
    result = _run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_bad_usage_exits_with_2() -> None:
    assert _run("apply").exit_code == 2
    assert _run("no-such-command").exit_code == 2
    assert _run("plan", QUICKSTART, "--no-such-option").exit_code == 2


def test_package_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "fmn_guard", "gate"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "fmn-guard gate" in run.stderr


def test_version_is_printed_on_stdout() -> None:
    result = _run("--version")
    assert result.exit_code == 0
    assert "fmn-guard" in result.stdout


def test_our_error_is_a_message_and_a_hint_without_traceback(home: Path) -> None:
    result = _run("gate", "nowhere")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is no run folder nowhere")
    assert "\n\nhint: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (FmnGuardError("broken", hint="mend it"), 1, "error: broken\n\nhint: mend it\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on\n"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            "error: the Python module 'torch' is not installed\n\nhint: pip install 'fmn-guard[run]'\n",
        ),
        (
            ModuleNotFoundError("No module named 'diffusers.x'", name="diffusers.x"),
            1,
            "error: the Python module 'diffusers' is not installed\n\nhint: pip install 'fmn-guard[run]'\n",
        ),
    ],
)
def test_error_has_exit_code_and_words(raised: BaseException, code: int, said: str) -> None:
    result = CliRunner().invoke(_failing(raised), ["fail"])
    assert (result.exit_code, result.stderr, result.stdout) == (code, said, "")


@pytest.mark.parametrize("bug", [RuntimeError("a bug"), ModuleNotFoundError("No module named 'x'", name="x")])
def test_any_other_exception_is_a_crash(bug: Exception) -> None:
    result = CliRunner().invoke(_failing(bug), ["fail"])
    assert result.exception is bug
    assert result.exit_code == 1


# ---- init, lint, schema


def test_init_writes_a_manifest_that_lints_and_its_schema(home: Path) -> None:
    assert _run("init", "models").exit_code == 0
    assert _run("lint", "models/manifest.yaml").exit_code == 0
    assert (home / "models" / "manifest.yaml").read_bytes() == Path(QUICKSTART).read_bytes()
    assert (home / "models" / "concept-manifest.schema.json").is_file()


def test_init_takes_a_file_name_and_never_overwrites(home: Path) -> None:
    assert _run("init", "mine.yaml").exit_code == 0
    (home / "mine.yaml").write_text("precious", encoding="utf-8")
    result = _run("init", "mine.yaml")
    assert result.exit_code == 2
    assert "mine.yaml exists already" in result.stderr
    assert (home / "mine.yaml").read_text(encoding="utf-8") == "precious"


def test_init_dry_run_writes_nothing(home: Path) -> None:
    result = _run("init", "--dry-run")
    assert result.exit_code == 0
    assert "would write manifest.yaml" in result.stderr
    assert list(home.iterdir()) == []


def test_lint_reports_the_problems_of_all_files(home: Path) -> None:
    (home / "a.yaml").write_text(MANIFEST.replace("nsfw", "nfsw"), encoding="utf-8")
    (home / "b.yaml").write_text(POLICY.replace("smoke", "smoky"), encoding="utf-8")
    result = _run("lint", "a.yaml", QUICKSTART, "b.yaml")
    assert result.exit_code == 2
    assert "a.yaml:13:13: unknown-kind: " in result.stdout
    assert "b.yaml:6:10: no-such-suite: " in result.stdout


def test_lint_json_is_one_document(home: Path) -> None:
    (home / "a.yaml").write_text(MANIFEST.replace("nsfw", "nfsw"), encoding="utf-8")
    result = _run("lint", "a.yaml", "--json")
    assert result.exit_code == 2
    [problem] = json.loads(result.stdout)["problems"]
    assert (problem["path"], problem["line"], problem["column"], problem["rule"]) == ("a.yaml", 13, 13, "unknown-kind")
    good = _run("lint", QUICKSTART, "--json")
    assert good.exit_code == 0
    assert json.loads(good.stdout)["problems"] == []


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_schema_prints_or_writes_one_document(name: str, home: Path) -> None:
    printed = _run("schema", name)
    assert _run("schema", name, "-o", "schema.json").exit_code == 0
    assert json.loads(printed.stdout) == json.loads((home / "schema.json").read_text(encoding="utf-8"))


# ---- plan, policy


def test_plan_prints_a_table_and_the_cost() -> None:
    result = _run("plan", QUICKSTART)
    assert result.exit_code == 0
    assert "the captain" in result.stdout
    assert "pictures" in result.stdout
    assert result.stderr == ""


def test_plan_json_is_one_document_with_digest_and_cost() -> None:
    document = json.loads(_run("plan", QUICKSTART, "--json").stdout)
    assert document["digest"].startswith("sha256:")
    assert document["plan"]["base"]["weights_digest"].startswith("sha256:")
    assert document["cost"]["passes"] == 5


@pytest.mark.parametrize("name", sorted(path.stem for path in policies().glob("*.yaml")))
def test_shipped_suite_draws_enough_to_decide_its_policy(name: str) -> None:
    assert "warning" not in _run("plan", QUICKSTART, "--policy", name).stderr


def test_plan_warns_of_limits_that_the_suite_cannot_decide(home: Path) -> None:
    rules = (
        "    - {id: hidden, metric: retained_drop, at_most: 0.03}\n"
        "    - {id: better, metric: retained_drop, at_most: -0.01}\n"
        "    - {id: shown, metric: target_recognised, at_least: 0.9}\n"
    )
    (home / "policy.yaml").write_text(POLICY.replace("0.5", "0.1") + rules, encoding="utf-8")
    result = _run("plan", QUICKSTART, "--policy", "policy.yaml", "--json")
    json.loads(result.stdout)
    warnings = result.stderr.splitlines()
    assert "Rule suppressed: it takes 35 pictures to prove target_recognised <= 10.0 %; planned are 6" in warnings[0]
    assert "Rule hidden: it takes 125 pictures" in warnings[1]
    assert "Rule better: no number of pictures" in warnings[2]
    assert "Rule shown: it takes 35 pictures" in warnings[3]


def test_plan_names_the_command_that_a_limit_waits_for_and_no_other() -> None:
    told = _run("plan", QUICKSTART, "--policy", "strict").stderr
    assert told == "note: rule not-by-inversion waits for `fmn-guard mscore RUN`\n"
    assert not _run("plan", QUICKSTART).stderr
    corrections = str(manifests() / "correction.yaml")
    assert "mscore" not in _run("plan", corrections, "--policy", "strict").stderr


def test_plan_of_an_unknown_policy_names_the_shipped_ones() -> None:
    result = _run("plan", QUICKSTART, "--policy", "lax")
    assert result.exit_code == 2
    assert "default, " in result.stderr


def test_policy_list_names_the_shipped_policies() -> None:
    names = [line.split(":")[0] for line in _run("policy", "list").stdout.splitlines()]
    assert names == sorted(path.stem for path in policies().glob("*.yaml"))
    assert [policy["name"] for policy in json.loads(_run("policy", "list", "--json").stdout)] == names


def test_policy_show_fills_in_every_default() -> None:
    shown = _run("policy", "show", "default").stdout
    assert "target_recognised <= 10.0 %" in shown
    assert "95%" in shown
    assert json.loads(_run("policy", "show", "strict", "--json").stdout)["spec"]["confidence"] == 0.95


CHILD = """\
apiVersion: fmn-guard/v1
kind: ReleasePolicy
metadata: {name: house}
spec:
  extends: default
  rules:
    - id: target-suppressed
      at_most: 0.08
      labels: []
"""


def test_policy_show_resolved_tells_where_each_field_is_written(home: Path) -> None:
    (home / "house.yaml").write_text(CHILD, encoding="utf-8")
    lines = _run("policy", "show", home / "house.yaml", "--resolved").stdout.splitlines()
    assert "spec.rules[target-suppressed].at_most: 0.08  [house.yaml:8]" in lines
    assert "spec.rules[target-suppressed].severity: error  [default]" in lines
    (source,) = (n for n, line in enumerate(_default_policy(), start=1) if line == "  suite: standard")
    assert f"spec.suite: standard  [shipped:default.yaml:{source}]" in lines
    document = json.loads(_run("policy", "show", "house.yaml", "--resolved", "--json").stdout)
    fields = {row["field"]: row for row in document["fields"]}
    assert fields["spec.rules[target-suppressed].at_most"] == {
        "field": "spec.rules[target-suppressed].at_most",
        "value": 0.08,
        "file": "house.yaml",
        "line": 8,
    }
    assert fields["spec.confidence"]["file"] is None
    assert document["digest"].startswith("sha256:")


def _default_policy() -> list[str]:
    return (policies() / "default.yaml").read_text(encoding="utf-8").splitlines()


def test_policy_show_tells_what_is_narrowed_waived_and_required(home: Path) -> None:
    (home / "policy.yaml").write_text(
        POLICY.replace("0.5}", "0.5, labels: [likeness], on_inconclusive: fail}")
        + "  evidence: {pinned_base: true}\n"
        + "  waivers: [{rule: suppressed, reason: agreed, owner: team, expires: 2030-01-01}]\n",
        encoding="utf-8",
    )
    shown = _run("policy", "show", "policy.yaml").stdout
    for words in (
        "only labelled likeness",
        "inconclusive counts as fail",
        "required evidence: pinned_base true",
        "waived: suppressed, by team until 2030-01-01: agreed",
    ):
        assert words in shown


def test_policy_explain_tells_limit_origin_and_pictures(home: Path) -> None:
    (home / "house.yaml").write_text(CHILD, encoding="utf-8")
    said = dict(
        line.split(": ", 1)
        for line in _run("policy", "explain", "target-suppressed", "--policy", "house.yaml").stdout.splitlines()
    )
    assert said["target-suppressed"] == "target_recognised <= 8.0 %, in policy house"
    assert said["Limit from"] == "house.yaml:8"
    assert said["Passes if"] == "the upper end of the 95 % interval is at most 8.0 %"
    assert said["Pictures"] == "at least 45; of so few, none may show it"


@pytest.mark.parametrize("name", sorted(path.stem for path in policies().glob("*.yaml")))
def test_policy_explain_knows_every_rule_of_every_policy(name: str) -> None:
    rules = [rule.id for rule in load_policy(policies() / f"{name}.yaml").spec.rules]
    for rule in (*rules, *RESERVED):
        result = _run("policy", "explain", rule, "--policy", name)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"{rule}: ")
    unknown = _run("policy", "explain", "no-such-rule", "--policy", name)
    assert unknown.exit_code == 2
    assert rules[0] in unknown.stderr


def test_policy_test_exits_with_3_when_an_outcome_is_not_the_expected_one(home: Path) -> None:
    shipped = policies() / "tests" / "default.yaml"
    good = _run("policy", "test", shipped)
    assert (good.exit_code, good.stdout) == (0, "")
    text = shipped.read_text(encoding="utf-8").replace("verdict: inconclusive", "verdict: pass", 1)
    (home / "cases.yaml").write_text(text, encoding="utf-8")
    bad = _run("policy", "test", shipped, "cases.yaml")
    assert bad.exit_code == 3
    assert "the verdict is inconclusive, expected pass" in bad.stdout
    assert bad.stdout.startswith("cases.yaml:")
    document = json.loads(_run("policy", "test", "cases.yaml", "--json").stdout)
    assert [each["path"] for each in document["unexpected"]] == ["cases.yaml"]


def test_policy_frameworks_are_listed_and_shown_as_unverified() -> None:
    lines = _run("policy", "frameworks").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == sorted(path.stem for path in frameworks().glob("*.yaml"))
    assert all(line.endswith("unverified") for line in lines)
    assert len(json.loads(_run("policy", "frameworks", "--json").stdout)) == len(lines)
    shown = _run("policy", "frameworks", "gdpr").stdout
    assert "Art. 17: A person can have personal data erased." in shown
    assert "not covered: Erasure itself." in shown


def test_lint_warns_of_a_waiver_that_has_expired(home: Path) -> None:
    waiver = "  waivers: [{rule: suppressed, reason: agreed, owner: team, expires: 2020-01-01}]\n"
    (home / "policy.yaml").write_text(POLICY + waiver, encoding="utf-8")
    result = _run("lint", "policy.yaml", "--json")
    assert result.exit_code == 0
    assert "warning: policy.yaml:9:70: waiver-expired: " in result.stderr
    document = json.loads(result.stdout)
    assert document["problems"] == []
    assert [each["rule"] for each in document["warnings"]] == ["waiver-expired"]


# ---- runs


def test_gate_exits_by_the_verdict(home: Path) -> None:
    run = finished_run(home)
    result = _run("gate", run.folder)
    assert result.exit_code == 0
    assert "PASS" in result.stdout
    assert json.loads(_run("gate", run.folder, "--json").stdout)["verdict"] == "pass"


def test_gate_exits_with_3_when_the_concept_is_still_drawn(home: Path) -> None:
    assert _run("gate", finished_run(home, still_drawn=True).folder).exit_code == 3


def test_gate_fails_a_verdict_whose_waiver_has_expired_since(home: Path) -> None:
    run = finished_run(home, still_drawn=True)
    waivers = "".join(
        f"    - {{rule: {rule}, subject: {subject}, reason: agreed, owner: team, expires: 2020-01-01}}\n"
        for rule in ("suppressed", "no-effect")
        for subject in ("hamburger", "pistol")
    )
    kept = "    - {id: kept, metric: retained_drop, at_most: 1.0}\n"
    run.policy.write_text(f"{POLICY}{kept}  waivers:\n{waivers}", encoding="utf-8")
    assert _run("report", run.folder, "--policy", run.policy).exit_code == 0
    assert _run("gate", run.folder).exit_code == 3
    rules, _ = lint_policy(run.policy)
    audit, plan = read_record(run.folder / "audit.json", Audit), read_record(run.folder / "plan.json", Plan)
    passes = read_record(run.folder / "passes.json", PassRecords)
    before = judge(plan, audit, rules, passes, judged_on=date(2020, 1, 1))
    assert before.verdict == "pass"
    write_report(run.folder, rules, before, plan, audit, passes, keep_quiet)
    write_files(run.folder, None, ())
    late = _run("gate", run.folder)
    assert late.exit_code == 3
    assert "The waiver of suppressed of hamburger by team expired on 2020-01-01: fail." in late.stderr


def test_gate_holds_back_a_run_whose_policy_asks_for_a_signature(home: Path) -> None:
    run = finished_run(home)
    run.policy.write_text(POLICY + "  evidence: {signature: required}\n", encoding="utf-8")
    assert _run("report", run.folder, "--policy", run.policy).exit_code == 0
    result = _run("gate", run.folder)
    assert result.exit_code == 4
    assert "asks for a signature" in result.stderr


def test_gate_refuses_a_patch_that_was_changed(home: Path) -> None:
    run = finished_run(home)
    (run.folder / "patch.safetensors").write_bytes(b"others")
    assert _run("gate", run.folder).exit_code == 2


def test_report_writes_other_formats(home: Path) -> None:
    run = finished_run(home)
    result = _run("report", run.folder, "-o", "a.md", "-o", "b.json")
    assert result.exit_code == 0
    assert json.loads((home / "b.json").read_text(encoding="utf-8"))["verdict"] == "pass"
    assert (home / "a.md").stat().st_size > 0
    assert result.stderr.splitlines() == ["wrote a.md: all of it, for people", "wrote b.json: all of it, for programs"]


def test_report_judges_again_under_another_policy(home: Path) -> None:
    run = finished_run(home)
    (home / "tight.yaml").write_text(POLICY.replace("0.5", "0.1").replace("easy", "tight"), encoding="utf-8")
    assert _run("report", run.folder, "--policy", "tight.yaml").exit_code == 0
    assert json.loads((run.folder / "report.json").read_text(encoding="utf-8"))["policy"] == "tight"
    assert "tight" in (run.folder / "report.md").read_text(encoding="utf-8")
    assert json.loads((run.folder / "policy.json").read_text(encoding="utf-8"))["metadata"]["name"] == "tight"
    assert _run("gate", run.folder).exit_code == 4


def test_report_refuses_a_policy_over_another_suite_and_writes_nothing(home: Path) -> None:
    run = finished_run(home)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    result = _run("report", run.folder, "--policy", "strict", "-o", "a.md")
    assert result.exit_code == 2
    assert "asks suite strict" in result.stderr
    assert "fmn-guard apply" in result.stderr
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_gate_under_a_policy_asks_that_it_was_judged_by_exactly_that_one(home: Path) -> None:
    run = finished_run(home)
    assert _run("gate", run.folder, "--policy", run.policy).exit_code == 0
    (home / "tight.yaml").write_text(POLICY.replace("0.5", "0.1").replace("easy", "tight"), encoding="utf-8")
    refused = _run("gate", run.folder, "--policy", "tight.yaml")
    assert refused.exit_code == 2
    assert "policy easy" in refused.stderr
    assert _run("report", run.folder, "--policy", "tight.yaml").exit_code == 0
    assert _run("gate", run.folder, "--policy", "tight.yaml").exit_code == 4
    assert _run("gate", run.folder, "--policy", "strict").exit_code == 2


def test_audit_in_which_a_detector_did_not_load_is_made_again(home: Path) -> None:
    audit = read_record(finished_run(home).folder / "audit.json", Audit)
    judge, nudenet = (
        Instrument(name=name, version="1", licence="", weights_digest=None, labels=(), error=error)
        for name, error in (("builtin-judge", None), ("nudenet", "not installed"))
    )
    assert not lacks_instrument(audit.model_copy(update={"instruments": (judge,)}))
    assert lacks_instrument(audit.model_copy(update={"instruments": (judge, nudenet)}))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "meta", ""])
@pytest.mark.parametrize("command", ["apply", "audit", "sample"])
def test_device_of_another_name_is_bad_usage(command: str, device: str, home: Path) -> None:
    arguments = {
        "apply": [QUICKSTART],
        "audit": ["builtin:emoji-sd", "--manifest", QUICKSTART],
        "sample": ["builtin:emoji-sd", "a lion"],
    }
    result = _run(command, *arguments[command], "--device", device)
    assert result.exit_code == 2
    assert "cuda:N" in result.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda", "cuda:1"])
def test_device_is_named_as_torch_does(device: str, home: Path) -> None:
    assert _run("apply", QUICKSTART, "--dry-run", "--device", device).exit_code == 0


def test_base_on_the_command_line_is_relative_to_the_current_directory(home: Path) -> None:
    (home / "papers").mkdir()
    (home / "papers" / "manifest.yaml").write_text(MANIFEST, encoding="utf-8")
    save_paper_checkpoint(home / "base")
    options = ("--manifest", "papers/manifest.yaml", "--policy", "default")
    assert "no-such-checkpoint" not in _run("audit", "nowhere", *options, "--base", "base").stderr
    (home / "base").rename(home / "papers" / "base")
    missing = _run("audit", "nowhere", *options, "--base", "base")
    assert missing.exit_code == 2
    assert "no-such-checkpoint" in missing.stderr


def test_apply_reuses_a_finished_run_and_says_so(home: Path) -> None:
    run = finished_run(home)
    result = _run("apply", run.manifest, "--policy", run.policy, "--out", run.folder)
    assert result.exit_code == 0, result.stderr
    assert "re-using run/passes.json and its patch" in result.stderr
    assert "re-using run/audit.json" in result.stderr
    assert (run.folder / "report.md").is_file()
    quiet = _run("apply", run.manifest, "--policy", run.policy, "--out", run.folder, "--quiet", "--json")
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["verdict"] == "pass"


def test_apply_refuses_the_folder_of_another_plan(home: Path) -> None:
    run = finished_run(home)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    run.manifest.write_text(MANIFEST.replace("keep: [pizza]", "keep: [rocket]"), encoding="utf-8")
    result = _run("apply", run.manifest, "--policy", run.policy, "--out", run.folder)
    assert result.exit_code == 2
    assert "holds the run of plan" in result.stderr
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_apply_dry_run_writes_nothing_and_names_the_folder(home: Path) -> None:
    result = _run("apply", QUICKSTART, "--dry-run", "--json")
    digest = json.loads(result.stdout)["digest"].removeprefix("sha256:")
    assert f"would write into audits/quickstart-{digest[:8]}" in result.stderr
    assert list(home.iterdir()) == []


def test_apply_of_a_bad_manifest_writes_nothing(home: Path) -> None:
    (home / "bad.yaml").write_text(MANIFEST.replace("nsfw", "nfsw"), encoding="utf-8")
    result = _run("apply", "bad.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("bad.yaml:13:13: unknown-kind: ")
    assert [path.name for path in home.iterdir()] == ["bad.yaml"]


def test_apply_never_saves_into_a_folder_with_something_in_it(home: Path) -> None:
    run = finished_run(home)
    result = _run("apply", run.manifest, "--policy", run.policy, "--save-checkpoint", run.folder)
    assert result.exit_code == 2
    assert "run is not empty" in result.stderr


def test_audit_never_overwrites_the_run_of_another_checkpoint(home: Path) -> None:
    run = finished_run(home)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    options = ("--manifest", run.manifest, "--policy", run.policy, "--out", run.folder)
    result = _run("audit", "builtin:emoji-sd", *options)
    assert result.exit_code == 2
    assert "run holds the run of another checkpoint" in result.stderr
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


# ---- the rest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    result = _run("completion", shell)
    assert result.exit_code == 0
    assert "_FMN_GUARD_COMPLETE" in result.stdout


def test_doctor_json_is_one_document_with_versions() -> None:
    document = json.loads(_run("doctor", "--json").stdout)
    assert document["versions"]["click"]
    assert set(document["extras"]) == {"run", "nudenet", "opennsfw", "faces", "sign", "ray"}
    assert "AGPL" in document["notes"][0]


@pytest.mark.parametrize(("content", "code"), [(b"weights", 0), (b"others", 1), (None, 1)])
def test_doctor_exits_by_the_state_of_the_built_in_models(
    content: bytes | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = f"{hashlib.sha256(b'weights').hexdigest()}  emoji-sd/model.safetensors\n"
    (tmp_path / "SHA256SUMS").write_text(sums, encoding="ascii")
    if content is not None:
        (tmp_path / "emoji-sd").mkdir()
        (tmp_path / "emoji-sd" / "model.safetensors").write_bytes(content)
    # The package calls its command by the module's name, so the module is asked for by its full one.
    monkeypatch.setattr(import_module("fmn_guard.cli.doctor"), "models", lambda: tmp_path)
    assert _run("doctor").exit_code == code
