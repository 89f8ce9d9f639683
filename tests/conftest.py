"""Fixtures shared by the torch half; nothing heavy is imported before a test asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a real, tiny, random Stable Diffusion pipeline."""
    from .tiny import save_tiny_checkpoint

    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")
