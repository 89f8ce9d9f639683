"""The plan: everything that will be done, resolved before anything is done.

`compile_plan` is pure. Below it nobody reads YAML, an environment variable or a default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from .errors import InputError
from .facts import Checkpoint, ModelFacts
from .manifest import Concept, Correction, EraserSettings, Kind, Manifest, label_of
from .record import Digest, Record, Slug, digest, slugify
from .suite import AuditSuite, DetectorSpec, RecogniserSpec, Sampler

Role = Literal["target", "alias", "correction", "retained"]
PassKind = Literal["identity", "style", "object", "nsfw", "correction"]

# What a pass trains on. Audit templates must be other sentences: compile_plan refuses a suite
# that asks one of these.
TRAINING_TEMPLATES = (
    "a photo of {x}",
    "{x}",
    "a picture of {x}",
    "a photo of {x} on a pink background",
    "{x} in the style of ink drawing",
    "a photo of a {x}",
    "{x}, 3d render",
    "a {x} on a purple background",
)
STYLE_TRAINING_TEMPLATES = (
    "a photo of {subject} in the style of {x}",
    "{subject}, {x}",
    "a photo in the style of {x}",
    "{x}",
    "{subject} in the style of {x}",
)
STYLE_TRAINING_SUBJECTS = ("a dog", "a house", "a tree", "a person", "a car", "a flower")
# Function words carry no concept: a name that holds one must not take it from the language.
FUNCTION_WORDS = frozenset("a an the of in on at to and or with for by from as is it its his her their no".split())


class TrainingPrompt(Record):
    """One sentence that a pass re-steers."""

    text: str
    """The sentence with the name in it."""
    anchor: str
    """What it should deliver instead: the same sentence without the name, or with the expected reading."""
    positions: tuple[int, ...]
    """Token positions of the name in ``text``, start-of-text being 0."""


class RetainSpec(Record):
    """The language that a pass must leave alone.

    No concept is listed: the retain set is the tokenizer's own vocabulary in a few sentences.
    """

    excluded_words: tuple[str, ...]
    """Words left out: the target's own, and what the manifest holds out for the audit."""
    keep: tuple[str, ...]
    """Names that are kept with extra weight."""
    forgotten: tuple[str, ...]
    """Names forgotten by earlier passes: what they now deliver is retained too."""


class PassSpec(Record):
    """One Forget-Me-Not pass, fully resolved."""

    index: int
    """Order in the sequence, from 0."""
    slug: Slug
    """The concept or correction it is about."""
    kind: PassKind
    """Kind of the concept, or ``correction``."""
    names: tuple[str, ...]
    """Names whose attention is re-steered."""
    prompts: tuple[TrainingPrompt, ...]
    """Sentences it trains on."""
    image_prompts: tuple[str, ...]
    """Sentences by which the base draws the pictures to forget, when no folder is given."""
    images: str | None
    """Folder of given pictures, as the manifest states it."""
    images_digest: Digest | None
    """Digest over those pictures' bytes."""
    image_count: int
    """Pictures used."""
    preset: Literal["guarded"]
    """Which algorithm."""
    steps: int
    """Step ceiling."""
    learning_rate: float
    """Adam's learning rate."""
    projection: float | None
    """Damping of the retain projector; None is no projection."""
    redirect_weight: float
    """Weight of the redirection term beside the attention mass."""
    repulsion: float
    """How far the redirection goes beyond the anchor, away from the name; 0 ends at the anchor."""
    retain: RetainSpec
    """What it must leave alone."""
    seed: int
    """Seed of all it draws."""


class Probe(Record):
    """One picture that base and patched model both draw, and what is looked for in it."""

    id: str
    """Unique within the plan: role, subject, prompt number, seed."""
    role: Role
    """Which question it answers."""
    subject: Slug
    """The concept, correction or retained concept it is about."""
    prompt: str
    """What the model is asked."""
    seed: int
    """Seed of its starting noise."""
    labels: tuple[str, ...]
    """Labels the recogniser is asked for; the first is the one the role is about."""
    neighbour_of: tuple[Slug, ...] = ()
    """Concepts that declare this retained one as their neighbour."""
    held_out: bool = False
    """Retained and left out of the eraser's retain vocabulary."""


