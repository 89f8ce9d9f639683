"""The plan: everything that will be done, resolved before anything is done.

`compile_plan` writes nothing. Below it nobody reads YAML, an environment variable or a default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from .errors import InputError
from .facts import Checkpoint, ModelFacts
from .instruments import DetectorSpec, RecogniserSpec
from .manifest import Concept, Correction, Labels, Manifest, SequenceMode, minors_in
from .presets import PRESETS, Preset
from .probes import Probe, probes_between, probes_of
from .record import Digest, Record, Slug, digest
from .sentences import FUNCTION_WORDS, content_words, stand_in_words, stop_sentences, training_sentences
from .source import Source
from .suite import AuditSuite, Sampler

PassKind = Literal["identity", "style", "object", "nsfw", "correction"]


class TrainingPrompt(Record):
    """One sentence that a pass re-steers."""

    text: str
    """The sentence with the name in it."""
    anchor: str
    """What it should deliver instead: the expected reading's sentence, or the same one with {x} for stand-in words."""
    positions: tuple[int, ...]
    """Token positions of the name in ``text``, start-of-text being 0."""
    away: str
    """What it leads away from, beyond the anchor: the sentence itself, or the dominant reading's."""
    repulsion: Annotated[float | None, Field(exclude_if=lambda own: own is None)] = None
    """How much farther it goes than to the anchor, where that is not the same for all of a pass."""


class RetainSpec(Record):
    """The language that a pass must leave alone.

    No concept is listed: the retain set is the tokenizer's own vocabulary in a few sentences.
    """

    excluded_words: tuple[str, ...]
    """Words left out: all that the manifest forgets or corrects, and what it holds out for the audit."""
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
    """Words of the vocabulary, those that the first solution moves most, that are held in sentences of their own."""
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
    preset: Literal["guarded"]
    """Which algorithm."""
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

    def anchors(self, prompt: TrainingPrompt) -> tuple[str, ...]:
        """The sentences whose mean a prompt should deliver."""
        if "{x}" not in prompt.anchor:
            return (prompt.anchor,)
        names = (" ".join(words[: len(prompt.positions)]) for words in self.stand_ins)
        return tuple(prompt.anchor.replace("{x}", name) for name in names)


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
    base_pinned: Annotated[bool, Field(exclude_if=lambda pinned: not pinned)] = False
    """Whether the manifest states the weights digest that the base must have."""
    passes: tuple[PassSpec, ...]
    """Passes, in order."""
    sequence: Annotated[SequenceMode, Field(exclude_if=lambda mode: mode == "sequential")] = "sequential"
    """How they follow one another, if they do: see `fmn_guard.sequence`."""
    merge_preserve: Annotated[float | None, Field(exclude_if=lambda weight: weight is None)] = None
    """Weight of the retained language when passes are merged, against what each delivers of its own concept."""
    probes: tuple[Probe, ...]
    """Pictures to draw on either side."""
    between: Annotated[tuple[tuple[str, ...], ...], Field(exclude_if=lambda ids: not ids)] = ()
    """Ids of probes that are drawn after each pass but the last as well, with the model as it then is."""
    sampler: Sampler
    """How they are drawn."""
    recogniser: RecogniserSpec
    """Who judges them."""
    detectors: tuple[DetectorSpec, ...]
    """Who looks as well."""
    source: Source | None = None
    """Where the manifest stood; None where that is not known."""

    @property
    def digest(self) -> Digest:
        """Digest of all of it but where things lie: the same plan has the same digest on another machine."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"source"})
        del content["base"]["reference"]
        for spec in content["passes"]:
            del spec["images"]
        return digest(content)


def compile_plan(manifest: Manifest, suite: AuditSuite, checkpoint: Checkpoint) -> Plan:
    """Resolves a manifest and a suite against a checkpoint; reads no more than the image folders the manifest names.

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
    eraser = manifest.spec.eraser
    if eraser.sequence == "merge" and eraser.projection == "off":
        raise InputError(
            "spec.eraser: passes cannot be merged with projection off: merging holds the retained language",
            hint="leave projection out, or sequence",
        )
    passes = tuple(_passes(manifest, checkpoint))
    probes = tuple(probes_of(manifest, suite, checkpoint))
    own = {prompt.text.casefold() for spec in passes for prompt in spec.prompts}
    own |= {prompt.casefold() for spec in passes if spec.stop for prompt in spec.stop.prompts}
    for probe in probes:
        if probe.prompt.casefold() in own:
            raise InputError(
                f"suite {suite.metadata.name}: the audit prompt {probe.prompt!r} is one the eraser uses",
                hint="use other sentences in the suite; a model must not be judged by what it was trained on",
            )
        checkpoint.token_positions(probe.prompt, "")  # refuses a prompt that the tokenizer would cut
    _refuse_minors(manifest, passes, probes)
    return Plan(
        name=manifest.metadata.name,
        manifest_digest=digest(manifest),
        suite_digest=digest(suite),
        suite=suite.metadata.name,
        base=checkpoint.facts,
        base_pinned=pinned is not None,
        passes=passes,
        sequence=eraser.sequence,
        merge_preserve=PRESETS[eraser.preset].merge_preserve if eraser.sequence == "merge" else None,
        probes=probes,
        # only in sequence is there a model to look at between passes
        between=probes_between(probes, [spec.slug for spec in passes], suite.spec.counts)
        if eraser.sequence == "sequential"
        else (),
        sampler=suite.spec.sampler,
        recogniser=suite.spec.recogniser,
        detectors=suite.spec.detectors,
        source=checkpoint.source,
    )


