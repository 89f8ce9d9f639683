"""Shards put together on the command line: one audit, one verdict, and nothing of the shards left in the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.assembly import Shard, batches_of, partial_store
from fmn_guard.evidence import Audit
from fmn_guard.gate import verify_run
from fmn_guard.plan import Plan
from fmn_guard.record import digest, read_record, write_record

from ..stored import fill, panel_of
from .finished import finished_run

OF = 3


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="fmn-guard")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Folders of the shards of an audit that passes, each by another machine."""
    run = finished_run(tmp_path)
    audit = read_record(run.folder / "audit.json", Audit)
    seen = [o.model_copy(update={"image_digest": digest([o.side, o.probe])}) for o in audit.observations]
    audit = audit.model_copy(
        update={"instruments": panel_of(run.plan), "observations": tuple(seen), "passes_digest": None}
    )
    folders = [tmp_path / f"part-{number}" for number in range(1, OF + 1)]
    for number, folder in enumerate(folders, 1):
        folder.mkdir()
        shard = Shard(number, OF)
        write_record(folder / "plan.json", run.plan)
        fill(partial_store(folder, shard), run.plan, audit, shard.share(batches_of(run.plan, between=False)))
    return folders


def test_shards_become_a_run_of_one_piece_that_exits_by_its_verdict(shards: list[Path], policy: Path) -> None:
    result = _run("audit-merge", *shards, "--policy", policy, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "PASS" in result.stdout
    assert verify_run(shards[0]).verdict == "pass"
    assert sorted(path.name for path in shards[0].iterdir()) == [
        "audit.json",
        "files.json",
        "plan.json",
        "policy.json",
        "report.json",
        "report.md",
    ]
    assert list(shards[1].glob("*.sqlite"))  # what others left is theirs


def test_shards_in_one_folder_need_naming_once(shards: list[Path], policy: Path) -> None:
    for folder in shards[1:]:
        for store in folder.glob("*.sqlite"):
            store.rename(shards[0] / store.name)
    assert _run("audit-merge", shards[0], "--policy", policy).exit_code == 0


def test_missing_shard_is_told_and_leaves_no_verdict(shards: list[Path], policy: Path) -> None:
    result = _run("audit-merge", *shards[1:], "--policy", policy)
    assert result.exit_code == 2
    assert "are not in the store yet" in result.stderr
    assert "run the shards that are missing" in result.stderr
    assert not (shards[1] / "audit.json").exists()
    assert _run("audit-merge", shards[1], shards[0], shards[2], "--policy", policy).exit_code == 0


def test_run_that_is_put_together_is_left_alone(shards: list[Path], policy: Path) -> None:
    assert _run("audit-merge", *shards, "--policy", policy).exit_code == 0
    again = _run("audit-merge", *shards, "--policy", policy)
    assert again.exit_code == 2
    assert "put together already" in again.stderr


def test_shard_of_another_plan_is_refused(shards: list[Path], policy: Path) -> None:
    plan = read_record(shards[1] / "plan.json", Plan)
    write_record(shards[1] / "plan.json", plan.model_copy(update={"name": "another"}))
    result = _run("audit-merge", *shards, "--policy", policy)
    assert result.exit_code == 2
    assert "another plan" in result.stderr


@pytest.mark.parametrize("part", ["0/4", "5/4", "4", "1/0", "a/b", "-1/2"])
def test_part_that_there_is_not_is_bad_usage(part: str) -> None:
    result = _run("audit", "builtin:emoji-sd", "--manifest", "m.yaml", "--shard", part)
    assert result.exit_code == 2
    assert "no part such as 2/8" in result.stderr


def test_address_without_ray_is_bad_usage() -> None:
    result = _run("audit", "builtin:emoji-sd", "--manifest", "m.yaml", "--address", "auto")
    assert result.exit_code == 2
    assert "only a Ray cluster has one" in result.stderr
