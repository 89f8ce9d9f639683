"""Zero-shot recognition by the built-in CLIP, on the contact sheet that the built-in model drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fmn_guard.model.clip import ZeroShot
from fmn_guard.shipped import shipped_model

THINGS = ("lion", "dog", "frog", "owl")  # the first columns of the sheet


@pytest.fixture(scope="module")
def recogniser():
    return ZeroShot(shipped_model("emoji-clip"))


@pytest.fixture(scope="module")
def pictures():
    sheet = np.asarray(Image.open(shipped_model("emoji-sd") / "contact-sheet.png").convert("RGB"))
    tiles = [sheet[:64, 64 * i : 64 * (i + 1)] for i in range(len(THINGS))]
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_each_picture_is_like_its_own_name(recogniser, pictures):
    vectors = recogniser.text_vectors([f"a photo of a {thing}" for thing in THINGS])
    chosen = recogniser.choose(pictures, vectors.expand(len(THINGS), -1, -1))
    assert chosen.argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(chosen.sum(1), torch.ones(len(THINGS)))


def test_pictures_of_another_size_are_resized(recogniser, pictures):
    vectors = recogniser.text_vectors([f"a photo of a {thing}" for thing in THINGS]).expand(len(THINGS), -1, -1)
    large = torch.nn.functional.interpolate(pictures, size=128, mode="nearest")
    torch.testing.assert_close(recogniser.choose(large, vectors), recogniser.choose(pictures, vectors))
