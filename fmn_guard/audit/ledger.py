"""What a measurement has finished so far, one JSON line each, so that a killed one goes on after its last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ..record import Digest, Record, write_atomic

R = TypeVar("R", bound=Record)


class Ledger(Generic[R]):
    """A file of records, removed when the whole is written.

    Args:
        path: the file; its folder is made.
        key: digest over all that the records depend on; a file of another key is begun anew.
        record: what a line holds.
        name: what a record is called in ``done``.
    """

    def __init__(self, path: Path, key: Digest, record: type[R], name: Callable[[R], str]) -> None:
        self._path, self._name = path, name
        self.done: dict[str, R] = {}
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
        if lines[0] == key:
            for line in lines[1:-1]:  # what follows the last newline was cut off in mid-write
                known = record.model_validate_json(line)
                self.done[name(known)] = known
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "\n".join([key, *(known.model_dump_json() for known in self.done.values())]) + "\n")

    def add(self, record: R) -> None:
        """Writes a record down."""
        self.done[self._name(record)] = record
        with self._path.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")

    def close(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)
