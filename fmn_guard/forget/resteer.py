"""Attention re-steering: the loss of Forget-Me-Not (arXiv 2303.17591) and our training loop.

How it departs from the published algorithm, plans and reports state (`fmn_guard.presets.DEPARTURES`). Why, beside what
is said where it is done: values are what a name delivers where it is looked at, not where it is looked at; states
averaged over random words are what all names have in common, at the same token positions; the rest is in
docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import PassError
from ..evidence import PassRecord, RoundRecord
from ..model.attention import EditedLinear, Tape, speaking_as_base, watch_attention
from ..model.conditioning import denoise, denoiser, text_states
from ..passes import PassSpec, TrainingPrompt
from ..progress import Progress, silent
from .closed_form import HoldNearest, redirect_holding
from .memory import records_at_once, spared
from .reading import Moments, Queries, moments, noised, queries
from .retain import Retained
from .rounds import close_roads

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


_QUERIES = 16  # to a sentence
_BATCH = 32  # records that are only looked at, at once


def watched_tokens(prompts: Sequence[TrainingPrompt], length: int) -> Tensor:
    """(B, T) float: 1 at the tokens of the name, whatever their number in each prompt."""
    wanted = torch.zeros(len(prompts), length)
    for row, prompt in enumerate(prompts):
        wanted[row, list(prompt.positions)] = 1
    return wanted


def resteer(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    spec: PassSpec,
    latents: Tensor,
    retained: Retained,
    images_digest: str,
    still_shown: Callable[[], float] | None = None,
    progress: Progress = silent,
    hold_nearest: HoldNearest | None = None,
) -> PassRecord:
    """Runs one pass on the edited values; the edit is settled into the layers at its end.

    Per step, on a batch of (picture, sentence, timestep):

        L = mean_l A_l[name] + w || eps(x_t, sentence) - eps_base(x_t, anchor) ||^2 + v strain

    The anchor is the mean text state of `PassSpec.anchors`, moved away from that of `TrainingPrompt.away`.
    Strain is how far, squared and relative to its size, what the values deliver of the language is from the base's, and
    of what was forgotten before from where this pass found it; its weight v falls with every look that still shows the
    concept. A projected pass begins with `redirect`, which stands even when the loop then diverges. `PassSpec.stages`
    may leave the loop out, or let a look come before it.

    Args:
        pipeline: the model; only ``layers`` change.
        layers: from `fmn_guard.model.attention.edited_values`.
        spec: the pass.
        latents: (N, C, h, w), pictures to forget and pictures of the anchor.
        retained: what the pass must leave alone.
        images_digest: digest of the pictures to forget, for the record.
        still_shown: says, in [0, 1], how much of the pass's stop pictures shows the concept. It is asked every so many
            steps, to end once it is gone; without it, the pass ends at the ceiling.
        progress: told after each step.
        hold_nearest: see `redirect_holding`; without it, no words are held in sentences of their own.

    Raises:
        PassError: the watched tokens got no attention at all, i.e. the hooks saw nothing.
    """
    named = text_states(pipeline, [p.text for p in spec.prompts])  # (M, T, d)
    anchored = anchored_states(pipeline, spec)
    generator = torch.Generator().manual_seed(spec.seed)
    seen = _Records(pipeline, layers, spec, latents, named, anchored, generator)
    pixels = latents.shape[-2] * latents.shape[-1]
    at_once = records_at_once(pipeline, pixels)
    before = {name: layer.edit for name, layer in layers.items()}
    stop = spec.stop
    looks: list[float] = []
    resteers = "re-steering" in spec.stages
    stopped: Literal["forgotten", "ceiling", "solved", "no-steps", "diverged"] = "solved"
    if resteers:
        stopped = "ceiling" if spec.steps else "no-steps"
    language = retained.language
    nearest: tuple[str, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    if spec.projection is not None and stopped != "no-steps":
        read = seen.read(named, anchored)
        if spec.rounds:
            nearest, retained, rounds = close_roads(
                pipeline, layers, spec, latents, read, seen.read, before, retained, hold_nearest, progress
            )
        else:
            nearest, retained = redirect_holding(
                layers, read, before, retained, spec.preserve, spec.projection, hold_nearest, looks=1
            )
        del read  # as large as the language
    hold = _Hold(layers, retained, spec.projection)
    trained = hold.unfold()
    descent = Descent(trained, spec.momentum)
    masses: list[float] = []
    errors: list[float] = []
    every = stop.every if stop and still_shown else spec.steps
    if "look" in spec.stages and stop and still_shown and stopped == "ceiling":
        looks.append(recorded(still_shown()))
        stopped = "ceiling" if looks[-1] > stop.gone else "forgotten"
    while stopped == "ceiling" and len(masses) < spec.steps:
        length = min(every, spec.steps - len(masses))
        language_weight = spec.language_weight * spec.loosened ** (len(masses) // every)
        descent.rest()
        with watch_attention(denoiser(pipeline)) as tape, spared(pipeline, pixels):
            for step in range(length):
                part = torch.randint(0, len(seen.rows), (spec.batch,), generator=generator)
                strain = language_weight * hold.strain()
                mass, error, gradients = seen.slope(tape, part.split(at_once), strain, trained)
                masses.append(mass)
                errors.append(error)
                if not math.isfinite(error):
                    stopped = "diverged"
                    break
                if len(masses) == 1 and mass == 0:
                    raise PassError(f"{pass_name(spec)}: the name's tokens get no attention", hint="check the phrase")
                descent.step(gradients, spec.learning_rate * (1 - step / length))
                progress(pass_name(spec), len(masses), spec.steps)
        if stop and still_shown and stopped == "ceiling":
            looks.append(recorded(still_shown()))
            stopped = "ceiling" if looks[-1] > stop.gone else "forgotten"
    for layer in layers.values():
        layer.settle()
    if stopped not in ("no-steps", "diverged") and all(torch.equal(layers[name].edit, before[name]) for name in layers):
        raise PassError(
            f"{pass_name(spec)}: {len(masses)} steps changed no weight",
            hint="raise spec.eraser.learning_rate",
        )
    return PassRecord(
        slug=spec.slug,
        steps=len(masses),
        stopped=stopped,
        still_shown=tuple(looks),
        attention_mass=tuple(recorded(m) for m in masses),
        redirect_error=tuple(recorded(e) for e in errors),
        drift=recorded(drift_of(layers, language)),
        nearest=nearest,
        rounds=rounds,
        images_digest=images_digest,
    )


def anchored_states(pipeline: StableDiffusionPipeline, spec: PassSpec) -> Tensor:
    """(M, T, d), the states that each of a pass's sentences should deliver instead of its own."""
    anchors = [spec.anchors(prompt) for prompt in spec.prompts]
    texts = list(dict.fromkeys(chain(*anchors, (prompt.away for prompt in spec.prompts))))
    states = dict(zip(texts, text_states(pipeline, texts), strict=True))
    anchor = torch.stack([torch.stack([states[text] for text in each]).mean(0) for each in anchors])
    away = torch.stack([states[prompt.away] for prompt in spec.prompts])
    # from some noise the base draws what is to go even where the anchor itself is asked for
    beyond = torch.tensor([spec.repulsion if p.repulsion is None else p.repulsion for p in spec.prompts])
    return anchor + beyond.to(anchor)[:, None, None] * (anchor - away)


