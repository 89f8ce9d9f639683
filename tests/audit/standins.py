"""Stand-ins for detectors' networks: the real classes and file formats, with weights made here."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification

PREPROCESSOR = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
}


def save_vit(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw"), **config: object) -> Path:
    """A transformers folder of a tiny random classifier."""
    torch.manual_seed(0)
    made = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        initializer_range=0.5,
        **config,
    )
    ViTForImageClassification(made).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    return folder


# ---- ONNX, as far as it is needed: a message of protobuf is a run of (field number, value)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def _field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = 7 if values.dtype == np.int64 else 1
    shape = b"".join(_field(1, int(size)) for size in values.shape)
    return shape + _field(2, kind) + _field(8, name) + _field(9, values.tobytes())


def _attribute(name: str, values: tuple[int, ...]) -> bytes:
    return _field(1, name) + b"".join(_field(8, value) for value in values) + _field(20, 7)


def _node(op: str, inputs: Iterable[str], output: str, **attributes: tuple[int, ...]) -> bytes:
    parts = [_field(1, name) for name in inputs] + [_field(2, output), _field(4, op)]
    return b"".join([*parts, *(_field(5, _attribute(name, values)) for name, values in attributes.items())])


def _value(name: str, shape: tuple[int | str, ...]) -> bytes:
    sizes = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, sizes)))


def _model(nodes: list[bytes], tensors: list[bytes], given: bytes, made: list[bytes]) -> bytes:
    parts = [_field(1, node) for node in nodes] + [_field(2, "stand-in")]
    parts += [_field(5, tensor) for tensor in tensors] + [_field(11, given)] + [_field(12, each) for each in made]
    return _field(1, 8) + _field(7, b"".join(parts)) + _field(8, _field(1, "") + _field(2, 13))


class _Net:
    """Collects the nodes and tensors of a network."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.tensors: list[bytes] = []

    def node(self, op: str, inputs: Iterable[str], output: str, **attributes: tuple[int, ...]) -> str:
        self.nodes.append(_node(op, inputs, output, **attributes))
        return output

    def tensor(self, name: str, values: np.ndarray) -> str:
        self.tensors.append(_tensor(name, values))
        return name


def yunet() -> bytes:
    """Sees a face in each cell of 8 x 8 pixels, as surely as the cell is bright; answers as YuNet does."""
    net, made = _Net(), []
    eyes_nose_mouth = [-1.0, -1.0, 2.0, -1.0, 0.5, 0.5, -0.8, 2.0, 1.8, 2.0]  # in cells, from the cell's corner
    for stride in (8, 16, 32):
        pooled = net.node(
            "AveragePool", ["input"], f"pooled{stride}", kernel_shape=(stride, stride), strides=(stride, stride)
        )
        bright = 1 / 765 if stride == 8 else 0.0  # the mean over channels, of at most 255 each
        for name, weight, bias in (
            ("cls", bright, [0.0]),
            ("obj", bright, [0.0]),
            ("bbox", 0.0, [0.5, 0.5, 1.0, 1.0]),
            ("kps", 0.0, eyes_nose_mouth),
        ):
            key = f"{name}_{stride}"
            kernel = net.tensor(f"w_{key}", np.full((len(bias), 3, 1, 1), weight, np.float32))
            shift = net.tensor(f"b_{key}", np.array(bias, np.float32))
            map_ = net.node("Conv", [pooled, kernel, shift], f"map_{key}", kernel_shape=(1, 1))
            last = net.node("Transpose", [map_], f"last_{key}", perm=(0, 2, 3, 1))
            shape = net.tensor(f"s_{key}", np.array([1, -1, len(bias)], np.int64))
            net.node("Reshape", [last, shape], key)
            made.append(_value(key, (1, f"cells{stride}", len(bias))))
    return _model(net.nodes, net.tensors, _value("input", (1, 3, "height", "width")), made)


def sface() -> bytes:
    """Reads an aligned face as its colours in 8 x 8 places, less the middle grey."""
    net = _Net()
    pooled = net.node("AveragePool", ["data"], "pooled", kernel_shape=(14, 14), strides=(14, 14))
    kernel = net.tensor("w", np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1))
    centred = net.node("Conv", [pooled, kernel, net.tensor("b", np.full(3, -127.5, np.float32))], "centred")
    net.node("Flatten", [centred], "fc1")
    return _model(net.nodes, net.tensors, _value("data", (1, 3, 112, 112)), [_value("fc1", (1, 192))])


Paint = Callable[[np.ndarray], None]


def face_picture(colour: tuple[int, int, int], size: int = 64) -> np.ndarray:
    """A dark picture with one cell that `yunet` takes for a face, on a patch of colour that `sface` reads."""
    picture = np.zeros((size, size, 3), np.uint8)
    picture[16:48, 16:48] = colour
    picture[24:32, 24:32] = 255
    return picture