def _refuse_minors(manifest: Manifest, passes: tuple[PassSpec, ...], probes: tuple[Probe, ...]) -> None:
    """Applies the rule to resolved sentences, whatever parts they were put together from."""
    nsfw = {c.slug for c in manifest.spec.concepts if c.kind == "nsfw"}
    nsfw |= {c.slug for c in manifest.spec.corrections if c.dominant_kind == "nsfw"}
    texts = [prompt.text for spec in passes if spec.slug in nsfw for prompt in spec.prompts]
    texts += [probe.prompt for probe in probes if probe.subject in nsfw]
    for violation in minors_in({(text,): text for text in texts}):
        raise InputError(f"{violation.rule}: {violation.message}", hint=violation.hint)


def _passes(manifest: Manifest, checkpoint: Checkpoint) -> Iterator[PassSpec]:
    spec = manifest.spec
    # random contexts must not put together what the hard rule refuses
    words = tuple(word for word in checkpoint.words() if not any(minors_in({(word,): word})))
    hidden = _hidden(manifest)
    neutral = [word for word in words if word not in hidden | FUNCTION_WORDS]
    if not neutral:
        raise InputError(
            "the tokenizer knows no whole word but those the manifest forgets or holds out",
            hint="use a checkpoint with a CLIP tokenizer, or hold out less",
        )
    kept = [
        *((name, None) for name in spec.keep),
        *((name, concept.kind) for concept in spec.concepts for name in concept.keep),
    ]
    retained = [
        s.text
        for name, kind in kept
        for s in training_sentences(name, style=kind == "style", words=words, excluded=hidden)
    ]
    forgotten: list[tuple[str, ...]] = []
    gone: set[str] = set()
    for i, concept in enumerate(spec.concepts):
        prompts = [
            TrainingPrompt(
                text=s.text,
                anchor=s.frame,
                positions=checkpoint.token_positions(s.text, name, s.start),
                away=s.text,
            )
            for name in concept.names
            for s in training_sentences(name, style=concept.kind == "style", words=words, excluded=hidden)
        ]
        names = concept.names
        yield _pass(i, concept, concept.kind, names, prompts, neutral, retained, forgotten, manifest, checkpoint)
        forgotten.append(tuple(prompt.text for prompt in prompts))
        gone |= {name.casefold() for name in concept.names}
    for i, correction in enumerate(spec.corrections, start=len(spec.concepts)):
        prompts = list(_correction_prompts(correction, checkpoint, words, hidden))
        readings = [name for name in (correction.dominant, correction.expected) if name and name.casefold() not in gone]
        also = [s.text for name in readings for s in training_sentences(name, words=words, excluded=hidden)]
        names = (correction.prompt,)
        kept_too = [*retained, *also]
        yield _pass(i, correction, "correction", names, prompts, neutral, kept_too, forgotten, manifest, checkpoint)
        forgotten.append(tuple(prompt.text for prompt in prompts))


def _hidden(manifest: Manifest) -> set[str]:
    """Words no retained sentence may hold: they are forgotten or corrected, or held out for the audit."""
    spec = manifest.spec
    named = [name for concept in spec.concepts for name in concept.names] + [c.prompt for c in spec.corrections]
    return content_words([*spec.eraser.hold_out, *named])


