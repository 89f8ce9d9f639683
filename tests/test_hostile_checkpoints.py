"""Broken and hostile checkpoints: each refused in one message, with no code run, nothing written and little read.

Every case begins as a checkpoint that is accepted, and does one thing to it. The folder then goes through the front
door, `fmn-guard apply`.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from fmn_guard.cli import main
from fmn_guard.jsonfile import MOST_BYTES
from fmn_guard.tensors import MOST_HEADER
from fmn_guard.tokens import MOST_BYTES as MOST_VOCABULARY

from .paper import WEIGHT_FILES, WEIGHTS, describe, save_paper_checkpoint, write_safetensors

UNET = WEIGHT_FILES["unet"]
ENCODER = WEIGHT_FILES["text_encoder"]
MEMORY = 48 << 20
"""Bytes that refusing may take, tensors, headers and all."""


class Case(NamedTuple):
    """One thing done to a checkpoint.

    Attributes:
        sentence: What it is.
        rule: The rule that refuses it.
        where: The file or folder that the message names.
        do: Does it to a folder, given a file that code in it would make.
    """

    sentence: str
    rule: str
    where: str
    do: Callable[[Path, Path], object]


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def pickled(name: str) -> Callable[[Path, Path], object]:
    return lambda folder, mark: (folder / name).write_bytes(pickle.dumps(Touches(mark)))


def coded(name: str) -> Callable[[Path, Path], object]:
    return lambda folder, mark: (folder / name).write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")


def archived(name: str, content: bytes | None = None) -> Callable[[Path, Path], object]:
    """A zip archive as torch.save writes it; with content, one that unpacks to a thousand times its size."""

    def do(folder: Path, mark: Path) -> None:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", content or pickle.dumps(Touches(mark)))

    return do


def keyed(name: str, **keys: object) -> Callable[[Path, Path], object]:
    """Sets keys of a JSON file."""

    def do(folder: Path, mark: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(data | keys), encoding="utf-8")

    return do


def written(name: str, content: str | bytes) -> Callable[[Path, Path], object]:
    return lambda folder, mark: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, most: int) -> Callable[[Path, Path], object]:
    """A file of zeros that takes no room on the disk."""

    def do(folder: Path, mark: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(most)

    return do


def headed(header: object, payload: bytes = b"\0" * 16, name: str = UNET) -> Callable[[Path, Path], object]:
    """Weights with a header of their own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written(name, struct.pack("<Q", len(text)) + text + payload)


def tensor(begin: object, stop: object, dtype: str = "F32", shape: tuple[object, ...] = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, stop]}


