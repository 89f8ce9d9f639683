"""Every way to get a manifest wrong has a rule, a place, a hint and exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from fmn_guard.errors import FileProblems
from fmn_guard.lint import lint_manifest
from fmn_guard.manifest import label_of, load_manifest
from fmn_guard.shipped import manifests

from .paper import MANIFEST


class Bad(NamedTuple):
    """One edit of `MANIFEST`, and what must be said of it.

    Attributes:
        what: The mistake.
        old: Text of `MANIFEST`; empty for a file of its own.
        new: What stands in its place.
        rule: The broken rule.
        place: Line and column.
    """

    what: str
    old: str
    new: str
    rule: str
    place: tuple[int, int]

    def __str__(self) -> str:
        return self.what


BAD = [
    Bad("unknown key", "metadata:\n", "metadata:\n  nmae: x\n", "unknown-key", (4, 3)),
    Bad("duplicate key", "  name: example\n", "  name: example\n  name: other\n", "duplicate-key", (5, 3)),
    Bad("wrong type", "aliases: [burger]", "aliases: burger", "wrong-type", (11, 16)),
    Bad("number for a name", "phrase: pistol", "phrase: 7", "wrong-type", (14, 15)),
    Bad("unknown kind of concept", "kind: nsfw", "kind: nfsw", "unknown-kind", (13, 13)),
    Bad("unknown kind of document", "kind: ConceptManifest", "kind: Manifest", "wrong-kind", (2, 7)),
    Bad("unknown version", "fmn-guard/v1", "fmn-guard/v9", "wrong-api-version", (1, 13)),
    Bad("missing key", "      phrase: pistol\n", "", "missing-key", (13, 7)),
    Bad("padded phrase", "phrase: pistol", "phrase: 'pistol '", "bad-format", (14, 15)),
    Bad("phrase without letters", "phrase: pistol", "phrase: '???'", "no-name", (14, 15)),
    Bad("name with capitals", "name: example", "name: Example", "bad-format", (4, 9)),
    Bad("digest of another kind", "builtin:emoji-sd", "builtin:emoji-sd\n    digest: md5:0", "bad-format", (8, 13)),
    Bad("projection out of range", "  concepts:", "  eraser: {projection: 2.0}\n  concepts:", "out-of-range", (8, 24)),
    Bad("concept listed twice", "phrase: pistol", "phrase: Hamburger", "duplicate-concept", (14, 15)),
    Bad("alias is another's phrase", "aliases: [burger]", "aliases: [pistol]", "ambiguous-name", (14, 15)),
    Bad("alias listed twice", "aliases: [burger]", "aliases: [burger, Burger]", "ambiguous-name", (11, 25)),
    Bad("alias is its own phrase", "aliases: [burger]", "aliases: [hamburger]", "ambiguous-name", (11, 17)),
    Bad("concept also kept", "keep: [pizza]", "keep: [pistol]", "forgotten-and-kept", (12, 14)),
    Bad("alias also kept", "keep: [pizza]", "keep: [pizza, burger]", "forgotten-and-kept", (12, 21)),
    Bad(
        "keep also held out",
        "  concepts:",
        "  keep: [rocket]\n  eraser: {hold_out: [lion, Rocket]}\n  concepts:",
        "held-out-and-named",
        (9, 29),
    ),
    Bad(
        "a concept's keep also held out",
        "  concepts:",
        "  eraser: {hold_out: [pizza]}\n  concepts:",
        "held-out-and-named",
        (8, 23),
    ),
    Bad(
        "alias also held out",
        "  concepts:",
        "  eraser: {hold_out: [burger]}\n  concepts:",
        "held-out-and-named",
        (8, 23),
    ),
    Bad("minors in nsfw", "phrase: pistol", "phrase: schoolgirl", "minors-in-nsfw", (14, 15)),
    Bad("minors in an nsfw alias", "phrase: pistol", "phrase: x\n      aliases: [teens]", "minors-in-nsfw", (15, 17)),
    Bad(
        "minors in a correction of nsfw",
        "  concepts:",
        "  corrections: [{prompt: the teen, dominant: bomb, dominant_kind: nsfw}]\n  concepts:",
        "minors-in-nsfw",
        (8, 26),
    ),
    Bad("python tag", "phrase: pistol", "phrase: !!python/object/apply:os.system [id]", "unknown-tag", (14, 15)),
    Bad("second document", "      phrase: pistol\n", "      phrase: pistol\n---\na: 1\n", "several-documents", (16, 1)),
    Bad("tab for indentation", "    - kind: nsfw", "\t- kind: nsfw", "yaml-syntax", (13, 1)),
    Bad("cyclic alias", "aliases: [burger]", "aliases: &a [*a]", "cyclic-alias", (11, 16)),
    Bad("empty file", "", "", "empty-file", (1, 1)),
    Bad("a file of 2 MB", "", "# " + "x" * 2**21, "file-too-large", (1, 1)),
    Bad(
        "correction of a forgotten name",
        "  concepts:",
        "  corrections: [{prompt: burger, dominant: pizza}]\n  concepts:",
        "duplicate-correction",
        (8, 26),
    ),
    Bad(
        "correction to a forgotten name",
        "  concepts:",
        "  corrections: [{prompt: food, dominant: pizza, expected: burger}]\n  concepts:",
        "forgotten-and-expected",
        (8, 59),
    ),
    Bad(
        "correction to what it shows",
        "  concepts:",
        "  corrections: [{prompt: food, dominant: pizza, expected: Pizza}]\n  concepts:",
        "expected-is-dominant",
        (8, 59),
    ),
    # against the base and the pictures
    Bad("phrase cut by the tokenizer", "phrase: pistol", f"phrase: {'x q ' * 29}x", "phrase-too-long", (14, 15)),
    Bad("alias cut by the tokenizer", "[burger]", f"[burger, {'x q ' * 29}x]", "phrase-too-long", (11, 25)),
    Bad("keep cut by the tokenizer", "[pizza]", f"[{'x q ' * 29}x]", "phrase-too-long", (12, 14)),
    Bad("missing image folder", "phrase: pistol", "phrase: pistol\n      images: none", "no-such-images", (15, 15)),
    Bad(
        "image folder without pictures", "phrase: pistol", "phrase: pistol\n      images: .", "no-such-images", (15, 15)
    ),
    Bad("unknown built-in model", "builtin:emoji-sd", "builtin:emoji-xl", "no-such-checkpoint", (7, 17)),
    Bad("unknown folder", "builtin:emoji-sd", "models/mine", "no-such-checkpoint", (7, 17)),
    Bad("hub id that can move", "builtin:emoji-sd", "someone/model", "no-such-checkpoint", (7, 17)),
    Bad("a pickle for a base", "builtin:emoji-sd", "model.ckpt", "refused-checkpoint", (7, 17)),
    Bad(
        "another base than the pinned one",
        "builtin:emoji-sd",
        f"builtin:emoji-sd\n    digest: sha256:{'0' * 64}",
        "wrong-base",
        (8, 13),
    ),
]


def _write(folder: Path, text: str) -> Path:
    path = folder / "manifest.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_mistake_has_rule_place_hint_and_exit_code(bad: Bad, tmp_path: Path) -> None:
    assert not bad.old or MANIFEST.count(bad.old) >= 1
    path = _write(tmp_path, MANIFEST.replace(bad.old, bad.new, 1) if bad.old else bad.new)
    (tmp_path / "model.ckpt").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileProblems) as caught:
        lint_manifest(path)
    found = {problem.rule: problem for problem in caught.value.problems}
    assert bad.rule in found, found
    problem = found[bad.rule]
    assert (problem.line, problem.column) == bad.place
    assert problem.hint
    assert str(problem).startswith(f"{path}:{problem.line}:{problem.column}: {bad.rule}: ")
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_all_problems_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
    text = MANIFEST.replace("name: example", "name: Example").replace("kind: nsfw", "kind: nfsw")
    with pytest.raises(FileProblems) as caught:
        load_manifest(_write(tmp_path, text.replace("aliases: [burger]", "aliases: burger")))
    assert [p.rule for p in caught.value.problems] == ["bad-format", "wrong-type", "unknown-kind"]


def test_missing_base_and_missing_pictures_are_reported_together(tmp_path: Path) -> None:
    text = MANIFEST.replace("builtin:emoji-sd", "nowhere") + "      images: none\n"
    with pytest.raises(FileProblems) as caught:
        lint_manifest(_write(tmp_path, text))
    assert [p.rule for p in caught.value.problems] == ["no-such-checkpoint", "no-such-images"]


def test_good_manifest_loads(tmp_path: Path) -> None:
    manifest = load_manifest(_write(tmp_path, MANIFEST))
    assert [concept.names for concept in manifest.spec.concepts] == [("hamburger", "burger"), ("pistol",)]


def test_manifest_needs_something_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileProblems, match="nothing-to-do"):
        load_manifest(_write(tmp_path, MANIFEST[: MANIFEST.index("  concepts:")]))


@pytest.mark.parametrize(
    "word",
    ["child", "minors", "17 year old", "15-year-old", "fifteen_year_old", "Schoolboys", "\uff34\uff25\uff25\uff2e"],
)
def test_minors_are_refused_in_whatever_words(word: str, tmp_path: Path) -> None:
    with pytest.raises(FileProblems, match="minors-in-nsfw"):
        load_manifest(_write(tmp_path, MANIFEST.replace("phrase: pistol", f"phrase: the {word} there")))


def test_word_that_only_contains_a_word_for_minors_is_no_minor(tmp_path: Path) -> None:
    load_manifest(_write(tmp_path, MANIFEST.replace("phrase: pistol", "phrase: kidney canteen")))


def test_quickstart_shows_one_concept_of_each_kind_and_a_correction() -> None:
    spec = load_manifest(manifests() / "quickstart.yaml").spec
    assert {concept.kind for concept in spec.concepts} == {"identity", "style", "object", "nsfw"}
    assert len(spec.corrections) == 1


def test_styles_have_an_axis_of_labels_of_their_own() -> None:
    assert label_of("style", "Ink Drawing") == "style:ink drawing"
    assert label_of("identity", "Ada Thorne") == "concept:ada thorne"