def _correction_prompts(
    correction: Correction, checkpoint: Checkpoint, words: tuple[str, ...], hidden: set[str]
) -> Iterator[TrainingPrompt]:
    for s in training_sentences(correction.prompt, words=words, excluded=hidden):
        anchor = s.frame.replace("{x}", correction.expected) if correction.expected else s.frame
        away = s.frame.replace("{x}", correction.dominant)
        positions = checkpoint.token_positions(s.text, correction.prompt, s.start)
        yield TrainingPrompt(text=s.text, anchor=anchor, positions=positions, away=away)


def _pass(
    index: int,
    subject: Concept | Correction,
    kind: PassKind,
    names: tuple[str, ...],
    prompts: list[TrainingPrompt],
    neutral: Sequence[str],
    kept: list[str],
    forgotten: list[tuple[str, ...]],
    manifest: Manifest,
    checkpoint: Checkpoint,
) -> PassSpec:
    eraser = manifest.spec.eraser
    preset = PRESETS[eraser.preset]
    hidden = _hidden(manifest)
    damping = preset.projection if eraser.projection is None else eraser.projection
    images = None if isinstance(subject, Correction) else subject.images
    stand_ins = stand_in_words(
        neutral, preset.stand_ins, length=max(len(prompt.positions) for prompt in prompts), seed=eraser.seed + index
    )
    stop = _stop(subject, kind, names, neutral, hidden, checkpoint, preset)
    usual_steps = preset.steps if stop else preset.steps_unwatched
    return PassSpec(
        index=index,
        slug=subject.slug,
        kind=kind,
        labels=subject.labels,
        names=names,
        prompts=tuple(prompts),
        stand_ins=stand_ins,
        # at even distances, so that names, styles and backgrounds all come
        pictured=tuple(prompts[i * len(prompts) // preset.pictures] for i in range(preset.pictures)),
        images=images,
        images_digest=checkpoint.image_folder_digest(images) if images else None,
        image_count=len(checkpoint.pictures(images)) if images else preset.pictures,
        preset=eraser.preset,
        steps=usual_steps if eraser.steps is None else eraser.steps,
        stop=stop,
        batch=preset.batch,
        learning_rate=preset.learning_rate if eraser.learning_rate is None else eraser.learning_rate,
        momentum=preset.momentum,
        times=preset.times,
        noisiest=preset.noisiest,
        projection=None if damping == "off" else damping,
        preserve=preset.doses[kind].preserve,
        repulsion=preset.doses[kind].repulsion,
        redirect_weight=preset.redirect_weight,
        language_weight=0.0 if damping == "off" else preset.language_weight,
        loosened=preset.loosened,
        retain=RetainSpec(
            excluded_words=tuple(sorted(hidden)),
            kept=tuple(dict.fromkeys(kept)),
            forgotten=tuple(forgotten) if eraser.sequence == "sequential" else (),
            kept_weight=preset.kept_weight,
            sentences=preset.language_sentences,
            pictures=preset.language_pictures,
            nearest=preset.nearest,
            nearest_weight=preset.nearest_weight,
        ),
        rollback=None
        if damping == "off"
        else RollbackSpec(drift=preset.drift_budget, retries=preset.retries, gentler=preset.gentler),
        seed=eraser.seed + index,
        threads=preset.threads,
        stored_as=StoredAs(error=preset.stored_error, share=preset.stored_share),
    )


def _stop(
    subject: Concept | Correction,
    kind: PassKind,
    names: tuple[str, ...],
    neutral: Sequence[str],
    hidden: set[str],
    checkpoint: Checkpoint,
    preset: Preset,
) -> StopSpec | None:
    """Stop pictures, of all names in turn; none for a checkpoint whose world no recogniser knows."""
    if checkpoint.facts.reference != "builtin:emoji-sd":
        return None
    known = [stop_sentences(name, style=kind == "style", words=neutral, excluded=hidden) for name in names]
    each = max(preset.stop_pictures // len(known), 1)
    pictures = [sentences[i % len(sentences)] for sentences in known for i in range(each)]
    if isinstance(subject, Correction):
        shown, also = subject.dominant, [subject.expected] if subject.expected else []
    else:
        shown, also = subject.phrase, [*subject.keep]
    return StopSpec(
        recogniser="emoji-clip",
        shown=shown,
        others=tuple(dict.fromkeys([*also, *neutral])),
        prompts=tuple(text for text, _ in pictures),
        frames=tuple(frame for _, frame in pictures),
        every=preset.look_every,
        gone=preset.gone,
    )
