"""The picture sheet of ``fmn-guard sample``."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from fmn_guard.cli import main


def test_sheet_has_a_row_per_prompt_and_a_picture_per_seed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--count", "3", "--steps", "1", "-o", str(sheet)]
    result = CliRunner().invoke(main, ["sample", str(tiny_checkpoint), "a pizza", "a pistol", *options])
    assert result.exit_code == 0, result.output
    width, height = Image.open(sheet).size
    assert width > 3 * 128
    assert height > 2 * 128


def test_missing_patch_is_bad_input_and_writes_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--patch", str(tmp_path / "none.safetensors"), "--count", "1", "--steps", "1", "-o", str(sheet)]
    result = CliRunner().invoke(main, ["sample", str(tiny_checkpoint), "a pizza", *options])
    assert result.exit_code == 2
    assert not sheet.exists()
