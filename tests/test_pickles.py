"""Pickles are told by name and by content, whatever they are called, and are never run."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.pickles import PICKLE_SUFFIXES, why_pickle
from fmn_guard.shipped import shipped_model

from .paper import write_safetensors

ROOT = Path(__file__).parent.parent


class Writes:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def _file(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [*sorted(PICKLE_SUFFIXES), ".BIN"])
def test_name_alone_is_reason_enough(tmp_path: Path, suffix: str) -> None:
    assert suffix.lower() in str(why_pickle(_file(tmp_path, b"anything", f"model{suffix}")))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_any_protocol_is_found_under_another_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps(Writes(trace), protocol)
    assert why_pickle(_file(tmp_path, content))
    assert not trace.exists()
    pickle.loads(content)  # it does what it is said to do
    assert trace.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(), lambda s: st.lists(s) | st.tuples(s, s)))
def test_pickle_of_plain_data_is_one_too(tmp_path_factory: pytest.TempPathFactory, protocol: int, data: object) -> None:
    path = _file(tmp_path_factory.getbasetemp(), pickle.dumps(data, protocol))
    assert why_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_is_damaged_after_its_call_is_found(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps(Writes(trace), protocol)[:-1] + b"\xff garbage"
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)
    assert trace.exists()  # which is why it has to be found
    assert why_pickle(_file(tmp_path, content))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_found_in_both_of_its_formats(tmp_path: Path, zipped: bool) -> None:
    import torch

    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    assert ("data.pkl" in str(why_pickle(path))) == zipped
    assert why_pickle(path)


def test_archive_without_a_pickle_is_none_and_a_damaged_one_is_not_trusted(tmp_path: Path) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("notes.txt", "nothing to load")
    content = memory.getvalue()
    assert why_pickle(_file(tmp_path, content, "notes.zip")) is None
    directory = content.index(b"PK\x01\x02")
    damaged = content[:directory] + b"XX" + content[directory + 2 :]
    assert "damaged" in str(why_pickle(_file(tmp_path, damaged, "notes.zip")))


# A header of 640 bytes begins with the bytes of protocol 2, one of 896 with those of protocol 3.
@pytest.mark.parametrize("length", [8 * n for n in range(16, 200)])
def test_safetensors_is_no_pickle_whatever_the_length_of_its_header(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"weight": b"\0" * 8})
    content = path.read_bytes()
    [short] = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + short].ljust(length)
    assert why_pickle(_file(tmp_path, struct.pack("<Q", length) + header + content[8 + short :])) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "N. Korea\n",
        "00000.",
        "cat\ndog\nRabbit\n",  # as opcodes: import, call; but nothing to call it with
        "click\njinja2\nopenpyxl\n",
        "(lp0\n and no more",
        "X" * 100,
        "(" * 100,
        "\x8d" + "\x7f" * 8,
    ],
)
def test_text_that_begins_like_a_pickle_is_none(tmp_path: Path, text: str) -> None:
    assert why_pickle(_file(tmp_path, text.encode("latin-1"), "text")) is None


def test_nothing_in_this_repository_is_a_pickle() -> None:
    files = [
        path
        for folder in ("fmn_guard", "manifests", "policies", "audits/suites", "docs", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    ]
    assert shipped_model("emoji-sd") / "unet" / "diffusion_pytorch_model.safetensors" in files
    assert [path for path in files if why_pickle(path)] == []


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_judged_without_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    why_pickle(_file(tmp_path_factory.getbasetemp(), content, "bytes"))
