"""Linting a file by its kind. What is wrong with manifests is in test_manifest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import linting
from fmn_guard.errors import FileProblems
from fmn_guard.lint import lint_file, lint_manifest
from fmn_guard.manifest import CheckpointRef
from fmn_guard.shipped import frameworks, manifests, policies, suites

from .paper import MANIFEST, save_paper_checkpoint


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (manifests() / "quickstart.yaml", "ConceptManifest"),
        *((path, "ReleasePolicy") for path in sorted(policies().glob("*.yaml"))),
        *((path, "PolicyCases") for path in sorted((policies() / "tests").glob("*.yaml"))),
        *((path, "ComplianceFramework") for path in sorted(frameworks().glob("*.yaml"))),
        (suites() / "smoke" / "suite.yaml", "AuditSuite"),
    ],
)
def test_shipped_file_has_no_problems(path: Path, kind: str) -> None:
    assert lint_file(path) == kind


def _write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("kind: ConceptManifesto\n", "wrong-kind"),
        ("apiVersion: fmn-guard/v1\n", "missing-key"),
        ("{kind: ReleasePolicy}\n", "missing-key"),
        ("", "empty-file"),
        ("kind: [\n", "yaml-syntax"),
    ],
)
def test_file_of_no_kind_is_refused(text: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(FileProblems) as caught:
        lint_file(_write(tmp_path, text))
    assert rule in {problem.rule for problem in caught.value.problems}


def test_missing_file_is_a_problem_of_that_file(tmp_path: Path) -> None:
    with pytest.raises(FileProblems, match="no-such-file"):
        lint_file(tmp_path / "nowhere.yaml")


def test_duplicate_key_is_reported_with_everything_else(tmp_path: Path) -> None:
    text = MANIFEST.replace("metadata:\n  name: example\n", "metadata:\n  name: Example\n  name: b\n")
    with pytest.raises(FileProblems) as caught:
        lint_file(_write(tmp_path, text))
    assert [problem.rule for problem in caught.value.problems] == ["bad-format", "duplicate-key"]


def test_manifest_of_the_benchmark_is_a_sound_one_with_every_field_but_pictures(tmp_path: Path) -> None:
    manifest, _ = lint_manifest(_write(tmp_path, linting.manifest(20)))
    for concept in manifest.spec.concepts:
        assert [name for name, value in concept.model_dump().items() if not value] == ["images"]
    assert len(manifest.spec.concepts) == 20


def test_base_can_be_replaced_by_another_checkpoint(tmp_path: Path) -> None:
    other = save_paper_checkpoint(tmp_path / "other")
    path = _write(tmp_path, MANIFEST.replace("builtin:emoji-sd", "nowhere"))
    _, checkpoint = lint_manifest(path, CheckpointRef(checkpoint=str(other)))
    assert checkpoint.folder == other
