"""What may not lie in a checkpoint's folder, whatever its name: code, pickles, archives, links, and what is no file.

Nothing is loaded to find out, and what loaders never open is refused all the same: a folder is passed on whole.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from .errors import RefusedArtefact
from .pickles import PICKLE_SUFFIXES, why_pickle

MOST_FILES = 10_000
"""Of a folder; published checkpoints have some dozen."""
_CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"})
# Read as text or by their own readers, which refuse what is something else.
_READ = frozenset({".json", ".txt", ".md", ".safetensors", ".png", ".jpg", ".jpeg", ".webp", ".gif"})
# Of git and of the hub's library; loaders never look there.
_BOOKKEEPING = frozenset({".git", ".cache"})


def refuse_intrusions(folder: Path) -> None:
    """Looks through a checkpoint's folder before anything of it is read.

    Raises:
        RefusedArtefact: it holds what can run code, leads elsewhere, or never ends.
    """
    home = folder.resolve()
    # a hub cache snapshot consists of links into the blobs folder beside it
    allowed = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
    seen = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _BOOKKEEPING) if Path(root) == folder else sorted(folders)
        for name in (*folders, *sorted(names)):
            seen += 1
            if seen > MOST_FILES:
                raise RefusedArtefact.of(
                    folder, "too-many-files", f"holds more than {MOST_FILES:,} files", "is it a checkpoint?"
                )
            _refuse(Path(root) / name, allowed)


def _refuse(path: Path, allowed: tuple[Path, ...]) -> None:
    if path.is_symlink() and not _stays(path, allowed):
        raise RefusedArtefact.of(
            path, "link", "is a link that leaves the checkpoint", "copy what it points to into the folder"
        )
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        if path.is_symlink():
            raise RefusedArtefact.of(path, "link", "is a link to a folder", "copy the folder to its place")
        return
    if not stat.S_ISREG(mode):
        raise RefusedArtefact.of(path, "special-file", "is no file but a device, pipe or socket", "remove it")
    suffix = path.suffix.lower()
    if suffix in _CODE:
        raise RefusedArtefact.of(
            path, "remote-code", "is code inside a checkpoint", "remote code is never run; remove it"
        )
    if suffix in PICKLE_SUFFIXES:
        raise RefusedArtefact.of(
            path,
            "pickle",
            "is a pickle, which can run code when loaded",
            "make safetensors of it with fmn-guard convert, and remove it",
        )
    if suffix not in _READ:
        if zipfile.is_zipfile(path):
            raise RefusedArtefact.of(path, "archive", "is a zip archive, which may hold a pickle", "remove it")
        if reason := why_pickle(path):
            raise RefusedArtefact.of(path, "pickle", reason, "make safetensors of it with fmn-guard convert")


def _stays(link: Path, allowed: tuple[Path, ...]) -> bool:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or in a circle
        return False
    return any(target.is_relative_to(place) for place in allowed)
