"""Attention re-steering: the loss of Forget-Me-Not (arXiv 2303.17591) and our training loop.

Departures from the published algorithm, all of them part of preset ``guarded``:
    - the loss is the attention mass on the name's tokens, which fades as it falls, not one Frobenius norm;
    - a redirection term moves the prediction to that of the same sentence with random words in the name's place,
      their text states averaged: what is left is what all names have in common, at the same token positions;
    - only the values of the cross-attentions change: what a name delivers where it is looked at, not where it is
      looked at;
    - closed-form solutions come first, from careful to forceful; re-steering, in the few directions of the text states
      that tell the name from the retained language, takes what they have left;
    - a pass ends when none of its own pictures shows the concept;
    - the step is momentum of one length over all layers, falling to zero, instead of AdamW's (docs/experiments.md);
    - pictures are drawn by the base model, at uniform timesteps, in batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import PassError
from ..evidence import PassRecord
from ..model.attention import EditedLinear, speaking_as_base, watch_attention
from ..model.sampler import text_states
from ..plan import TRAINING_BATCH, PassSpec, TrainingPrompt
from ..progress import Progress, silent
from .closed_form import redirect
from .retain import directions

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MOMENTUM = 0.8


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
    covariance: Tensor,
    images_digest: str,
    still_shown: Callable[[], float] | None = None,
    progress: Progress = silent,
) -> PassRecord:
    """Runs one pass on the edited values; the edit is settled into the layers at its end.

    Per step, on a batch of (picture, sentence, timestep):

        L = mean_l A_l[name] + w || eps(x_t, sentence) - eps_base(x_t, anchor) ||^2

    The anchor is the mean text state of `PassSpec.anchors`. A projected pass begins with `redirect` at each weight of
    ``preserve`` in turn; the last solution stands even when the loop then diverges.

    Args:
        pipeline: the model; only ``layers`` change.
        layers: from `fmn_guard.model.attention.edited_values`.
        spec: the pass.
        latents: (N, C, h, w), pictures to forget.
        covariance: C of the retained language, (d, d) float64.
        images_digest: digest of those pictures, for the record.
        still_shown: says, in [0, 1], how many of the pass's stop pictures show the concept. It is asked every so
            many steps, and the pass ends at 0; without it, at the ceiling.
        progress: told after each step.

    Raises:
        PassError: the watched tokens got no attention at all, i.e. the hooks saw nothing.
    """
    named = text_states(pipeline, [p.text for p in spec.prompts])  # (M, T, d)
    anchored = torch.stack([text_states(pipeline, spec.anchors(p)).mean(0) for p in spec.prompts])
    alphas = pipeline.scheduler.alphas_cumprod.to(latents.device)
    before = {name: layer.edit for name, layer in layers.items()}
    given, wanted = named.flatten(0, 1).cpu(), anchored.flatten(0, 1).cpu()
    damping = spec.projection
    if damping is None:
        basis = torch.eye(len(covariance))
    else:
        basis = directions(covariance, given - wanted, damping, spec.directions)
    looks: list[float] = []
    stopped: Literal["forgotten", "ceiling", "no-steps", "diverged"] = "ceiling" if spec.steps else "no-steps"
    solutions = 0
    while damping is not None and stopped == "ceiling" and solutions < len(spec.preserve):
        for name, layer in layers.items():
            layer.edit = before[name]
        redirect(layers, given, wanted, covariance, spec.preserve[solutions], damping)
        solutions += 1
        progress(f"{_named(spec)}, closed form", solutions, len(spec.preserve))
        if still_shown:
            looks.append(_shown(still_shown()))
            stopped = "ceiling" if looks[-1] else "forgotten"
    trained = [layer.unfold(basis.to(latents.device)) for layer in layers.values()]
    stride = (
        spec.learning_rate
        * _size((layer.frozen.weight for layer in layers.values()), covariance)
        / _spread(basis, covariance)
    )
    generator = torch.Generator().manual_seed(spec.seed)
    masses: list[float] = []
    errors: list[float] = []
    every = spec.stop.every if spec.stop and still_shown else spec.steps
    while stopped == "ceiling" and len(masses) < spec.steps:
        length = min(every, spec.steps - len(masses))
        velocity = [torch.zeros_like(part) for part in trained]
        with watch_attention(pipeline.unet) as tape:
            for step in range(length):
                rows = _indices(len(spec.prompts), generator)
                x0 = latents[_indices(len(latents), generator)]
                t = torch.randint(0, len(alphas), (TRAINING_BATCH,), generator=generator).to(latents.device)
                noise = torch.randn(x0.shape, generator=generator).to(latents.device)
                alpha = alphas[t].view(-1, 1, 1, 1)
                x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
                tape.wanted = watched_tokens([spec.prompts[i] for i in rows], named.shape[1]).to(named.device)
                with torch.no_grad():
                    target = _base_prediction(pipeline, layers, x_t, t, anchored[rows])
                tape.masses.clear()
                predicted = pipeline.unet(x_t, t, named[rows]).sample
                mass = tape.mass().mean()
                error = (predicted - target).square().mean()
                masses.append(mass.item())
                errors.append(error.item())
                if not math.isfinite(errors[-1]):
                    stopped = "diverged"
                    break
                if len(masses) == 1 and masses[0] == 0:
                    raise PassError(f"{_named(spec)}: the name's tokens get no attention", hint="check the phrase")
                gradients = torch.autograd.grad(mass + spec.redirect_weight * error, trained)
                _descend(trained, velocity, gradients, stride * (1 - step / length))
                progress(_named(spec), len(masses), spec.steps)
        if still_shown and stopped == "ceiling":
            looks.append(_shown(still_shown()))
            stopped = "ceiling" if looks[-1] else "forgotten"
    drift = _settle(layers, before, covariance)
    if stopped in ("ceiling", "forgotten") and drift == 0:
        raise PassError(
            f"{_named(spec)}: {len(masses)} steps changed no weight",
            hint="raise spec.eraser.learning_rate",
        )
    return PassRecord(
        slug=spec.slug,
        solutions=solutions,
        steps=len(masses),
        stopped=stopped,
        still_shown=tuple(looks),
        attention_mass=tuple(_shown(m) for m in masses),
        redirect_error=tuple(_shown(e) for e in errors),
        drift=drift,
        images_digest=images_digest,
    )


def _size(weights: Iterable[Tensor], covariance: Tensor) -> float:
    """Root mean square of an output coordinate of linear maps, over inputs of this covariance."""
    rows = [w.detach().cpu().double() for w in weights]
    return math.sqrt(sum(((w @ covariance) * w).sum().item() for w in rows) / sum(len(w) for w in rows))


def _spread(basis: Tensor, covariance: Tensor) -> float:
    """Root mean square length of a retained state in the basis."""
    b = basis.double()
    return math.sqrt(((covariance @ b) * b).sum().item())


@torch.no_grad()
def _descend(trained: Sequence[Tensor], velocity: Sequence[Tensor], gradients: Sequence[Tensor], stride: float) -> None:
    """One step of momentum, scaled so that its root mean square over all coordinates is ``stride``."""
    for v, gradient in zip(velocity, gradients, strict=True):
        v.mul_(MOMENTUM).add_(gradient)
    square = sum(v.square().sum().item() for v in velocity) / sum(v.numel() for v in velocity)
    if square > 0:
        for part, v in zip(trained, velocity, strict=True):
            part.sub_(v, alpha=stride / math.sqrt(square))


def _named(spec: PassSpec) -> str:
    return f"pass {spec.index + 1} ({spec.slug})"


def _shown(value: float) -> float:
    """Six digits; what is not a number is recorded as -1, since a record holds numbers only."""
    return round(value, 6) if math.isfinite(value) else -1.0


def _indices(population: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randint(0, population, (TRAINING_BATCH,), generator=generator).tolist()
    return drawn


def _base_prediction(
    pipeline: StableDiffusionPipeline, layers: dict[str, EditedLinear], x_t: Tensor, t: Tensor, text: Tensor
) -> Tensor:
    with speaking_as_base(layers):
        predicted: Tensor = pipeline.unet(x_t, t, text).sample
    return predicted


def _settle(layers: dict[str, EditedLinear], before: dict[str, Tensor], covariance: Tensor) -> float:
    """Settles the edits; returns the drift of the retained language."""
    for layer in layers.values():
        layer.settle()
    size = _size((layer.frozen.weight for layer in layers.values()), covariance)
    return _shown(_size((layer.edit - before[name] for name, layer in layers.items()), covariance) / size)
