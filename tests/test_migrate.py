"""What older versions wrote is lifted, not made up; what newer ones wrote is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.chain import check_files, write_files
from fmn_guard.errors import BrokenChain, FileProblems, InputError
from fmn_guard.gate import check_run, verify_run
from fmn_guard.migrate import RUN_LIFTS, Document, Lift, Migrated, lift_run, lift_text, write_run
from fmn_guard.passes import StopSpec
from fmn_guard.plan import Plan
from fmn_guard.record import digest, file_digest, pretty_json, read_record
from fmn_guard.shipped import manifests, policies, suites
from fmn_guard.signing import make_keys, sign_run

from . import concluded
from .builder import make_plan
from .pictures import write_pictures

STOP = StopSpec(
    recogniser="emoji-clip",
    shown="pistol",
    others=("dog",),
    prompts=("a pistol",),
    frames=("a {x}",),
    every=8,
    gone=0.1,
)
WEIGHTS = [50.0, 40.0, 30.0]


def _plan() -> Plan:
    plan = make_plan()
    return plan.model_copy(update={"passes": (plan.passes[0].model_copy(update={"stop": STOP}),)})


def _documents(run: Path) -> Document:
    names = [name for name in ("plan", "passes", "audit", "policy", "report") if (run / f"{name}.json").exists()]
    return {name: json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def _write(run: Path, documents: Document) -> None:
    """Writes the records of a run with the digests that chain them, as any version did."""
    plan = deepcopy(documents["plan"])
    plan.pop("source", None)
    del plan["base"]["reference"]
    for spec in plan["passes"]:
        del spec["images"]
    of: dict[str, Any] = {"plan_digest": digest(plan), "passes_digest": None}
    if "passes" in documents:
        documents["passes"]["plan_digest"] = of["plan_digest"]
        of["passes_digest"] = digest(documents["passes"])
    documents["audit"] |= of
    documents["report"] |= of
    documents["report"] |= {"audit_digest": digest(documents["audit"]), "policy_digest": digest(documents["policy"])}
    for name, document in documents.items():
        (run / f"{name}.json").write_text(pretty_json(document), encoding="utf-8")


@pytest.fixture
def today(tmp_path: Path) -> Path:
    """A concluded run of this version."""
    (folder := tmp_path / "today").mkdir()
    concluded.write_run(folder, plan=_plan())
    return folder


@pytest.fixture
def older(today: Path, tmp_path: Path) -> Path:
    """The same run as 0.1.0 wrote it: three solutions were planned, and the second one stood."""
    folder = tmp_path / "older"
    shutil.copytree(today, folder)
    documents = _documents(folder)
    [spec], [record] = documents["plan"]["passes"], documents["passes"]["passes"]
    spec["preserve"], spec["stop"]["fading"], record["solutions"] = WEIGHTS, 0.4, 2
    assert WEIGHTS[1] == _plan().passes[0].preserve
    policy = documents["policy"]["spec"]
    for key in ("waivers", "evidence", "point_estimates"):
        del policy[key]
    for rule in policy["rules"]:
        for key in ("labels", "concepts", "statistic", "on_inconclusive", "overridable"):
            del rule[key]
    _write(folder, documents)
    write_pictures(folder)
    return folder


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["migrate", *map(str, arguments)])


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- runs


def test_run_of_0_1_0_does_not_load_and_is_what_this_version_wrote_once_lifted(
    older: Path, today: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="wrong-shape") as caught:
        check_run(older)
    assert caught.value.hint is not None and "fmn-guard migrate" in caught.value.hint
    write_run(lift_run(older), tmp_path / "out")
    for name in ("plan.json", "passes.json", "patch.safetensors", "audit.json", "policy.json", "report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (today / name).read_bytes(), name
    assert _bytes(tmp_path / "out" / "images") == _bytes(older / "images")
    assert verify_run(tmp_path / "out").verdict == "pass"


@pytest.mark.parametrize("lift", RUN_LIFTS, ids=lambda lift: lift.apply.__name__)
def test_lift_is_pure_and_fits_only_once(older: Path, lift: Lift) -> None:
    document = _documents(older)
    before = deepcopy(document)
    assert lift.fits(document)
    lifted = lift.apply(document)
    assert document == before
    assert not lift.fits(lifted)
    assert lifted == lift.apply(document)


def test_solution_that_stood_is_the_last_one_that_was_tried(older: Path, tmp_path: Path) -> None:
    for tried, weight in enumerate(WEIGHTS, start=1):
        documents = _documents(older)
        documents["passes"]["passes"][0]["solutions"] = tried
        _write(older, documents)
        lifted = lift_run(older)
        assert lifted.plan.passes[0].preserve == weight
        assert lifted.passes is not None and lifted.passes.plan_digest == lifted.plan.digest


@pytest.mark.parametrize("tried", [0, 4, None])
def test_run_that_does_not_tell_which_solution_stood_is_not_lifted(older: Path, tried: int | None) -> None:
    documents = _documents(older)
    [record] = documents["passes"]["passes"]
    record["solutions"] = tried
    if tried is None:
        del record["solutions"]
    _write(older, documents)
    with pytest.raises(InputError, match="nothing tells which one stood") as caught:
        lift_run(older)
    assert caught.value.hint is not None and "measure again" in caught.value.hint


def test_older_run_of_a_checkpoint_that_fmn_guard_did_not_make_is_lifted(tmp_path: Path) -> None:
    concluded.write_run(tmp_path, with_passes=False)
    documents = _documents(tmp_path)
    [spec] = documents["plan"]["passes"]
    spec["preserve"] = [spec["preserve"]]
    _write(tmp_path, documents)
    lifted = lift_run(tmp_path)
    assert (lifted.plan, lifted.passes) == (make_plan(), None)
    assert len(lifted.lifts) == 1


def test_field_that_an_older_run_lacks_is_not_made_up(older: Path) -> None:
    documents = _documents(older)
    del documents["plan"]["passes"][0]["noisiest"]
    _write(older, documents)
    with pytest.raises(InputError, match=r"plan\.json cannot be lifted: passes\.0\.noisiest: Field required"):
        lift_run(older)


def _other_plan(run: Path) -> str:
    _edit(run / "plan.json", name="other")
    return "passes.json"


def _other_patch(run: Path) -> str:
    (run / "patch.safetensors").write_bytes(b"another patch")
    return "patch.safetensors"


def _other_observations(run: Path) -> str:
    _edit(run / "audit.json", observations=[])
    return "report.json"


def _other_policy(run: Path) -> str:
    _edit(run / "policy.json", metadata={"name": "lax"})
    return "report.json"


def _edit(path: Path, **changes: Any) -> None:
    plain = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(pretty_json(plain | changes), encoding="utf-8")


@pytest.mark.parametrize("spoil", [_other_plan, _other_patch, _other_observations, _other_policy])
def test_broken_run_is_not_mended_by_lifting_it(older: Path, spoil: Callable[[Path], str]) -> None:
    named = spoil(older)
    with pytest.raises(BrokenChain, match=named.replace(".", r"\.")):
        lift_run(older)


def test_list_of_files_is_checked_before_anything_is_lifted(older: Path) -> None:
    write_files(older, None, ())
    lift_run(older)
    (older / "images" / "base" / "a.png").write_bytes(b"no picture")
    with pytest.raises(BrokenChain, match=r"a\.png"):
        lift_run(older)


def test_verdict_is_judged_anew_and_the_earlier_one_told(older: Path, tmp_path: Path) -> None:
    _edit(older / "report.json", verdict="fail")
    result = _run(older, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "verdict: fail, and pass when judged anew" in result.stderr
    migrated = read_record(tmp_path / "out" / "migrated.json", Migrated)
    assert migrated.verdict_before == "fail"
    assert len(migrated.lifts) == len(RUN_LIFTS)


def test_signed_run_stays_as_it_was_signed_and_what_is_superseded_is_named(older: Path, tmp_path: Path) -> None:
    write_files(older, None, ())
    (older / "signature.dsse.json").write_text("signed by an older version", encoding="utf-8")
    before = _bytes(older)
    result = _run(older, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert _bytes(older) == before
    assert "digests" in result.stderr and "superseded" in result.stderr
    assert "signature" in result.stderr and "is not signed" in result.stderr
    assert not (tmp_path / "out" / "signature.dsse.json").exists()
    superseded = read_record(tmp_path / "out" / "migrated.json", Migrated).superseded
    assert superseded == {name: file_digest(older / name) for name in before if not name.startswith("images/")}
    checked = CliRunner().invoke(cli.main, ["verify", str(tmp_path / "out")])
    assert "lifted from a run of an older version" in checked.stdout
    make_keys(tmp_path / "key")
    out = tmp_path / "out"
    sign_run(out, check_run(out), check_files(out), tmp_path / "key", lambda: b"")
    assert verify_run(out, [tmp_path / "key.pub"]).key_checked


def test_run_is_never_rewritten_where_it_is(older: Path, tmp_path: Path) -> None:
    before = _bytes(older)
    for arguments in ((older,), (older, "--out", older), (older, "--out", tmp_path / "no" / "folder")):
        result = _run(*arguments)
        assert result.exit_code == 2
        assert "hint: " in result.stderr
    assert _run(older, "--dry-run").exit_code == 0
    assert _bytes(older) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["older", "today"]


def test_run_of_this_version_has_nothing_to_lift(today: Path, tmp_path: Path) -> None:
    result = _run(today, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "nothing to lift" in result.stderr
    assert not (tmp_path / "out").exists()


def test_run_of_a_newer_version_is_refused(today: Path) -> None:
    _edit(today / "audit.json", schema_version="fmn-guard/audit/v2")
    result = _run(today, "--dry-run")
    assert result.exit_code == 2
    assert "fmn-guard/audit/v2" in result.stderr
    assert "pip install --upgrade fmn-guard" in result.stderr


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": "fmn-guard/plan/v1"}', '{"schema_version": 3}'])
def test_folder_that_is_no_run_is_bad_input(today: Path, content: str) -> None:
    (today / "plan.json").write_text(content, encoding="utf-8")
    result = _run(today, "--dry-run")
    assert result.exit_code == 2, result.exception
    assert "hint: " in result.stderr


# ---- files that people write

OLD = """\
# What release 7 must not draw.
apiVersion: fmn-guard/v0  # of last year
kind: ConceptManifest
metadata: {name: release-7}   # spaced by hand
spec:
    base:
        checkpoint: 'builtin:emoji-sd'

    # asked for by legal, %s
    forget:
      - {kind: identity, phrase: "Ada Thorne", keep: [Mira Thorne]}  # herself
