"""What is counted, with its intervals: a rate over pictures, or a drop over pairs of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Protocol

from .evidence import Control
from .passes import PassKind
from .record import Slug
from .stats import Interval, bootstrap_prompts, newcombe_paired, normal, true_drop, true_rate, wider, wilson


@dataclass(frozen=True)
class Look:
    """One probe on both sides: whether it shows what is looked for. None is unscored."""

    prompt: str
    before: bool | None
    after: bool | None


class Subject(Protocol):
    """What a measurement of a concept or correction is of; a `PassSpec` is one."""

    @property
    def slug(self) -> Slug:
        """Its name in files."""

    @property
    def kind(self) -> PassKind:
        """Its kind, or ``correction``."""


@dataclass(frozen=True)
class Measurement:
    """What a metric counts, for one subject or for the whole plan.

    A rate is the share of patched pictures that show it. A drop is the share before less the share after, over the
    pairs that are scored on both sides; positive is a loss.
    """

    looks: tuple[Look, ...]
    subject: Subject | None = None
    alias: str | None = None
    """Slug of the alias that was asked, where it is one's."""
    attack: str | None = None
    """Id of the attack that asked, where it is one's."""
    failed: str | None = None
    """Why the attack could not be made, or none was."""
    paired: bool = False
    """Whether it is a drop."""
    needs_base: bool = False
    """Whether the base's pictures are part of the proof; always so for a drop."""
    controls: tuple[Control, ...] = ()
    """How often the recogniser is wrong about what is looked for; none where that is not known of all of it."""

    @property
    def about(self) -> str:
        """What it is about, in words."""
        slug = self.subject.slug if self.subject else "the model"
        asked = self.alias or self.attack
        return f"{slug} ({asked})" if asked else slug

    @cached_property
    def counted(self) -> list[Look]:
        """Looks in the denominator."""
        return [k for k in self.looks if k.after is not None and (k.before is not None or not self.paired)]

    @property
    def n(self) -> int:
        """Pictures or pairs in the denominator."""
        return len(self.counted)

    @property
    def planned(self) -> int:
        """Probes planned."""
        return len(self.looks)

    @property
    def scored(self) -> int:
        """Probes scored on every side that the proof needs."""
        base_too = self.paired or self.needs_base
        return sum(k.after is not None and (k.before is not None or not base_too) for k in self.looks)

    def at_worst(self, at_most: bool) -> Measurement:
        """Itself with what has no score counted as badly as it can be: for a drop as lost, for a rate as shown.

        Args:
            at_most: whether a low rate is good; where a high one is, what has no score counts as not shown.
        """
        shown = at_most and not self.paired
        looks = (
            replace(
                look,
                before=self.paired if look.before is None else look.before,
                after=shown if look.after is None else look.after,
            )
            for look in self.looks
        )
        return replace(self, looks=tuple(looks))

    @property
    def hits(self) -> int:
        """Pictures that show it; for a drop, pairs that lost it."""
        return sum(bool(k.before and not k.after if self.paired else k.after) for k in self.counted)

    @property
    def gained(self) -> int:
        """For a drop, pairs that show it only afterwards; 0 for a rate."""
        return sum(self.paired and bool(k.after and not k.before) for k in self.counted)

    @property
    def value(self) -> float | None:
        """The rate in [0, 1], or the drop in [-1, 1]; None when nothing is counted."""
        return (self.hits - self.gained) / len(self.counted) if self.counted else None

    @cached_property
    def base(self) -> list[bool]:
        """What the scored pictures of the base show; for a drop, those of counted pairs."""
        return [k.before for k in (self.counted if self.paired else self.looks) if k.before is not None]

    @property
    def before(self) -> float | None:
        """The base's rate; None when none of its pictures is scored."""
        return sum(self.base) / len(self.base) if self.base else None

    def score_interval(self, confidence: float) -> Interval:
        """Newcombe's interval of a drop, Wilson's of a rate."""
        n = len(self.counted)
        if not self.paired:
            return wilson(self.hits, n, confidence)
        both = sum(bool(k.before and k.after) for k in self.counted)
        return newcombe_paired(both, self.hits, self.gained, n - both - self.hits - self.gained, confidence)

    def with_errors(self, interval: Interval, confidence: float) -> Interval | None:
        """An interval of it with the recogniser's own error rate folded in; None where that is not known.

        Where several sorts of labels are looked for, their error is taken to be anywhere between theirs.
        """
        if not self.controls:
            return None
        found = [wilson(c.found, c.shown, confidence) for c in self.controls]
        alarms = [wilson(c.alarms, c.absent, confidence) for c in self.controls]
        true = true_drop if self.paired else true_rate
        return wider(interval, true(interval, reduce(wider, found), reduce(wider, alarms)))

    def bootstrap_interval(self, confidence: float) -> Interval:
        """The interval under resampling of prompts: pictures of one prompt are alike."""
        prompts: dict[str, tuple[int, int]] = {}
        for k in self.counted:
            total, n = prompts.get(k.prompt, (0, 0))
            change = int(bool(k.before)) - int(bool(k.after)) if self.paired else int(bool(k.after))
            prompts[k.prompt] = (total + change, n + 1)
        return bootstrap_prompts(list(prompts.values()), confidence, least=-1 if self.paired else 0)


@dataclass(frozen=True)
class Distance(Measurement):
    """How far the pictures of the two models are apart, in units of its own: no share of anything.

    Either the mean of a number over pairs, or a distance of all pictures at once, which has an error of its own.
    """

    asked: int = 0
    """Pairs planned."""
    numbers: tuple[tuple[str, float], ...] = ()
    """Prompt and number of each pair that is scored."""
    at_once: tuple[float, float] | None = None
    """The distance of all of these pairs' pictures at once, and its standard error; None for a mean."""
    beside: float | None = None
    """What it is told beside: the base's own score, or how far its pictures are apart from seed to seed."""

    @property
    def planned(self) -> int:
        """Pairs planned."""
        return self.asked

    @property
    def scored(self) -> int:
        """Pairs scored."""
        return len(self.numbers)

    @property
    def n(self) -> int:
        """Pairs it is over."""
        return len(self.numbers)

    @property
    def value(self) -> float | None:
        """The distance; None where there is none."""
        if self.at_once is not None:
            return self.at_once[0]
        return sum(number for _, number in self.numbers) / self.n if self.numbers else None

    @property
    def before(self) -> float | None:
        """What it is told beside."""
        return self.beside

    def score_interval(self, confidence: float) -> Interval:
        """The normal interval: of a mean by the spread of its pairs, otherwise by the distance's own error."""
        if self.at_once is not None:
            return normal(*self.at_once, confidence)
        if self.n < 2:
            return UNKNOWN
        mean = self.value or 0.0
        variance = sum((number - mean) ** 2 for _, number in self.numbers) / (self.n - 1)
        return normal(mean, (variance / self.n) ** 0.5, confidence)

    def bootstrap_interval(self, confidence: float) -> Interval:
        """The interval under resampling of prompts; of a distance of all pictures, the other one."""
        if self.at_once is not None or self.n < 2:
            return self.score_interval(confidence)
        prompts: dict[str, tuple[float, int]] = {}
        for prompt, number in self.numbers:
            total, n = prompts.get(prompt, (0.0, 0))
            prompts[prompt] = (total + number, n + 1)
        return bootstrap_prompts(list(prompts.values()), confidence)


UNKNOWN = Interval(low=-1e6, high=1e6)
"""What is known of a distance that was not measured: less than any limit, and more."""
