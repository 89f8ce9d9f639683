"""``fmn-guard conceptbench`` on a tiny checkpoint: alone, and beside another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from fmn_guard.audit.executors import inline
from fmn_guard.cli import main
from fmn_guard.conceptbench.summary import BenchSummary
from fmn_guard.evidence import Audit
from fmn_guard.instruments import ClipRecogniserSpec
from fmn_guard.plan import Plan
from fmn_guard.record import file_digest, read_record
from fmn_guard.shipped import shipped_model, suites

from ..tiny import save_tiny_family


@pytest.fixture
def edition(tmp_path: Path) -> Path:
    """One concept of conceptbench-1, a picture a prompt."""
    yaml = YAML(typ="safe", pure=True)
    data = yaml.load((suites() / "conceptbench-1" / "suite.yaml").read_text())
    data["metadata"]["name"] = "short"
    data["spec"]["counts"]["target"] = 1
    bench = data["spec"]["bench"]
    bench["concepts"], bench["corrections"] = [c for c in bench["concepts"] if c["phrase"] == "rocket"], []
    path = tmp_path / "suite.yaml"
    yaml.dump(data, path)
    return path


@pytest.fixture(scope="module")
def tiny_published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of the layout of Stable Diffusion 1."""
    return save_tiny_family(tmp_path_factory.mktemp("tiny") / "sd1", "sd1")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["conceptbench", *arguments, "--quiet", "--no-images"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_a_checkpoint_alone_is_drawn_once_and_told_as_both_sides(
    tiny_checkpoint: Path, edition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = [], inline.draw_batch
    monkeypatch.setattr(inline, "draw_batch", lambda *given: drawn.append(len(given[2])) or draw(*given))
    out = tmp_path / "run"
    code, output = run(str(tiny_checkpoint), "--suite", str(edition), "--out", str(out), "--json")
    audit, found = read_record(out / "audit.json", Audit), read_record(out / "conceptbench.json", BenchSummary)
    assert json.loads(output) == found.model_dump(mode="json")
    assert sum(drawn) == 24 and len(audit.observations) == 48
    assert {row.task for row in found.rows} == {"presence"}
    assert code == (0 if found.status == "measured" else 4)
    assert run(str(tiny_checkpoint), "--suite", str(edition), "--out", str(out))[0] == code
    assert sum(drawn) == 24  # nothing is drawn again


def test_what_was_forgotten_is_told_beside_the_base_and_may_be_told_later(
    tiny_checkpoint: Path, edition: Path, tmp_path: Path
) -> None:
    out, asked = tmp_path / "run", ("--suite", str(edition), "--out", str(tmp_path / "run"))
    beside = ("builtin:emoji-sd", "--base", str(tiny_checkpoint), *asked)
    run(*beside)
    assert not any(row.task == "suppression" for row in read_record(out / "conceptbench.json", BenchSummary).rows)
    before = (out / "audit.json").read_bytes()
    code, _ = run(*beside, "--forgotten", "rocket")
    assert (out / "audit.json").read_bytes() == before
    found = read_record(out / "conceptbench.json", BenchSummary)
    assert {row.asked for row in found.rows if row.task == "suppression"} == {"name", "paraphrase", "description"}
    assert code == 4  # a model of random weights draws no rocket, so nothing can be said of forgetting it


def test_forgotten_without_a_base_is_refused(tiny_checkpoint: Path, edition: Path) -> None:
    assert run(str(tiny_checkpoint), "--suite", str(edition), "--forgotten", "rocket")[0] == 2


@pytest.fixture
def sd_edition(tmp_path: Path) -> Path:
    """One concept of each kind and a correction of conceptbench-sd-1, a picture a prompt, in two steps."""
    yaml = YAML(typ="safe", pure=True)
    data = yaml.load((suites() / "conceptbench-sd-1" / "suite.yaml").read_text())
    data["metadata"]["name"] = "short-sd"
    spec = data["spec"]
    spec["counts"]["target"] = 1
    spec["sampler"] |= {"steps": 2, "threads": 1}
    chosen = {"Robin Hood", "church", "Rembrandt"}  # short: tiny models read letters, and few of them
    spec["bench"]["concepts"] = [c for c in spec["bench"]["concepts"] if c["phrase"] in chosen]
    for concept in spec["bench"]["concepts"]:
        concept |= {"paraphrases": [], "descriptions": [f"{concept['kind']} a"]}
    spec["bench"]["corrections"] = spec["bench"]["corrections"][:1]
    path = tmp_path / "sd.yaml"
    yaml.dump(data, path)
    return path


def test_the_edition_for_stable_diffusion_is_recognised_by_a_clip_at_hand(
    tiny_published: Path, sd_edition: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    clip = shutil.copytree(shipped_model("emoji-clip"), tmp_path / "clip")
    code, _ = run(str(tiny_published), "--edition", str(sd_edition), "--clip", str(clip), "--out", str(out), "--json")
    audit, plan = read_record(out / "audit.json", Audit), read_record(out / "plan.json", Plan)
    assert code == 0
    judge = audit.instruments[0]
    assert (judge.name, judge.error, judge.licence) == ("clip-zero-shot", None, "not stated")
    assert judge.weights_digest == file_digest(clip / "model.safetensors")
    assert isinstance(plan.recogniser, ClipRecogniserSpec)
    assert {"concept:robin hood", "concept:church", "style:rembrandt"} <= set(plan.recogniser.labels)
    asked = {row.asked for row in read_record(out / "conceptbench.json", BenchSummary).rows}
    assert asked == {"name", "description", "neighbour"}
    assert all(seen.scores.keys() for seen in audit.observations)


def test_a_clip_that_is_missing_or_not_asked_for_is_bad_usage(
    tiny_published: Path, edition: Path, sd_edition: Path, tmp_path: Path
) -> None:
    given = [str(tiny_published), "--out", str(tmp_path / "run"), "--edition"]
    for arguments, says in (
        ([*given, str(sd_edition)], "names none"),
        ([*given, str(sd_edition), "--clip", str(tmp_path)], "there is no"),
        ([*given, str(edition), "--clip", str(tmp_path)], "is not recognised by a CLIP"),
    ):
        code, output = run(*arguments)
        assert code == 2
        assert says in output