""" % ("in a line that is longer than any printer would leave it, " * 3)


def _concepts(document: Document) -> Document:
    """As a first version might have had it: another name of a key."""
    new = deepcopy(document)
    new["apiVersion"] = "fmn-guard/v1"
    spec = new["spec"]
    at = list(spec).index("forget")
    value = spec.pop("forget")
    spec.insert(at, "concepts", value) if hasattr(spec, "insert") else spec.update(concepts=value)
    return new


RENAMED = Lift("forget is called concepts.", lambda document: document["apiVersion"] == "fmn-guard/v0", _concepts)


@pytest.mark.parametrize("indent", ["  ", "    "])
def test_comments_quotes_and_order_of_a_file_survive(tmp_path: Path, indent: str) -> None:
    path = tmp_path / "manifest.yaml"
    old = OLD.replace("    ", indent)
    path.write_text(old, encoding="utf-8")
    lifted = lift_text(path, (RENAMED,))
    assert lifted.lifts == (RENAMED,)
    changed = [pair for pair in zip(old.splitlines(), lifted.text.splitlines(), strict=True) if len(set(pair)) > 1]
    assert changed == [
        ("apiVersion: fmn-guard/v0  # of last year", "apiVersion: fmn-guard/v1  # of last year"),
        (f"{indent}forget:", f"{indent}concepts:"),
    ]
    path.write_text(lifted.text, encoding="utf-8")
    assert lift_text(path, (RENAMED,)) == (lifted.text, ())


@pytest.mark.parametrize("folder", [manifests(), policies(), suites()], ids=lambda folder: folder.name)
def test_shipped_files_are_of_this_version_and_left_alone(folder: Path) -> None:
    for path in folder.rglob("*.yaml"):
        assert lift_text(path) == (path.read_text(encoding="utf-8"), ())


def test_file_of_a_newer_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(OLD.replace("v0", "v2"), encoding="utf-8")
    result = _run(path)
    assert result.exit_code == 2
    assert "is of fmn-guard/v2" in result.stderr
    assert "pip install --upgrade fmn-guard" in result.stderr
    assert path.read_text(encoding="utf-8") == OLD.replace("v0", "v2")


def test_file_of_a_version_that_nothing_lifts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(OLD, encoding="utf-8")
    with pytest.raises(InputError, match="nothing lifts 'fmn-guard/v0'"):
        lift_text(path)


@pytest.mark.parametrize("text", ["- a list", "kind: ConceptManifest", "apiVersion: other/v1", "apiVersion: 1"])
def test_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="does not say of which version"):
        lift_text(tmp_path / "a.yaml")


def test_file_that_is_no_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: !!python/name:os.system fmn-guard/v1\n", encoding="utf-8")
    with pytest.raises(FileProblems, match=r"a\.yaml:1:\d+: unknown-tag"):
        lift_text(tmp_path / "a.yaml")


def test_one_record_of_a_run_is_not_lifted_by_itself(older: Path) -> None:
    result = _run(older / "plan.json")
    assert result.exit_code == 2
    assert "give the run folder" in result.stderr


def test_command_leaves_a_file_of_this_version_alone(tmp_path: Path) -> None:
    path = tmp_path / "quickstart.yaml"
    shutil.copyfile(manifests() / "quickstart.yaml", path)
    before = path.stat().st_mtime_ns
    result = _run(path)
    assert result.exit_code == 0
    assert "nothing to lift" in result.stderr
    assert path.stat().st_mtime_ns == before
