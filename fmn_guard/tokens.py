"""The tokenizer of a checkpoint, read without torch: as the loaders make it, or not at all.

Of CLIP's, loaders take ``tokenizer.json`` where there is one; published checkpoints have ``vocab.json`` and
``merges.txt``. Of either they take vocabulary and merges; what they take of T5's, `fmn_guard.t5` tells. What rewrites
words otherwise, or adds tokens of their own for some, is refused: it would hide a name from the positions that a plan
counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from . import t5
from .errors import InputError, RefusedArtefact, quoted
from .family import Family
from .jsonfile import read_object
from .record import Digest, bytes_digest, file_digest

MOST_BYTES = 64 << 20
"""Of a vocabulary or of merges; those of CLIP have two million at most."""
_CLIP_ROLES = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# What stood for gaps in the text that a T5 was trained with.
_SENTINEL = re.compile(r"<extra_id_\d{1,3}>")
# What CLIP's tokenizer takes for a word.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
_AGAIN = "download the tokenizer again, or re-save it with a current transformers"


class Tokens(NamedTuple):
    """A tokenizer and what is known of it.

    Attributes:
        tokenizer: Neither cuts nor pads.
        digest: Over the files that it was made from.
        most: Tokens of a prompt, start and end included.
        pad: What prompts are filled up with: the end token in Stable Diffusion 1.x, ``!`` in 2.x, ``<pad>`` in PixArt.
    """

    tokenizer: Tokenizer
    digest: Digest
    most: int
    pad: str


def read_tokens(folder: Path, family: Family) -> Tokens:
    """Reads the folder of a tokenizer.

    Args:
        folder: its folder.
        family: of the checkpoint that it is in, which says of what kind it is.

    Raises:
        InputError: a file is missing.
        RefusedArtefact: one is damaged, contradicts another, or does more than the tokenizers of its kind do.
    """
    config = read_object(folder / "tokenizer_config.json")
    most = family.prompt_tokens or config.get("model_max_length")
    if not isinstance(most, int) or not 3 <= most <= 10_000:
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {quoted(most)}, not a number of tokens",
            hint="re-save the pipeline with diffusers",
        )
    is_t5 = family.text == "t5"
    special = _special_tokens(folder, config, t5.ROLES if is_t5 else _CLIP_ROLES)
    tokenizer, files = _read_t5(folder, special) if is_t5 else _read_clip(folder, special)
    for name, token in _added(folder, config):
        if token not in special.values() and not (is_t5 and _is_sentinel(token)):
            raise _added_token(folder / name, token)
    files += [path for path in [folder / "special_tokens_map.json"] if path.is_file()]
    digests = [file_digest(file) for file in files]
    return Tokens(
        tokenizer,
        # of one file its own, as it was when there was one only
        digests[0] if len(digests) == 1 else bytes_digest("".join(digests).encode()),
        most,
        special["pad_token"],
    )


def lowered(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, for prompts that a pipeline puts into lower case before it hands them on."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    own = [copy.normalizer] if copy.normalizer else []
    copy.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return copy


def _is_sentinel(token: object) -> bool:
    return isinstance(token, str) and _SENTINEL.fullmatch(token) is not None


def _read_clip(folder: Path, special: dict[str, str]) -> tuple[Tokenizer, list[Path]]:
    whole, vocabulary, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    if whole.is_file():
        tokenizer = _from_whole(whole, special)
        if vocabulary.is_file():
            _compare(vocabulary, tokenizer)
        return tokenizer, [whole]
    if not vocabulary.is_file():
        raise InputError(
            f"{folder}: no tokenizer.json, and no vocab.json with merges.txt", hint="download the whole checkpoint"
        )
    return _built(folder, read_object(vocabulary, MOST_BYTES), _read_merges(merges), special), [vocabulary, merges]


def _read_t5(folder: Path, special: dict[str, str]) -> tuple[Tokenizer, list[Path]]:
    if special != t5.ROLES:
        raise RefusedArtefact.of(folder, "unknown-token", f"its special tokens are {quoted(special)}, not T5's", _AGAIN)
    found = t5.read_ingredients(folder)
    for token in found.added.values():
        if token not in special.values() and not _is_sentinel(token):
            raise _added_token(found.file, token)
    return t5.build(found), [found.file]


def _special_tokens(folder: Path, config: dict[str, Any], roles: dict[str, str]) -> dict[str, str]:
    """Special tokens by role; ``special_tokens_map.json`` has the last word, as with the loaders."""
    mapped = folder / "special_tokens_map.json"
    found = dict(roles)
    for source in (config, read_object(mapped) if mapped.exists() else {}):
        for role in found:
            match source.get(role):
                case None:
                    pass
                case str(token) | {"content": str(token)}:
                    found[role] = token
                case other:
                    raise RefusedArtefact.of(folder, "unknown-token", f"{role} is {quoted(other)}, not a token", _AGAIN)
    return found


def _from_whole(path: Path, special: dict[str, str]) -> Tokenizer:
    data = read_object(path, MOST_BYTES)
    match data:
        case {"model": {"type": "BPE", "vocab": dict(vocabulary), "merges": list(merges)}}:
            pass
        case _:
            raise RefusedArtefact.of(
                path, "bad-tokenizer", f"cannot be read: its model is {quoted(data.get('model'))}, not BPE", _AGAIN
            )
    if data.get("normalizer") != _NORMALIZER:
        raise RefusedArtefact.of(
            path, "rewrites-words", f"its normalizer is {quoted(data.get('normalizer'))}, not CLIP's", _AGAIN
        )
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    tokenizer = _built(path.parent, vocabulary, pairs, special)
    for entry in data.get("added_tokens") or []:
        match entry:
            case {"content": str(token), "id": number} if token in special.values():
                if tokenizer.token_to_id(token) != number:
                    raise RefusedArtefact.of(
                        path,
                        "unknown-token",
                        f"{quoted(token)} is {number}, not {tokenizer.token_to_id(token)}",
                        _AGAIN,
                    )
            case _:
                raise _added_token(path, entry.get("content") if isinstance(entry, dict) else entry)
    return tokenizer


def _read_merges(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RefusedArtefact.of(path, "too-large", f"has more than {MOST_BYTES:,} bytes", _AGAIN)
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing", hint="vocab.json is of no use without it") from error
    except ValueError as error:
        raise RefusedArtefact.of(path, "bad-tokenizer", "is no text in UTF-8", _AGAIN) from error
    return [line.split() for line in lines if line.strip() and not line.startswith("#version")]


def _built(folder: Path, vocabulary: dict[str, Any], merges: list[Any], special: dict[str, str]) -> Tokenizer:
    """CLIP's tokenizer with a vocabulary and merges."""
    try:
        pairs = [(first, second) for first, second in merges]
        model = BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix="</w>", unk_token=special["unk_token"])
        tokenizer = Tokenizer(model)
    except Exception as error:  # the library raises nothing more specific
        raise RefusedArtefact.of(
            folder, "bad-tokenizer", f"vocabulary and merges do not fit: {quoted(str(error))}", _AGAIN
        ) from error
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # What has a role is a token by itself wherever it stands, also one that only pads.
    for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
        tokenizer.add_special_tokens([AddedToken(special[role], special=True, normalized=False)])
    begin, end = special["bos_token"], special["eos_token"]
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, tokenizer.token_to_id(end)),  # type: ignore[arg-type]  # just added
        (begin, tokenizer.token_to_id(begin)),  # type: ignore[arg-type]
        trim_offsets=False,
        add_prefix_space=False,
    )
    return tokenizer


