"""What a manifest lists as passes, fully resolved: sentences, positions of names, what is retained, doses, stops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from .errors import InputError
from .facts import Checkpoint
from .inversion import InversionSettings
from .manifest import Concept, Correction, EraserSettings, Manifest, minors_in
from .passes import PassKind, PassSpec, RetainSpec, RollbackSpec, RoundsSpec, StopSpec, StoredAs, TrainingPrompt
from .presets import PRESETS, Dose, Preset, Published, departures
from .sentences import (
    FUNCTION_WORDS,
    NEUTRAL_WORDS,
    Sentence,
    content_words,
    fill,
    published_sentence,
    stand_in_words,
    stop_sentences,
    training_sentences,
)

_ROUNDS_SEED = 400_000_000  # far from those of stand-ins
_UNDOSED = Dose(preserve=0.0, repulsion=0.0)  # where nothing is solved for


def passes_of(manifest: Manifest, checkpoint: Checkpoint) -> Iterator[PassSpec]:
    """A pass for each concept, then one for each correction, in the manifest's order.

    Args:
        manifest: what to forget and correct, and the eraser's settings.
        checkpoint: the base, for its tokenizer and vocabulary.

    Raises:
        InputError: a name is cut off by the tokenizer, or no word of it may stand for others.
    """
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
            hint="use a checkpoint whose tokenizer has whole words, or hold out less",
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
                anchor=fill(s.frame, concept.redirect_to) if concept.redirect_to else s.frame,
                positions=checkpoint.token_positions(s.text, name, s.start),
                away=s.text,
                frame=s.frame if concept.redirect_to else None,
            )
            for name in concept.names
            for s in sentences(name, style=concept.kind == "style")
        ]
        names = concept.names
        instead = sentences(concept.redirect_to, style=concept.kind == "style") if concept.redirect_to else ()
        kept_too = [*retained, *(s.text for s in instead)]
        yield _pass(i, concept, concept.kind, names, prompts, neutral, kept_too, forgotten, manifest, checkpoint)
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
    styles = _styles(manifest)
    stop = _stop(subject, kind, names, neutral, hidden, styles, checkpoint, preset) if preset.stop_pictures else None
    dose = preset.doses.get(kind, _UNDOSED)
    rounds = None if kind == "correction" else _rounds(eraser, preset, dose, neutral, index, checkpoint)
    budget = preset.rounds.drift_budget if rounds else preset.drift_budget
    longest = max((*(len(prompt.positions) for prompt in prompts), *(rounds.tokens if rounds else ())))
    stand_ins = stand_in_words(neutral, preset.stand_ins, length=longest, seed=eraser.seed + index)
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
            attacks=rounds is not None,
            leads=not isinstance(subject, Correction) and subject.redirect_to is not None,
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
        repulsion=min(dose.repulsion, preset.rounds.repulsion) if rounds else dose.repulsion,
        redirect_weight=preset.redirect_weight,
        language_weight=preset.language_weight if damping else 0.0,
        loosened=preset.loosened,
        rounds=rounds,
        retain=RetainSpec(
            excluded_words=tuple(sorted(hidden)),
            styles=() if published else styles,
            kept=tuple(dict.fromkeys(kept)),
            forgotten=tuple(forgotten) if eraser.sequence in ("sequential", "mended") else (),
            kept_weight=preset.kept_weight,
            sentences=preset.language_sentences,
            pictures=preset.language_pictures,
            nearest=preset.nearest,
            nearest_weight=preset.rounds.nearest_weight if rounds and preset.nearest else preset.nearest_weight,
        ),
        rollback=None
        if damping is None
        else RollbackSpec(drift=budget, retries=preset.retries, gentler=preset.gentler),
        seed=eraser.seed + index,
        threads=preset.threads,
        stored_as=None if published else StoredAs(error=preset.stored_error, share=preset.stored_share),
    )


def _rounds(
    eraser: EraserSettings, preset: Preset, dose: Dose, neutral: Sequence[str], index: int, checkpoint: Checkpoint
) -> RoundsSpec | None:
    """Inversion rounds, of words that an audit's inversions do not start from.

    Raises:
        InputError: they are asked for, and the checkpoint has two text encoders.
    """
    if not eraser.inversion_rounds:
        return None
    if checkpoint.other_tokenizers:
        raise InputError(
            f"spec.eraser.inversion_rounds: {checkpoint.facts.reference} has two text encoders",
            hint="leave it out: textual inversion is built for one",
        )
    how = preset.rounds
    words = [word for word in neutral if word not in NEUTRAL_WORDS]
    return RoundsSpec(
        words=stand_in_words(words, eraser.inversion_rounds, length=how.words, seed=_ROUNDS_SEED + eraser.seed + index),
        tokens=how.tokens,
        inversion=InversionSettings(seeds=tuple(range(how.seeds)), steps=how.steps, threads=preset.threads),
        weight=how.weight,
        preserve=how.preserve * dose.preserve,
        projection=how.projection,
        looks=how.looks,
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
        shown, also = subject.phrase, [*subject.keep, *([subject.redirect_to] if subject.redirect_to else [])]
    return StopSpec(
        recogniser="emoji-clip",
        shown=shown,
        others=tuple(dict.fromkeys([*also, *neutral])),
        prompts=tuple(text for text, _ in pictures),
        frames=tuple(frame for _, frame in pictures),
        every=preset.look_every,
        gone=preset.gone,
    )