class Plan(Record):
    """Everything `run_plan` and `audit` need. Its digest names the run."""

    schema_version: Literal["fmn-guard/plan/v1"] = "fmn-guard/plan/v1"
    """Format of this record."""
    name: Slug
    """The manifest's name."""
    manifest_digest: Digest
    """Digest of the manifest's content."""
    suite_digest: Digest
    """Digest of the suite's content."""
    suite: Slug
    """The suite's name."""
    base: ModelFacts
    """The checkpoint to start from."""
    passes: tuple[PassSpec, ...]
    """Passes, in order."""
    probes: tuple[Probe, ...]
    """Pictures to draw on either side."""
    sampler: Sampler
    """How they are drawn."""
    recogniser: RecogniserSpec
    """Who judges them."""
    detectors: tuple[DetectorSpec, ...]
    """Who looks as well."""

    @property
    def digest(self) -> Digest:
        """Digest of all of it."""
        return digest(self)


class Cost(Record):
    """What a plan will cost; an estimate, outside the plan's digest."""

    passes: int
    """Forget-Me-Not passes."""
    training_steps: int
    """Optimiser steps, at most."""
    images: int
    """Pictures drawn: both sides of every probe, and the pictures to forget."""
    unet_evaluations: int
    """UNet evaluations of one picture, guidance counted twice."""


def estimate(plan: Plan) -> Cost:
    """Counts what a plan will do."""
    drawn = sum(spec.image_count for spec in plan.passes if spec.images is None)
    images = 2 * len(plan.probes) + drawn
    guided = 2 if plan.sampler.guidance > 1 else 1
    steps = sum(spec.steps for spec in plan.passes)
    return Cost(
        passes=len(plan.passes),
        training_steps=steps,
        images=images,
        unet_evaluations=images * plan.sampler.steps * guided + steps * TRAINING_BATCH,
    )


TRAINING_BATCH = 4  # records a training step sees

# (steps, learning rate, projection damping, redirect weight, repulsion) of each preset
_PRESETS: dict[str, tuple[int, float, float | None, float, float]] = {
    "guarded": (40, 0.1, 1e-3, 10.0, 0.5),
}


def fill(template: str, name: str) -> str:
    """Puts a name into a template, with the article English wants."""
    if re.match(r"[aeiou]", name, re.IGNORECASE) and not name.lower().startswith("uni"):
        template = re.sub(r"\b([Aa]) \{x\}", r"\1n {x}", template)
    return template.replace("{x}", name)


def without_name(template: str) -> str:
    """A training template without its name: what remains is the direction of the redirection."""
    bare = re.sub(r"( in the style of|,)? ?\{x\}", "", template)
    return re.sub(r"^,\s*|\s+", lambda m: "" if m.group().startswith(",") else " ", bare).strip()


def content_words(names: Iterable[str]) -> set[str]:
    """Words of names that carry meaning, lower case."""
    return {w for name in names for w in re.findall(r"[^\W\d_]+", name.lower())} - FUNCTION_WORDS


def compile_plan(manifest: Manifest, suite: AuditSuite, checkpoint: Checkpoint) -> Plan:
    """Resolves a manifest and a suite against a checkpoint. Pure: reads and writes nothing.

    Args:
        manifest: what to forget and correct.
        suite: how it is measured.
        checkpoint: facts and tokenizer of the base, from `describe_checkpoint`.

    Raises:
        InputError: a name is not found in its prompt or cut off, the base is not the pinned one,
            or the suite asks what the eraser trains on.
    """
    pinned = manifest.spec.base.digest
    if pinned and pinned != checkpoint.facts.weights_digest:
        raise InputError(
            f"base {manifest.spec.base.checkpoint}: weights digest is {checkpoint.facts.weights_digest}, "
            f"the manifest pins {pinned}",
            hint="use the pinned checkpoint, or update spec.base.digest after checking where the new one comes from",
        )
    passes = tuple(_passes(manifest, checkpoint))
    probes = tuple(_probes(manifest, suite))
    trained = {prompt.text.casefold() for spec in passes for prompt in spec.prompts}
    for probe in probes:
        if probe.role != "retained" and probe.prompt.casefold() in trained:
            raise InputError(
                f"suite {suite.metadata.name}: the audit prompt {probe.prompt!r} is one the eraser trains on",
                hint="use other sentences in the suite; a model must not be judged by what it was trained on",
            )
        checkpoint.token_positions(probe.prompt, "")  # refuses a prompt that the tokenizer would cut
    return Plan(
        name=manifest.metadata.name,
        manifest_digest=digest(manifest),
        suite_digest=digest(suite),
        suite=suite.metadata.name,
        base=checkpoint.facts,
        passes=passes,
        probes=probes,
        sampler=suite.spec.sampler,
        recogniser=suite.spec.recogniser,
        detectors=suite.spec.detectors,
    )


