"""Which pictures of a run are kept once it is concluded.

run folder --clean--> Removal     the others are gone, and what interrupted commands left
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, assert_never

from .chain import PAGE, PICTURES, check_files, leftovers, remove
from .evidence import Audit
from .gate import check_run
from .gathered import gather
from .plan import Plan
from .record import read_record
from .render.html.samples import samples

Keep = Literal["samples", "all-but-images", "evidence"]
"""What stays: the pictures that report.html shows; none; or not even the pages that hold some."""


class Removal(NamedTuple):
    """What `clean` removes, or would remove."""

    files: dict[str, int]
    """Bytes of each file of the list, by its path in the run folder; its digest stays."""
    leftovers: dict[str, int]
    """Bytes of each file that an interrupted command left."""
    kept: int
    """Pictures that stay."""


def clean(run: Path, keep: Keep = "samples", *, dry_run: bool = False) -> Removal:
    """Removes pictures of a run and what interrupted commands left; the rest of it can still be verified.

    Killed at any moment, the same call goes on.

    Args:
        run: The run folder.
        keep: What stays.
        dry_run: Whether to remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        BrokenChain: the run is not of one piece: nothing is removed, since it could not be told afterwards.
        InputError: a file of it is missing or unreadable.
    """
    left = leftovers(run)
    listed = check_files(run, with_leftovers=True)
    check_run(run)
    there = [name for name in listed.files if (run / name).exists()]
    kept = _shown(run) if keep == "samples" else frozenset()
    gone = tuple(name for name in there if _holds_pictures(name, keep) and name not in kept)
    sizes = {name: (run / name).lstat().st_size for name in (*gone, *left)}
    if not dry_run:
        remove(run, (*gone, *left))
    pictures = [name for name in there if name.startswith(PICTURES)]
    return Removal(
        files={name: sizes[name] for name in gone},
        leftovers={name: sizes[name] for name in left},
        kept=len(set(pictures) - set(gone)),
    )


def _holds_pictures(name: str, keep: Keep) -> bool:
    match keep:
        case "samples" | "all-but-images":
            return name.startswith(PICTURES)
        case "evidence":
            return name.startswith(PICTURES) or name.endswith(PAGE)
        case _:
            assert_never(keep)


def _shown(run: Path) -> frozenset[str]:
    """Paths in a run folder of the pictures that report.html shows."""
    evidence = gather(read_record(run / "plan.json", Plan), read_record(run / "audit.json", Audit))
    names = [sample.probe.picture_name for sample in samples(evidence)]
    return frozenset(f"{PICTURES}{side}/{name}" for side in ("base", "patched") for name in names)
