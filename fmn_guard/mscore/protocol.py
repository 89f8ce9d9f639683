"""What is inverted, how, and at which cost; resolved before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from ..errors import InputError
from ..inversion import InversionSettings
from ..passes import PassSpec
from ..plan import Plan
from ..probes import Probe
from ..record import Digest, Record, Slug, digest
from ..sentences import NEUTRAL_WORDS

ANCHORS = 8
LEAST_CONTROLS = 5
LEAST_SEEDS = 3
FIRST_ANCHOR_SEED = 600_000_000  # far from the eraser's and the shipped suites'
FIRST_REPLAY_SEED = 610_000_000

Role = Literal["target", "control"]


class Subject(Record):
    """A concept whose tokens are sought."""

    slug: Slug
    """Its name in files."""
    phrase: str
    """Its name."""
    role: Role
    """Whether it was to be forgotten, or is retained and tells what a drop is by chance."""
    label: str
    """What the recogniser calls it."""
    template: str
    """Sentence in which z and r are taken, with {x} for the name."""
    frames: tuple[str, ...]
    """Sentence of each anchor picture, with {x} for the name: the suite's, which the eraser never trains on."""
    given: Digest | None = None
    """Digest over given anchor pictures; None where the base draws them from the frames."""

    def sentence(self, frame: str) -> str:
        """A frame with the name in it."""
        return frame.replace("{x}", self.phrase)


class Protocol(Record):
    """What is inverted, and how; resolved before anything is computed."""

    plan_digest: Digest
    """The plan whose concepts these are."""
    base_digest: Digest
    """Identity of the base."""
    word: str
    """The word that inversion starts from: the same for all concepts, seeds and models."""
    inversion: InversionSettings
    """How, for the M-Score."""
    replay_tokens: tuple[int, ...]
    """Numbers of tokens by which targets are sought and drawn again; the M-Score's own comes first."""
    replays: int
    """Pictures drawn with the tokens of each seed."""
    subjects: tuple[Subject, ...]
    """Targets in the plan's order, then controls."""

    @property
    def digest(self) -> Digest:
        """Digest of all of it."""
        return digest(self)

    def tokens_of(self, subject: Subject) -> tuple[int, ...]:
        """Numbers of tokens that a subject is sought by: controls only by the M-Score's."""
        return self.replay_tokens if subject.role == "target" else (self.inversion.tokens,)

    def jobs(self) -> Iterator[tuple[Subject, InversionSettings]]:
        """Inversions to do on either model, all seeds of one at a time."""
        for subject in self.subjects:
            for tokens in self.tokens_of(subject):
                yield subject, self.inversion.model_copy(update={"tokens": tokens})


class Cost(Record):
    """What a protocol costs; an estimate, in no digest."""

    inversions: int
    """Inversions of one seed on one model."""
    cached: int
    """Those of them, on the base, that are known already."""
    steps: int
    """Optimiser steps of one of them."""
    evaluations: int
    """UNet evaluations of one picture with gradients, without what is cached."""
    pictures: int
    """Pictures drawn."""
    seconds: float | None = None
    """How long it takes about; None where nothing was timed."""

    @property
    def words(self) -> str:
        """In a sentence."""
        known = f", {self.cached} of them known already" if self.cached else ""
        time = "" if self.seconds is None else f"; about {self.seconds:,.0f} s"
        return (
            f"{self.inversions} inversions of {self.steps} steps{known}: {self.evaluations:,} UNet evaluations with "
            f"gradients, {self.pictures:,} pictures{time}"
        )


def plan_mscore(
    plan: Plan,
    words: Sequence[str],
    *,
    settings: InversionSettings | None = None,
    controls: int = LEAST_CONTROLS,
    replay_tokens: Sequence[int] = (4,),
    replays: int = ANCHORS,
    given: Mapping[str, tuple[Digest, int]] | None = None,
) -> Protocol:
    """Resolves what is inverted. Pure.

    Corrections have no M-Score: their dominant reading keeps answering to its own name.

    Args:
        plan: Its concepts are the targets, the suite's retained ones the controls.
        words: Whole words of the base's tokenizer.
        settings: Of the inversion; the defaults unless given.
        controls: How many retained concepts tell what a drop is by chance, at least 5. They are of the targets' sort,
            none is a declared neighbour, and all plans take the same ones, so that what is cached of them holds.
        replay_tokens: Numbers of tokens by which targets are sought beside the M-Score's own.
        replays: Pictures drawn with the tokens of each seed.
        given: Of each slug with anchor pictures of its own their digest and number.

    Raises:
        InputError: there is no concept, too few controls, seeds or anchors, or no neutral word.
    """
    settings = settings or InversionSettings()
    if len(set(settings.seeds)) < LEAST_SEEDS:
        raise InputError(
            f"{len(set(settings.seeds))} seeds, an M-Score takes at least {LEAST_SEEDS}",
            hint="one inversion says little about the next",
        )
    targets = [_target(spec, plan) for spec in plan.passes if spec.kind != "correction"]
    if not targets:
        raise InputError("the manifest forgets no concept", hint="corrections have no M-Score")
    subjects = [*targets, *_controls(plan, targets, controls)]
    for slug, (_, count) in (given or {}).items():
        if slug not in {s.slug for s in subjects}:
            raise InputError(f"anchors are given of {slug!r}, which is not measured", hint="call folders by slugs")
        if count < ANCHORS:
            raise InputError(f"{count} anchors of {slug}, at least {ANCHORS} are needed", hint="give more pictures")
    names = " ".join(s.phrase.casefold() for s in subjects).split()
    word = next((w for w in NEUTRAL_WORDS if w in words and w not in names), None)
    if word is None:
        raise InputError(
            f"none of {', '.join(NEUTRAL_WORDS)} is a word of this tokenizer",
            hint="the M-Score needs a neutral word to start from",
        )
    return Protocol(
        plan_digest=plan.digest,
        base_digest=plan.base.identity,
        word=word,
        inversion=settings,
        replay_tokens=tuple(dict.fromkeys((settings.tokens, *replay_tokens))),
        replays=replays,
        subjects=tuple(_with_given(s, (given or {}).get(s.slug)) for s in subjects),
    )


