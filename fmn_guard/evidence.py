"""What the torch half hands back: records of passes and observations. Measurements, no thresholds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .record import Digest, Record, Slug

Side = Literal["base", "patched"]


class RoundRecord(Record):
    """One inversion round of a pass."""

    found: int = Field(ge=0)
    """Inversions that arrived: they denoise its pictures more like the base does by its name than by the anchor."""
    sought: int = Field(ge=1)
    """Inversions."""


class PassRecord(Record):
    """What one pass did."""

    slug: Slug
    """The concept or correction; ``joint`` of all at once, ``merge`` of what came of them merged or mended."""
    steps: int
    """Optimiser steps taken after the closed-form solution, if there is one."""
    stopped: Literal["forgotten", "ceiling", "solved", "no-steps", "diverged", "merged"]
    """Why it ended: no stop picture shows it, step ceiling, a closed-form solution was all there was to do, nothing was
    to do, a loss that is not a number, or that this is no pass but the merger of all."""
    still_shown: tuple[float, ...]
    """Mean probability at each look, in [0, 1], that a stop picture shows it; empty where nobody looks."""
    attention_mass: tuple[float, ...]
    """Attention mass on the name's tokens before each step, in [0, 1]; the mean over layers, heads and pixels."""
    redirect_error: tuple[float, ...]
    """Mean squared error to the redirection's target before each step; lower is closer. Empty without one."""
    drift: float | None
    """What the passes so far cost words they were not about: root mean square change of what cross-attention values
    deliver of the retained language, relative to its size. None under presets that retain none."""
    own_drift: Annotated[float | None, Field(exclude_if=lambda drift: drift is None)] = None
    """The same of what this pass alone changed."""
    nearest: Annotated[tuple[str, ...], Field(exclude_if=lambda words: not words)] = ()
    """Words that its first solution moved most, and that it then held all the more; the most moved comes first."""
    rounds: Annotated[tuple[RoundRecord, ...], Field(exclude_if=lambda rounds: not rounds)] = ()
    """Inversion rounds, in order."""
    rolled_back: Annotated[tuple[float, ...], Field(exclude_if=lambda drifts: not drifts)] = ()
    """The same of each earlier attempt at it, which was over the plan's budget and taken back."""
    images_digest: Digest
    """Digest over the pictures it forgot from."""


class PassRecords(Record):
    """passes.json: what the eraser did, and to what."""

    schema_version: Literal["fmn-guard/passes/v1"] = "fmn-guard/passes/v1"
    """Format of this record."""
    plan_digest: Digest
    """The plan it followed."""
    base_digest: Digest
    """Identity of the base."""
    passes: tuple[PassRecord, ...]
    """Passes, in order."""
    patch_digest: Digest
    """Digest of the patch file's bytes."""


class Sighting(Record):
    """One box of a detector."""

    label: str
    """The detector's own class name."""
    score: float
    """Its score, in [0, 1]."""


class Observation(Record):
    """One picture, looked at."""

    probe: str
    """Id of the probe."""
    side: Side
    """Which model drew it."""
    image_digest: Digest | None
    """Digest of its pixels; None when it could not be drawn."""
    unscored: str | None = None
    """Why it has no scores (detector error, constant or NaN picture); None when it has."""
    degenerate: bool = False
    """Whether the picture is constant or not a number."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Probability of each label the probe asks for, in [0, 1]."""
    top: str | None = None
    """The most likely label on the axis of the first one asked for, e.g. ``concept:none`` for the reject class."""
    sightings: dict[str, tuple[Sighting, ...] | None] = Field(default_factory=dict)
    """Boxes of each detector; None where the detector failed on this picture."""


class Between(Record):
    """What was seen after a pass, before the next."""

    after: int = Field(ge=1)
    """Passes that were done."""
    observations: tuple[Observation, ...]
    """Of the model as it then was, which stands on the patched side, in the plan's order."""


class MatrixCell(Record):
    """How often something was shown."""

    shown: int = Field(ge=0)
    """Pictures that show it."""
    n: int = Field(ge=0)
    """Pictures scored."""

    @property
    def share(self) -> float | None:
        """Share of the scored pictures that show it, in [0, 1]; None where none is scored."""
        return self.shown / self.n if self.n else None


class MatrixRow(Record):
    """One concept, or all that is retained, through the sequence of passes."""

    name: Slug
    """The concept or correction, or ``retained``."""
    base: MatrixCell
    """On the base; from the full audit, as is the last cell of ``after``."""
    after: tuple[MatrixCell | None, ...]
    """After each pass; None before the concept's own."""


class PassMatrix(Record):
    """Concepts by passes: how often each was shown after its own pass and after every later one."""

    concepts: tuple[MatrixRow, ...]
    """Concepts and corrections, in the order of their passes; of a correction, its dominant reading."""
    retained: MatrixRow
    """What is to be kept: between passes, a sample of it."""


