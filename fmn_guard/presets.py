"""Presets: the eraser's settings, by the name a manifest asks for. A plan states all of them in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field

from .inversion import InversionSettings
from .record import Record

PresetName = Literal["guarded", "hybrid", "closed-form", "official", "official-tuned", "unlearncanvas"]
Stage = Literal["closed-form", "look", "re-steering"]
EndOfText = Literal["none", "first", "all"]

# How an algorithm differs from the one that was published with the paper (arXiv 2303.17591), by the name under which
# plans state it. Reports say it in these words.
DEPARTURES = {
    "attention-mass": "the loss is the attention mass on the name's tokens, which fades as it falls, not one Frobenius "
    "norm, whose gradient does not",
    "redirection": "a redirection term moves the prediction to that of the same sentence with random words in the "
    "name's place, their text states averaged, or to the expected reading of a correction; things, styles and "
    "corrections go beyond that, away from the name or the dominant reading",
    "anchor-phrase": "a phrase of the manifest takes the place of random words in the redirection",
    "retained-language": "the language itself is retained: what cross-attention values deliver of it may hardly "
    "change, though more with each look that still shows the concept",
    "nearest-words": "the words that a first closed-form solution moves most are held in sentences of their own in the "
    "one that stands",
    "given-back": "a pass that costs the retained language more than its budget is taken back and run again at a lower "
    "dose",
    "values-only": "only the values of the cross-attentions change",
    "low-rank": "what a pass changed is kept as low-rank factors in half precision, and the next goes on from these",
    "closed-form-start": "a closed-form solution comes first, and re-steering goes on from there",
    "closed-form-alone": "a closed-form solution takes the place of re-steering",
    "inversion-rounds": "the closed-form solution is attacked by textual inversion and solved again with what still "
    "draws the concept, several times over, and damped more",
    "looks": "re-steering ends once none of the pass's own pictures shows the concept",
    "look-first": "the closed form is looked at before any step: what shows nothing is not re-steered at all",
    "relative-momentum": "steps are momentum of a length relative to the size of the values, which shrinks as the "
    "gradient does, instead of AdamW's",
    "noisier-batches": "pictures are seen in batches, at the noisier half of the timesteps",
    "contexts": "the name is forgotten in many sentences, not in one",
    "in-sequence": "passes follow one another, where the release trains several concepts at once",
    "mended": "when all passes are done, a closed-form solution does what they do together, and less to the words that "
    "they moved most",
    "merged": "each pass begins at the base, and their edits are merged in closed form",
    "aliases": "names and aliases of a concept take turns, as concepts do where the release trains several",
    "drawn-pictures": "the base draws the pictures to forget, where the release is given photos",
    "plain-names": "concepts go by their names; the release can invert four tokens of each first",
    "neutral-start": "inversion starts at a neutral word instead of pieces of the name, pulls embeddings to the mean "
    "norm of the model's own and flips no picture",
    "corrections": "a correction is re-steered as the concept of its prompt would be: the release has none",
    "clipping-mended": "mended: gradients are clipped to a global norm of 1; in the release, the iterator over them is "
    "exhausted before",
    "sequence-mended": "mended: a pass follows another; the release refuses a model that already forgot with inverted "
    "tokens, and trains several concepts at once",
    "silence-mended": "mended: a name that is not found, attention that is not seen and weights that do not change are "
    "errors, not a loss of zero",
    "batches-mended": "mended: prompts with unequal numbers of target tokens share a batch, each with its own mask",
    "seeds-mended": "mended: everything drawn is seeded",
    "padding-spared": "mended: of end-of-text, the first position at most is a target, never the padding",
    "own-dose": "learning rate or steps are the manifest's own",
    "tuned-dose": "learning rate and steps are those that did best on three development concepts",
    "high-dose": "learning rate times steps is 2e-3, as UnlearnCanvas dosed it, instead of 7e-5",
}


@dataclass(frozen=True)
class Dose:
    """How forcefully a pass begins, by the kind of what it forgets."""

    preserve: float
    repulsion: float


@dataclass(frozen=True)
class Rounds:
    """How a pass is attacked where a manifest asks for it; what is not explained here is in `fmn_guard.passes`."""

    words: int = 4
    """That a round's inversions start from."""
    tokens: tuple[int, ...] = (4, 1)
    seeds: int = 2
    """Inversions from each."""
    steps: int = 60
    weight: float = 3.0
    preserve: float = 0.075
    """Of what the kind's dose preserves."""
    projection: float = 1.0
    repulsion: float = 0.1
    """Most of it: what is led farther costs more, too."""
    looks: int = 3
    nearest_weight: float = 25.0
    """In place of the preset's own, as is the budget: what is damped more moves more words."""
    drift_budget: float = 0.4


