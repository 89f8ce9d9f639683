"""Every file of a run folder by its digest: listed last, checked first, and still known once pictures are removed.

run folder --write_files--> files.json     what the run consists of
run folder --check_files--> Files          or the first file that differs
run folder --remove-------> cleaned.json   what was removed on purpose; files.json keeps its digests
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from .errors import BrokenChain, InputError
from .record import Digest, R, Record, bytes_digest, file_digest, pretty_json, read_record, write_record

FILES = "files.json"
CLEANED = "cleaned.json"
SIGNATURE = "signature.dsse.json"
# They come after the list, or are made of it.
_BESIDE = frozenset({FILES, CLEANED, SIGNATURE})
STAGES = (
    *("plan.json", "passes.json", "patch.safetensors", "audit.json"),
    *("mscore.json", "attacks.json", "review.json", "policy.json", "report.json", "report.md"),
)
"""What a run is of, in the order in which it is made; two of them only where fmn-guard made the patch, one only
where inversion was tried, one only where it was attacked, and one only where people reviewed it."""
MIGRATED = "migrated.json"
"""Which run of an older version this one was lifted from, if it was."""
PICTURES = "images/"
"""How paths of pictures begin."""
PAGE = ".html"
"""How names of reports end that hold pictures themselves."""


class Files(Record):
    """files.json: what a run folder consists of."""

    schema_version: Literal["fmn-guard/files/v1"] = "fmn-guard/files/v1"
    """Format of this record."""
    files: dict[str, Digest]
    """Digest of the bytes of each file, by its path in the run folder; this list, the signature and ``cleaned.json``
    stand outside."""

    @property
    def digest(self) -> Digest:
        """Digest of the bytes of files.json."""
        return bytes_digest(pretty_json(self).encode())


class Cleaned(Record):
    """cleaned.json: which files of the list were removed on purpose."""

    schema_version: Literal["fmn-guard/cleaned/v1"] = "fmn-guard/cleaned/v1"
    """Format of this record."""
    files: tuple[str, ...]
    """Their paths in the run folder, sorted."""


def read_canonical(path: Path, record: type[R]) -> R | None:
    """Reads a record that may be missing, and refuses every spelling of it but that of `write_record`.

    Raises:
        InputError: it is unreadable.
        BrokenChain: it is spelled otherwise.
    """
    if not path.exists():
        return None
    read = read_record(path, record)
    # JSON allows spaces and escapes that no digest of what it says would notice.
    if path.read_bytes() != pretty_json(read).encode():
        raise BrokenChain(f"{path} is not spelled as fmn-guard spells it", hint="restore it; somebody edited it")
    return read


def read_files(run: Path) -> Files | None:
    """The list of a run folder; None when it has none yet.

    Raises:
        InputError: it is unreadable.
        BrokenChain: it is spelled otherwise than fmn-guard spells it.
    """
    return read_canonical(run / FILES, Files)


def read_cleaned(run: Path) -> Cleaned:
    """What was removed from a run folder on purpose.

    Raises:
        InputError: ``cleaned.json`` is unreadable.
        BrokenChain: it is spelled otherwise than fmn-guard spells it.
    """
    return read_canonical(run / CLEANED, Cleaned) or Cleaned(files=())


def write_files(run: Path, listed: Files | None, changed: Iterable[Path]) -> bool:
    """Writes the list of a run folder.

    What is listed already keeps its digest unless the caller changed it: who writes a report does not vouch for what
    somebody else did to a picture.

    Args:
        run: The run folder.
        listed: The list so far; None lists everything anew.
        changed: Files that the caller wrote, wherever they are.

    Returns:
        Whether the list is another one than before.
    """
    if listed is None:
        (run / CLEANED).unlink(missing_ok=True)  # it was about a list that is gone
        names = [name for name in _found(run) if name not in _BESIDE and not _is_leftover(name)]
        files = {name: file_digest(run / name) for name in names}
    else:
        files = listed.files | {name: file_digest(run / name) for name in _names_in(run, changed)}
    new = Files(files=dict(sorted(files.items())))
    if new == listed:
        return False
    write_record(run / FILES, new)
    return True


def check_files(run: Path, *, without_pictures: bool = False, with_leftovers: bool = False) -> Files:
    """Checks that a run folder holds the files of its list, byte for byte, and no others.

    Args:
        run: The run folder.
        without_pictures: Whether pictures may be absent, as in a clone; `absent_pictures` names them. What is there
            is checked all the same.
        with_leftovers: Whether what `leftovers` names may be there.

    Raises:
        BrokenChain: the first file that differs, in the order in which they are made.
        InputError: the list is missing or unreadable.
    """
    if not run.is_dir():
        raise InputError(f"there is no run folder {run}", hint="check the path")
    listed = read_files(run)
    if listed is None:
        raise InputError(
            f"{run / FILES} is missing: nothing says what the run consists of",
            hint="a run of an older version gets it with `fmn-guard report RUN --policy NAME`, as its files are now",
        )
    cleaned = read_cleaned(run)
    _check_cleaned(run, listed, cleaned)
    found = frozenset(_found(run)) - _BESIDE
    if with_leftovers:
        found -= frozenset(leftovers(run))
    for name in _in_order(found | listed.files.keys()):
        if name in found:
            _check_file(run / name, name, listed.files.get(name))
        elif name not in cleaned.files and not (without_pictures and name.startswith(PICTURES)):
            raise BrokenChain(
                f"{run / name} is missing: it is listed in {FILES}, and not in {CLEANED}",
                hint="restore it; pictures are removed with `fmn-guard clean`, which notes that they were",
            )
    return listed


def absent_pictures(run: Path, listed: Files) -> tuple[str, ...]:
    """Pictures of a list that are not in the run folder, and were not cleaned either."""
    cleaned = read_cleaned(run).files
    pictures = (name for name in listed.files if name.startswith(PICTURES))
    return tuple(name for name in pictures if name not in cleaned and not (run / name).exists())


def cleaned_files(run: Path) -> tuple[str, ...]:
    """Paths in a run folder of what was removed on purpose, and was not written again."""
    return tuple(name for name in read_cleaned(run).files if not (run / name).exists())


def leftovers(run: Path) -> tuple[str, ...]:
    """Paths in a run folder of what interrupted commands left."""
    return tuple(name for name in _found(run) if _is_leftover(name))


def remove(run: Path, names: Iterable[str]) -> None:
    """Removes files of a run folder: pictures and pages of its list, which are noted first, and leftovers.

    Killed at any moment, the run can still be verified, and the same call goes on.

    Args:
        run: The run folder, known to be of one piece.
        names: Paths in it.
    """
    gone = tuple(names)
    if noted := {name for name in gone if not _is_leftover(name)}:
        write_record(run / CLEANED, Cleaned(files=tuple(sorted({*read_cleaned(run).files, *noted}))))
    for name in gone:
        (run / name).unlink()
    for folder in sorted({run / PICTURES, *((run / name).parent for name in gone)} - {run}, reverse=True):
        with suppress(OSError):  # it is not empty, or was not there
            folder.rmdir()


def _check_cleaned(run: Path, listed: Files, cleaned: Cleaned) -> None:
    names = cleaned.files
    removable = {name for name in listed.files if name.startswith(PICTURES) or name.endswith(PAGE)}
    if not removable.issuperset(names) or list(names) != sorted(set(names)):
        raise BrokenChain(
            f"{run / CLEANED} does not list pictures and pages of {FILES}, each once and in order",
            hint="restore it; nothing else can be cleaned",
        )


def _check_file(path: Path, name: str, stated: Digest | None) -> None:
    if _is_leftover(name):
        raise BrokenChain(
            f"{path} was left by an interrupted command",
            hint="run the same command again, or remove it with `fmn-guard clean`",
        )
    if stated is None:
        raise BrokenChain(f"{path} is not listed in {FILES}", hint="it is no part of the run: move it out")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise BrokenChain(f"{path} is a link or no file", hint="put the file itself there")
    if (found := file_digest(path)) != stated:
        raise BrokenChain(
            f"{path}: digest of its bytes is {found}, {FILES} says {stated}",
            hint="one of the two was changed after the run: restore it, or make the run again",
        )


def _in_order(names: Iterable[str]) -> list[str]:
    place = {name: i for i, name in enumerate(STAGES)}
    return sorted(names, key=lambda name: (place.get(name, len(STAGES)), name))


def _found(run: Path) -> Iterator[str]:
    """Paths of everything in a run folder that is no folder, links to folders included; sorted."""
    for folder, below, files in os.walk(run):
        below.sort()
        here = Path(folder)
        links = [name for name in below if (here / name).is_symlink()]
        for name in sorted((*files, *links)):
            yield (here / name).relative_to(run).as_posix()


def _is_leftover(name: str) -> bool:
    base = name.rpartition("/")[2]
    return ".partial." in base or (base.startswith(".") and base.endswith(".tmp"))


def _names_in(run: Path, paths: Iterable[Path]) -> set[str]:
    """Those of some paths that lie in a run folder, as paths in it."""
    folder = run.resolve()
    whole = [path.resolve() for path in paths]
    return {path.relative_to(folder).as_posix() for path in whole if path.is_relative_to(folder)} - _BESIDE