def linked(name: str, target: str) -> Callable[[Path, Path], object]:
    """A link in the place of a file or folder, which is moved out."""

    def do(folder: Path, mark: Path) -> None:
        if (folder / name).exists():
            (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(target)

    return do


def sharded(**weight_map: str) -> Callable[[Path, Path], object]:
    """Two shards and an index, in which tensors of the UNet are where they say: first, then last."""

    def do(folder: Path, mark: Path) -> None:
        whole = folder / UNET
        whole.unlink()
        usual = {}
        for i, (name, content) in enumerate(WEIGHTS["unet"].items(), start=1):
            usual[name] = f"{whole.stem}-0000{i}-of-00002.safetensors"
            write_safetensors(whole.with_name(usual[name]), {name: content})
        changed = dict(zip(usual, weight_map.values(), strict=False))
        index = {"metadata": {}, "weight_map": usual | changed}
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")

    return do


def first_lost(folder: Path, mark: Path) -> None:
    sharded()(folder, mark)
    (folder / FIRST).unlink()


def one_more(folder: Path, mark: Path) -> None:
    sharded()(folder, mark)
    shutil.copy(folder / FIRST, folder / "unet" / "diffusion_pytorch_model-00003-of-00003.safetensors")


def renamed(folder: Path, mark: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")


def twice_encoded(folder: Path, mark: Path) -> None:
    [(name, content)] = [item for item in WEIGHTS["text_encoder"].items() if item[0].endswith("weight")]
    write_safetensors(folder / ENCODER, WEIGHTS["text_encoder"] | {f"text_model.{name}": content})


def rewriting(folder: Path, mark: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["normalizer"]["normalizers"].append({"type": "Replace", "pattern": {"String": "lion"}, "content": "frog"})
    path.write_text(json.dumps(data), encoding="utf-8")


def without_merges(content: str) -> Callable[[Path, Path], object]:
    """A tokenizer in two files, the second of which is what is given."""

    def do(folder: Path, mark: Path) -> None:
        tokenizer = folder / "tokenizer"
        data = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
        (tokenizer / "tokenizer.json").unlink()
        (tokenizer / "vocab.json").write_text(json.dumps(data["model"]["vocab"]), encoding="utf-8")
        (tokenizer / "merges.txt").write_text(content, encoding="utf-8")

    return do


def endless_merges(folder: Path, mark: Path) -> None:
    without_merges("")(folder, mark)
    cut("tokenizer/merges.txt", MOST_VOCABULARY + 1)(folder, mark)


INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
FIRST = "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
SECOND = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
BOMB = b"\0" * (64 << 20)

PICKLES = [
    Case(
        "weights are a pickle",
        "pickle",
        "unet/diffusion_pytorch_model.bin",
        pickled("unet/diffusion_pytorch_model.bin"),
    ),
    Case("a pickle's suffix is in capitals", "pickle", "unet/model.CKPT", pickled("unet/model.CKPT")),
    Case("a pickle is called safetensors", "not-safetensors", UNET, pickled(UNET)),
    Case("what torch saved is called safetensors", "not-safetensors", UNET, archived(UNET)),
    Case("a pickle is called by no known name", "pickle", "unet/notes.dat", pickled("unet/notes.dat")),
    Case("a pickle is in a hidden file", "pickle", "vae/.cache", pickled("vae/.cache")),
    Case("a pickle is called JSON", "bad-json", "vae/config.json", pickled("vae/config.json")),
    Case("an archive unpacks to a thousand times its size", "archive", "unet/x.zip", archived("unet/x.zip", BOMB)),
    Case("such an archive is called safetensors", "not-safetensors", ENCODER, archived(ENCODER, BOMB)),
]
CODE = [
    Case("code lies beside the weights", "remote-code", "unet/modeling.py", coded("unet/modeling.py")),
    Case("a compiled module lies beside the weights", "remote-code", "vae/fast.so", coded("vae/fast.so")),
    Case(
        "a configuration names code to run",
        "points-elsewhere",
        "text_encoder/config.json",
        keyed("text_encoder/config.json", auto_map={"AutoModel": "modeling.Evil"}),
    ),
    Case(
        "a tokenizer names code to run",
        "points-elsewhere",
        "tokenizer/tokenizer_config.json",
        keyed("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
    ),
    Case(
        "the pipeline is of the checkpoint's own",
        "remote-code",
        "model_index.json",
        keyed("model_index.json", _class_name=["evil_pipeline", "EvilPipeline"]),
    ),
    Case(
        "a part is of another library",
        "unknown-class",
        "model_index.json",
        keyed("model_index.json", unet=["evil_library", "UNet2DConditionModel"]),
    ),
    Case(
        "a part is of another class",
        "unknown-class",
        "model_index.json",
        keyed("model_index.json", text_encoder=["transformers", "AutoModel"]),
    ),
    Case(
        "there is a part more",
        "unknown-part",
        "model_index.json",
        keyed("model_index.json", postprocessor=["evil_library", "Postprocessor"]),
    ),
    Case(
        "the scheduler is of an unknown class",
        "unknown-class",
        "model_index.json",
        keyed("model_index.json", scheduler=["diffusers", "EvilScheduler"]),
    ),
    Case(
        "a configuration is of another class than the part",
        "unknown-class",
        "unet/config.json",
        keyed("unet/config.json", _class_name="UNet3DConditionModel"),
    ),
    Case(
        "the tokenizer is of another class",
        "unknown-class",
        "tokenizer/tokenizer_config.json",
        keyed("tokenizer/tokenizer_config.json", tokenizer_class="EvilTokenizer"),
    ),
    Case(
        "a configuration names a kernel to fetch",
        "points-elsewhere",
        "text_encoder/config.json",
        keyed("text_encoder/config.json", _attn_implementation="someone/kernel"),
    ),
    Case(
        "a configuration names a library that unpacks weights",
        "points-elsewhere",
        "unet/config.json",
        keyed("unet/config.json", quantization_config={"quant_method": "evil"}),
    ),
    Case(
        "a configuration names other weights",
        "points-elsewhere",
        "text_encoder/config.json",
        keyed("text_encoder/config.json", transformers_weights="/etc/passwd"),
    ),
    Case(
        "an adapter names another base",
        "points-elsewhere",
        "text_encoder/adapter_config.json",
        keyed("text_encoder/adapter_config.json", base_model_name_or_path="someone/model"),
    ),
    Case(
        "a name of a file would write to the terminal",
        "remote-code",
        "unet",
        coded("unet/a\n\x1b[2Jall is well.py"),
    ),
]
PATHS = [
    Case("weights are a link out of the folder", "link", UNET, linked(UNET, "../../elsewhere")),
    Case("a part is a link out of the folder", "link", "vae", linked("vae", "../elsewhere")),
    Case("a part is a link to another part", "link", "extra", linked("extra", "vae")),
    Case("a link leads in a circle", "link", "unet/a.json", linked("unet/a.json", "a.json")),
    Case("a link leads nowhere", "link", "unet/a.json", linked("unet/a.json", "/nowhere/at/all")),
    Case("a pipe waits for a writer", "special-file", "unet/pipe", lambda f, _: os.mkfifo(f / "unet" / "pipe")),
    Case("an index leads to another folder", "bad-index", INDEX, sharded(first=f"../{WEIGHT_FILES['vae']}")),
    Case("an index leads to the root", "bad-index", INDEX, sharded(first="/etc/passwd.safetensors")),
    Case(
        "an index names the wrong shard",
        "bad-index",
        INDEX,
        sharded(first=Path(SECOND).name, second=Path(FIRST).name),
    ),
    Case(
        "an index stands for no shard",
        "bad-index",
        INDEX,
        lambda f, m: (sharded()(f, m), written(INDEX, '{"weight_map": []}')(f, m)),
    ),
    Case("a shard is missing", "missing-weights", INDEX, first_lost),
    Case("there is a shard more", "extra-weights", "unet", one_more),
    Case(
        "weights of another precision lie beside",
        "extra-weights",
        "vae",
        lambda f, _: shutil.copy(f / UNET, f / "vae" / "x.fp16.safetensors"),
    ),
    Case("one part is of another precision", "mixed-variants", "", renamed),
]
HEADERS = [
    Case("weights are empty", "not-safetensors", UNET, written(UNET, b"")),
    Case("a header is longer than its file", "not-safetensors", UNET, written(UNET, struct.pack("<Q", 2**60) + b"{}")),
    Case(
        "a header is endless",
        "header-too-large",
        UNET,
        lambda f, m: (written(UNET, struct.pack("<Q", MOST_HEADER + 1))(f, m), cut(UNET, MOST_HEADER * 4)(f, m)),
    ),
    Case("a header is nested without end", "bad-json", UNET, headed(b'{"a":' + b"[" * 100_000)),
    Case("a header counts in too many digits", "bad-json", UNET, headed(b'{"a":' + b"9" * 10_000 + b"}")),
    Case("weights are cut off", "wrong-size", UNET, headed({"a": tensor(0, 8), "b": tensor(8, 16)}, b"\0" * 12)),
    Case(
        "weights have something appended",
        "wrong-size",
        UNET,
        headed({"a": tensor(0, 8)}, b"\0" * 8 + b"PK\5\6" + b"\0" * 18),
    ),
    Case(
        "a tensor is named twice",
        "duplicate-key",
        UNET,
        headed(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
        ),
    ),
    Case("tensors overlap", "bad-header", UNET, headed({"a": tensor(0, 8), "b": tensor(4, 12)})),
    Case("there is a gap between tensors", "bad-header", UNET, headed({"a": tensor(0, 8), "b": tensor(12, 20)})),
    Case("a tensor begins before its file", "bad-header", UNET, headed({"a": tensor(-8, 0)})),
    Case("a tensor ends beyond its file", "wrong-size", UNET, headed({"a": tensor(0, 2**40, shape=(2**38,))})),
    Case("a shape is not what its bytes hold", "bad-header", UNET, headed({"a": tensor(0, 16, shape=(2, 2**62))})),
    Case("a shape is not of numbers", "bad-header", UNET, headed({"a": tensor(0, 8, shape=(True, 2.0))})),
    Case("a tensor is of an unknown type", "unknown-dtype", UNET, headed({"a": tensor(0, 16, dtype="OBJECT")})),
    Case(
        "metadata is no text",
        "bad-header",
        UNET,
        headed({"__metadata__": {"a": {"b": 1}}, "a": tensor(0, 16, shape=(4,))}),
    ),
    Case(
        "a weight is not a number",
        "not-finite",
        UNET,
        headed({"a": tensor(0, 16, shape=(4,))}, struct.pack("<4f", 1, 2, float("nan"), 3)),
    ),
    Case(
        "a half-precision weight is infinite",
        "not-finite",
        UNET,
        headed({"a": tensor(0, 8, "F16", (4,))}, struct.pack("<4e", 1, 2, 3, float("-inf"))),
    ),
    Case(
        "a brain-float weight is not a number",
        "not-finite",
        UNET,
        headed({"a": tensor(0, 4, "BF16")}, b"\x80\x3f\xc0\x7f"),
    ),
    Case("a tensor has its old and its new name", "tensor-twice", ENCODER, twice_encoded),
]
CONFIGS = [
    Case("a configuration is endless", "too-large", "unet/config.json", cut("unet/config.json", MOST_BYTES * 64)),
    Case(
        "a key stands twice",
        "duplicate-key",
        "model_index.json",
        written("model_index.json", '{"_class_name": "StableDiffusionPipeline", "_class_name": "Evil"}'),
    ),
    Case(
        "a model is asked to be a million layers deep",
        "too-deep",
        "text_encoder/config.json",
        keyed("text_encoder/config.json", num_hidden_layers=10**6),
    ),
    Case(
        "pictures are asked to be endless",
        "out-of-range",
        "unet/config.json",
        keyed("unet/config.json", sample_size=10**9),
    ),
    Case(
        "Stable Diffusion 3 attends jointly",
        "joint-attention",
        "model_index.json",
        keyed("model_index.json", _class_name="StableDiffusion3Pipeline"),
    ),
    Case(
        "FLUX attends jointly",
        "joint-attention",
        "model_index.json",
        keyed("model_index.json", _class_name="FluxPipeline"),
    ),
    Case(
        "Sana is another transformer",
        "unknown-pipeline",
        "model_index.json",
        keyed("model_index.json", _class_name="SanaPipeline"),
    ),
    Case(
        "noise is predicted in an unknown way",
        "unknown-prediction",
        "scheduler/scheduler_config.json",
        keyed("scheduler/scheduler_config.json", prediction_type="sample"),
    ),
]
TOKENIZERS = [
    Case(
        "a name has a token of its own",
        "added-token",
        "tokenizer/added_tokens.json",
        keyed("tokenizer/added_tokens.json", lion=962),
    ),
    Case(
        "a configuration adds a token",
        "added-token",
        "tokenizer/tokenizer_config.json",
        keyed("tokenizer/tokenizer_config.json", added_tokens_decoder={"962": {"content": "lion"}}),
    ),
    Case("the tokenizer rewrites words", "rewrites-words", "tokenizer/tokenizer.json", rewriting),
    Case(
        "there are two vocabularies",
        "two-vocabularies",
        "tokenizer/vocab.json",
        written("tokenizer/vocab.json", '{"a": 5}'),
    ),
    Case("merges are endless", "too-large", "tokenizer/merges.txt", endless_merges),
    Case("merges are of another vocabulary", "bad-tokenizer", "tokenizer", without_merges("#version: 0.2\nzz qq\n")),
    Case(
        "a special token is unknown",
        "unknown-token",
        "tokenizer",
        keyed("tokenizer/tokenizer_config.json", pad_token=7),
    ),
]
PAPER = [*PICKLES, *CODE, *PATHS, *HEADERS, *CONFIGS, *TOKENIZERS]


def _apply(folder: Path) -> Result:
    """Asks for a concept to be forgotten of a checkpoint; nothing but the checkpoint is wrong."""
    manifest = folder.parent / "manifest.yaml"
    manifest.write_text(MANIFEST.format(folder=folder.name), encoding="utf-8")
    return CliRunner().invoke(main, ["apply", str(manifest), "--out", str(folder.parent / "run")])


MANIFEST = """\
apiVersion: fmn-guard/v1
kind: ConceptManifest
metadata:
  name: hostile
spec:
  base:
    checkpoint: {folder}
  concepts:
    - kind: object
      phrase: lion
"""


def _everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _refused(case: Case, folder: Path, mark: Path) -> None:
    before = _everything(folder.parent) | {"manifest.yaml"}
    result = _apply(folder)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    message = result.stderr
    assert str(folder / case.where) in message
    assert f": {case.rule}: " in message
    assert message.count("hint: ") == 1
    assert "Traceback" not in message
    assert "\x1b" not in message
    assert not mark.exists()
    assert _everything(folder.parent) == before


def _ids(cases: list[Case]) -> list[str]:
    return [case.sentence.replace(" ", "_") for case in cases]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is accepted; asked for once, so that what is imported on the way counts for no case."""
    folder = save_paper_checkpoint(tmp_path_factory.mktemp("intact") / "model")
    assert _apply(folder).exit_code == 2  # its weights fit no model
    describe(folder)
    return folder


@pytest.mark.parametrize("case", PAPER, ids=_ids(PAPER))
def test_checkpoint_is_refused_when(case: Case, intact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(intact, tmp_path / "model")
    case.do(folder, tmp_path / "mark")
    tracemalloc.start()
    try:
        _refused(case, folder, tmp_path / "mark")
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def retold(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], object]:
    """Weights of the UNet with another header for the same bytes."""

    def do(folder: Path, mark: Path) -> None:
        content = (folder / UNET).read_bytes()
        [length] = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        headed(header, content[8 + length :])(folder, mark)

    return do


def turned(header: dict[str, Any]) -> None:
    header["conv_in.weight"]["shape"].reverse()


def called_otherwise(header: dict[str, Any]) -> None:
    header["another.weight"] = header.pop("mid_block.attentions.0.norm.weight")


def one_missing(folder: Path, mark: Path) -> None:
    retold(lambda header: header.pop("conv_norm_out.bias"))(folder, mark)
    content = (folder / UNET).read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    header = {k: v for k, v in json.loads(content[8 : 8 + length]).items() if k != "__metadata__"}
    end, kept = 0, []
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        begin, stop = entry["data_offsets"]
        kept.append(content[8 + length + begin : 8 + length + stop])
        entry["data_offsets"] = [end, end + stop - begin]
        end += stop - begin
    headed(header, b"".join(kept))(folder, mark)


TORCH = [
    Case("a tensor is turned round", "wrong-shape", "unet", retold(turned)),
    Case("a tensor is missing", "missing-tensor", "unet", one_missing),
    Case("a tensor is called otherwise", "unknown-tensor", "unet", retold(called_otherwise)),
    Case("heads are of no size", "bad-config", "unet/config.json", keyed("unet/config.json", attention_head_dim=0)),
    Case(
        "a configuration is of another model",
        "wrong-shape",
        "text_encoder",
        keyed("text_encoder/config.json", intermediate_size=96),
    ),
]
"""What only the classes of torch can tell; it is told before anything is written all the same."""


@pytest.mark.parametrize("case", TORCH, ids=_ids(TORCH))
def test_weights_are_refused_when(case: Case, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    case.do(folder, tmp_path / "mark")
    _refused(case, folder, tmp_path / "mark")


def whole_tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], object]:
    """Changes ``tokenizer.json``."""

    def do(folder: Path, mark: Path) -> None:
        path = folder / TOKENIZER
        change(data := json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(data), encoding="utf-8")

    return do


def table(content: bytes) -> dict[str, str]:
    """A normalizer with a table of characters."""
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


TOKENIZER = "tokenizer/tokenizer.json"
LION = {"content": "lion", "id": 5, "special": True, "normalized": False}
PIXART = [
    Case("its pieces are a pickle", "pickle", "tokenizer/spiece.model", pickled("tokenizer/spiece.model")),
    Case(
        "its transformer is of another class",
        "unknown-class",
        "model_index.json",
        keyed("model_index.json", transformer=["diffusers", "SD3Transformer2DModel"]),
    ),
    Case(
        "its configuration is of another class",
        "unknown-class",
        "transformer/config.json",
        keyed("transformer/config.json", _class_name="DiTTransformer2DModel"),
    ),
    Case(
        "it is told classes of pictures under the name that PixArt's class had",
        "unusual-model",
        "transformer/config.json",
        keyed("transformer/config.json", _class_name="Transformer2DModel", norm_type="ada_norm_zero"),
    ),
    Case("it has a UNet too", "unknown-part", "model_index.json", keyed("model_index.json", unet=["diffusers", "Any"])),
    Case(
        "it is told boxes too",
        "unusual-model",
        "transformer/config.json",
        keyed("transformer/config.json", attention_type="gated"),
    ),
    Case(
        "its blocks would not end",
        "too-deep",
        "transformer/config.json",
        keyed("transformer/config.json", num_layers=1_000_000),
    ),
    Case(
        "its encoder would not end",
        "too-deep",
        "text_encoder/config.json",
        keyed("text_encoder/config.json", num_layers=1_000_000),
    ),
    Case(
        "its encoder is a whole T5",
        "unknown-class",
        "text_encoder/config.json",
        keyed("text_encoder/config.json", architectures=["T5ForConditionalGeneration"]),
    ),
    Case(
        "its tokenizer is CLIP's",
        "unknown-class",
        "tokenizer/tokenizer_config.json",
        keyed("tokenizer/tokenizer_config.json", tokenizer_class="CLIPTokenizer"),
    ),
    Case(
        "its pieces lie elsewhere",
        "points-elsewhere",
        "tokenizer/tokenizer_config.json",
        keyed("tokenizer/tokenizer_config.json", vocab_file="/etc/passwd"),
    ),
    Case(
        "its tokenizer adds a name",
        "added-token",
        TOKENIZER,
        whole_tokenizer(lambda data: data["added_tokens"].append(LION)),
    ),
    Case(
        "its tokenizer's configuration adds a name",
        "added-token",
        "tokenizer/tokenizer_config.json",
        keyed("tokenizer/tokenizer_config.json", extra_special_tokens=["lion"]),
    ),
    Case(
        "its sentences end with a name",
        "unknown-token",
        "tokenizer",
        keyed("tokenizer/tokenizer_config.json", eos_token="lion"),
    ),
    Case(
        "its tokenizer pairs letters",
        "bad-tokenizer",
        TOKENIZER,
        whole_tokenizer(lambda data: data["model"].update(type="BPE")),
    ),
    Case(
        "its pieces have no numbers",
        "bad-tokenizer",
        TOKENIZER,
        whole_tokenizer(lambda data: data["model"]["vocab"].append(["lion", "often"])),
    ),
    Case(
        "its first pieces are others",
        "unknown-token",
        TOKENIZER,
        whole_tokenizer(lambda data: data["model"]["vocab"].reverse()),
    ),
    Case(
        "its tokenizer writes another name",
        "rewrites-words",
        TOKENIZER,
        whole_tokenizer(
            lambda data: data.update(normalizer={"type": "Replace", "pattern": {"String": "lion"}, "content": "cat"})
        ),
    ),
    Case(
        "its table of characters is cut off",
        "bad-tokenizer",
        TOKENIZER,
        whole_tokenizer(lambda data: data.update(normalizer=table(b"\0\4\0\0abc"))),
    ),
    Case(
        "its table of characters leads out of itself",
        "bad-tokenizer",
        TOKENIZER,
        whole_tokenizer(lambda data: data.update(normalizer=table(b"\0\4\0\0" + b"\xff" * 1024 + b"x\0"))),
    ),
    Case(
        "its pieces are of no kind and all there is",
        "bad-tokenizer",
        "tokenizer/spiece.model",
        lambda folder, mark: (folder / TOKENIZER).rename(folder / "tokenizer/spiece.model"),
    ),
    Case(
        "its weights are of fewer blocks",
        "unknown-tensor",
        "transformer",
        keyed("transformer/config.json", num_layers=2),
    ),
    Case(
        "its encoder's weights are of another width",
        "wrong-shape",
        "text_encoder",
        keyed("text_encoder/config.json", d_ff=96),
    ),
    Case(
        "its heads are of no size",
        "bad-config",
        "transformer/config.json",
        keyed("transformer/config.json", patch_size=0),
    ),
]
"""PixArt, in its own files."""


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from .tiny import save_tiny_family

    return save_tiny_family(tmp_path_factory.mktemp("pixart") / "model", "pixart-sigma")


@pytest.mark.parametrize("case", PIXART, ids=_ids(PIXART))
def test_pixart_is_refused_where(case: Case, pixart: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pixart, tmp_path / "model")
    case.do(folder, tmp_path / "mark")
    _refused(case, folder, tmp_path / "mark")


def test_patch_for_another_base_is_refused_and_nothing_is_drawn(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch

    from fmn_guard.forget.patch import Part, PartFacts, Patch, write_patch
    from fmn_guard.record import digest

    patch = tmp_path / "patch.safetensors"
    edits = {"conv_in.weight": torch.ones(1)}
    facts = PartFacts(concepts=(), kind=None, plan_digest=digest("plan"))
    write_patch(patch, Patch(digest("another"), 0, (Part(facts, dict(edits)),)))
    before = _everything(tmp_path)
    sheet = tmp_path / "sheet.png"
    command = ["sample", str(tiny_checkpoint), "a lion", "--patch", str(patch), "--steps", "1", "--count", "1"]
    result = CliRunner().invoke(main, [*command, "-o", str(sheet)])
    assert result.exit_code == 2
    assert f"{patch} was made for the base" in result.stderr
    assert result.stderr.count("hint: ") == 1
    assert _everything(tmp_path) == before