def _passes(manifest: Manifest, checkpoint: Checkpoint) -> Iterator[PassSpec]:
    eraser = manifest.spec.eraser
    keep = (*manifest.spec.keep, *(k for c in manifest.spec.concepts for k in c.keep))
    forgotten: list[str] = []
    for i, concept in enumerate(manifest.spec.concepts):
        prompts = tuple(_training_prompts(concept, checkpoint))
        yield _pass(
            i,
            concept.slug,
            concept.kind,
            concept.names,
            prompts,
            concept.images,
            eraser,
            keep,
            forgotten,
            checkpoint,
        )
        forgotten += concept.names
    for i, correction in enumerate(manifest.spec.corrections, start=len(manifest.spec.concepts)):
        prompts = tuple(_correction_prompts(correction, checkpoint))
        own = [correction.dominant] if correction.dominant.casefold() not in {f.casefold() for f in forgotten} else []
        kept = (*keep, *own, *([correction.expected] if correction.expected else []))
        yield _pass(
            i,
            correction.slug,
            "correction",
            (correction.prompt,),
            prompts,
            None,
            eraser,
            kept,
            forgotten,
            checkpoint,
        )
        forgotten.append(correction.prompt)


def _pass(
    index: int,
    slug: str,
    kind: PassKind,
    names: tuple[str, ...],
    prompts: tuple[TrainingPrompt, ...],
    images: str | None,
    eraser: EraserSettings,
    keep: tuple[str, ...],
    forgotten: list[str],
    checkpoint: Checkpoint,
) -> PassSpec:
    steps, rate, damping, redirect, repulsion = _PRESETS[eraser.preset]
    if eraser.projection is not None:
        damping = None if eraser.projection == "off" else eraser.projection
    return PassSpec(
        index=index,
        slug=slug,
        kind=kind,
        names=names,
        prompts=prompts,
        image_prompts=tuple(dict.fromkeys(p.text for p in prompts))[:8],
        images=images,
        images_digest=checkpoint.image_folder_digest(images) if images else None,
        image_count=8,
        preset=eraser.preset,
        steps=steps if eraser.steps is None else eraser.steps,
        learning_rate=rate if eraser.learning_rate is None else eraser.learning_rate,
        projection=damping,
        redirect_weight=redirect,
        # a correction has somewhere to go: its expected reading, or whatever else the word can mean
        repulsion=0.0 if kind == "correction" else repulsion,
        retain=RetainSpec(
            excluded_words=tuple(sorted(content_words([*names, *eraser.hold_out]))),
            keep=tuple(dict.fromkeys(keep)),
            forgotten=tuple(forgotten),
        ),
        seed=eraser.seed + index,
    )


def _prompt(text: str, anchor: str, name: str, checkpoint: Checkpoint) -> TrainingPrompt:
    return TrainingPrompt(text=text, anchor=anchor, positions=checkpoint.token_positions(text, name))


def _training_prompts(concept: Concept, checkpoint: Checkpoint) -> Iterator[TrainingPrompt]:
    if concept.kind == "style":
        for name in concept.names:
            for template in STYLE_TRAINING_TEMPLATES:
                for subject in STYLE_TRAINING_SUBJECTS if "{subject}" in template else ("",):
                    filled = template.replace("{subject}", subject)
                    yield _prompt(fill(filled, name), without_name(filled), name, checkpoint)
        return
    for name in concept.names:
        for template in TRAINING_TEMPLATES:
            yield _prompt(fill(template, name), without_name(template), name, checkpoint)