class Published(Record):
    """Settings of the algorithm as it was released, by AdamW on the whole UNet."""

    end_of_text: EndOfText = "first"
    """Which end-of-text positions are targets beside the name: none, the first, or ``all``, which takes padding for
    targets where the tokenizer pads with end-of-text, as the release does."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip: float = 1.0
    """Global norm that gradients are clipped to."""
    inversion: Annotated[InversionSettings | None, Field(exclude_if=lambda settings: settings is None)] = None
    """How a concept's tokens are inverted first; None where it goes by its names."""
    word: Annotated[str | None, Field(exclude_if=lambda word: word is None)] = None
    """What inversion starts from."""


@dataclass(frozen=True)
class Preset:
    """An algorithm's settings; what is not explained here is in `fmn_guard.passes`, under the same name."""

    departures: tuple[str, ...]
    """From the published algorithm, whatever the manifest says; keys of `DEPARTURES`."""
    settings: frozenset[str]
    """Settings of a manifest that bear on it, beside those that bear on all."""
    pictures: int
    """Pictures to forget that the base draws for a pass."""
    stand_ins: int
    """Random names whose mean a name is moved to."""
    times: int
    noisiest: float
    steps: int
    steps_unwatched: int
    """Steps where no recogniser says when to stop."""
    batch: int
    learning_rate: float
    momentum: float
    projection: float | None
    redirect_weight: float
    language_weight: float
    loosened: float
    language_sentences: int
    language_pictures: int
    kept_weight: float
    nearest: int
    nearest_weight: float
    stop_pictures: int
    look_every: int
    gone: float
    threads: int
    stages: tuple[Stage, ...] = ("closed-form", "re-steering")
    doses: Mapping[str, Dose] = field(default_factory=dict)
    """By the kind of a pass; none where nothing is solved for."""
    published: Published | None = None
    rounds: Rounds = Rounds()
    merge_preserve: float = 1.0
    mend_preserve: float = 3.0
    mend_looks: int = 3
    drift_budget: float = 0.15
    """Twice what the costliest pass of the quickstart costs: it is there for the one that goes wrong."""
    retries: int = 2
    gentler: float = 2.0
    stored_error: float = 1e-3
    stored_share: float = 0.01


_GUARDED = Preset(
    departures=(
        *("attention-mass", "redirection", "retained-language", "nearest-words", "given-back", "values-only"),
        *("low-rank", "closed-form-start", "looks", "relative-momentum", "noisier-batches", "contexts", "aliases"),
        "plain-names",
    ),
    settings=frozenset({"steps", "learning_rate", "projection", "inversion_rounds"}),
    pictures=8,
    stand_ins=16,
    times=8,
    noisiest=0.5,
    steps=36,
    steps_unwatched=16,
    batch=16,
    learning_rate=6e-3,
    momentum=0.8,
    projection=1e-3,
    # People differ from one another in little, and go at once; a thing has many looks, and rests of it remain.
    doses={
        "identity": Dose(preserve=100.0, repulsion=0.0),
        "style": Dose(preserve=50.0, repulsion=0.1),
        "object": Dose(preserve=40.0, repulsion=0.25),
        "nsfw": Dose(preserve=40.0, repulsion=0.25),
        "correction": Dose(preserve=50.0, repulsion=0.5),
    },
    redirect_weight=30.0,
    language_weight=12.0,
    loosened=0.4,
    language_sentences=5000,
    language_pictures=24,
    kept_weight=20.0,
    nearest=24,
    nearest_weight=12.0,
    stop_pictures=24,
    look_every=12,
    gone=0.005,
    threads=2,
)
_OFFICIAL = replace(
    _GUARDED,
    departures=(
        *("aliases", "plain-names", "clipping-mended", "sequence-mended", "silence-mended", "batches-mended"),
        "seeds-mended",
    ),
    settings=frozenset({"steps", "learning_rate", "end_of_text", "inverted_tokens"}),
    stages=("re-steering",),
    published=Published(),
    pictures=10,
    steps=35,
    steps_unwatched=35,
    batch=1,
    learning_rate=2e-6,
    noisiest=1.0,
    times=1,
    # What the release does not have.
    stand_ins=0,
    momentum=0.0,
    projection=None,
    doses={},
    redirect_weight=0.0,
    language_weight=0.0,
    loosened=1.0,
    language_sentences=0,
    language_pictures=0,
    kept_weight=0.0,
    nearest=0,
    nearest_weight=0.0,
    stop_pictures=0,
)

