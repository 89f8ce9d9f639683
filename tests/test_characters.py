"""Tables by which SentencePiece normalises characters: sound ones are followed, no other is."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from tokenizers import normalizers

from fmn_guard.characters import problem_of
from fmn_guard.family import PIXART_ALPHA
from fmn_guard.tokens import read_tokens

from .tiny import t5_tokenizer

LIGATURE = {"\ufb01": "fi", "\u2126": "\u03c9"}
"""Both begin with other bytes."""


def table_of(texts: dict[str, str]) -> bytes:
    """A table that replaces characters: each state in a block of its own, reached from the block of the one before."""
    units, out = [0] * 256, b""
    units[0] = 256 << 10  # the first state is at 256
    units += [0] * 256
    for character, text in texts.items():
        state = 256
        code = character.encode()
        for i, byte in enumerate(code):
            after = len(units)
            units += [0] * 256
            units[state ^ byte] = ((state ^ byte) ^ after) << 10 | (i == len(code) - 1) << 8 | byte
            state = after
        units[state] = 1 << 31 | len(out)
        out += text.encode() + b"\0"
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + out


def test_a_sound_table_is_followed(tmp_path: Path) -> None:
    table = table_of(LIGATURE)
    assert problem_of(table) is None
    assert normalizers.Precompiled(table).normalize_str("\ufb01ne \u2126") == "fine \u03c9"
    tokenizer = type(t5_tokenizer())(vocab=t5_tokenizer()._vocab_scores, _spm_precompiled_charsmap=table)
    tokenizer.save_pretrained(tmp_path)
    tokens = read_tokens(tmp_path, PIXART_ALPHA).tokenizer
    assert tokens.encode("\ufb01ne").tokens == tokens.encode("fine").tokens == tokenizer("fine").tokens()


@pytest.mark.parametrize(
    ("texts", "problem"),
    [({"l": "r"}, "rewrites l"), ({"\ufb01": "fi", "i": ""}, "rewrites i")],
)
def test_a_table_that_rewrites_letters_is_told(texts: dict[str, str], problem: str) -> None:
    assert problem in (problem_of(table_of(texts)) or "")


@pytest.mark.parametrize("table", [b"", b"\0\0\0\0abc", table_of(LIGATURE)[:999], struct.pack("<I", 8) + b"\0" * 8])
def test_a_table_that_is_cut_off_is_told(table: bytes) -> None:
    assert "cut off" in (problem_of(table) or "")


def test_no_table_that_passes_breaks_the_library() -> None:
    draws, whole = random.Random(0), table_of(LIGATURE)
    everything = "".join(map(chr, range(1, 0xD800)))
    verdicts = set()
    for _ in range(200):
        table = bytearray(whole)
        for _ in range(draws.randrange(1, 4)):
            table[draws.choice([i for i in range(4, len(table)) if whole[i]])] = draws.randrange(256)
        verdicts.add(problem := problem_of(bytes(table)))
        if problem is None:
            normalizers.Precompiled(bytes(table)).normalize_str(everything)
    assert None in verdicts and len(verdicts) > 2