def _correction_prompts(correction: Correction, checkpoint: Checkpoint) -> Iterator[TrainingPrompt]:
    for template in TRAINING_TEMPLATES:
        if "a {x}" in template:
            continue
        anchor = fill(template, correction.expected) if correction.expected else without_name(template)
        yield _prompt(fill(template, correction.prompt), anchor, correction.prompt, checkpoint)


def _probes(manifest: Manifest, suite: AuditSuite) -> Iterator[Probe]:
    spec, counts = suite.spec, suite.spec.counts
    named: set[str] = set()
    for concept in manifest.spec.concepts:
        label = (label_of(concept.kind, concept.phrase),)
        for name in concept.names:
            named.add(name.casefold())
            alias = name != concept.phrase
            prompts = tuple(_fill_all(_templates(suite, concept.kind), name, spec.style_subjects))
            each = counts.alias if alias else counts.target
            role: Role = "alias" if alias else "target"
            yield from _drawn(role, concept.slug, name, prompts, each, spec.first_seed, label)
    for correction in manifest.spec.corrections:
        readings = [label_of(correction.dominant_kind, correction.dominant)]
        if correction.expected:
            readings.append(label_of(correction.dominant_kind, correction.expected))
        prompts = tuple(_fill_all(spec.correction_templates, correction.prompt, spec.style_subjects))
        yield from _drawn(
            "correction",
            correction.slug,
            correction.prompt,
            prompts,
            counts.target,
            spec.first_seed,
            tuple(readings),
        )

    # By name in any case, as first spelled. A neighbour the suite does not know is of its concept's kind.
    retained: dict[str, tuple[str, Kind]] = {r.phrase.casefold(): (r.phrase, r.kind) for r in spec.retained}
    neighbours: dict[str, list[str]] = {}
    for concept in manifest.spec.concepts:
        for name in concept.keep:
            neighbours.setdefault(name.casefold(), []).append(concept.slug)
            retained.setdefault(name.casefold(), (name, concept.kind))
    for correction in manifest.spec.corrections:
        neighbours.setdefault(correction.dominant.casefold(), []).append(correction.slug)
        retained.setdefault(correction.dominant.casefold(), (correction.dominant, correction.dominant_kind))
    for name in manifest.spec.keep:
        retained.setdefault(name.casefold(), (name, "object"))
    held_out = {name.casefold() for name in manifest.spec.eraser.hold_out}
    kept = {name.casefold() for name in (*manifest.spec.keep, *neighbours)}
    for i, (key, (phrase, kind)) in enumerate(retained.items()):
        if key in named:
            continue
        templates = _templates(suite, kind)
        chosen = [templates[(i + j) % len(templates)] for j in range(counts.retained_prompts)]
        yield from _drawn(
            "retained",
            slugify(phrase),
            phrase,
            tuple(_fill_all(chosen, phrase, spec.style_subjects)),
            counts.retained,
            spec.first_seed + 7 * i,
            (label_of(kind, phrase),),
            tuple(dict.fromkeys(neighbours.get(key, ()))),
            key in held_out and key not in kept,
        )


def _templates(suite: AuditSuite, kind: Kind) -> tuple[str, ...]:
    if kind not in suite.spec.templates:
        raise InputError(
            f"suite {suite.metadata.name} has no templates for the kind {kind}",
            hint="choose a policy whose suite covers every kind of the manifest",
        )
    return suite.spec.templates[kind]


def _fill_all(templates: Iterable[str], name: str, subjects: tuple[str, ...]) -> Iterator[str]:
    for i, template in enumerate(templates):
        subject = subjects[i % len(subjects)] if subjects else ""
        yield fill(template.replace("{subject}", subject), name)


def _drawn(
    role: Role,
    subject: str,
    name: str,
    prompts: tuple[str, ...],
    each: int,
    first_seed: int,
    labels: tuple[str, ...],
    neighbour_of: tuple[str, ...] = (),
    held_out: bool = False,
) -> Iterator[Probe]:
    for i, prompt in enumerate(prompts):
        for j in range(each):
            seed = first_seed + i * each + j
            yield Probe(
                id=f"{role}/{slugify(name)}/{i}/{seed}",
                role=role,
                subject=subject,
                prompt=prompt,
                seed=seed,
                labels=labels,
                neighbour_of=neighbour_of,
                held_out=held_out,
            )
