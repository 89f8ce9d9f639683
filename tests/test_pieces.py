"""SentencePiece's model file, as its own messages are written, and as they are broken."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from fmn_guard.pieces import parse_pieces

from .tiny import spiece_model, t5_pieces

TABLE = bytes(range(256)) * 3


def test_pieces_scores_and_table_are_those_that_were_written() -> None:
    found = parse_pieces(spiece_model(t5_pieces(), TABLE, model_type=1))
    assert found.scored == t5_pieces()
    assert (found.unknown, found.table) == (2, TABLE)
    assert parse_pieces(spiece_model(t5_pieces())).table is None


def test_a_message_of_another_program_is_passed_over_field_by_field() -> None:
    fixed = bytes([9 << 3 | 1]) + bytes(8) + bytes([10 << 3 | 5]) + bytes(4) + bytes([11 << 3, 0x96, 1])
    assert parse_pieces(spiece_model(t5_pieces()) + fixed).scored == t5_pieces()


def _kind(kind: int) -> bytes:
    """One piece, of another kind."""
    return bytes([1 << 3 | 2, 10, 1 << 3 | 2, 1, 97, 2 << 3 | 5, 0, 0, 0, 0, 3 << 3, kind])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (spiece_model(t5_pieces())[:-1], "cut off"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut off"),
        (b"\x80" * 11, "cut off"),
        (b"\x0b", "no model"),
        (spiece_model(t5_pieces(), model_type=2), "single pieces"),
        (_kind(4), "kind"),
        (_kind(6), "kind"),
        (b"\x0a\x02\x10\x01", "piece None"),
        (b"\x0a\x04\x0a\x02\xff\xff", "utf-8"),
    ],
)
def test_what_is_none_is_told(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_pieces(content)


def test_broken_bytes_are_read_or_told_and_nothing_else_happens() -> None:
    draws, whole = random.Random(0), spiece_model(t5_pieces()[:20], TABLE)
    outcomes = set()
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(draws.randrange(1, 6)):
            content[draws.randrange(len(content))] = draws.randrange(256)
        try:
            scored: Sequence[tuple[str, float]] = parse_pieces(bytes(content)).scored
            outcomes.add(len(scored) > 0)
        except ValueError:
            outcomes.add("told")
    assert outcomes == {True, "told"}
