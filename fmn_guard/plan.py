"""The plan: everything that will be done, resolved before anything is done.

`compile_plan` writes nothing. Below it nobody reads YAML, an environment variable or a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from .errors import InputError
from .facts import Checkpoint, ModelFacts
from .instruments import DetectorSpec, RecogniserSpec
from .inversion import InversionSettings
from .manifest import Concept, Correction, EraserSettings, Manifest, SequenceMode, minors_in
from .passes import PassKind, PassSpec, RetainSpec, RollbackSpec, StopSpec, StoredAs, TrainingPrompt
from .presets import PRESETS, Dose, Preset, Published, departures
from .probes import Probe, probes_between, probes_of
from .prompt_sets.protocols import PromptSet
from .prompt_sets.rows import prompt_sets_of
from .record import Digest, Record, Slug, digest
from .sentences import (
    FUNCTION_WORDS,
    NEUTRAL_WORDS,
    Sentence,
    content_words,
    published_sentence,
    stand_in_words,
    stop_sentences,
    training_sentences,
)
from .source import Source
from .suite import AuditSuite, Sampler

_UNDOSED = Dose(preserve=0.0, repulsion=0.0)  # where nothing is solved for


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
    prompt_sets: Annotated[tuple[PromptSet, ...], Field(exclude_if=lambda sets: not sets)] = ()
    """Published prompt sets, whose probes are ``prompted``."""
    source: Source | None = None
    """Where the manifest stood; None where that is not known."""

    @property
    def digest(self) -> Digest:
        """Digest of all of it but where things lie and what follows from the rest.

        The same plan has the same digest on another machine.
        """
        return plan_digest(self.model_dump(mode="json", by_alias=True))

    def prompt_set_of(self, probe: Probe) -> PromptSet | None:
        """The published set that a probe is of; None of the suite's own."""
        if probe.role != "prompted":
            return None
        return next(each for each in self.prompt_sets if each.preset == probe.subject)

    def sampler_of(self, probe: Probe) -> Sampler:
        """How a probe is drawn."""
        published = self.prompt_set_of(probe)
        if published is None:
            return self.sampler
        return published.sampler if probe.guidance is None else published.sampler_at(probe.guidance)

    def waits_for(self, probe: Probe, detector: DetectorSpec) -> bool:
        """Whether a picture cannot be scored without a detector, even where that is not installed."""
        published = self.prompt_set_of(probe)
        return detector.required or (published is not None and detector.called in published.detectors)


def plan_digest(plan: Mapping[str, Any]) -> Digest:
    """`Plan.digest`, of a plan as plain data, also of one of an older version.

    Raises:
        KeyError, TypeError: it is no plan.
    """
    content = deepcopy(dict(plan))
    content.pop("source", None)
    del content["base"]["reference"]
    for spec in content["passes"]:
        del spec["images"]
        spec.pop("departures", None)
    return digest(content)


