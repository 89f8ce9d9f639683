"""verify, keygen, sign, clean, and the gate with a key, on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.chain import write_files

from ..pictures import write_pictures
from .finished import Run, finished_run
from .test_pictures import pictured_run


def _run(*arguments: object, answer: str | None = None, **environment: str) -> Result:
    return CliRunner().invoke(cli.main, [str(each) for each in arguments], input=answer, env=environment)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = finished_run(tmp_path)
    write_pictures(made.folder)
    write_files(made.folder, None, ())
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert _run("keygen", tmp_path / "key").exit_code == 0
    return tmp_path / "key"


def test_verify_tells_what_it_checked(run: Run) -> None:
    result = _run("verify", run.folder)
    assert result.exit_code == 0
    assert "11 files" in result.stdout
    assert "pass" in result.stdout
    assert "signature: none" in result.stdout
    plain = json.loads(_run("verify", run.folder, "--json").stdout)
    assert plain["verdict"] == "pass"
    assert len(plain["files"]) == 11


def test_verify_exits_with_0_on_a_fail_that_is_of_one_piece(tmp_path: Path) -> None:
    run = finished_run(tmp_path, still_drawn=True)
    assert _run("gate", run.folder).exit_code == 3
    assert _run("verify", run.folder).exit_code == 0


def test_verify_names_the_file_that_differs_without_a_traceback(run: Run) -> None:
    (run.folder / "images" / "base" / "a.png").write_bytes(b"no picture")
    result = _run("verify", run.folder)
    assert result.exit_code == 2
    assert "a.png" in result.stderr
    assert "hint: " in result.stderr
    assert result.stdout == ""


def _other_picture(run: Path) -> str:
    (run / "images" / "base" / "a.png").write_bytes(b"no picture")
    return "images/base/a.png"


def _one_file_more(run: Path) -> str:
    (run / "report.html").write_text("all is well", encoding="utf-8")
    return "report.html"


def _one_report_less(run: Path) -> str:
    (run / "report.md").unlink()
    return "report.md"


def _white_space(run: Path) -> str:
    (run / "audit.json").write_bytes((run / "audit.json").read_bytes() + b" ")
    return "audit.json"


@pytest.mark.parametrize("spoil", [_other_picture, _one_file_more, _one_report_less, _white_space])
def test_gate_names_the_file_that_differs_with_and_without_a_key(
    run: Run, key: Path, spoil: Callable[[Path], str]
) -> None:
    assert _run("sign", run.folder, "--key", key).exit_code == 0
    named = spoil(run.folder)
    for keys in ((), ("--key", f"{key}.pub")):
        result = _run("gate", run.folder, *keys)
        assert result.exit_code == 2
        assert named in result.stderr
        assert result.stdout == ""


def test_gate_of_a_whole_run_has_nothing_to_add(run: Run, key: Path) -> None:
    assert _run("gate", run.folder).stderr == ""
    assert _run("sign", run.folder, "--key", key).exit_code == 0
    assert _run("gate", run.folder, "--key", f"{key}.pub").stderr == ""


def test_gate_says_what_it_did_not_check_and_why(run: Run, key: Path) -> None:
    assert _run("sign", run.folder, "--key", key).exit_code == 0
    shutil.rmtree(run.folder / "images" / "base")  # git has no pictures of a run
    unkeyed = _run("gate", run.folder)
    assert unkeyed.exit_code == 0
    assert "Not checked: 2 of 4 pictures, which are not here" in unkeyed.stderr
    assert "Not checked: signature.dsse.json, since no --key" in unkeyed.stderr
    keyed = _run("gate", run.folder, "--key", f"{key}.pub")
    assert keyed.exit_code == 0
    assert "signature" not in keyed.stderr
    assert _run("verify", run.folder).exit_code == 2
    shutil.rmtree(run.folder / "images")
    assert "4 of 4 pictures" in _run("gate", run.folder, "--json").stderr


def test_gate_without_a_key_needs_no_cryptography(run: Run, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run("sign", run.folder, "--key", key).exit_code == 0
    _without_the_extra(monkeypatch)
    assert _run("gate", run.folder).exit_code == 0
    for refused in (_run("gate", run.folder, "--key", f"{key}.pub"), _run("verify", run.folder)):
        assert refused.exit_code == 1
        assert "pip install 'fmn-guard[sign]'" in refused.stderr


def test_signed_run_is_verified_with_the_public_key(run: Run, key: Path) -> None:
    signed = _run("sign", run.folder, "--key", key)
    assert signed.exit_code == 0, signed.stderr
    assert "not checked against a key" in _run("verify", run.folder).stdout
    checked = _run("verify", run.folder, "--key", f"{key}.pub")
    assert checked.exit_code == 0
    assert "not checked" not in checked.stdout


def test_signature_can_be_asked_for_without_a_key(run: Run, key: Path) -> None:
    refused = _run("verify", run.folder, "--require-signature")
    assert refused.exit_code == 2
    assert "the run is not signed" in refused.stderr
    assert _run("sign", run.folder, "--key", key).exit_code == 0
    assert _run("verify", run.folder, "--require-signature").exit_code == 0


def test_broken_run_is_not_signed(run: Run, key: Path) -> None:
    (run.folder / "images" / "base" / "a.png").write_bytes(b"no picture")
    assert _run("sign", run.folder, "--key", key).exit_code == 2
    assert not (run.folder / "signature.dsse.json").exists()


def test_gate_of_a_policy_that_asks_for_a_signature_passes_with_the_key_only(tmp_path: Path, key: Path) -> None:
    (home := tmp_path / "home").mkdir()
    run = finished_run(home)
    text = run.policy.read_text(encoding="utf-8")
    run.policy.write_text(text + "  evidence: {signature: required}\n", encoding="utf-8")
    assert _run("report", run.folder, "--policy", run.policy).exit_code == 0
    assert _run("sign", run.folder, "--key", key).exit_code == 0
    unchecked = _run("gate", run.folder)
    assert unchecked.exit_code == 4
    assert "signature" in unchecked.stderr
    assert _run("gate", run.folder, "--key", f"{key}.pub").exit_code == 0
    (tmp_path / "other").mkdir()
    _run("keygen", tmp_path / "other" / "key")
    assert _run("gate", run.folder, "--key", tmp_path / "other" / "key.pub").exit_code == 2


def test_report_after_signing_says_to_sign_again(run: Run, key: Path) -> None:
    _run("sign", run.folder, "--key", key)
    written = _run("report", run.folder, "-o", run.folder / "report.sarif")
    assert "sign again" in written.stderr
    assert _run("verify", run.folder, "--key", f"{key}.pub").exit_code == 2
    _run("sign", run.folder, "--key", key)
    assert _run("verify", run.folder, "--key", f"{key}.pub").exit_code == 0


def test_report_elsewhere_leaves_a_run_as_it_is(run: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    assert _run("report", run.folder, "-o", tmp_path / "report.sarif").exit_code == 0
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_run_of_an_older_version_gets_its_list_by_judging_again(run: Run) -> None:
    (run.folder / "files.json").unlink()
    for refused in (_run("verify", run.folder), _run("gate", run.folder)):
        assert refused.exit_code == 2
        assert "fmn-guard report RUN --policy NAME" in refused.stderr
    assert _run("report", run.folder, "--policy", run.policy).exit_code == 0
    assert _run("verify", run.folder).exit_code == 0
    assert _run("gate", run.folder).exit_code == 0


def test_finished_run_is_verified_after_apply_and_audit_went_over_it_again(run: Run) -> None:
    on_run = ("--policy", run.policy, "--out", run.folder)
    assert _run("apply", run.manifest, *on_run, "-o", run.folder / "report.csv").exit_code == 0
    assert _run("verify", run.folder).exit_code == 0


def test_cleaned_run_is_verified_and_gated(run: Run) -> None:
    sizes = {path.name: path.stat().st_size for path in (run.folder / "images" / "base").iterdir()}
    listed = _run("clean", run.folder, "--dry-run")
    assert len(listed.stdout.splitlines()) == 4
    assert f"{sizes['a.png']} " in next(line for line in listed.stdout.splitlines() if line.endswith("base/a.png"))
    total = sum(path.stat().st_size for path in run.folder.rglob("*.png"))
    assert f"would remove 4 files and 0 leftovers of {run.folder}: {total:,} bytes" in listed.stderr
    cleaned = _run("clean", run.folder)
    assert cleaned.exit_code == 0
    assert "stay" not in cleaned.stderr
    assert not (run.folder / "images").exists()
    assert "4 were cleaned" in _run("verify", run.folder).stdout
    gated = _run("gate", run.folder)
    assert gated.exit_code == 0
    assert "4 files that were cleaned" in gated.stderr


def test_page_is_the_same_after_cleaning_all_but_the_samples(tmp_path: Path) -> None:
    run = pictured_run(tmp_path)
    (run.folder / "files.json").unlink()
    assert _run("report", run.folder, "--policy", run.policy, "-o", tmp_path / "a.html").exit_code == 0
    cleaned = _run("clean", run.folder)
    assert "pictures stay" in cleaned.stderr
    assert _run("report", run.folder, "-o", tmp_path / "b.html").exit_code == 0
    assert (tmp_path / "b.html").read_bytes() == (tmp_path / "a.html").read_bytes()
    assert _run("clean", run.folder, "--keep", "evidence").exit_code == 0
    assert _run("report", run.folder, "-o", tmp_path / "c.html").exit_code == 0
    assert "<img" not in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert _run("verify", run.folder).exit_code == 0


def test_key_is_locked_by_a_variable_or_by_a_prompt(run: Run, tmp_path: Path) -> None:
    by_variable = ("--passphrase-env", "RELEASE_PASSPHRASE")
    assert _run("keygen", tmp_path / "a", *by_variable, RELEASE_PASSPHRASE="secret").exit_code == 0
    assert _run("keygen", tmp_path / "b", "--passphrase", answer="secret\nsecret\n").exit_code == 0
    for name in ("a", "b"):
        assert (tmp_path / name).read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    sign = ("sign", run.folder, "--key")
    assert _run(*sign, tmp_path / "a", *by_variable, RELEASE_PASSPHRASE="secret").exit_code == 0
    assert _run(*sign, tmp_path / "b", answer="secret\n").exit_code == 0
    assert _run(*sign, tmp_path / "b", answer="wrong\n").exit_code == 2
    unset = _run(*sign, tmp_path / "a", *by_variable)
    assert unset.exit_code == 2
    assert "RELEASE_PASSPHRASE is not set" in unset.stderr


def _without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = ("cryptography", "securesystemslib")
    for name in (*extra, *[each for each in sys.modules if each.partition(".")[0] in extra]):
        monkeypatch.setitem(sys.modules, name, None)


def test_without_the_extra_the_way_to_install_it_is_told(run: Run, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_the_extra(monkeypatch)
    result = _run("verify", run.folder, "--key", f"{key}.pub")
    assert result.exit_code == 1
    assert "pip install 'fmn-guard[sign]'" in result.stderr
    assert _run("verify", run.folder).exit_code == 0


def test_diff_exits_with_3_on_a_regression_and_with_0_on_the_way_back(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("good", "bad")]
    for home in homes:
        home.mkdir()
    good, bad = (finished_run(home, still_drawn=home.name == "bad").folder for home in homes)
    worse = _run("diff", good, bad)
    assert worse.exit_code == 3
    assert "worse" in worse.stdout
    assert worse.stdout.index("verdict") < worse.stdout.index("suppressed")
    better = _run("diff", bad, good, "--json")
    assert better.exit_code == 0
    assert json.loads(better.stdout)["improvements"]
    same = _run("diff", good, good)
    assert same.exit_code == 0
    assert "nothing became worse or better" in same.stdout


def test_diff_says_first_what_is_not_comparable(run: Run, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    other = finished_run(home)
    other.policy.write_text(other.policy.read_text(encoding="utf-8").replace("easy", "other"), encoding="utf-8")
    assert _run("report", other.folder, "--policy", other.policy).exit_code == 0
    result = _run("diff", run.folder, other.folder)
    assert result.exit_code == 4
    assert result.stdout.startswith("NOT COMPARABLE: policy: easy (")
    as_json = _run("diff", run.folder, other.folder, "--json")
    assert as_json.exit_code == 4
    assert "NOT COMPARABLE" in as_json.stderr
    assert json.loads(as_json.stdout)["not_comparable"][0]["what"] == "policy"


def test_diff_of_a_broken_run_is_refused(run: Run) -> None:
    (run.folder / "report.md").write_text("pass", encoding="utf-8")
    assert _run("diff", run.folder, run.folder).exit_code == 2


def test_what_is_concluded_among_the_audits_is_kept_in_their_index(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("audits").mkdir()
    run.folder.rename("audits/mine")
    judged = ("report", "audits/mine", "--policy", run.policy)
    assert "index.jsonl" in _run(*judged).stderr
    assert "index.jsonl" not in _run(*judged).stderr
    assert len(Path("audits/index.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "index: 1 lines" in _run("verify", "audits/mine").stdout
    run.policy.write_text(run.policy.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    assert _run("apply", run.manifest, "--policy", run.policy, "--out", "audits/mine").exit_code == 0
    assert "index: 2 lines" in _run("verify", "audits/mine").stdout
