"""Attention re-steering as it was released with the paper (arXiv 2303.17591), for comparison with ours.

With A_l[b, h, p, j] the probability in cross-attention l and head h, from pixel p of picture b to token j, and C_b the
target tokens of its prompt:

    L = sqrt( sum_l,b,h,p sum_(j in C_b) A_l[b, h, p, j]^2 )

one Frobenius norm, neither squared nor averaged. Its gradient to the probabilities has length 1 whatever they are, so
nothing fades and only the step ceiling ends it. All weights of the denoiser are trained by AdamW; nothing is retained.
How it departs from the release, plans and reports state (`fmn_guard.presets.DEPARTURES`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..errors import PassError
from ..evidence import PassRecord
from ..model.attention import Edited, cross_attentions, seen_attention
from ..model.conditioning import denoise, denoiser
from ..passes import PassSpec
from ..presets import Published
from ..progress import Progress, silent
from .reading import noised
from .resteer import pass_name, recorded, watched_tokens

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass
class NormTape:
    """What the last forward pass paid to the targets.

    Attributes:
        layers: how many cross-attentions one forward pass has.
        wanted: (B, T) float, 1 at the target tokens.
        squares: per layer, the sum of squared probabilities on them. Carries gradients.
        masses: per layer, the mean over pictures, heads and pixels of the probability on them, in [0, 1].
    """

    layers: int
    wanted: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    squares: list[Tensor] = field(default_factory=list)
    masses: list[float] = field(default_factory=list)

    def watch(self, wanted: Tensor) -> None:
        """Makes ready for a forward pass."""
        self.wanted = wanted
        self.squares.clear()
        self.masses.clear()

    def norm(self) -> Tensor:
        """The loss.

        Raises:
            PassError: some cross-attention was not seen, or seen twice.
        """
        if len(self.squares) != self.layers:
            raise PassError(
                f"{len(self.squares)} of {self.layers} cross-attentions were seen",
                hint="attention processors were replaced after hooking",
            )
        return torch.stack(self.squares).sum().sqrt()


@contextmanager
def watch_norm(denoiser: nn.Module) -> Iterator[NormTape]:
    """Watches the attention norm on target tokens; gives the model back as it was."""
    tape = NormTape(len(cross_attentions(denoiser)))

    def see(_name: str, _query: Tensor, probs: Tensor) -> None:
        targeted = probs * tape.wanted[:, None, None]  # (B, heads, P, T)
        tape.squares.append(targeted.square().sum())
        tape.masses.append(targeted.detach().sum(-1).mean().item())

    with seen_attention(denoiser, see):
        yield tape


class ClippedAdamW:
    """AdamW whose gradients are clipped to a global norm.

    Args:
        weights: what is trained; listed once, since an iterator would be empty by the time it is clipped.
        settings: betas, decay and norm.
        learning_rate: step size.
    """

    def __init__(self, weights: Iterable[Tensor], settings: Published, learning_rate: float) -> None:
        self._weights = list(weights)
        self._clip = settings.clip
        self._adamw = torch.optim.AdamW(
            self._weights, learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss; the clipped gradients stay in the weights until the next."""
        self._adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, self._clip)
        self._adamw.step()


def resteer_as_published(
    pipeline: StableDiffusionPipeline,
    weights: Mapping[str, Edited],
    spec: PassSpec,
    latents: Tensor,
    rows: Sequence[int],
    text: Tensor,
    images_digest: str,
    progress: Progress = silent,
) -> PassRecord:
    """Runs one pass on the whole denoiser; the edit is settled into the weights at its end.

    Args:
        pipeline: the model.
        weights: from `fmn_guard.model.whole.edited_weights`.
        spec: the pass, with its `PassSpec.published`.
        latents: (N, C, h, w), pictures to forget.
        rows: which of the pass's prompts each picture is seen with.
        text: (M, T, d), states of these prompts: with the concept's name in them, or with tokens inverted from its
            pictures at the positions that the prompts state. Nothing here asks which.
        images_digest: digest of the pictures, for the record.
        progress: told after each step.

    Raises:
        PassError: the targets got no attention at all, or the steps changed no weight.
    """
    assert spec.published is not None
    generator = torch.Generator().manual_seed(spec.seed)
    text = text.clone()  # made in inference mode, it could not be trained through
    before = {name: weight.edit for name, weight in weights.items()}
    trained = list(denoiser(pipeline).parameters())
    stopped: Literal["ceiling", "no-steps", "diverged"] = "ceiling" if spec.steps else "no-steps"
    masses: list[float] = []
    for weight in trained:
        weight.requires_grad_(True)
    try:
        descent = ClippedAdamW(trained, spec.published, spec.learning_rate)
        with watch_norm(denoiser(pipeline)) as tape:
            while len(masses) < spec.steps and stopped == "ceiling":
                part = torch.randint(0, len(latents), (spec.batch,), generator=generator)
                asked = [rows[i] for i in part]
                x_t, t = noised(pipeline, latents[part.to(latents.device)], generator)
                tape.watch(watched_tokens([spec.prompts[i] for i in asked], text.shape[1]).to(text.device))
                denoise(pipeline, x_t, t, text[asked])
                loss = tape.norm()
                masses.append(sum(tape.masses) / len(tape.masses))
                if not math.isfinite(loss.item()):
                    stopped = "diverged"
                    break
                if len(masses) == 1 and masses[0] == 0:
                    raise PassError(f"{pass_name(spec)}: the targets get no attention", hint="check the phrase")
                descent.step(loss)
                progress(pass_name(spec), len(masses), spec.steps)
    finally:
        for weight in trained:
            weight.requires_grad_(False)
            weight.grad = None
    for edited in weights.values():
        edited.settle()
    if stopped == "ceiling" and all(torch.equal(weights[name].edit, edit) for name, edit in before.items()):
        raise PassError(
            f"{pass_name(spec)}: {len(masses)} steps changed no weight", hint="raise spec.eraser.learning_rate"
        )
    return PassRecord(
        slug=spec.slug,
        steps=len(masses),
        stopped=stopped,
        still_shown=(),
        attention_mass=tuple(recorded(m) for m in masses),
        redirect_error=(),
        drift=None,
        images_digest=images_digest,
    )
