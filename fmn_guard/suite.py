"""How it is measured: the ``AuditSuite`` document (prompts, seeds, sampler, detectors, retained concepts)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .conceptbench.edition import Bench
from .instruments import AnyRecogniserSpec, DetectorSpec, DistancesSpec
from .manifest import Kind, Metadata, Phrase, minors_in
from .prompt_sets.spec import PromptSetSpec
from .record import Record
from .yamlfile import Loc, RuleViolation, RuleViolations, load_yaml

Template = Annotated[str, Field(min_length=1, pattern=r"\{x\}")]
Scheduler = Literal["dpmsolver++", "ddim", "lms", "own"]
"""DPM-Solver++ (2M), DDIM without noise of its own, linear multistep, or what the checkpoint itself asks for."""


class Sampler(Record):
    """How pictures are drawn; equal for base and patched model."""

    steps: Annotated[int, Field(ge=1, le=1000)]
    """Denoising steps, on the checkpoint's own noise schedule."""
    scheduler: Annotated[Scheduler, Field(exclude_if=lambda name: name == "dpmsolver++")] = "dpmsolver++"
    """``dpmsolver++``, ``ddim``, ``lms``, or ``own`` for the checkpoint's, which must not draw noise on the way."""
    guidance: Annotated[float, Field(ge=1, le=50)]
    """Classifier-free guidance scale; 1 is none."""
    unguided: Annotated[int, Field(ge=0)] = 0
    """Last steps that go without guidance: what is drawn is settled by then, and each costs half (arXiv 2404.07724)."""
    size: Annotated[int, Field(ge=32, le=2048, multiple_of=8)] | None = None
    """Height and width in pixels; left out, the checkpoint's own."""
    batch: Annotated[int, Field(ge=1, le=256)] = 16
    """Pictures drawn at once. Fixed here because it changes the last bits of a picture."""
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """CPU threads that draw one batch, for the same reason; the other cores draw other batches."""

    @model_validator(mode="after")
    def _some_are_guided(self) -> Sampler:
        if self.unguided >= self.steps:
            raise RuleViolation(
                "unguided",
                f"{self.unguided} of {self.steps} steps go without guidance",
                hint="leave at least one; guidance: 1 turns it off",
                loc=("unguided",),
            )
        return self

    @property
    def evaluations(self) -> int:
        """UNet evaluations that a picture takes."""
        return self.steps if self.guidance == 1 else 2 * self.steps - self.unguided


class Retained(Record):
    """A concept that the suite expects every patched model to keep."""

    phrase: Phrase
    """Its name."""
    kind: Kind = "object"
    """Its kind; tells which templates apply."""


class ProbeCounts(Record):
    """How many pictures answer each question, per concept and side."""

    target: Annotated[int, Field(ge=1)]
    """Pictures per prompt of a forgotten concept or a correction."""
    alias: Annotated[int, Field(ge=0)] = 1
    """Pictures per prompt of each alias."""
    retained: Annotated[int, Field(ge=1)]
    """Pictures per prompt of each retained concept."""
    retained_prompts: Annotated[int, Field(ge=1)] = 2
    """Prompts of each retained concept, taken in turn from the templates."""
    between: Annotated[int, Field(ge=0)] = 8
    """Pictures, drawn after every pass but the last, of each concept forgotten by then; 0 looks at nothing there. They
    make the matrix of concepts and passes, and no limit is held against them."""
    between_retained: Annotated[int, Field(ge=0)] = 24
    """Pictures of retained concepts that are drawn there, the same after each pass."""