class _Records:
    """What a pass trains on: its pictures at random times, each with one of its sentences.

    Attributes:
        x_t: (N, C, h, w), noisy latents, each picture at `PassSpec.times` timesteps.
        t: (N,), the timesteps.
        rows: (N,), which of the pass's sentences each is denoised with.
        target: (N, C, h, w), what the base predicts there at the sentence's anchor.
    """

    @torch.no_grad()
    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        layers: dict[str, EditedLinear],
        spec: PassSpec,
        latents: Tensor,
        named: Tensor,
        anchored: Tensor,
        generator: torch.Generator,
    ) -> None:
        self._pipeline, self._layers, self._named = pipeline, layers, named
        self._spec, self._generator = spec, generator
        self._asked: Queries | None = None
        self.x_t, self.t = noised(pipeline, latents.repeat(spec.times, 1, 1, 1), generator, spec.noisiest)
        self.rows = torch.randint(0, len(named), (len(self.t),), generator=generator)
        blocks = zip(*(part.split(_BATCH) for part in (self.x_t, self.t, anchored[self.rows])), strict=True)
        with speaking_as_base(layers):
            self.target = torch.cat([denoise(pipeline, x_t, t, text) for x_t, t, text in blocks])

    def slope(
        self, tape: Tape, parts: Sequence[Tensor], strain: Tensor, trained: Sequence[Tensor]
    ) -> tuple[float, float, list[Tensor]]:
        """Attention mass and redirection error of some records, means, and the gradients of the loss.

        Args:
            tape: from `watch_attention`.
            parts: which records, those together that are held at once.
            strain: the loss's own part of what is retained.
            trained: what gradients are taken of.
        """
        count = sum(len(part) for part in parts)
        mass, error = 0.0, 0.0
        gradients: list[Tensor] = []
        for part in parts:
            rows, share = self.rows[part], len(part) / count
            prompts = [self._spec.prompts[i] for i in rows]
            tape.wanted = watched_tokens(prompts, self._named.shape[1]).to(self._named.device)
            tape.masses.clear()
            predicted = denoise(self._pipeline, self.x_t[part], self.t[part], self._named[rows])
            given = tape.mass().mean()
            missed = (predicted - self.target[part]).square().mean()
            mass, error = mass + share * given.item(), error + share * missed.item()
            loss = share * (given + self._spec.redirect_weight * missed)
            own = torch.autograd.grad(loss if gradients else loss + strain, trained)
            if gradients:
                own = tuple(total + each for total, each in zip(gradients, own, strict=True))
            gradients = list(own)
        return mass, error, gradients

    def read(self, text: Tensor, also: Tensor) -> tuple[Moments, Moments]:
        """Mean moments of what the base reads of sentences where it draws the name, by themselves and with others read
        in their place.

        Args:
            text: (B, T, d), their states.
            also: (B, T, d), states of the others.
        """
        with speaking_as_base(self._layers):
            if self._asked is None:
                named = self._named[self.rows]
                self._asked = queries(self._pipeline, self.x_t, self.t, named, self._generator)
            sums = moments(self._pipeline, self._asked, text, _QUERIES, also)
        for total in chain(*(part.values() for part in sums)):
            total /= len(text)
        return sums


