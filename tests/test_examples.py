"""The worked examples of ``manifests/``: sound, and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fmn_guard import cli
from fmn_guard.lint import lint_file, lint_manifest
from fmn_guard.plan import compile_plan
from fmn_guard.shipped import manifests, suites
from fmn_guard.suite import load_suite

EXAMPLES = ("ten-concepts", "correction", "style-only", "nsfw")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_sound_and_can_be_planned_against_the_standard_suite(name: str) -> None:
    path = manifests() / f"{name}.yaml"
    assert lint_file(path) == "ConceptManifest"
    document, checkpoint = lint_manifest(path)
    assert document.metadata.name == name
    plan = compile_plan(document, load_suite(suites() / "standard"), checkpoint)
    assert len(plan.passes) == len(document.spec.concepts) + len(document.spec.corrections)


def test_every_example_is_run_by_a_test() -> None:
    assert {path.stem for path in manifests().glob("*.yaml")} == {"quickstart", "quickstart-release", *EXAMPLES}


def test_a_release_of_the_quickstart_hides_nothing_from_the_eraser_and_is_the_same_otherwise() -> None:
    shown, released = (
        lint_manifest(manifests() / f"{name}.yaml")[0].spec for name in ("quickstart", "quickstart-release")
    )
    assert shown.eraser.hold_out and not released.eraser.hold_out
    everything = shown.eraser.model_copy(update={"hold_out": ()})
    assert released == shown.model_copy(update={"eraser": everything})


def test_ten_concepts_are_of_four_kinds() -> None:
    concepts = lint_manifest(manifests() / "ten-concepts.yaml")[0].spec.concepts
    kinds = [concept.kind for concept in concepts]
    assert {kind: kinds.count(kind) for kind in kinds} == {"identity": 4, "style": 2, "object": 2, "nsfw": 2}


@pytest.mark.slow  # whole runs, of ten passes the longest
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_forgets_what_it_lists(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # one picture a sentence is too few for a limit, and plenty to see that it is gone
    policy = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ReleasePolicy",
        "metadata": {"name": "example"},
        "spec": {
            "suite": "smoke",
            "rules": [
                {"id": "target-suppressed", "metric": "target_recognised", "at_most": 0.5, "min_samples": 6},
                {"id": "dominant-suppressed", "metric": "dominant_recognised", "at_most": 0.5, "min_samples": 6},
                {"id": "retained-kept", "metric": "retained_drop", "at_most": 0.3},
            ],
        },
    }
    (tmp_path / "policy.yaml").write_text(json.dumps(policy), encoding="utf-8")  # JSON is YAML
    monkeypatch.chdir(tmp_path)
    example = str(manifests() / f"{name}.yaml")
    result = CliRunner().invoke(cli.main, ["apply", example, "--policy", "./policy.yaml", "--out", "run", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code in (0, 4), result.stderr
    assert not [f for f in report["findings"] if f["outcome"] == "fail"]
    assert all(concept["after"] <= concept["before"] / 2 for concept in report["concepts"])