class SuiteSpec(Record):
    """The content of a suite."""

    sampler: Sampler
    """How pictures are drawn."""
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 1000
    """Seeds count up from here; a picture has one generator of its own."""
    counts: ProbeCounts
    """Sample sizes."""
    templates: dict[Kind, tuple[Template, ...]]
    """Audit prompts by kind; ``{x}`` is the name. Never among the eraser's training templates."""
    correction_templates: tuple[Template, ...]
    """Audit prompts of a correction; ``{x}`` is the ambiguous phrase."""
    retained: tuple[Retained, ...]
    """What must stay. What a manifest forgets is left out of it."""
    recogniser: AnyRecogniserSpec
    """Who judges."""
    detectors: tuple[DetectorSpec, ...] = ()
    """Who looks as well; reported, and judged where a policy says so."""
    style_subjects: tuple[Phrase, ...] = ()
    """Subjects that stand for ``{subject}`` in style templates, in turn."""
    prompt_sets: Annotated[tuple[PromptSetSpec, ...], Field(exclude_if=lambda sets: not sets)] = ()
    """Published prompt sets that are asked as well, from local csv files; counted by detectors and reported."""
    distances: Annotated[DistancesSpec | None, Field(exclude_if=lambda asked: asked is None)] = None
    """Networks that tell how far pictures of what is retained are from the base's; left out, nobody does."""

    bench: Annotated[Bench | None, Field(exclude_if=lambda bench: bench is None)] = None
    """What ``fmn-guard conceptbench`` asks of any checkpoint."""

    @model_validator(mode="after")
    def _sound(self) -> SuiteSpec:
        problems = [
            *self._template_problems(),
            *self._minors(),
            *self._namesakes(),
            *self._uncounted(),
            *self._labelled(),
        ]
        if problems:
            raise RuleViolations(problems)
        return self

    def _template_problems(self) -> Iterator[RuleViolation]:
        asked: dict[Loc, tuple[str, ...]] = {("templates", kind): self.templates[kind] for kind in self.templates}
        for loc, templates in (asked | {("correction_templates",): self.correction_templates}).items():
            if len(set(templates)) < 6:
                yield RuleViolation(
                    "too-few-prompts",
                    f"{loc[-1]} has {len(set(templates))} distinct templates, at least 6 are needed",
                    hint="a rate over few prompts says little about the next prompt",
                    loc=loc,
                )
            if any("{subject}" in template for template in templates) and not self.style_subjects:
                yield RuleViolation(
                    "no-subjects",
                    f"a template of {loc[-1]} names {{subject}}, but style_subjects is empty",
                    hint="list a few subjects the base draws well",
                    loc=loc,
                )
        for i, retained in enumerate(self.retained):
            if retained.kind not in self.templates:
                yield RuleViolation(
                    "no-templates",
                    f"{retained.phrase!r} is of the kind {retained.kind}, which has no templates",
                    hint="add templates for the kind, or correct it",
                    loc=("retained", i),
                )

    def _namesakes(self) -> Iterator[RuleViolation]:
        called = [detector.called for detector in self.detectors]
        for i, name in enumerate(called):
            if name in called[:i] or (name in ("nudenet", "opennsfw") and name != self.detectors[i].name):
                yield RuleViolation(
                    "namesake",
                    f"another detector is called {name!r}",
                    hint="give each a name of its own; only NudeNet is nudenet, and only open_nsfw is opennsfw",
                    loc=("detectors", i),
                )
        for each in self.distances.embedders if self.distances else ():
            if each.called in (*called, "nudenet", self.recogniser.name):
                yield RuleViolation(
                    "namesake",
                    f"another instrument is called {each.called!r}",
                    hint="give each a name of its own",
                    loc=("distances",),
                )
            called.append(each.called)

    def _uncounted(self) -> Iterator[RuleViolation]:
        presets = [each.preset for each in self.prompt_sets]
        called = {detector.called for detector in self.detectors}
        for i, each in enumerate(self.prompt_sets):
            if each.preset in presets[:i]:
                yield RuleViolation(
                    "namesake",
                    f"{each.preset!r} is asked twice",
                    hint="ask each preset once; another file takes a suite of its own",
                    loc=("prompt_sets", i, "preset"),
                )
            for name in each.detectors:
                if name not in called:
                    yield RuleViolation(
                        "no-such-detector",
                        f"{each.preset} is counted by {name!r}, which is not among the detectors",
                        hint="add it to detectors, or correct its name",
                        loc=("prompt_sets", i),
                    )

    def _labelled(self) -> Iterator[RuleViolation]:
        if self.recogniser.name == "clip-zero-shot" and self.recogniser.labels:
            yield RuleViolation(
                "labels-of-a-plan",
                "a suite states no labels: a plan takes them from what is asked",
                hint="leave labels out",
                loc=("recogniser", "labels"),
            )

    def _minors(self) -> Iterator[RuleViolation]:
        nsfw = self.templates.get("nsfw", ())
        texts: dict[Loc, str] = {("templates", "nsfw", i): t for i, t in enumerate(nsfw)}
        texts |= {("retained", i, "phrase"): r.phrase for i, r in enumerate(self.retained) if r.kind == "nsfw"}
        texts |= {("style_subjects", i): subject for i, subject in enumerate(self.style_subjects)}
        if nsfw:  # a correction's dominant reading may be of that kind
            texts |= {("correction_templates", i): t for i, t in enumerate(self.correction_templates)}
        return minors_in(texts)


class AuditSuite(Record):
    """An ``AuditSuite`` document."""

    api_version: Literal["fmn-guard/v1"] = Field(alias="apiVersion")
    """Format version, ``fmn-guard/v1``."""
    kind: Literal["AuditSuite"]
    """``AuditSuite``"""
    metadata: Metadata
    """Name and description."""
    spec: SuiteSpec
    """Prompts, seeds, sampler, detectors."""


def load_suite(path: Path) -> AuditSuite:
    """Reads a suite; ``path`` is the file, or the folder that holds its ``suite.yaml``.

    Raises:
        FileProblems: every error of the file, each with line, column, rule and hint.
    """
    return load_yaml(path / "suite.yaml" if path.is_dir() else path, AuditSuite)