def compile_plan(manifest: Manifest, suite: AuditSuite, checkpoint: Checkpoint) -> Plan:
    """Resolves a manifest and a suite against a checkpoint.

    Reads no more than the image folders that the manifest names, and the csv files that the suite names.

    Args:
        manifest: what to forget and correct.
        suite: how it is measured.
        checkpoint: facts and tokenizer of the base, from `describe_checkpoint`.

    Raises:
        InputError: a name is not found in its prompt or cut off, the base is not the pinned one,
            or the suite asks what the eraser trains on.
        FileProblems: a csv file is another than the suite pins, or cannot be read as its preset asks.
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
    own = {prompt.text.casefold() for spec in passes for prompt in (*spec.prompts, *spec.pictured)}
    own |= {prompt.casefold() for spec in passes if spec.stop for prompt in spec.stop.prompts}
    prompt_sets, prompted = prompt_sets_of(suite, checkpoint, own)
    probes = (*probes_of(manifest, suite, checkpoint), *prompted)
    for probe in probes:
        if probe.prompt.casefold() in own:
            raise InputError(
                f"suite {suite.metadata.name}: the audit prompt {probe.prompt!r} is one the eraser uses",
                hint="use other sentences in the suite; a model must not be judged by what it was trained on",
            )
        if probe.role != "prompted":  # those are cut where the published pipelines cut them, and counted
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
        prompt_sets=prompt_sets,
        source=checkpoint.source,
    )


def _refuse_minors(manifest: Manifest, passes: tuple[PassSpec, ...], probes: tuple[Probe, ...]) -> None:
    """Applies the rule to resolved sentences, whatever parts they were put together from."""
    nsfw = {c.slug for c in manifest.spec.concepts if c.kind == "nsfw"}
    nsfw |= {c.slug for c in manifest.spec.corrections if c.dominant_kind == "nsfw"}
    texts = [prompt.text for spec in passes if spec.slug in nsfw for prompt in (*spec.prompts, *spec.pictured)]
    texts += [probe.prompt for probe in probes if probe.subject in nsfw]
    for violation in minors_in({(text,): text for text in texts}):
        raise InputError(f"{violation.rule}: {violation.message}", hint=violation.hint)


def _passes(manifest: Manifest, checkpoint: Checkpoint) -> Iterator[PassSpec]:
    spec = manifest.spec
    if PRESETS[spec.eraser.preset].published:
        yield from _published_passes(manifest, checkpoint)
        return
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
    sentences = partial(training_sentences, words=words, excluded=hidden, styles=_styles(manifest))
    retained = [s.text for name, kind in kept for s in sentences(name, style=kind == "style")]
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
            for s in sentences(name, style=concept.kind == "style")
        ]
        names = concept.names
        yield _pass(i, concept, concept.kind, names, prompts, neutral, retained, forgotten, manifest, checkpoint)
        forgotten.append(tuple(prompt.text for prompt in prompts))
        gone |= {name.casefold() for name in concept.names}
    for i, correction in enumerate(spec.corrections, start=len(spec.concepts)):
        prompts = list(_correction_prompts(correction, checkpoint, sentences(correction.prompt)))
        readings = [name for name in (correction.dominant, correction.expected) if name and name.casefold() not in gone]
        also = [s.text for name in readings for s in sentences(name)]
        names = (correction.prompt,)
        kept_too = [*retained, *also]
        yield _pass(i, correction, "correction", names, prompts, neutral, kept_too, forgotten, manifest, checkpoint)
        forgotten.append(tuple(prompt.text for prompt in prompts))


def _published_passes(manifest: Manifest, checkpoint: Checkpoint) -> Iterator[PassSpec]:
    """Passes of the algorithm as it was released: one sentence a name, and nothing that is retained.

    Where tokens are inverted first, they stand in the place of as many neutral words, in one sentence for all names.
    """
    eraser = manifest.spec.eraser
    subjects: list[tuple[Concept | Correction, PassKind, tuple[str, ...]]] = [
        *((concept, concept.kind, concept.names) for concept in manifest.spec.concepts),
        *((correction, "correction", (correction.prompt,)) for correction in manifest.spec.corrections),
    ]
    for i, (subject, kind, names) in enumerate(subjects):
        published = _published(eraser, checkpoint, names, i)
        prompts = [_published_prompt(name, kind, published, checkpoint) for name in names]
        spec = _pass(i, subject, kind, names, prompts, (), [], [], manifest, checkpoint, published)
        if published.inversion and published.word:
            inverted = " ".join([published.word] * published.inversion.tokens)
            spec = spec.model_copy(update={"prompts": (_published_prompt(inverted, kind, published, checkpoint),)})
        yield spec


def _published_prompt(name: str, kind: PassKind, published: Published, checkpoint: Checkpoint) -> TrainingPrompt:
    s = published_sentence(name, style=kind == "style")
    ends = {"none": slice(0), "first": slice(1), "all": slice(None)}[published.end_of_text]
    own = checkpoint.token_positions(s.text, name, s.start)
    positions = (*own, *checkpoint.end_of_text_positions(s.text)[ends])
    return TrainingPrompt(text=s.text, anchor=s.frame, positions=positions, away=s.text)


def _published(eraser: EraserSettings, checkpoint: Checkpoint, names: tuple[str, ...], index: int) -> Published:
    """The release's settings with those of the manifest in them.

    Raises:
        InputError: tokens are to be inverted, and the checkpoint has two text encoders or no neutral word.
    """
    preset = PRESETS[eraser.preset]
    changes: dict[str, object] = {"end_of_text": eraser.end_of_text} if eraser.end_of_text else {}
    if eraser.inverted_tokens:
        taken = content_words(names)
        word = next((word for word in NEUTRAL_WORDS if word in checkpoint.words() and word not in taken), None)
        if checkpoint.other_tokenizers or word is None:
            raise InputError(
                f"spec.eraser.inverted_tokens: {checkpoint.facts.reference} has "
                + ("two text encoders" if word else f"none of the words {', '.join(NEUTRAL_WORDS)} to start from"),
                hint="leave it out: concepts then go by their names",
            )
        changes |= {
            "word": word,
            "inversion": InversionSettings(
                tokens=eraser.inverted_tokens,
                seeds=(eraser.seed + index,),
                steps=500,
                batch=1,
                learning_rate=1e-3,
                falls_to=1.0,
                threads=preset.threads,
            ),
        }
    assert preset.published is not None
    return preset.published.model_copy(update=changes)


def _hidden(manifest: Manifest) -> set[str]:
    """Words no retained sentence may hold: they are forgotten or corrected, or held out for the audit."""
    spec = manifest.spec
    named = [name for concept in spec.concepts for name in concept.names] + [c.prompt for c in spec.corrections]
    return content_words([*spec.eraser.hold_out, *named])


def _styles(manifest: Manifest) -> tuple[str, ...]:
    """What the checkpoint is known to draw in, but for what is forgotten or hidden from the eraser."""
    hidden = _hidden(manifest)
    return tuple(style for style in manifest.spec.styles if content_words([style]).isdisjoint(hidden))


def _correction_prompts(
    correction: Correction, checkpoint: Checkpoint, sentences: Iterable[Sentence]
) -> Iterator[TrainingPrompt]:
    for s in sentences:
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
    published: Published | None = None,
) -> PassSpec:
    eraser = manifest.spec.eraser
    preset = PRESETS[eraser.preset]
    hidden = _hidden(manifest)
    damping = preset.projection if eraser.projection is None else eraser.projection
    damping = None if damping == "off" else damping
    images = None if isinstance(subject, Correction) else subject.images
    stand_ins = stand_in_words(
        neutral, preset.stand_ins, length=max(len(prompt.positions) for prompt in prompts), seed=eraser.seed + index
    )
    styles = _styles(manifest)
    stop = _stop(subject, kind, names, neutral, hidden, styles, checkpoint, preset) if preset.stop_pictures else None
    dose = preset.doses.get(kind, _UNDOSED)
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
        stages=preset.stages,
        departures=departures(
            eraser.preset,
            published=published,
            sequence=eraser.sequence,
            dosed=(eraser.learning_rate, eraser.steps) != (None, None),
            retains=damping is not None,
            looks=stop is not None,
            draws=images is None,
            corrects=kind == "correction",
        ),
        published=published,
        steps=usual_steps if eraser.steps is None else eraser.steps,
        stop=stop,
        batch=preset.batch,
        learning_rate=preset.learning_rate if eraser.learning_rate is None else eraser.learning_rate,
        momentum=preset.momentum,
        times=preset.times,
        noisiest=preset.noisiest,
        projection=damping,
        preserve=dose.preserve,
        repulsion=dose.repulsion,
        redirect_weight=preset.redirect_weight,
        language_weight=preset.language_weight if damping else 0.0,
        loosened=preset.loosened,
        retain=RetainSpec(
            excluded_words=tuple(sorted(hidden)),
            styles=() if published else styles,
            kept=tuple(dict.fromkeys(kept)),
            forgotten=tuple(forgotten) if eraser.sequence == "sequential" else (),
            kept_weight=preset.kept_weight,
            sentences=preset.language_sentences,
            pictures=preset.language_pictures,
            nearest=preset.nearest,
            nearest_weight=preset.nearest_weight,
        ),
        rollback=None
        if damping is None
        else RollbackSpec(drift=preset.drift_budget, retries=preset.retries, gentler=preset.gentler),
        seed=eraser.seed + index,
        threads=preset.threads,
        stored_as=None if published else StoredAs(error=preset.stored_error, share=preset.stored_share),
    )


def _stop(
    subject: Concept | Correction,
    kind: PassKind,
    names: tuple[str, ...],
    neutral: Sequence[str],
    hidden: set[str],
    styles: Sequence[str],
    checkpoint: Checkpoint,
    preset: Preset,
) -> StopSpec | None:
    """Stop pictures, of all names in turn; none for a checkpoint whose world no recogniser knows."""
    if checkpoint.facts.reference != "builtin:emoji-sd":
        return None
    sentences = partial(stop_sentences, style=kind == "style", words=neutral, excluded=hidden, styles=styles)
    known = [sentences(name) for name in names]
    each = max(preset.stop_pictures // len(known), 1)
    pictures = [own[i % len(own)] for own in known for i in range(each)]
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