def _compare(path: Path, tokenizer: Tokenizer) -> None:
    """Refuses another vocabulary beside ``tokenizer.json`` than the one in it: some loaders take this one."""
    for token, number in read_object(path, MOST_BYTES).items():
        if tokenizer.token_to_id(token) != number:
            raise RefusedArtefact.of(
                path,
                "two-vocabularies",
                f"{quoted(token)} is {quoted(number)}, in tokenizer.json {tokenizer.token_to_id(token)}",
                "keep the vocabulary that the model was trained with, and remove the other",
            )


def _added(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Tokens that files add to the vocabulary, each with the name of its file."""
    path = folder / "special_tokens_map.json"
    lists = [("tokenizer_config.json", config.get("added_tokens_decoder"))]
    for name, source in (("tokenizer_config.json", config), (path.name, read_object(path) if path.exists() else {})):
        lists += [(name, source.get(key)) for key in ("additional_special_tokens", "extra_special_tokens")]
    for name, listed in lists:
        entries = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else []
        yield from ((name, entry.get("content") if isinstance(entry, dict) else entry) for entry in entries)
    if (added := folder / "added_tokens.json").exists():
        yield from ((added.name, token) for token in read_object(added))


def _added_token(path: Path, token: object) -> RefusedArtefact:
    return RefusedArtefact.of(
        path,
        "added-token",
        f"adds the token {quoted(token)}, which would hide a name from the plan",
        "use the tokenizer that the checkpoint was trained with",
    )
