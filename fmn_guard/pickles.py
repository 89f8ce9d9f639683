"""Files that can run code when they are loaded, told by name and by content; nothing is ever unpickled.

file --why_pickle--> what makes it a pickle, in words, or None

A pickle is a program. `torch.load` and its like run it opcode by opcode, so one that is cut off or damaged further down
has run by then as far as it goes.
"""

from __future__ import annotations

import mmap
import pickletools
import zipfile
from pathlib import Path

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"})
"""What pickled weights are called; loaders open such a file as a pickle, whatever is in it today."""

_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD"})


def why_pickle(path: Path) -> str | None:
    """What makes a file a pickle: its name, an archive of PyTorch's, or opcodes from its first byte on.

    Args:
        path: a file, which is read and never loaded.

    Returns:
        The reason as the end of a sentence about the file; None when it is no pickle.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if path.suffix.lower() in PICKLE_SUFFIXES:
            return f"is called {path.suffix.lower()}, which loaders open as a pickle"
        if size == 0:
            return None
        if zipfile.is_zipfile(file):
            return _why_archive(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _why_opcodes(content)


def _why_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is a damaged zip archive, of which nobody can tell whether a pickle is in it"
    found = next((name for name in names if name.lower().endswith((".pkl", ".pickle"))), None)
    return found and f"is a zip archive with the pickle {found} in it, as torch.save writes it"


def _why_opcodes(content: mmap.mmap) -> str | None:
    """Follows opcodes, and how deep the stack is, as far as the unpickler would come.

    Much else begins like a pickle: a list of words like an import, and a safetensors file whose header has 640 bytes
    like protocol 2. What counts is what would happen: a call, or an object at the end.
    """
    stack: list[object] = []
    has_protocol = imported = False
    try:
        for opcode, _, position in pickletools.genops(content):  # type: ignore[arg-type]  # it reads as a file does
            if not _takes(stack, opcode):
                return None
            has_protocol |= opcode.name == "PROTO"
            imported |= opcode.name in _IMPORTS
            if imported and opcode.name in _CALLS:
                return "is a pickle that calls what it imports"
            # Without a protocol, "N. B." is an object and a rest as well; no writer of pickles leaves a rest there.
            if opcode.name == "STOP" and (has_protocol or position == len(content) - 1):
                return "is a pickle"
    except ValueError:  # no opcode, or not the argument of one
        return None
    return None


def _takes(stack: list[object], opcode: pickletools.OpcodeInfo) -> bool:
    """Puts on a stack what an opcode leaves there; False if what the opcode takes is not on it."""
    taken = opcode.stack_before
    mark = pickletools.markobject
    if mark in taken:
        if mark not in stack:
            return False
        while stack.pop() is not mark:
            pass
        taken = taken[: taken.index(mark)]
    if len(taken) > len(stack):
        return False
    del stack[len(stack) - len(taken) :]
    stack += opcode.stack_after
    return True
