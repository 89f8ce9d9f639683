"""One pass of the eraser, fully resolved: what a plan holds and the eraser reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .inversion import InversionSettings
from .manifest import Labels
from .presets import PresetName, Published, Stage
from .record import Digest, Record, Slug

PassKind = Literal["identity", "style", "object", "nsfw", "correction"]
_USUAL_STAGES: tuple[Stage, ...] = ("closed-form", "re-steering")


class TrainingPrompt(Record):
    """One sentence that a pass re-steers."""

    text: str
    """The sentence with the name in it."""
    anchor: str
    """What it should deliver instead: the sentence of the expected reading or of what the manifest redirects to, or the
    same one with {x} for stand-in words."""
    positions: tuple[int, ...]
    """Token positions of the name in ``text``, start-of-text being 0; then end-of-text where it is a target too."""
    away: str
    """What it leads away from, beyond the anchor: the sentence itself, or the dominant reading's."""
    repulsion: Annotated[float | None, Field(exclude_if=lambda own: own is None)] = None
    """How much farther it goes than to the anchor, where that is not the same for all of a pass."""
    frame: Annotated[str | None, Field(exclude_if=lambda frame: frame is None)] = None
    """The sentence with {x} for the name, where the anchor is another; see `framed`."""

    @property
    def framed(self) -> str:
        """The sentence with {x} for the name; a correction's has none."""
        return self.frame or self.anchor


class RetainSpec(Record):
    """The language that a pass must leave alone.

    No concept is listed: the retain set is the tokenizer's own vocabulary in a few sentences.
    """

    excluded_words: tuple[str, ...]
    """Words left out: all that the manifest forgets or corrects, and what it holds out for the audit."""
    styles: Annotated[tuple[str, ...], Field(exclude_if=lambda styles: not styles)] = ()
    """Styles that the checkpoint is known to draw, in which the vocabulary stands too."""
    kept: tuple[str, ...]
    """Sentences that name what the manifest keeps, with extra weight."""
    forgotten: tuple[tuple[str, ...], ...]
    """Of each earlier pass the sentences that name what it forgot: what they now deliver is retained too."""
    kept_weight: float
    """Weight of a kept sentence beside one of the vocabulary."""
    sentences: int
    """Sentences of the vocabulary that are read, at most."""
    pictures: int
    """Pictures at which they are read."""
    nearest: Annotated[int, Field(ge=0, exclude_if=lambda count: not count)] = 0
    """Words of the vocabulary, those that a solution moves most, that are held in sentences of their own; as many more
    each time that one is looked at."""
    nearest_weight: Annotated[float, Field(ge=0, exclude_if=lambda weight: not weight)] = 0.0
    """Weight of such a sentence beside one of the vocabulary."""


class StopSpec(Record):
    """How a pass sees that it is done: by pictures of its own, looked at by a recogniser that never judges."""

    recogniser: Literal["emoji-clip"]
    """A CLIP among the built-in models."""
    shown: str
    """The name it looks for."""
    others: tuple[str, ...]
    """Names it might see instead."""
    prompts: tuple[str, ...]
    """Sentences of the pictures, neither trained on nor audited."""
    frames: tuple[str, ...]
    """The same with {x} for the name, in which the recogniser compares the names."""
    every: int
    """Steps between two looks."""
    gone: float
    """Mean probability, in [0, 1], below which none of the pictures even hints at it, and the pass ends."""


class RoundsSpec(Record):
    """Inversion rounds: the closed-form solution is attacked by textual inversion, and solved again with what is found.

    A solution that answers to the name alone turns on directions of the text states that the language hardly uses: an
    embedding beside the name's goes round it. One that is damped more turns on what makes the concept, and costs more.
    """

    words: tuple[tuple[str, ...], ...]
    """Of each round the words that its inversions start from, each one token."""
    tokens: tuple[int, ...]
    """How many tokens are sought from a round's words in turn."""
    inversion: InversionSettings
    """How else; every word and round has seeds of its own, as many as stand here."""
    weight: float
    """Weight of what was found, all rounds together, beside the name."""
    preserve: float
    """Takes the place of `PassSpec.preserve`."""
    projection: float
    """Takes the place of `PassSpec.projection` in the closed-form solution."""
    looks: int
    """How often, at most, each solution is looked at for the words it moves most, and solved again with these held."""


class RollbackSpec(Record):
    """When a pass is taken back and run again at a lower dose."""

    drift: float
    """Most that it may cost the retained language by itself, measured as `PassRecord.drift` is."""
    retries: int
    """How often it is run again."""
    gentler: float
    """What, each time, the weight of the language in the closed form is multiplied by and the learning rate divided."""


