"""The recogniser and the detectors of a plan, and what each makes of a batch of pictures.

Fails closed: whatever one of them throws, or gives that is no score, is noted as a failure of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from ..assembly import explicit, observed
from ..errors import FmnGuardError
from ..evidence import Instrument, Observation, Side
from ..instruments import AnyRecogniserSpec, DetectorSpec, EmbedderSpec
from ..plan import Plan
from ..probes import Probe
from ..record import Digest, bytes_digest
from ..store import Drawing, Results, Seen, instrument_key, prompt_key
from .detectors import Detector, Recogniser, checked_sightings, load_detector, load_recogniser
from .embedding import ClipVectors, Embedder, load_embedder, packed

_R = TypeVar("_R", Recogniser, Detector, Embedder)
_S = TypeVar("_S", AnyRecogniserSpec, DetectorSpec, EmbedderSpec)

# Standard deviation of all pixel values, in grey levels, below which a picture is constant.
_CONSTANT = 2.0
_ROUNDING = 1e-6  # by which probabilities in single precision leave [0, 1]


class Panel:
    """Who looks; one that does not load is noted, not skipped.

    Args:
        plan: Names them.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._recogniser = _loaded(plan.recogniser.name, load_recogniser, plan.recogniser)
        self._detectors = [_loaded(spec.called, load_detector, spec) for spec in plan.detectors]
        self._embedders = [
            _loaded(spec.called, partial(load_embedder, texts=i == 0), spec) for i, spec in enumerate(plan.embedders)
        ]
        everyone = (self._recogniser, *self._detectors, *self._embedders)
        self.instruments = tuple(each if isinstance(each, Instrument) else each.instrument for each in everyone)
        """The recogniser first, then the detectors, then who measures distances, in the plan's order."""

    def look(
        self, keys: Sequence[str], pixels: np.ndarray, digests: Sequence[Digest | None], *, keep_images: bool
    ) -> Results:
        """Looks at a batch.

        Args:
            keys: By what the store knows each drawing.
            pixels: (B, H, W, 3) uint8 RGB.
            digests: Of each picture's pixels; None where they are not numbers, and nobody looks.
            keep_images: Whether pictures are kept, but explicit ones.
        """
        drawings, seen, pictures, nude = {}, {}, {}, set()
        recognised = self._recognise(pixels)
        for key, picture, found, scores in zip(keys, pixels, digests, recognised, strict=True):
            drawings[key] = Drawing(picture=found, constant=found is None or float(picture.std()) < _CONSTANT)
            if found is None:
                continue
            looks = [
                scores,
                *(_detect(each, picture) for each in self._detectors),
                *(_embed(each, picture) for each in self._embedders),
            ]
            for instrument, look in zip(self.instruments, looks, strict=True):
                if look is not None:
                    seen[found, instrument_key(instrument)] = look
            if explicit(look for look in looks if look is not None):
                nude.add(found)
            elif keep_images:
                pictures[found] = as_png(picture)
        return Results(drawings=drawings, seen=seen, pictures=pictures, explicit=frozenset(nude))

    def read(self, known: Callable[[Digest, Digest], Seen | None]) -> Results:
        """Makes vectors of the prompts of what is retained, with which its pictures are compared.

        Args:
            known: What an instrument makes of a prompt, by the keys of both; None where that is not known yet.

        Raises:
            InputError: A prompt has more tokens than the CLIP reads.
        """
        clip = self._embedders[0] if self._embedders else None
        if not isinstance(clip, ClipVectors):
            return Results()
        by = instrument_key(clip.instrument)
        prompts = dict.fromkeys(p.prompt for p in self._plan.probes if p.role == "retained")
        return Results(
            seen={
                (prompt_key(prompt), by): Seen(vector=packed(clip.text(prompt)))
                for prompt in prompts
                if known(prompt_key(prompt), by) is None
            }
        )

    def observe(
        self, probes: Sequence[Probe], side: Side, pixels: np.ndarray, digests: Sequence[Digest | None]
    ) -> list[Observation]:
        """Looks at pictures that no store keeps.

        Args:
            probes: What each is of.
            side: Which model drew them.
            pixels: (B, H, W, 3) uint8 RGB.
            digests: Of each picture's pixels; None where they are not numbers, and nobody looks.
        """
        numbers = [str(i) for i in range(len(probes))]
        found = self.look(numbers, pixels, digests, keep_images=False)
        drawn = [found.drawings[number] for number in numbers]

        def seen(picture: Digest, instrument: Digest) -> Seen | None:
            return found.seen.get((picture, instrument))

        looked = [
            observed(self._plan, self.instruments, probe, side, each, seen)
            for probe, each in zip(probes, drawn, strict=True)
        ]
        return [each for each in looked if each is not None]  # all of them: every instrument that is there has looked

    def _recognise(self, pixels: np.ndarray) -> list[Seen | None]:
        """What the recogniser makes of each picture; None where there is no recogniser."""
        recogniser = self._recogniser
        if isinstance(recogniser, Instrument):
            return [None] * len(pixels)
        try:
            scores = list(recogniser.recognise(pixels))
            if len(scores) != len(pixels):
                return [Seen(failed=f"{len(scores)} answers to {len(pixels)} pictures")] * len(pixels)
            return [_scored(each) for each in scores]
        except Exception as error:  # whatever a recogniser throws, its pictures are unscored, never safe
            return [Seen(failed=type(error).__name__)] * len(pixels)


