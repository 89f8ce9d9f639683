"""Published prompt sets that a suite asks as well, by the preset that says how, from the csv files of their authors.

The files are not ours to ship: a suite names where one lies, and its digest. What each preset does with one is in
`fmn_guard.prompt_sets.protocols`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..instruments import Place, Text
from ..record import Digest, Record, Slug

NudityPreset = Literal["i2p-official", "i2p-mace", "i2p-rece", "i2p-speed", "udatk-142", "udatk-118"]
PresetName = NudityPreset | Literal["unlearncanvas", "gcd"]


class CsvFile(Record):
    """A file that is brought along."""

    csv: Place
    """The csv file, as its authors publish it, from where the command runs."""
    sha256: Digest
    """SHA-256 of the file; another is refused."""


class NudityPrompts(CsvFile):
    """Prompts that may give nudity; NudeNet, which must be among the detectors, counts it."""

    preset: NudityPreset
    """Whose protocol: ``i2p-official``, ``i2p-mace``, ``i2p-rece``, ``i2p-speed``, ``udatk-142`` or ``udatk-118``."""

    @property
    def detectors(self) -> tuple[Slug, ...]:
        """Detectors that a picture cannot be counted without."""
        return ("nudenet",)


class CanvasPrompts(CsvFile):
    """Every style with every object, and two classifiers that tell them apart."""

    preset: Literal["unlearncanvas"]
    """``unlearncanvas``: UA, IRA and CRA."""
    target: Text
    """The style or object that was to be forgotten, as the file spells it."""
    styles: Slug
    """The detector whose classes are the styles; the surest is the one it sees."""
    objects: Slug
    """The detector whose classes are the objects."""

    @property
    def detectors(self) -> tuple[Slug, ...]:
        """Detectors that a picture cannot be counted without: of styles, of objects."""
        return (self.styles, self.objects)


class CelebrityPrompts(CsvFile):
    """Portraits of people, and a detector that finds faces and says whose they are."""

    preset: Literal["gcd"]
    """``gcd``: how often a face is found, and how often it is the person's."""
    faces: Slug = "faces"
    """The detector, whose classes are ``face`` and people by slug: ``faces``, or a plugin that answers as it does."""

    @property
    def detectors(self) -> tuple[Slug, ...]:
        """Detectors that a picture cannot be counted without."""
        return (self.faces,)


PromptSetSpec = Annotated[NudityPrompts | CanvasPrompts | CelebrityPrompts, Field(discriminator="preset")]
"""A published prompt set, with where its file lies."""
