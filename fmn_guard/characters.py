"""The table by which SentencePiece normalises characters, looked through before a library follows it.

It is a trie in one array, whose units say where to go on: from a damaged one a library would run off its end. Layout
as in darts-clone and sentencepiece's ``normalizer.cc``: four bytes of length, units of four bytes, then texts, each up
to a zero, that what is found is replaced by.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tokenizers import normalizers

_BLOCK = 256  # units; a trie is made of whole blocks, so that a byte never leads out of the one it is in
_LABEL, _VALUE = 0x800000FF, 0x7FFFFFFF


def problem_of(table: bytes) -> str | None:
    """Why a table is not to be used; None where nothing is wrong with it."""
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 + size or not size or size % (4 * _BLOCK):
        return "its table of characters is cut off"
    units = struct.unpack_from(f"<{size // 4}I", table, 4)
    texts = table[4 + size :]
    for place, ends in _states(units):
        if place >= len(units):
            return "its table of characters leads out of itself"
        if ends and not _begins(texts, units[place] & _VALUE):
            return "its table of characters names a text that it has not"
    return _rewritten(table)


def _states(units: tuple[int, ...]) -> Iterator[tuple[int, bool]]:
    """Places that can be got to by any text, each with whether something is found there."""
    after: dict[int, list[int]] = {}
    for place, unit in enumerate(units):
        if byte := unit & _LABEL:
            after.setdefault(place ^ byte, []).append(place)
    begin = _offset(units[0])
    seen, left = {begin}, [begin]
    yield begin, False
    while left:
        for place in after.get(left.pop(), ()):
            state = place ^ _offset(units[place])
            yield state, bool(units[place] >> 8 & 1)
            if state not in seen:
                seen.add(state)
                left.append(state)


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def _begins(texts: bytes, place: int) -> bool:
    """Whether a character begins there."""
    return place < len(texts) and texts[place] & 0xC0 != 0x80


def _rewritten(table: bytes) -> str | None:
    try:
        normalizer = normalizers.Precompiled(table)
        changed = [c for c in map(chr, range(33, 127)) if normalizer.normalize_str(c) != c]
    except Exception as error:  # the library raises nothing more specific
        return f"its table of characters cannot be read: {error}"
    return f"its table of characters rewrites {''.join(changed)}" if changed else None
