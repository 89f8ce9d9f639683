"""Fixtures that several files share; nothing heavy is imported before a test asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# Two tests run at a time, on machines that do other things too: how long an example takes tells nothing.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a real, tiny, random Stable Diffusion pipeline."""
    from .tiny import save_tiny_checkpoint

    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A concluded run that is not signed, with pictures and its list of files."""
    from fmn_guard.chain import write_files

    from .concluded import write_run
    from .pictures import write_pictures

    (folder := tmp_path / "run").mkdir()
    write_run(folder)
    write_pictures(folder)
    write_files(folder, None, ())
    return folder