def _with_given(subject: Subject, given: tuple[Digest, int] | None) -> Subject:
    if given is None:
        return subject
    return subject.model_copy(update={"given": given[0], "frames": (subject.template,) * given[1]})


def _target(spec: PassSpec, plan: Plan) -> Subject:
    asked = [p for p in plan.probes if p.role == "target" and p.subject == spec.slug]
    if (subject := _subject("target", spec.names[0], asked)) is None:
        raise InputError(
            f"no sentence of suite {plan.suite} holds {spec.names[0]!r} once",
            hint="its anchors are drawn from the suite's sentences; choose another suite",
        )
    return subject


def _controls(plan: Plan, targets: list[Subject], count: int) -> list[Subject]:
    if count < LEAST_CONTROLS:
        raise InputError(f"{count} controls, at least {LEAST_CONTROLS} are needed", hint="a noise floor needs them")
    asked: dict[str, list[Probe]] = {}
    for probe in plan.probes:
        if probe.role == "retained" and not probe.neighbour_of:
            asked.setdefault(probe.subject, []).append(probe)
    taken = {target.slug for target in targets}
    found = (_subject("control", p[0].labels[0].partition(":")[2], p) for slug, p in asked.items() if slug not in taken)
    left = sorted((s for s in found if s is not None), key=lambda s: digest(s.slug))
    if len(left) < count:
        raise InputError(
            f"{len(left)} retained concepts can be controls, {count} are needed",
            hint="choose a policy whose suite retains more",
        )
    chosen: list[Subject] = []
    for i in range(count):
        axis = _axis(targets[i % len(targets)])
        best = next((s for s in left if _axis(s) == axis), left[0])
        left.remove(best)
        chosen.append(best)
    return chosen


def _axis(subject: Subject) -> str:
    return subject.label.partition(":")[0]


def _subject(role: Role, name: str, asked: Sequence[Probe]) -> Subject | None:
    """A subject from the sentences that ask for it; None where none holds its name once."""
    named = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    found = {p.prompt: hits for p in asked if len(hits := list(named.finditer(p.prompt))) == 1 and "{" not in p.prompt}
    if not found:
        return None
    frames = [prompt[: hit.start()] + "{x}" + prompt[hit.end() :] for prompt, [hit] in found.items()]
    return Subject(
        slug=asked[0].subject,
        phrase=next(iter(found.values()))[0][0],
        role=role,
        label=asked[0].labels[0],
        template=min(frames, key=lambda frame: (not frame.endswith("{x}"), len(frame))),  # nothing after the name
        frames=tuple(frames[i % len(frames)] for i in range(ANCHORS)),
    )


def estimate(protocol: Protocol, plan: Plan, cached: int = 0, seconds_each: float | None = None) -> Cost:
    """Counts what a protocol will do.

    Args:
        protocol: The protocol.
        plan: The plan it was made from.
        cached: How many of its `Protocol.jobs` are known on the base already.
        seconds_each: How long one UNet evaluation with gradients takes, where that is known.
    """
    jobs, seeds = len(list(protocol.jobs())), len(protocol.inversion.seeds)
    settings = protocol.inversion
    evaluations = (2 * jobs - cached) * seeds * settings.steps * settings.batch
    pictures = sum(len(s.frames) for s in protocol.subjects if s.given is None) + 2 * jobs * seeds * protocol.replays
    # without gradients an evaluation takes half as long
    drawing = pictures * plan.sampler.evaluations / 2
    return Cost(
        inversions=2 * jobs * seeds,
        cached=cached * seeds,
        steps=settings.steps,
        evaluations=evaluations,
        pictures=pictures,
        seconds=None if seconds_each is None else (evaluations + drawing) * seconds_each,
    )
