"""What to forget and what to correct: the ``ConceptManifest`` document.

A manifest states facts (names, kinds, aliases, neighbours to keep) and the eraser's settings. It
never states limits or probes: nobody sets the bar they are judged by.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, assert_never

from pydantic import AfterValidator, Field, model_validator

from .contradictions import contradictions
from .errors import InputError
from .presets import PRESETS, EndOfText, PresetName
from .record import Digest, Record, Slug, slugify
from .yamlfile import Loc, RuleViolation, RuleViolations, load_yaml

Kind = Literal["identity", "style", "object", "nsfw"]

# The rule that no setting can switch off: see `minors_in`.
_AGE = (
    "1[0-7]|[0-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen"
)
_MINOR = re.compile(
    r"\b(child(ren)?|kids?|minors?|under-?aged?|teens?|teen-?age[rd]?s?|pre-?teens?|toddlers?|infants?|newborns?|"
    r"bab(y|ies)|juveniles?|adolescents?|(pre-?)?pubescents?|kindergart\w+|school-?(girl|boy|kid|child)\w*|"
    rf"loli(ta|con)?s?|shota(con)?s?|boys?|girls?|({_AGE})[ -]?(years?|yrs?|y)[ -/]?(olds?|o))\b",
    re.IGNORECASE,
)


def minors_in(texts: dict[Loc, str]) -> Iterator[RuleViolation]:
    """Violations of the hard rule: texts of an nsfw concept or suite that name minors. It is not configurable.

    Args:
        texts: each text by its path.
    """
    for loc, text in texts.items():
        # Full-width letters and underscores are no way around it.
        if match := _MINOR.search(unicodedata.normalize("NFKC", text).replace("_", " ")):
            yield RuleViolation(
                "minors-in-nsfw",
                f"{match.group(0)!r} must not stand in an nsfw concept or suite",
                hint="fmn-guard neither ships nor accepts prompts that sexualise minors; this rule has no switch",
                loc=loc,
            )


def _nameable(phrase: str) -> str:
    try:
        slugify(phrase)
    except InputError as error:
        raise RuleViolation("no-name", error.message, hint=error.hint) from error
    return phrase


Phrase = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^\S(.*\S)?$"), AfterValidator(_nameable)]
"""A name or prompt, of which a name for files and labels can be made."""


# Left out of a record when there are none: what was digested before there were labels keeps its digest.
Labels = Annotated[tuple[Slug, ...], Field(exclude_if=lambda labels: not labels)]
"""What policies narrow their rules by, such as ``likeness`` or ``court-order``."""


class Metadata(Record):
    """Who a document is."""

    name: Slug
    """Lower-case name with dashes; run folders are called after it."""
    description: str = ""
    """What it is for, in a sentence."""


class CheckpointRef(Record):
    """Which checkpoint is meant."""

    checkpoint: str = Field(min_length=1)
    """``builtin:emoji-sd``, a local diffusers folder (relative to the manifest), or a hub id."""
    digest: Digest | None = None
    """Weights digest it must have; a different one is refused."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Full commit of a hub id. A hub id without one is refused, since a branch can move."""


class _Concept(Record):
    phrase: Phrase
    """The name by which the concept is asked for."""
    aliases: tuple[Phrase, ...] = ()
    """Other names that must go with it."""
    keep: tuple[Phrase, ...] = ()
    """Declared neighbours: what looks or sounds alike and must stay."""
    redirect_to: Annotated[Phrase | None, Field(exclude_if=lambda phrase: phrase is None)] = None
    """What a prompt with its name should show instead, such as ``person wearing clothes``; left out, nothing in
    particular: what all names have in common. It is kept as neighbours are, and not judged."""
    images: str | None = None
    """Folder of PNG, JPEG or WebP pictures to forget from, relative to the manifest; by default the base draws them."""
    reason: str = ""
    """Why it must go (a rights holder's request, a policy, a law); shown in reports."""
    labels: Labels = ()
    """Short names, such as ``likeness`` or ``court-order``, by which a policy narrows its rules."""

    @property
    def slug(self) -> str:
        """The name for files, labels and probes."""
        return slugify(self.phrase)

    @property
    def names(self) -> tuple[str, ...]:
        """The phrase, then its aliases."""
        return (self.phrase, *self.aliases)


