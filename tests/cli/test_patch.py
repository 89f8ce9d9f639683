"""`fmn-guard patch`, as users call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget.patch import PATCH, read_patch, write_patch
from fmn_guard.manifest import CheckpointRef

from ..patched import make_patch


@pytest.fixture
def home(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of two concepts, a patch of a third, and a link to the base."""
    (tmp_path / "run").mkdir()
    write_patch(tmp_path / "run" / PATCH, make_patch(tiny_checkpoint, ("lion", "pistol")))
    write_patch(tmp_path / "rose.safetensors", make_patch(tiny_checkpoint, ("rose",)))
    (tmp_path / "base").symlink_to(tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.main, ["patch", *arguments], prog_name="fmn-guard")
    assert result.exit_code == code, result.output
    return result


def held(path: str) -> tuple[str, ...]:
    return read_patch(Path(path)).concepts


def test_a_checkpoint_is_patched_changed_and_given_back(home: Path) -> None:
    run("apply", "base", "run", "-o", "patched")
    assert json.loads(run("list", "patched", "--json").stdout)["parts"][0]["concepts"] == ["lion"]
    told = run("drop", "patched", "lion", "-o", "fewer").stderr
    assert "computed on top of that, and not redone: pistol" in told
    assert "audit this one again" in told
    run("add", "fewer", "rose.safetensors", "-o", "more")
    assert held(f"more/fmn-guard/{PATCH}") == ("pistol", "rose")
    run("revert", "more", "-o", "back")
    assert (home / "back/unet/config.json").read_bytes() == (home / "base/unet/config.json").read_bytes()
    back = describe_checkpoint(CheckpointRef(checkpoint="back"), Path()).facts
    assert back.identity == describe_checkpoint(CheckpointRef(checkpoint="base"), Path()).facts.identity


def test_what_was_made_on_top_of_a_patched_checkpoint_is_added_to_it(home: Path) -> None:
    run("apply", "base", "run", "-o", "patched")
    identity = describe_checkpoint(CheckpointRef(checkpoint="patched"), Path()).facts.identity
    write_patch(home / "top.safetensors", read_patch(home / "rose.safetensors")._replace(base_digest=identity))
    run("add", "patched", "top.safetensors", "-o", "more")
    assert held(f"more/fmn-guard/{PATCH}") == ("lion", "pistol", "rose")
    assert "only patches of one base" in run("add", "run", "top.safetensors", "-o", "x", code=2).stderr


def test_patches_are_merged_and_taken_apart_as_files(home: Path) -> None:
    run("merge", "run", "rose.safetensors", "-o", "all.safetensors")
    assert held("all.safetensors") == ("lion", "pistol", "rose")
    run("drop", "all.safetensors", "pistol", "rose", "-o", "lion.safetensors")
    run("add", "lion.safetensors", "all.safetensors", "--concept", "rose", "-o", "two.safetensors")
    assert held("two.safetensors") == ("lion", "rose")


def test_table_and_json_tell_the_same(home: Path) -> None:
    told = json.loads(run("inspect", "run", "--json").stdout)
    shown = run("inspect", "run").stdout
    file = (home / "run" / PATCH).stat().st_size
    assert file - 4096 < told["bytes"] < file
    assert told["share_of_unet"] == pytest.approx(told["bytes"] / told["unet_bytes"], abs=1e-6)
    for part in told["parts"]:
        assert part["bytes"] == sum(layer["bytes"] for layer in part["layers"])
        assert {layer["rank"] for layer in part["layers"]} == {2, None}
        assert f"{part['bytes']:,} bytes" in shown
        assert all(f"{layer['norm']:.4g}" in shown for layer in part["layers"])
    assert "lion" in run("list", "run").stdout


def test_export_is_checked_by_loading_it(home: Path) -> None:
    told = run("export", "run", "--format", "kohya", "-o", "lora.safetensors", "--check", "base").stderr
    assert "loaded again, it misses" in told
    assert (home / "lora.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["apply", "builtin:emoji-sd", "run", "-o", "out"], "made for the base"),
        (["apply", "base", "none.safetensors", "-o", "out"], "no patch none.safetensors"),
        (["apply", "base", "run", "-o", "no/out"], "there is no folder no"),
        (["apply", "base", "run", "-o", "run"], "there already"),
        (["revert", "base", "-o", "out"], "no patched checkpoint"),
        (["drop", "run", "tiger", "-o", "out"], "holds no tiger"),
        (["add", "run", "run", "-o", "out"], "more than one patch holds lion, pistol"),
        (["merge", "run", "rose.safetensors", "-o", "rose.safetensors"], "there already"),
        (["export", "run", "--format", "diff", "-o", "out", "--check", "builtin:emoji-sd"], "made for the base"),
        (["export", "run", "--format", "pickle", "-o", "out"], "is not one of"),
        (["list", "base"], "no patch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_with_code_2_and_writes_nothing(home: Path, arguments, said: str) -> None:
    before = sorted(home.rglob("*"))
    assert said in " ".join(run(*arguments, code=2).stderr.split())
    assert sorted(home.rglob("*")) == before