class AttentionMap(Record):
    """Where a model looks for a name while it draws one probe; recorded for people, and judged by nobody."""

    probe: str
    """Id of the probe."""
    side: Side
    """Which model drew it."""
    mass: float = Field(ge=0, le=1)
    """Attention probability on the name's tokens; the mean over steps, layers, heads and pixels."""
    peak: float = Field(ge=0, le=1)
    """The same at the place where it is largest; what ``ff`` stands for in ``rows``."""
    rows: tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$")], ...] = Field(min_length=1)
    """The same by place, a row of the picture each from the top down, two hexadecimal digits a place."""

    @property
    def places(self) -> list[list[float]]:
        """The same by place, row by row, in [0, peak]."""
        return [[self.peak * level / 255 for level in bytes.fromhex(row)] for row in self.rows]


class PairDistance(Record):
    """What a CLIP makes of the two pictures of one retained probe; None where it made nothing of them."""

    probe: str
    """Id of the probe."""
    base: float | None
    """100 times the cosine of prompt and base's picture: the base's CLIP score."""
    patched: float | None
    """The same of the patched model's picture."""
    moved: float | None
    """Cosine distance of the two pictures, in [0, 2]."""


class SeedDistance(Record):
    """How far the base's pictures of one prompt are apart."""

    probe: str
    """Id of the first probe that asks it."""
    apart: float
    """Mean cosine distance between pictures of different seeds, in [0, 2]."""
    n: int = Field(ge=2)
    """Pictures."""


class SetDistance(Record):
    """A distance between all pictures of the two models, taken as two sets."""

    value: float
    """It, in its own units."""
    error: float | None
    """Its standard error, by the jackknife over prompts; None where that is not told."""
    n: int = Field(ge=2)
    """Pairs whose pictures make up the sets."""


class Distances(Record):
    """How far the patched model's pictures of what is retained are from the base's."""

    pairs: tuple[PairDistance, ...]
    """Of every retained probe, in the plan's order."""
    seeds: tuple[SeedDistance, ...]
    """Of every prompt of which the base has several pictures, what is forgotten too: what is retained may have one a
    prompt."""
    cmmd: SetDistance | None
    """CMMD; None where fewer than two pairs have vectors."""
    kid: Annotated[SetDistance | None, Field(exclude_if=lambda distance: distance is None)] = None
    """Kernel inception distance, over the suite's feature network; None where it names none."""
    fid: Annotated[SetDistance | None, Field(exclude_if=lambda distance: distance is None)] = None
    """Frechet inception distance, over the same."""


class Control(Record):
    """How often an instrument was wrong about pictures of which the truth is known."""

    axis: str
    """Which of its labels: those that begin so, before the colon; ``concept`` or ``style``."""
    threshold: float
    """Probability from which a label counted as recognised; of another, nothing is known."""
    shown: int = Field(ge=1)
    """Pictures that were asked for what they show."""
    found: int = Field(ge=0)
    """Those in which it was recognised."""
    absent: int = Field(ge=1)
    """How often a picture was asked for what it does not show."""
    alarms: int = Field(ge=0)
    """How often that was recognised all the same."""
    source: str
    """What the pictures are, and whether they are of the sort that is judged."""

    @model_validator(mode="after")
    def _sound(self) -> Control:
        if self.found > self.shown or self.alarms > self.absent:
            raise ValueError("more was recognised than there is")
        return self


class Instrument(Record):
    """Who measured."""

    name: str
    """Name of the recogniser or detector."""
    version: str
    """Its version."""
    licence: str
    """Its licence."""
    weights_digest: Digest | None
    """Digest of its weights; None when it did not load."""
    labels: tuple[str, ...]
    """Labels it can give."""
    direction: Annotated[str, Field(exclude_if=lambda words: not words)] = ""
    """Which way its scores go; none said in audits of older versions."""
    preprocessing: Annotated[str, Field(exclude_if=lambda words: not words)] = ""
    """What is done to a picture before it is looked at."""
    controls: Annotated[tuple[Control, ...], Field(exclude_if=lambda known: not known)] = ()
    """How often it is wrong, as far as that is known."""
    error: str | None = None
    """Why it did not load; its observations are then all missing."""


class Audit(Record):
    """audit.json: every measurement, and nothing judged."""

    schema_version: Literal["fmn-guard/audit/v1"] = "fmn-guard/audit/v1"
    """Format of this record."""
    plan_digest: Digest
    """The plan it measured."""
    passes_digest: Digest | None
    """Digest of passes.json; None for a checkpoint that fmn-guard did not make."""
    patched_digest: Digest
    """Identity of the audited model: of its folder, or of base and patch together; the base's if nothing changed."""
    instruments: tuple[Instrument, ...]
    """The recogniser first, then the detectors, then who measured distances."""
    observations: tuple[Observation, ...]
    """Both sides of every probe, in the plan's order."""
    attention: Annotated[tuple[AttentionMap, ...], Field(exclude_if=lambda maps: not maps)] = ()
    """Both sides of each probe that the plan gives positions for, where they are numbers; the base's first."""
    between: Annotated[tuple[Between, ...], Field(exclude_if=lambda looks: not looks)] = ()
    """What was seen after each pass but the last; nothing of a checkpoint that fmn-guard did not make."""
    matrix: Annotated[PassMatrix | None, Field(exclude_if=lambda matrix: matrix is None)] = None
    """What these observations and the last model's come to."""
    distances: Annotated[Distances | None, Field(exclude_if=lambda found: found is None)] = None
    """How far what is retained moved; None where the suite does not ask."""