class Identity(_Concept):
    """A person or character."""

    kind: Literal["identity"]
    """``identity``"""


class Style(_Concept):
    """A way of drawing."""

    kind: Literal["style"]
    """``style``"""


class Object(_Concept):
    """A thing."""

    kind: Literal["object"]
    """``object``"""


class Nsfw(_Concept):
    """Something that must not be shown."""

    kind: Literal["nsfw"]
    """``nsfw``"""

    @model_validator(mode="after")
    def _never_minors(self) -> Nsfw:
        texts: dict[Loc, str] = {("phrase",): self.phrase}
        texts |= {("aliases", i): name for i, name in enumerate(self.aliases)}
        texts |= {("keep", i): name for i, name in enumerate(self.keep)}
        texts |= {("redirect_to",): self.redirect_to or ""}
        if problems := list(minors_in(texts)):
            raise RuleViolations(problems)
        return self


Concept = Annotated[Identity | Style | Object | Nsfw, Field(discriminator="kind")]


class Correction(Record):
    """A wrong association: a prompt that one reading has taken over."""

    prompt: Phrase
    """The ambiguous word or phrase, e.g. ``the captain``."""
    dominant: Phrase
    """What wrongly takes it over. Its own name keeps working unless a concept lists it."""
    dominant_kind: Kind = "object"
    """Kind of the dominant reading; tells which templates apply."""
    expected: Phrase | None = None
    """What the prompt should show instead; left out, anything but the dominant reading will do."""
    labels: Labels = ()
    """Short names by which a policy narrows its rules."""

    @property
    def slug(self) -> str:
        """The name for files, labels and probes."""
        return slugify(self.prompt)

    @model_validator(mode="after")
    def _never_minors(self) -> Correction:
        texts: dict[Loc, str] = {
            ("prompt",): self.prompt,
            ("dominant",): self.dominant,
            ("expected",): self.expected or "",
        }
        if self.dominant_kind == "nsfw" and (problems := list(minors_in(texts))):
            raise RuleViolations(problems)
        return self


SequenceMode = Literal["sequential", "mended", "merge", "joint"]
"""How a list of concepts is forgotten: one after another, the same and then mended, each alone and then merged, or all
at once."""


