"""The base of everything that is written down: strict frozen records, canonical JSON, digests, atomic files.

data      --parse_plain-->     Record    plain data as YAML and JSON have it; strict
Record    --canonical_json-->  bytes     RFC 8785: one record, one spelling
bytes     --bytes_digest-->    "sha256:..."
Record    --write_record-->    file      indented for people; all or nothing
file      --read_record-->     Record
"""

import ast
import hashlib
import inspect
import json
import os
import re
import secrets
import textwrap
import unicodedata
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import rfc8785
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from .errors import InputError

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A SHA-256 digest with its algorithm in front."""

SLUG_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
Slug = Annotated[str, StringConstraints(pattern=SLUG_PATTERN, max_length=63)]
"""A name that is safe in file names, URLs and labels."""

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Base of all files and artefacts: immutable, nothing unknown, nothing converted by guesswork.

    "3" is not an integer and true is not 1, but an integer will do for a float. Fields are tuples rather than
    lists, which can change, or sets, whose order would change the digest. The docstring under a field is its
    description in the JSON schema, and a hint where its value is wrong: see `field_docs`.
    """

    # No NaN and no infinity: canonical JSON cannot spell them, and every record must have a digest.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )


@cache
def field_docs(record: type[BaseModel]) -> dict[str, str]:
    """The docstrings under the fields of a record, by the name of the field; none where its source is not at hand.

    They are read when somebody asks. Pydantic's ``use_attribute_docstrings`` reads them as each class is made, which
    took a fifth of the time in which a command starts.
    """
    docs = {}
    for each in reversed(record.__mro__):
        if issubclass(each, Record) and each is not Record:
            with suppress(OSError):
                source = textwrap.dedent(inspect.getsource(each))
                for node, below in pairwise(ast.parse(source).body[0].body):  # type: ignore[attr-defined]
                    match node, below:
                        case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                            docs[name] = inspect.cleandoc(text)
    return docs


def parse_plain(data: object, record: type[R]) -> R:
    """Validate plain data (mappings, lists, strings, numbers, booleans, None) as a file would hold it.

    Keys are the aliases that files use, never the Python names.

    Raises:
        pydantic.ValidationError: The data does not have the shape of the record.
    """
    # In JSON mode pydantic is strict, yet makes tuples of lists and dates of ISO strings: JSON has neither.
    return record.model_validate_json(json.dumps(data), by_alias=True, by_name=False)


def canonical_json(value: object) -> bytes:
    """Spell a record, or plain JSON data, in the one way RFC 8785 allows.

    Raises:
        InputError: It has no canonical spelling: NaN, an integer beyond 2**53, a key that is not a string.
    """
    plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, Record) else value
    try:
        return rfc8785.dumps(plain)  # type: ignore[arg-type]  # it checks what it is given
    except rfc8785.CanonicalizationError as error:
        raise InputError(
            f"no canonical JSON for this value: {error}",
            hint="store large integers and special values as strings",
        ) from error


def bytes_digest(data: bytes) -> str:
    """Digest bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest(value: object) -> str:
    """Digest the canonical JSON of a record or of plain JSON data."""
    return bytes_digest(canonical_json(value))


def file_digest(path: Path) -> str:
    """Digest the bytes of a file without holding it in memory."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Args:
        path: The file to create or replace; its folder must exist.
        data: The content; text is written as UTF-8.
    """
    # Not tempfile: its files are readable by their owner only, and os.replace would keep that.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # the content must be on disk before the name points to it
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def pretty_json(value: object) -> str:
    """Spell a record, or plain JSON data, for people: indented, sorted keys, the same text for the same value."""
    plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, Record) else value
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_record(path: Path, record: Record) -> None:
    """Write a record as `pretty_json`."""
    write_atomic(path, pretty_json(record))


def read_record(path: Path, record: type[R]) -> R:
    """Read what `write_record` wrote.

    Raises:
        InputError: The file is missing, is not JSON, or does not hold such a record.
    """
    try:
        return record.model_validate_json(path.read_bytes(), by_alias=True, by_name=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise _bad_json(path, details[0]["msg"]) from error
        faults = "; ".join(f"{'.'.join(map(str, detail['loc'])) or 'file'}: {detail['msg']}" for detail in details)
        raise InputError(
            f"{path}: wrong-shape: not a {record.__name__}: {faults}",
            hint="is this the right file? a run of an older version is lifted by `fmn-guard migrate`; for one of a "
            "newer version, upgrade",
        ) from error


def read_json(path: Path) -> Any:
    """Read plain data of a record that may be of another version.

    Raises:
        InputError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise _bad_json(path, str(error)) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: unreadable-file: {error.strerror}", hint="check the path and its permissions")


def _bad_json(path: Path, message: str) -> InputError:
    return InputError(f"{path}: bad-json: {message}", hint="the file is damaged: restore it or create it again")


def slugify(text: str) -> str:
    """Turn a phrase into a `Slug`: ``"Vincent van Gogh"`` becomes ``"vincent-van-gogh"``.

    Raises:
        InputError: Nothing of the text can be written in ASCII letters and digits.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    unaccented = "".join(char for char in decomposed if not unicodedata.combining(char)).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", unaccented).strip("-")[:63].rstrip("-")
    if not slug:
        raise InputError(f"no name can be made from {text!r}", hint="give it a name in ASCII letters and digits")
    return slug
