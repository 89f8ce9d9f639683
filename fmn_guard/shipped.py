"""Where the files are that come with fmn-guard: manifests, policies, suites, built-in models.

In a clone they are the top-level folders that people read; a wheel carries copies under
``fmn_guard/data``.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import InputError
from .record import SLUG_PATTERN

_PACKAGE = Path(__file__).parent


def _folder(packed: str, in_clone: str) -> Path:
    folder = _PACKAGE / "data" / packed
    return folder if folder.is_dir() else _PACKAGE.parent / in_clone


def manifests() -> Path:
    """Folder of example manifests."""
    return _folder("manifests", "manifests")


def policies() -> Path:
    """Folder of shipped policies."""
    return _folder("policies", "policies")


def frameworks() -> Path:
    """Folder of shipped compliance frameworks."""
    return policies() / "frameworks"


def suites() -> Path:
    """Folder of shipped audit suites."""
    return _folder("suites", "audits/suites")


def attacks() -> Path:
    """Folder of shipped attack suites."""
    return _folder("attacks", "audits/attacks")


def models() -> Path:
    """Folder of built-in models, whose ``SHA256SUMS`` pins their weights."""
    return _PACKAGE / "data" / "models"


def shipped_model(name: str) -> Path:
    """Folder of a built-in model, e.g. ``emoji-sd``.

    Raises:
        InputError: there is no such built-in model.
    """
    folder = models()
    if not re.fullmatch(SLUG_PATTERN, name) or not (folder / name).is_dir():
        known = (
            ", ".join(f"builtin:{p.name}" for p in sorted(folder.iterdir()) if p.is_dir())
            if folder.is_dir()
            else "none"
        )
        raise InputError(f"no built-in model builtin:{name}", hint=f"built in are: {known}")
    return folder / name


def find(what: str, folder: Path, beside: Path, suffix: str = ".yaml") -> Path:
    """Finds a policy, suite or framework by shipped name, or by path relative to ``beside``: nowhere else is looked.

    A shipped name wins, lest a file of that name, wherever the command happens to run, sets another
    bar; ``./name`` is the file.

    Raises:
        InputError: neither exists.
    """
    named = re.fullmatch(SLUG_PATTERN, what)
    shipped: tuple[Path, ...] = (folder / f"{what}{suffix}", folder / what / f"suite{suffix}") if named else ()
    for path in (*shipped, beside / what):
        if path.exists():
            return path
    known = ", ".join(sorted(p.stem for p in folder.iterdir() if p.suffix == suffix or (p / f"suite{suffix}").exists()))
    raise InputError(f"no {what!r} among the {folder.name}", hint=f"shipped are: {known}; or give a path")