class _Hold:
    """Holds what is retained while values are trained.

    They are trained in coordinates in which equal steps move what is delivered of it equally far, relative to its
    size: D = s F L^-1 with L L^T = C + lam I and s^2 the mean square of W L. An unprojected pass holds nothing: L is
    the unit matrix.
    """

    def __init__(self, layers: dict[str, EditedLinear], retained: Retained, damping: float | None) -> None:
        self._layers = layers
        self._basis: dict[str, Tensor] = {}
        self._pull: dict[str, Tensor] = {}
        for name, whole in retained.whole.items():
            layer, eye = layers[name], torch.eye(whole.shape[-1], dtype=whole.dtype).expand_as(whole)
            root = eye if damping is None else torch.linalg.cholesky(whole + damping * eye)
            inverse = torch.linalg.solve_triangular(root, eye, upper=False)
            size = (layer.by_head(layer.frozen.weight) @ root).square().mean().sqrt()
            self._basis[name] = (size * inverse).to(layer.edit)
            self._pull[name] = (layer.by_head(layer.edit) @ retained.language[name] @ inverse.mT / size).to(layer.edit)

    def unfold(self) -> list[Tensor]:
        """Starts training; returns F of each layer."""
        return [layer.unfold(self._basis[name]) for name, layer in self._layers.items()]

    def strain(self) -> Tensor:
        """tr((E + D) C_language (E + D)^T) + tr(D C_forgotten D^T) over |W L|^2, but for a constant; mean of layers."""
        parts = [self._pull[name] + layer.free for name, layer in self._layers.items() if layer.free is not None]
        return torch.stack([part.square().mean() for part in parts]).mean()


class Descent:
    """Momentum whose steps have a given length at the steepest point of a pass so far, and shrink with the gradient.

    A pass whose concept is nearly gone has gradients that are mostly noise: steps of one length would go on walking.
    """

    def __init__(self, trained: Sequence[Tensor], momentum: float) -> None:
        self._trained, self._momentum = trained, momentum
        self._steepest = 0.0
        self.rest()

    def rest(self) -> None:
        """Forgets where it was going."""
        self._velocity = [torch.zeros_like(part) for part in self._trained]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], stride: float) -> None:
        """One step, of root mean square ``stride`` over all coordinates where the gradient is steepest."""
        for v, gradient in zip(self._velocity, gradients, strict=True):
            v.mul_(self._momentum).add_(gradient)
        slope, speed = _size(gradients), _size(self._velocity)
        self._steepest = max(self._steepest, slope)
        if speed > 0:
            for part, v in zip(self._trained, self._velocity, strict=True):
                part.sub_(v, alpha=stride * slope / self._steepest / speed)


def _size(parts: Sequence[Tensor]) -> float:
    """Root mean square over all coordinates."""
    return math.sqrt(sum(part.square().sum().item() for part in parts) / sum(part.numel() for part in parts))


def drift_of(layers: dict[str, EditedLinear], language: Moments, since: dict[str, Tensor] | None = None) -> float:
    """How far edits move what is delivered of the language, relative to its size: 0 is not at all.

    Args:
        layers: all layers.
        language: its moments.
        since: edits from which it is measured; from none by default.
    """

    def energy(weight: Tensor, name: str) -> float:
        parts = layers[name].by_head(weight)
        return (parts @ language[name] * parts).sum().item()

    moved = sum(energy(layer.edit - since[name] if since else layer.edit, name) for name, layer in layers.items())
    return math.sqrt(moved / sum(energy(layer.frozen.weight, name) for name, layer in layers.items()))


def pass_name(spec: PassSpec) -> str:
    """A pass in messages."""
    return f"pass {spec.index + 1} ({spec.slug})"


def recorded(value: float) -> float:
    """Six digits; what is not a number is recorded as -1, since a record holds numbers only."""
    return round(value, 6) if math.isfinite(value) else -1.0
