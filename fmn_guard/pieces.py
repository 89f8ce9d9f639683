"""SentencePiece's model file, read without its library: pieces, their scores, and the table of characters.

It is a message in the encoding of protocol buffers, of which a few fields count (``sentencepiece_model.proto``): 1 the
pieces, each with 1 its text, 2 its score and 3 its kind; 2 how it was trained, with 3 the kind of model and 40 the
number of the unknown piece; 3 how text is normalised, with 2 the table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_UNIGRAM = 1
_USER_DEFINED, _BYTE = 4, 6  # kinds of pieces that are tokens by themselves wherever they stand, or parts of characters


class Pieces(NamedTuple):
    """What a file holds.

    Attributes:
        scored: Pieces with the logarithm of their probability, by number.
        unknown: Number of the piece that stands for what no piece spells.
        table: By which characters are normalised; None where it has none.
    """

    scored: list[tuple[str, float]]
    unknown: int
    table: bytes | None


def parse_pieces(content: bytes) -> Pieces:
    """Reads the content of a model file.

    Raises:
        ValueError: it is no such file, or its pieces are of other kinds than T5's.
    """
    scored: list[tuple[str, float]] = []
    model: int | bytes = _UNIGRAM
    unknown: int | bytes = 0
    table: int | bytes | None = None
    for number, value in _fields(content):
        match number, value:
            case 1, bytes(message):
                scored.append(_piece(dict(_fields(message))))
            case 2, bytes(message):
                trained = dict(_fields(message))
                model, unknown = trained.get(3, _UNIGRAM), trained.get(40, 0)
            case 3, bytes(message):
                table = dict(_fields(message)).get(2)
    if model != _UNIGRAM:
        raise ValueError("its model is not one of single pieces")
    if not isinstance(unknown, int) or not (table is None or isinstance(table, bytes)):
        raise ValueError("it is no model of SentencePiece")
    return Pieces(scored, unknown, table or None)


def _piece(fields: dict[int, int | bytes]) -> tuple[str, float]:
    match fields.get(1), fields.get(2, bytes(4)), fields.get(3, 1):
        case bytes(text), bytes(score), int(kind) if len(score) == 4 and kind not in (_USER_DEFINED, _BYTE):
            return text.decode("utf-8"), struct.unpack("<f", score)[0]
    raise ValueError(f"piece {fields.get(1)!r} is of no kind that T5 has")


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a message by number: integers, and all others as bytes."""
    place = 0
    while place < len(content):
        tag, place = _integer(content, place)
        match tag & 7:
            case 0:
                value, place = _integer(content, place)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, place = _integer(content, place)
            case 5:
                size = 4
            case _:
                raise ValueError("it is no model of SentencePiece")
        if place + size > len(content):
            raise ValueError("it is cut off")
        yield tag >> 3, content[place : place + size]
        place += size


def _integer(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(content[place : place + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, place + i + 1
    raise ValueError("it is cut off")