PRESETS: Mapping[PresetName, Preset] = {
    "guarded": _GUARDED,
    # Guarded always takes its first steps before it looks; the closed form may need none.
    "hybrid": replace(
        _GUARDED,
        departures=(*_GUARDED.departures, "look-first"),
        stages=("closed-form", "look", "re-steering"),
    ),
    "closed-form": replace(
        _GUARDED,
        departures=(
            *("redirection", "retained-language", "nearest-words", "given-back", "values-only", "low-rank"),
            *("closed-form-alone", "noisier-batches", "contexts", "aliases", "plain-names"),
        ),
        settings=frozenset({"projection", "inversion_rounds"}),
        stages=("closed-form",),
        steps=0,
        steps_unwatched=0,
        stop_pictures=0,
    ),
    "official": _OFFICIAL,
    "official-tuned": replace(
        _OFFICIAL,
        departures=(*_OFFICIAL.departures, "tuned-dose"),
        # python -m benchmarks.forgetting.tuning: 2e-5 leaves nearly all of a concept, 1e-4 little of anything else
        learning_rate=5e-5,
    ),
    "unlearncanvas": replace(
        _OFFICIAL,
        departures=(*_OFFICIAL.departures, "high-dose"),
        learning_rate=2e-5,
        steps=100,
        steps_unwatched=100,
    ),
}


def departures(
    preset: PresetName,
    *,
    published: Published | None,
    sequence: str,
    dosed: bool,
    retains: bool,
    looks: bool,
    draws: bool,
    corrects: bool,
    attacks: bool,
    leads: bool,
) -> tuple[str, ...]:
    """How a pass differs from the published algorithm: keys of `DEPARTURES`.

    Args:
        preset: its preset.
        published: its settings as the release's, if it has them.
        sequence: how its plan's passes follow one another.
        dosed: whether the manifest states its learning rate or steps.
        retains: whether it retains a language.
        looks: whether anybody looks at its own pictures.
        draws: whether the base draws the pictures to forget.
        corrects: whether it is a correction.
        attacks: whether it has inversion rounds.
        leads: whether the manifest says what it redirects to.
    """
    idle = {
        *(("tuned-dose", "high-dose") if dosed else ()),
        *(("plain-names", "aliases") if published and published.inversion else ()),
        *(() if looks else ("looks", "look-first")),
        *(() if retains else ("retained-language", "nearest-words", "given-back", "closed-form-start")),
    }
    follows = {
        "sequential": ("in-sequence",),
        "mended": ("in-sequence", "mended"),
        "merge": ("merged",),
        "joint": (),
    }[sequence]
    return (
        *(name for name in PRESETS[preset].departures if name not in idle),
        *(("neutral-start",) if published and published.inversion else ()),
        *(() if published else follows),
        *(("inversion-rounds",) if attacks else ()),
        *(("anchor-phrase",) if leads else ()),
        *(("own-dose",) if published and dosed else ()),
        *(("drawn-pictures",) if draws else ()),
        *(("corrections",) if published and corrects else ()),
        *(("padding-spared",) if published and published.end_of_text != "all" else ()),
    )