class EraserSettings(Record):
    """How the eraser works. Left out, a setting takes the preset's value, the same for every kind of concept."""

    preset: PresetName = "guarded"
    """``guarded``: attention re-steering of cross-attention values, kept away from the retained language. ``hybrid``
    looks at its closed-form start first and re-steers only what that still shows; ``closed-form`` is that start alone.
    To compare with rather than to release by: ``official``, the algorithm as it was published, its bugs mended;
    ``official-tuned``, with the dose that does best; ``unlearncanvas``, with thirty times the published dose."""
    sequence: Annotated[SequenceMode, Field(exclude_if=lambda mode: mode == "sequential")] = "sequential"
    """``sequential``: passes one after another, each on the model that those before it left. ``mended``: the same, and
    then a closed-form solution does what they do together, and less to the words that they moved most; long lists keep
    more, and concepts can no longer be dropped one by one. ``merge``: each from the base alone, then merged in closed
    form. ``joint``: one pass over all concepts at once."""
    steps: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Step ceiling of a pass; 0 does nothing at all."""
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """How far the first step moves values of the retained language, relative to their size; AdamW's where the preset is
    the release's."""
    projection: Annotated[float, Field(gt=0, le=1)] | Literal["off"] | None = None
    """Variance below which a direction of the text states counts as unused by the retained language (smaller protects
    more), or ``off``."""
    # left out of a record when not set, as labels are
    end_of_text: Annotated[EndOfText | None, Field(exclude_if=lambda which: which is None)] = None
    """End-of-text positions that the published algorithm takes for targets beside the name: ``none``, the ``first``, or
    ``all``, which counts padding as the release does."""
    inverted_tokens: Annotated[int | None, Field(ge=1, le=16, exclude_if=lambda count: count is None)] = None
    """Tokens that the published algorithm first inverts from a concept's pictures, to forget these in place of its
    names; the release takes 4."""
    inversion_rounds: Annotated[int | None, Field(ge=1, le=100, exclude_if=lambda count: count is None)] = None
    """How often a concept's pass is attacked by textual inversion and solved again with what still draws the
    concept: the road by its name is not the only one. Slow, and what is kept pays for it; corrections have none."""
    hold_out: tuple[Phrase, ...] = ()
    """Names left out of the retain vocabulary, so that the audit can show what unlisted concepts lose."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything the eraser draws."""

    @model_validator(mode="after")
    def _effective(self) -> EraserSettings:
        idle = [
            RuleViolation(
                "setting-without-effect",
                f"{name} does nothing under the preset {self.preset}",
                hint=f"remove it; {self.preset} takes {', '.join(sorted(PRESETS[self.preset].settings))}",
                loc=(name,),
            )
            for name in ("steps", "learning_rate", "projection", "end_of_text", "inverted_tokens", "inversion_rounds")
            if getattr(self, name) is not None and name not in PRESETS[self.preset].settings
        ]
        if self.projection == "off" and (self.preset == "closed-form" or self.inversion_rounds):
            idle.append(
                RuleViolation(
                    "nothing-to-solve",
                    "without a projection there is no closed-form solution",
                    hint="give a variance, or leave it out",
                    loc=("projection",),
                )
            )
        if self.inversion_rounds and self.sequence != "sequential":
            idle.append(
                RuleViolation(
                    "rounds-apart",
                    "inversion rounds close roads beside the name, one concept at a time; "
                    f"sequence {self.sequence} solves for the names of all, and would open them again",
                    hint="leave out sequence or inversion_rounds",
                    loc=("inversion_rounds",),
                )
            )
        if PRESETS[self.preset].published and self.sequence != "sequential":
            idle.append(
                RuleViolation(
                    "only-in-sequence",
                    f"passes of the preset {self.preset} run one after another",
                    hint="leave sequence out: nothing is retained that a merger could hold",
                    loc=("sequence",),
                )
            )
        if idle:
            raise RuleViolations(idle)
        return self


class ManifestSpec(Record):
    """The content of a manifest."""

    base: CheckpointRef
    """The checkpoint to start from."""
    concepts: tuple[Concept, ...] = ()
    """What to forget, one pass each, in this order."""
    corrections: tuple[Correction, ...] = ()
    """What to correct, one pass each, after the concepts."""
    keep: tuple[Phrase, ...] = ()
    """Names that must stay, beside each concept's own ``keep``."""
    styles: Annotated[tuple[Phrase, ...], Field(exclude_if=lambda styles: not styles)] = ()
    """Styles the checkpoint is known to draw, as its prompts name them. What is forgotten is forgotten in each of them
    too: left to the styles that prompts commonly name, a thing may survive in one of the checkpoint's own."""
    eraser: EraserSettings = EraserSettings()
    """Settings of the eraser."""

    @model_validator(mode="after")
    def _consistent(self) -> ManifestSpec:
        if problems := list(contradictions(self)):
            raise RuleViolations(problems)
        return self


class Manifest(Record):
    """A ``ConceptManifest`` document."""

    api_version: Literal["fmn-guard/v1"] = Field(alias="apiVersion")
    """Format version, ``fmn-guard/v1``."""
    kind: Literal["ConceptManifest"]
    """``ConceptManifest``"""
    metadata: Metadata
    """Name and description."""
    spec: ManifestSpec
    """What to forget, correct and keep."""


def load_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        FileProblems: every error of the file, each with line, column, rule and hint.
    """
    return load_yaml(path, Manifest)


def label_of(kind: Kind, phrase: str) -> str:
    """The label under which recognisers report a concept: styles have an axis of their own."""
    match kind:
        case "style":
            return f"style:{phrase.casefold()}"
        case "identity" | "object" | "nsfw":
            return f"concept:{phrase.casefold()}"
        case _:
            assert_never(kind)