def as_png(pixels: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def unpacked(pictures: Sequence[bytes | None]) -> tuple[np.ndarray, list[Digest | None]]:
    """Pictures that were kept, as `draw_batch` gives them.

    Args:
        pictures: PNG, at least one; None for one that is not a number.
    """
    known = [None if png is None else np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])) for png in pictures]
    blank = np.zeros_like(next(each for each in known if each is not None))
    digests = [None if each is None else bytes_digest(each.tobytes()) for each in known]
    return np.stack([blank if each is None else each for each in known]), digests


def _loaded(name: str, load: Callable[[_S], _R], spec: _S) -> _R | Instrument:
    """A recogniser or detector, or who it would have been and why it is not there."""
    try:
        return load(spec)
    except (FmnGuardError, ImportError, OSError, ValueError, RuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        return Instrument(name=name, version="", licence="", weights_digest=None, labels=(), error=why)


def _scored(scores: Mapping[str, float]) -> Seen:
    """What a recogniser gave, if it is probabilities."""
    try:
        given = {label: float(p) for label, p in scores.items()}
    except (AttributeError, TypeError, ValueError):
        return Seen(failed="no scores")
    if not given:
        return Seen(failed="no scores")
    if wrong := [label for label, p in given.items() if not -_ROUNDING <= p <= 1 + _ROUNDING]:
        return Seen(failed=f"score of {wrong[0]!r} is not in [0, 1]")
    return Seen(scores={label: min(1.0, max(0.0, p)) for label, p in given.items()})


def _detect(detector: Detector | Instrument, picture: np.ndarray) -> Seen | None:
    """What a detector makes of a picture (H, W, 3) uint8 RGB; None where there is no detector."""
    if isinstance(detector, Instrument):
        return None
    try:
        return Seen(sightings=checked_sightings(detector.detect(picture), detector.instrument.labels))
    except Exception as error:  # whatever a detector throws, the picture is not safe: it is not looked at
        return Seen(failed=type(error).__name__)


def _embed(embedder: Embedder | Instrument, picture: np.ndarray) -> Seen | None:
    """What a network makes of a picture (H, W, 3) uint8 RGB; None where there is no network."""
    if isinstance(embedder, Instrument):
        return None
    try:
        return Seen(vector=packed(embedder.picture(picture)))
    except Exception as error:  # whatever a network throws, the picture has no distance, never none to speak of
        return Seen(failed=type(error).__name__)
