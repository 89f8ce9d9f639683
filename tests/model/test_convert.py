"""From one layout into another and back: exact, whole or not at all, and read by diffusers' own loader."""

from __future__ import annotations

import pickle
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fmn_guard.cli import main
from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.family import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from fmn_guard.model.checkpoint import load_pipeline, quiet
from fmn_guard.model.convert import clean_folder, to_file, to_folder, unpickled
from fmn_guard.weights import weights_digest

from ..tiny import save_tiny_family

CONVERTED = ("sd1", "sd2-v", "sdxl")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module", params=CONVERTED)
def folder(request, tmp_path_factory):
    return save_tiny_family(tmp_path_factory.mktemp(request.param) / "checkpoint", request.param)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return save_tiny_family(tmp_path_factory.mktemp("one") / "checkpoint", "sd1")


def parts_of(folder):
    return (STABLE_DIFFUSION_XL if (folder / "text_encoder_2").exists() else STABLE_DIFFUSION).parts


def configurations(folder, out):
    """The folder without its weights."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    return out


def states(pipeline, folder):
    return {f"{part}.{k}": v for part in parts_of(folder) for k, v in getattr(pipeline, part).state_dict().items()}


def test_folder_to_file_to_folder_to_file_is_exact(folder, tmp_path):
    before = weights_digest(folder, parts_of(folder))
    assert to_file(folder, tmp_path / "model.safetensors").weights_digest == before
    made = to_folder(tmp_path / "model.safetensors", configurations(folder, tmp_path / "config"), tmp_path / "back")
    assert made == (before, ())
    to_file(tmp_path / "back", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    expected = states(load_pipeline(folder), folder)
    found = states(load_pipeline(tmp_path / "back"), folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_diffusers_reads_the_file_as_the_same_model_offline(folder, tmp_path):
    to_file(folder, tmp_path / "model.safetensors")
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").exists() else StableDiffusionPipeline
    with quiet():
        stock = kind.from_single_file(
            str(tmp_path / "model.safetensors"), config=str(folder), local_files_only=True, torch_dtype=torch.float32
        )
    expected = states(load_pipeline(folder), folder)
    found = states(stock, folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_file_says_what_it_is_to_the_tools_that_read_it(folder, tmp_path):
    to_file(folder, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        spec = file.metadata()
    assert spec["modelspec.sai_model_spec"] == "1.0.1"
    assert all(spec[f"modelspec.{key}"] for key in ("implementation", "title", "resolution"))
    assert (
        spec["modelspec.architecture"]
        == {
            "sd1": "stable-diffusion-v1",
            "sd2-v": "stable-diffusion-v2-768-v",
            "sdxl": "stable-diffusion-xl-v1-base",
        }[folder.parent.name[:-1]]
    )


def original(folder, tmp_path):
    to_file(folder, tmp_path / "original.safetensors")
    return load_file(tmp_path / "original.safetensors")


def test_pickle_of_weights_becomes_the_same_checkpoint(sd1, tmp_path):
    tensors = original(sd1, tmp_path)
    more = {"model_ema.decay": torch.ones(1), "alphas_cumprod": torch.ones(3)}
    torch.save({"state_dict": tensors | more, "global_step": 7}, tmp_path / "model.ckpt")
    made = to_folder(tmp_path / "model.ckpt", sd1, tmp_path / "folder")
    assert made == (weights_digest(sd1), ("alphas_cumprod", "model_ema.decay"))


@pytest.mark.parametrize("zipped", [True, False])
def test_folder_of_pickles_becomes_the_same_checkpoint(sd1, tmp_path, zipped):
    pickled = shutil.copytree(sd1, tmp_path / "pickled")
    for part, stem in STABLE_DIFFUSION.parts.items():
        weights = pickled / part / f"{stem}.safetensors"
        name = "pytorch_model.bin" if stem == "model" else f"{stem}.bin"
        torch.save(load_file(weights), pickled / part / name, _use_new_zipfile_serialization=zipped)
        weights.unlink()
    assert clean_folder(pickled, tmp_path / "clean").weights_digest == weights_digest(sd1)
    assert not [path for path in (tmp_path / "clean").rglob("*") if path.suffix == ".bin"]


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def hostile(kind: str, path: Path, mark: Path) -> None:
    match kind:
        case "bare pickle":
            path.write_bytes(pickle.dumps(Touches(mark)))
        case "pickle of torch":
            torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Touches(mark)}, path)
        case "old pickle of torch":
            torch.save({"a": Touches(mark)}, path, _use_new_zipfile_serialization=False)
        case "call before damage":
            path.write_bytes(pickle.dumps(Touches(mark))[:-1] + b"\xff")
        case "archive that unpacks to more":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("archive/data.pkl", b"\0" * (32 << 20))
        case "no pickle":
            path.write_bytes(b"nothing of the kind")
        case "no weights":
            torch.save([1, 2, 3], path)


KINDS = (
    "bare pickle",
    "pickle of torch",
    "old pickle of torch",
    "call before damage",
    "archive that unpacks to more",
    "no pickle",
    "no weights",
)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_pickle_is_refused_and_not_run(kind, sd1, tmp_path):
    path, mark = tmp_path / "model.ckpt", tmp_path / "mark"
    hostile(kind, path, mark)
    result = CliRunner().invoke(main, ["convert", str(path), str(tmp_path / "out"), "--config", str(sd1)])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {path}: ")
    assert result.stderr.count("hint: ") == 1
    assert sorted(tmp_path.iterdir()) == [path]


def test_configurations_of_another_family_are_refused_and_nothing_is_written(sd1, tmp_path):
    xl = save_tiny_family(tmp_path / "xl", "sdxl")
    to_file(sd1, tmp_path / "model.safetensors")
    with pytest.raises(RefusedArtefact, match="missing-tensor"):
        to_folder(tmp_path / "model.safetensors", xl, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "xl"]


def test_infinite_weight_in_a_single_file_is_refused_and_nothing_is_written(sd1, tmp_path):
    tensors = original(sd1, tmp_path)
    tensors["model.diffusion_model.out.2.bias"][0] = float("inf")
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(RefusedArtefact, match="not-finite"):
        to_folder(tmp_path / "broken.safetensors", sd1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(sd1, tmp_path):
    (tmp_path / "mine.safetensors").write_text("keep me")
    with pytest.raises(InputError, match="exists"):
        to_file(sd1, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="exists"):
        clean_folder(sd1, tmp_path)
    assert (tmp_path / "mine.safetensors").read_text() == "keep me"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "no checkpoint nowhere"),
        (["{file}", "out"], "holds weights alone"),
        (["{file}", "out.safetensors"], "both files"),
        (["{folder}", "out", "--config", "{folder}"], "its own configurations"),
    ],
)
def test_command_that_lacks_something_says_what(arguments, message, sd1, tmp_path):
    (tmp_path / "one.safetensors").touch()
    given = [a.format(file=tmp_path / "one.safetensors", folder=sd1) for a in arguments]
    result = CliRunner().invoke(main, ["convert", *given])
    assert result.exit_code == 2
    assert message in result.stderr


def test_unpickling_needs_a_file(tmp_path):
    with pytest.raises(InputError, match="no file"):
        unpickled(tmp_path / "model.ckpt")