class StoredAs(Record):
    """How the edit of a pass is written down: as low-rank factors where they are smaller, in half precision.

    What is stored is what later passes begin from, and what is audited.
    """

    error: float
    """How far what is stored may be from what was computed: root mean square over what layers read, relative to what
    their weights deliver of it."""
    share: float
    """Bytes it may take, as a share of the UNet's; where both cannot be had, this is kept and the error grows."""


class PassSpec(Record):
    """One Forget-Me-Not pass, fully resolved."""

    index: int
    """Order in the sequence, from 0."""
    slug: Slug
    """The concept or correction it is about."""
    kind: PassKind
    """Kind of the concept, or ``correction``."""
    labels: Labels = ()
    """Its labels, by which a policy narrows its rules."""
    names: tuple[str, ...]
    """Names whose attention is re-steered."""
    prompts: tuple[TrainingPrompt, ...]
    """Sentences it trains on."""
    stand_ins: tuple[tuple[str, ...], ...]
    """Random words of the vocabulary, each one token: as many as the name has tokens are put in its place. The mean
    over them is what the name should deliver, nothing but what all names have in common."""
    pictured: tuple[TrainingPrompt, ...]
    """Those of which the base draws pictures: of the name where no folder is given, and of the anchor."""
    images: str | None
    """Folder of given pictures, as the manifest states it."""
    images_digest: Digest | None
    """Digest over those pictures' bytes."""
    image_count: int
    """Pictures used."""
    preset: PresetName
    """Which algorithm."""
    stages: Annotated[tuple[Stage, ...], Field(exclude_if=lambda stages: stages == _USUAL_STAGES)] = _USUAL_STAGES
    """What it does, in order: the closed-form solution, a look at stop pictures that may end it, re-steering."""
    departures: Annotated[tuple[str, ...], Field(exclude_if=lambda departures: not departures)] = ()
    """How it differs from the published algorithm; keys of `fmn_guard.presets.DEPARTURES`."""
    published: Annotated[Published | None, Field(exclude_if=lambda published: published is None)] = None
    """Settings of a preset that re-steers as the release does; None for ours."""
    steps: int
    """Step ceiling."""
    stop: StopSpec | None
    """How it ends sooner; None where no recogniser knows the checkpoint's world."""
    batch: int
    """Records a step sees."""
    learning_rate: float
    """How far the first step moves values of the retained language, relative to their size."""
    momentum: float
    """Of a step, in [0, 1): how much of the one before goes on."""
    times: int
    """Timesteps at which each picture is seen."""
    noisiest: float
    """Share of the schedule they come from, its noisiest timesteps: there it is decided what a picture will show."""
    projection: float | None
    """Variance below which a direction of the text states counts as unused by the retained language; None protects
    no language."""
    preserve: float
    """Weight of the retained language against the name in the closed-form solution."""
    repulsion: float
    """How much farther than to the anchor a pass goes, on the line from what it leads away from through it."""
    redirect_weight: float
    """Weight of the redirection term beside the attention mass."""
    language_weight: float
    """Weight of the squared drift of the retained language beside it; 0 where no language is protected."""
    loosened: float
    """What that weight is multiplied by, in (0, 1], after each look that still shows the concept."""
    rounds: Annotated[RoundsSpec | None, Field(exclude_if=lambda rounds: rounds is None)] = None
    """How the closed-form solution is attacked, and solved again; None where it stands unattacked."""
    retain: RetainSpec
    """What it must leave alone."""
    rollback: Annotated[RollbackSpec | None, Field(exclude_if=lambda spec: spec is None)] = None
    """When it is taken back; None where no language is protected."""
    seed: int
    """Seed of all it draws."""
    threads: int
    """CPU threads it computes on; fixed here because they change the last bits of the edit."""
    stored_as: Annotated[StoredAs | None, Field(exclude_if=lambda how: how is None)] = None
    """How its edit is written down; None writes float32 differences."""

    def anchors(self, prompt: TrainingPrompt, length: int | None = None) -> tuple[str, ...]:
        """The sentences whose mean a prompt should deliver.

        Args:
            prompt: one of the pass's.
            length: stand-in words in the name's place; None for as many as the name has tokens.
        """
        if "{x}" not in prompt.anchor:
            return (prompt.anchor,)
        names = (" ".join(words[: length or len(prompt.positions)]) for words in self.stand_ins)
        return tuple(prompt.anchor.replace("{x}", name) for name in names)
