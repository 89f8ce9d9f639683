"""JSON that came with a checkpoint: of bounded size and depth, and without a key that stands twice.

What two readers understand differently is no configuration: of a key that stands twice, one library keeps the first
value and another the last.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import InputError, RefusedArtefact, quoted

MOST_BYTES = 1 << 20
"""Of a configuration; those of published checkpoints have some thousand."""
_HINT = "download the checkpoint again, or re-save it with diffusers' save_pretrained"


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: the file; what is longer than ``most`` is not read.
        most: bytes.

    Raises:
        InputError: it is missing.
        RefusedArtefact: it is too large, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read() if size <= most else b""
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{path} is missing",
            hint="a diffusers folder has model_index.json, unet, vae, text_encoder, tokenizer, scheduler",
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    if size > most:
        raise RefusedArtefact.of(path, "too-large", f"has {size:,} bytes, {most:,} are read at most", _HINT)
    return parse_object(content, path)


def parse_object(content: bytes, path: Path) -> dict[str, Any]:
    """Parses one JSON object that stands in a file.

    Raises:
        RefusedArtefact: it is something else, or a key stands twice in an object.
    """
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except _KeyTwice as twice:
        raise RefusedArtefact.of(
            path, "duplicate-key", f"the key {quoted(str(twice))} stands twice in an object", _HINT
        ) from None
    except ValueError as error:
        raise RefusedArtefact.of(path, "bad-json", f"is not JSON: {quoted(str(error))}", _HINT) from error
    except RecursionError:
        raise RefusedArtefact.of(path, "bad-json", "is nested too deeply", _HINT) from None
    if not isinstance(data, dict):
        raise RefusedArtefact.of(path, "bad-json", f"does not hold an object but {quoted(data)}", _HINT)
    return data


class _KeyTwice(Exception):
    """A key that stands twice; no ValueError, which would be taken for a fault of the syntax."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _KeyTwice(key)
        found[key] = value
    return found
