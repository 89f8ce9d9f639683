"""The results store of an audit: what was drawn and what was seen in it, keyed by what it follows from.

picture of a probe    keyed by checkpoint, prompt, seed, sampler and device: see `fmn_guard.assembly`
what an instrument makes of it    keyed by the picture's pixels and the instrument with its weights

So an interrupted audit goes on, a widened one draws only what is new, and shards are put together, each without asking
who drew what. One SQLite file; what a batch gives is added whole or not at all, whenever the process is killed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import Field, ValidationError

from .errors import BrokenChain, InputError
from .evidence import AttentionMap, Instrument, Sighting
from .record import Digest, R, Record, canonical_json, digest

_VERSION = 1
_SCHEMA = """
CREATE TABLE audits (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE drawings (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE pictures (digest TEXT PRIMARY KEY, png BLOB NOT NULL);
CREATE TABLE seen (picture TEXT, instrument TEXT, failed INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (picture, instrument)) WITHOUT ROWID;
CREATE TABLE maps (key TEXT PRIMARY KEY, record BLOB) WITHOUT ROWID;
"""


class Head(Record):
    """What an audit is of, and by whom."""

    plan_digest: Digest
    """The plan."""
    passes_digest: Digest | None
    """Digest of passes.json; None for a checkpoint that fmn-guard did not make."""
    patched_digest: Digest
    """Identity of the audited model."""
    device: str
    """Sort of device that draws, since it changes the last bits: ``cpu``, ``cuda`` or ``mps``."""
    precision: str
    """Of the models that draw: ``float32``, ``bfloat16`` or ``float16``."""
    between: bool
    """Whether the model was looked at between passes as well."""
    instruments: tuple[Instrument, ...]
    """The recogniser first, then the detectors, in the plan's order."""


class Drawing(Record):
    """What drawing a probe gave."""

    picture: Digest | None
    """Digest of its pixels; None where they are not numbers."""
    constant: bool
    """Whether all of it is about the same grey."""


class Seen(Record):
    """What one instrument makes of one picture, or of one prompt; exactly one of the four."""

    scores: dict[str, float] | None = None
    """Of a recogniser: label -> probability in [0, 1]."""
    sightings: tuple[Sighting, ...] | None = None
    """Of a detector: boxes, best first."""
    vector: Annotated[str | None, Field(exclude_if=lambda numbers: numbers is None)] = None
    """Of a network: its vector, as base64 of little-endian float32."""
    failed: str | None = Field(default=None, min_length=1)
    """Why there is none of them."""


class Results(NamedTuple):
    """What a batch gave, by the keys of the store."""

    drawings: Mapping[str, Drawing] = {}
    """Drawings by the keys of their probes."""
    seen: Mapping[tuple[Digest, Digest], Seen] = {}
    """By picture and instrument; of what a network makes of a prompt, by `prompt_key`."""
    pictures: Mapping[Digest, bytes] = {}
    """Those to be kept, as PNG, by the digests of their pixels."""
    explicit: frozenset[Digest] = frozenset()
    """Those that must not be kept, and are removed if they were."""
    maps: Mapping[str, AttentionMap | None] = {}
    """Attention by key, whatever the probe is called; None where it is not a number."""


@cache
def instrument_key(instrument: Instrument) -> Digest:
    """By what an instrument is known in the store: all that its report tells of it."""
    return digest(instrument)


def prompt_key(prompt: str) -> Digest:
    """By what a prompt is known in place of a picture."""
    return digest({"prompt": prompt})


class Store:
    """An open store; made where there is none.

    Not for several threads at once; several processes may have the same file open.

    Args:
        path: The file; its folder must exist.

    Raises:
        InputError: It is no store, or one of a newer version, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._sound():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            # What is committed is kept when the process is killed, and nothing is ever half written.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._transaction():
                [version] = self._db.execute("PRAGMA user_version").fetchone()
                tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if version == 0 and tables == 0:
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {_VERSION}")
                elif version != _VERSION:
                    raise InputError(
                        f"{path} is no results store of this version of fmn-guard",
                        hint="remove it, or give another --store: what it holds is drawn again",
                    )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def begin(self, head: Head) -> None:
        """Notes what the audit is of whose results come, in place of what an earlier one of its plan was of."""
        row = (digest(head), canonical_json(head))
        earlier = [(digest(each),) for each in self.heads(head.plan_digest)]
        with self._sound(), self._transaction():
            self._db.executemany("DELETE FROM audits WHERE key = ?", earlier)
            self._db.execute("INSERT INTO audits VALUES (?, ?)", row)

    def heads(self, plan_digest: Digest) -> list[Head]:
        """What the audits of a plan are of whose results it holds."""
        with self._sound():
            rows = self._db.execute("SELECT record FROM audits ORDER BY key").fetchall()
        heads = (self._parsed(Head, content) for (content,) in rows)
        return [head for head in heads if head.plan_digest == plan_digest]

    def add(self, results: Results) -> None:
        """Adds what a batch gave, whole or not at all.

        What an instrument failed at is replaced by what it sees when it is asked again.

        Raises:
            BrokenChain: A picture came out otherwise than it is known; nothing is added.
        """
        drawings = [(key, canonical_json(drawn)) for key, drawn in results.drawings.items()]
        seen = [(*key, found.failed is not None, canonical_json(found)) for key, found in results.seen.items()]
        maps = [(key, None if found is None else canonical_json(found)) for key, found in results.maps.items()]
        with self._sound(), self._transaction():
            for key, content in drawings:
                known = self._db.execute("SELECT record FROM drawings WHERE key = ?", (key,)).fetchone()
                if known is not None and known[0] != content:
                    raise self._otherwise(1)
            self._db.executemany("INSERT OR IGNORE INTO drawings VALUES (?, ?)", drawings)
            self._db.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?)", results.pictures.items())
            self._db.executemany("DELETE FROM pictures WHERE digest = ?", [(each,) for each in results.explicit])
            self._db.executemany(f"INSERT INTO seen VALUES (?, ?, ?, ?) {_UNLESS_WORSE}", seen)
            self._db.executemany("INSERT OR REPLACE INTO maps VALUES (?, ?)", maps)

    def merge(self, other: Path) -> None:
        """Adds what another store holds, whole or not at all.

        Raises:
            BrokenChain: It has another picture of the same probe, as of a machine that computes otherwise.
            InputError: It is missing, or no store.
        """
        if not other.is_file():
            raise InputError(f"there is no results store {other}", hint="check the path")
        Store(other).close()  # takes up what a killed process left beside it, and knows its version
        with self._sound():
            self._db.execute("ATTACH ? AS other", (str(other),))
            try:
                with self._transaction():
                    self._merge_attached()
            finally:
                self._db.execute("DETACH other")

    def _merge_attached(self) -> None:
        [differing] = self._db.execute(
            "SELECT count(*) FROM drawings JOIN other.drawings AS o USING (key) WHERE drawings.record IS NOT o.record"
        ).fetchone()
        if differing:
            raise self._otherwise(differing)
        for table in ("audits", "drawings", "pictures", "maps"):
            self._db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM other.{table}")
        # "WHERE true" tells the parser that ON begins no join
        self._db.execute(f"INSERT INTO seen SELECT * FROM other.seen WHERE true {_UNLESS_WORSE}")

    def drawing(self, key: str) -> Drawing | None:
        """What drawing a probe gave; None when it was not drawn."""
        row = self._row("SELECT record FROM drawings WHERE key = ?", key)
        return None if row is None else self._parsed(Drawing, row[0])

    def seen(self, picture: Digest, instrument: Digest) -> Seen | None:
        """What an instrument makes of a picture; None when it did not look."""
        row = self._row("SELECT record FROM seen WHERE picture = ? AND instrument = ?", picture, instrument)
        return None if row is None else self._parsed(Seen, row[0])

    def picture(self, picture: Digest) -> bytes | None:
        """A picture as PNG; None when it was not kept."""
        row = self._row("SELECT png FROM pictures WHERE digest = ?", picture)
        return None if row is None else row[0]

    def has_picture(self, picture: Digest) -> bool:
        """Whether a picture was kept."""
        return self._row("SELECT 1 FROM pictures WHERE digest = ?", picture) is not None

    def has_map(self, key: str) -> bool:
        """Whether attention was looked at."""
        return self._row("SELECT 1 FROM maps WHERE key = ?", key) is not None

    def map(self, key: str) -> AttentionMap | None:
        """Where attention looked; None when it is not a number, or nobody looked."""
        row = self._row("SELECT record FROM maps WHERE key = ?", key)
        return None if row is None or row[0] is None else self._parsed(AttentionMap, row[0])

    def _row(self, query: str, *keys: str) -> tuple[bytes, ...] | None:
        with self._sound():
            row: tuple[bytes, ...] | None = self._db.execute(query, keys).fetchone()
        return row

    def _parsed(self, record: type[R], content: bytes) -> R:
        try:
            return record.model_validate_json(content)
        except ValidationError as error:
            raise BrokenChain(f"{self.path} is damaged: no {record.__name__} in it", hint=_REMOVE) from error

    def _otherwise(self, pictures: int) -> BrokenChain:
        return BrokenChain(
            f"{self.path} knows {pictures} of these pictures otherwise: they were drawn on a machine, or with a "
            "version of torch, that computes other last bits",
            hint="draw all of an audit on machines of one sort, into a --store of their own",
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Turns what SQLite says into an error that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be used as a results store: {error}", hint=_REMOVE) from error


_REMOVE = "check its permissions and the disk; if it is damaged, remove it: what it holds is drawn again"
_UNLESS_WORSE = """ON CONFLICT DO UPDATE SET failed = excluded.failed, record = excluded.record
    WHERE seen.failed AND NOT excluded.failed"""


def merged(into: Path, others: Iterable[Path]) -> Store:
    """Opens a store and adds others to it; see `Store.merge`."""
    store = Store(into)
    try:
        for other in others:
            store.merge(other)
    except BaseException:
        store.close()
        raise
    return store
