"""Cross-attention, looked at: the probability mass that pixels give to chosen tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..errors import PassError

See = Callable[[str, Tensor, Tensor], None]


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


class _SeenProcessor:
    """Plain attention that also hands on its queries and probabilities."""

    def __init__(self, name: str, see: See) -> None:
        self._name, self._see = name, see

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
        self._see(self._name, query.unflatten(0, (-1, attn.heads)), probs.unflatten(0, (-1, attn.heads)))
        out: Tensor = attn.batch_to_head_dim(torch.bmm(probs, value))
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


@contextmanager
def seen_attention(unet: UNet2DConditionModel, see: See) -> Iterator[None]:
    """Shows what every cross-attention asks and where it looks; gives the UNet back as it was, even on error.

    Args:
        unet: the model; its processors are replaced meanwhile.
        see: called in each forward pass with the name of each cross-attention, its queries
            (B, heads, P, channels / heads) and its probabilities (B, heads, P, T), with gradients.
    """
    modules = cross_attentions(unet)
    before = {name: module.processor for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.set_processor(_SeenProcessor(name, see))
        yield
    finally:
        for name, module in modules.items():
            module.set_processor(before[name])


@contextmanager
def watch_attention(unet: UNet2DConditionModel, wanted: Tensor | None = None) -> Iterator[Tape]:
    """Watches how much of the cross-attention goes to chosen tokens.

    Args:
        unet: the model.
        wanted: (B, T), 1 at the tokens to watch; may be set on the tape before each forward pass instead.
    """
    tape = Tape(len(cross_attentions(unet)), torch.zeros(1, 1) if wanted is None else wanted)

    def see(_name: str, _query: Tensor, probs: Tensor) -> None:
        tape.masses.append((probs.float().mean((1, 2)) * tape.wanted).sum(-1))  # (B, heads, P, T) -> (B, T) -> (B,)

    with seen_attention(unet, see):
        yield tape


class EditedLinear(nn.Module):
    """A frozen linear map plus an edit, head by head: W + E + F B, with E, B fixed and F trained.

    The edit is float32 whatever the precision of the map: its steps would be lost in less.

    Args:
        frozen: the checkpoint's own layer.
        heads: attention heads that share its outputs out among them.

    Attributes:
        edit: (out, in), what passes have changed so far.
        free: (heads, out / heads, in), trained; None outside of training.
        basis: (heads, in, in), the coordinates in which it is trained.
        pristine: when set, the edits are left out: the base model speaks.
    """

    def __init__(self, frozen: nn.Linear, heads: int = 1) -> None:
        super().__init__()
        self.frozen = frozen
        self.heads = heads
        self.edit = torch.zeros_like(frozen.weight, dtype=torch.float32)
        self.free: Tensor | None = None
        self.basis: Tensor | None = None
        self.pristine = False

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        out: Tensor = self.frozen(x)
        return out if self.pristine else out + (x.to(self.edit) @ self._changed().T).to(out)

    def by_head(self, weight: Tensor) -> Tensor:
        """Splits a weight of this layer: (out, in) -> (heads, out / heads, in) float64, on the CPU."""
        parts: Tensor = weight.detach().cpu().double().unflatten(0, (self.heads, -1))
        return parts

    def unfold(self, basis: Tensor) -> Tensor:
        """Starts training in the coordinates of ``basis``, from no change; returns what is to be trained."""
        self.basis = basis.to(self.edit)
        self.free = torch.zeros_like(self.edit).unflatten(0, (self.heads, -1)).requires_grad_()
        return self.free

    @torch.no_grad()
    def settle(self) -> None:
        """Adds the trained part to the edit and ends training."""
        self.edit = self._changed()
        self.free = self.basis = None

    def _changed(self) -> Tensor:
        if self.free is None or self.basis is None:
            return self.edit
        return self.edit + (self.free @ self.basis).flatten(0, 1)


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
            layers[f"{name}.to_v.weight"] = module.to_v = EditedLinear(module.to_v, module.heads)
        yield layers
    finally:
        for module in modules.values():
            if isinstance(module.to_v, EditedLinear):
                module.to_v = module.to_v.frozen
