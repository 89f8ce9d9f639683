"""T5's tokenizer, built without torch as the loaders build it: of pieces and a table of characters, and nothing else.

Both are in ``tokenizer.json``, or as published in ``spiece.model``, which the loaders prefer only where that is all
there is.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from .characters import problem_of
from .errors import InputError, RefusedArtefact, quoted
from .jsonfile import read_object
from .pieces import parse_pieces

ROLES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
"""Its special tokens, in the order of their numbers."""
WORD_MARK = "\u2581"
"""What pieces begin with that begin a word."""
_UNKNOWN = list(ROLES).index("unk_token")
_MOST_SENTINELS = 1000
_MOST_BYTES = 64 << 20  # of a file; that of T5 has under three million
# What converters write beside the table of characters; words are cut at spaces, so it says nothing.
_SPACES = (
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": WORD_MARK},
)
_AGAIN = "download the tokenizer again, or re-save it with a current transformers"


class Ingredients(NamedTuple):
    """What a tokenizer is made of.

    Attributes:
        file: Where it was read.
        pieces: With their scores, by number.
        table: By which characters are normalised.
        added: Tokens that are none of its pieces' doing, by number: special ones, and those that stand for gaps.
    """

    file: Path
    pieces: list[tuple[str, float]]
    table: bytes | None
    added: dict[int, str]


def read_ingredients(folder: Path) -> Ingredients:
    """Reads the folder of a T5 tokenizer.

    Raises:
        InputError: there is no tokenizer.
        RefusedArtefact: it is damaged, or of another kind.
    """
    whole, published = folder / "tokenizer.json", folder / "spiece.model"
    if whole.is_file():
        return _from_whole(whole)
    if not published.is_file():
        raise InputError(f"{folder}: no tokenizer.json, and no spiece.model", hint="download the whole checkpoint")
    count = read_object(folder / "tokenizer_config.json").get("extra_ids", 100)
    if not isinstance(count, int) or not 0 <= count <= _MOST_SENTINELS:
        raise RefusedArtefact.of(folder, "out-of-range", f"extra_ids is {quoted(count)}", "is it the published file?")
    return _from_published(published, count)


def build(found: Ingredients) -> Tokenizer:
    """The tokenizer of T5 with these ingredients.

    Raises:
        RefusedArtefact: they do not fit together.
    """
    if found.table is not None and (problem := problem_of(found.table)):
        raise RefusedArtefact.of(found.file, "bad-tokenizer", quoted(problem), _AGAIN)
    try:
        tokenizer = Tokenizer(Unigram(found.pieces, unk_id=_UNKNOWN))
    except Exception as error:  # the library raises nothing more specific
        raise RefusedArtefact.of(
            found.file, "bad-tokenizer", f"no pieces of T5's: {quoted(str(error))}", _AGAIN
        ) from error
    if found.table is not None:
        tokenizer.normalizer = normalizers.Precompiled(found.table)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=WORD_MARK, prepend_scheme="always", split=True),
        ]
    )
    for number, token in sorted(found.added.items()):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        if (own := tokenizer.token_to_id(token)) != number:
            raise RefusedArtefact.of(found.file, "unknown-token", f"{quoted(token)} is {number}, not {own}", _AGAIN)
    end = ROLES["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end],
        pair=["$A", end, "$B", end],
        special_tokens=[(end, tokenizer.token_to_id(end))],
    )
    return tokenizer


def _from_whole(path: Path) -> Ingredients:
    data = read_object(path, _MOST_BYTES)
    match data:
        case {"model": {"type": "Unigram", "unk_id": int(unknown), "vocab": list(vocabulary)}} if unknown == _UNKNOWN:
            pass
        case _:
            raise RefusedArtefact.of(
                path, "bad-tokenizer", f"cannot be read: its model is {quoted(data.get('model'))}, not T5's", _AGAIN
            )
    try:
        pieces = [(str(piece), float(score)) for piece, score in vocabulary]
        added = {int(entry["id"]): str(entry["content"]) for entry in data.get("added_tokens") or []}
        table = _table(path, data.get("normalizer"))
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedArtefact.of(path, "bad-tokenizer", f"no pieces of T5's: {quoted(str(error))}", _AGAIN) from error
    return Ingredients(path, pieces, table, dict(enumerate(ROLES.values())) | added)


def _from_published(path: Path, sentinels: int) -> Ingredients:
    if path.stat().st_size > _MOST_BYTES:
        raise RefusedArtefact.of(path, "too-large", f"has more than {_MOST_BYTES:,} bytes", _AGAIN)
    try:
        scored, unknown, table = parse_pieces(path.read_bytes())
    except ValueError as error:
        raise RefusedArtefact.of(path, "bad-tokenizer", f"cannot be read: {quoted(str(error))}", _AGAIN) from error
    if unknown != _UNKNOWN:
        raise RefusedArtefact.of(path, "bad-tokenizer", f"its unknown piece is number {unknown}, not T5's", _AGAIN)
    gaps = [f"<extra_id_{i}>" for i in reversed(range(sentinels))]
    added = dict(enumerate(ROLES.values())) | dict(enumerate(gaps, start=len(scored)))
    return Ingredients(path, [*scored, *((gap, 0.0) for gap in gaps)], table, added)


def _table(path: Path, normalizer: object) -> bytes | None:
    """The table by which SentencePiece normalises characters; loaders take nothing else of a normalizer."""
    match normalizer:
        case None:
            parts: list[object] = []
        case {"type": "Sequence", "normalizers": list(parts)}:
            pass
        case _:
            parts = [normalizer]
    tables: list[bytes] = []
    for part in parts:
        match part:
            case {"type": "Precompiled", "precompiled_charsmap": str(text)} if not tables:
                tables.append(base64.b64decode(text, validate=True))
            case _ if part not in _SPACES:
                raise RefusedArtefact.of(
                    path, "rewrites-words", f"its normalizer is {quoted(normalizer)}, not T5's", _AGAIN
                )
    return tables[0] if tables else None
