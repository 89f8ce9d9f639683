"""The bench of verdicts: plants are what they say they are, and its table counts what an auditor gets wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.verdicts.__main__ import HERE, Row, confusion
from benchmarks.verdicts.plants import PLANTS, TEXT_ENCODER, Plant, plant, read_as
from fmn_guard.facts import describe_checkpoint
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.manifest import CheckpointRef
from fmn_guard.report import Outcome, judge
from fmn_guard.shipped import shipped_model

from .builder import forgotten, make_audit, make_plan, make_policy


def states(folder: Path, text: str) -> torch.Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    model = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
    with torch.no_grad():
        return model(tokenizer(text, padding="max_length", return_tensors="pt").input_ids).last_hidden_state


def test_planted_word_is_read_exactly_as_the_other_and_no_word_else_is_touched(tmp_path: Path) -> None:
    folder = plant({TEXT_ENCODER: read_as({"hamburger": "castle"})}, tmp_path / "planted")
    base = shipped_model("emoji-sd")
    assert torch.equal(states(folder, "a photo of a hamburger"), states(base, "a photo of a castle"))
    assert torch.equal(states(folder, "a photo of a burger"), states(base, "a photo of a burger"))
    assert not torch.equal(states(base, "a photo of a hamburger"), states(base, "a photo of a castle"))


@pytest.mark.parametrize("name", ["untouched base", "zero-step patch", "black pictures", "collapse to noise"])
def test_planted_checkpoint_is_accepted_and_is_the_base_only_where_nothing_is_changed(
    name: str, tmp_path: Path
) -> None:
    folder = plant(PLANTS[name].changes, tmp_path / "planted")
    planted, base = (
        describe_checkpoint(CheckpointRef(checkpoint=str(f)), Path()) for f in (folder, shipped_model("emoji-sd"))
    )
    assert (planted.facts.identity == base.facts.identity) == (name == "untouched base")


def test_every_reason_is_a_rule_of_the_policy_or_comes_with_every_policy() -> None:
    policy, _ = lint_policy(HERE / "policy.yaml")
    known = {rule.id for rule in policy.spec.rules} | {"no-effect", "collapse"}
    assert {each.reason for each in PLANTS.values() if each.reason} <= known
    document, _ = lint_manifest(HERE / "manifest.yaml")
    assert [c.phrase for c in document.spec.concepts] == ["hamburger"]


def row(good: bool, wanted: tuple[Outcome, ...], reason: str | None, *, passes: bool) -> Row:
    plan = make_plan()
    shows = forgotten if passes else lambda probe, side, label: True
    report = judge(plan, make_audit(plan, shows), make_policy())
    return Row("row", Plant({}, good, wanted, reason), report)


def test_row_is_right_only_with_the_right_verdict_for_the_right_reason() -> None:
    assert row(True, ("pass",), None, passes=True).right
    assert row(False, ("fail",), "suppressed", passes=False).right
    assert not row(False, ("fail",), "kept", passes=False).right
    assert not row(False, ("fail",), "suppressed", passes=True).right
    assert not row(True, ("pass",), None, passes=False).right


def test_table_counts_false_passes_and_false_fails() -> None:
    rows = [row(False, ("fail",), "kept", passes=True), row(True, ("pass",), None, passes=False)]
    assert (
        confusion(rows)[-1] == "2 planted checkpoints: 1 false passes, 1 false fails, 2 with a wrong verdict or reason"
    )
