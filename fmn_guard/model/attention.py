"""Cross-attention, looked at: the probability mass that pixels give to chosen tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..errors import PassError


def cross_attentions(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """The UNet's cross-attention modules (``attn2``), by name, in forward order of the module tree.

    Raises:
        PassError: the UNet has none.
    """
    found = {name: m for name, m in unet.named_modules() if isinstance(m, Attention) and name.endswith("attn2")}
    if not found:
        raise PassError("the UNet has no cross-attention", hint="Forget-Me-Not needs a text-conditioned UNet")
    return found


@dataclass
class Tape:
    """What the hooks saw in the last forward pass.

    Attributes:
        layers: how many cross-attentions one forward pass has.
        wanted: (B, T) float, 1 at the tokens to watch.
        masses: per layer (B,), the attention probability on the watched tokens, in [0, 1]: the mean
            over heads and pixels of its sum over tokens. Carries gradients.
    """

    layers: int
    wanted: Tensor
    masses: list[Tensor] = field(default_factory=list)

    def mass(self) -> Tensor:
        """Mean over layers: (B,). Method note: the ``mass`` loss, with gradients that fade as it falls."""
        if len(self.masses) != self.layers:
            raise PassError(
                f"{len(self.masses)} of {self.layers} cross-attentions were seen",
                hint="attention processors were replaced after hooking, or gradient checkpointing runs them twice",
            )
        return torch.stack(self.masses).mean(0)


class _WatchingProcessor:
    """Plain attention that also notes the mass on watched tokens."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None and attention_mask is None
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (B, P, C) -> (B*heads, P, C/heads)
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probs = attn.get_attention_scores(query, key)  # (B*heads, P, T)
        # head_to_batch_dim is batch-major: unflatten, never repeat, or batches > 1 get each other's tokens
        per_head = probs.unflatten(0, (-1, attn.heads))  # (B, heads, P, T)
        self._tape.masses.append((per_head.mean((1, 2)) * self._tape.wanted).sum(-1))  # (B, T) -> (B,)
        out: Tensor = attn.batch_to_head_dim(torch.bmm(probs, value))
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


@contextmanager
def watch_attention(unet: UNet2DConditionModel, wanted: Tensor | None = None) -> Iterator[Tape]:
    """Watches the cross-attention on chosen tokens; gives the UNet back as it was, even on error.

    Args:
        unet: the model; its processors are replaced meanwhile.
        wanted: (B, T), 1 at the tokens to watch; may be set on the tape before each forward pass instead.
    """
    modules = cross_attentions(unet)
    before = {name: module.processor for name, module in modules.items()}
    tape = Tape(len(modules), torch.zeros(1, 1) if wanted is None else wanted)
    try:
        for module in modules.values():
            module.set_processor(_WatchingProcessor(tape))
        yield tape
    finally:
        for name, module in modules.items():
            module.set_processor(before[name])


class EditedLinear(nn.Module):
    """A frozen linear map plus an edit: W + E + A B^T, with E, B fixed and A trained.

    Attributes:
        frozen: the checkpoint's own layer.
        edit: (out, in), what passes have changed so far.
        free: (out, r), trained; None outside of training.
        basis: (in, r), the directions of the input in which the trained part acts.
        pristine: when set, the edits are left out: the base model speaks.
    """

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.edit = torch.zeros_like(frozen.weight)
        self.free: Tensor | None = None
        self.basis: Tensor | None = None
        self.pristine = False

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        out: Tensor = self.frozen(x)
        if self.pristine:
            return out
        out = out + x @ self.edit.T
        if self.free is not None and self.basis is not None:
            out = out + x @ self.basis @ self.free.T
        return out

    def unfold(self, basis: Tensor) -> Tensor:
        """Starts training in the directions of ``basis``, from no change; returns what is to be trained."""
        self.basis = basis
        self.free = self.frozen.weight.new_zeros(len(self.frozen.weight), basis.shape[1]).requires_grad_()
        return self.free

    @torch.no_grad()
    def settle(self) -> None:
        """Adds the trained part to the edit and ends training."""
        if self.free is not None and self.basis is not None:
            self.edit = self.edit + self.free @ self.basis.T
        self.free = self.basis = None


@contextmanager
def speaking_as_base(layers: dict[str, EditedLinear]) -> Iterator[None]:
    """Leaves the edits out meanwhile."""
    for layer in layers.values():
        layer.pristine = True
    try:
        yield
    finally:
        for layer in layers.values():
            layer.pristine = False


@contextmanager
def edited_values(unet: UNet2DConditionModel) -> Iterator[dict[str, EditedLinear]]:
    """Puts an `EditedLinear` in place of every cross-attention's ``to_v``, and takes it out again.

    Yields:
        parameter name, e.g. ``...attn2.to_v.weight`` -> its edited layer.
    """
    layers: dict[str, EditedLinear] = {}
    modules = cross_attentions(unet)
    try:
        for name, module in modules.items():
            layers[f"{name}.to_v.weight"] = module.to_v = EditedLinear(module.to_v)
        yield layers
    finally:
        for module in modules.values():
            if isinstance(module.to_v, EditedLinear):
                module.to_v = module.to_v.frozen
