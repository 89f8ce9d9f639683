"""Forget-Me-Not as it was released in 2023, written anew from its description: what our pass is measured against.

The whole UNet is trained by AdamW, one picture a step. The loss is one Frobenius norm over the probabilities that all
heads and pixels of all cross-attentions give to the name's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from fmn_guard.model.attention import cross_attentions

LEARNING_RATE = 2e-6


class _Noted:
    """Plain attention that notes the probabilities of chosen tokens; maps stay for the backward pass."""

    def __init__(self, positions: Sequence[int], noted: list[Tensor]) -> None:
        self._positions, self._noted = list(positions), noted

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        projected = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (attn.head_to_batch_dim(each) for each in projected)
        probs = attn.get_attention_scores(query, key)  # (B*heads, P, T)
        self._noted.append(probs[..., self._positions].flatten())
        out = attn.batch_to_head_dim(torch.bmm(probs, value))
        return attn.to_out[1](attn.to_out[0](out))


class Released:
    """The released loop on a UNet; nothing is clipped, as nothing was.

    Args:
        unet: trained in place.
        positions: of the name's tokens.
        seed: of noise and timesteps.
    """

    def __init__(self, unet: UNet2DConditionModel, positions: Sequence[int], seed: int = 0) -> None:
        self.unet = unet.train().requires_grad_(True)
        self._noted: list[Tensor] = []
        for module in cross_attentions(unet).values():
            module.set_processor(_Noted(positions, self._noted))
        self._generator = torch.Generator().manual_seed(seed)
        self._optimiser = torch.optim.AdamW(
            unet.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8
        )

    def loss(self, x_0: Tensor, alphas: Tensor, text: Tensor, **apart: object) -> Tensor:
        """The norm at a random timestep."""
        t = torch.randint(0, len(alphas), (len(x_0),), generator=self._generator)
        noise = torch.randn(x_0.shape, generator=self._generator)
        alpha = alphas[t].view(-1, 1, 1, 1)
        self._noted.clear()
        self.unet(alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise, t, text, **apart)
        return torch.cat(self._noted).norm()

    def step(self) -> None:
        """One step of AdamW on the gradients that are there."""
        self._optimiser.step()
        self._optimiser.zero_grad()
