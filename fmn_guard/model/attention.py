"""Cross-attention, looked at: the probability mass that pixels give to chosen tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import PassError

See = Callable[[str, Tensor, Tensor], None]

_SMALL_MAP = 4 << 20  # bytes of a layer's attention map that cost less to keep than to compute again


def cross_attentions(denoiser: nn.Module) -> dict[str, Attention]:
    """The cross-attention modules (``attn2``) of a UNet or transformer, by name, in forward order of the module tree.

    Raises:
        PassError: it has none.
    """
    found = {name: m for name, m in denoiser.named_modules() if isinstance(m, Attention) and name.endswith("attn2")}
    if not found:
        raise PassError("the model has no cross-attention", hint="Forget-Me-Not needs one that is told text")
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
                hint="attention processors were replaced after hooking, or the backward pass has run layers again",
            )
        return torch.stack(self.masses).mean(0)


class _Processor(ABC):
    """Plain attention, looked at on the way."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None
        batch, length = encoder_hidden_states.shape[:2]
        bias = attn.prepare_attention_mask(attention_mask, length, batch)  # (B*heads, 1, T)
        return _delivered(attn, self._attended(attn, *_projected(attn, hidden_states, encoder_hidden_states), bias))

    @abstractmethod
    def _attended(self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """The values as pixels attend to them: (B*heads, P, C/heads)."""


class _SeenProcessor(_Processor):
    """Hands on its queries and probabilities."""

    def __init__(self, name: str, see: See) -> None:
        self._name, self._see = name, see

    def _attended(self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        probs = attn.get_attention_scores(query, key, bias)  # (B*heads, P, T)
        self._see(self._name, query.unflatten(0, (-1, attn.heads)), _by_head(attn, probs))
        return torch.bmm(probs, value)


class _WatchedProcessor(_Processor):
    """Hands on how much each token got, and keeps no large map for the backward pass.

    Maps grow with the pixels; they are computed again when gradients ask for them, from what is kept anyway.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def _attended(self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        if query.shape[0] * query.shape[1] * key.shape[1] * query.itemsize <= _SMALL_MAP:
            out, given = _attend(attn, query, key, value, bias)
        else:
            parts = (attn, query, key, value, bias)
            out, given = checkpoint(_attend, *parts, use_reentrant=False, preserve_rng_state=False)
        self._tape.masses.append((given * self._tape.wanted).sum(-1))
        attended: Tensor = out
        return attended


def _projected(attn: Attention, hidden_states: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B*heads, P, C/heads), and keys and values (B*heads, T, C/heads)."""
    projected = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
    query, key, value = (attn.head_to_batch_dim(each) for each in projected)
    return query, key, value


def _attend(attn: Attention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is delivered, (B*heads, P, C/heads), and what each token got of it: (B, T), mean over heads and pixels."""
    probs = attn.get_attention_scores(query, key, bias)  # (B*heads, P, T)
    return torch.bmm(probs, value), _by_head(attn, probs).float().mean((1, 2))


def _by_head(attn: Attention, probs: Tensor) -> Tensor:
    # head_to_batch_dim is batch-major: unflatten, never repeat, or batches > 1 get each other's tokens
    parts: Tensor = probs.unflatten(0, (-1, attn.heads))
    return parts


def _delivered(attn: Attention, out: Tensor) -> Tensor:
    whole: Tensor = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(out)))
    return whole


@contextmanager
def _processed(denoiser: nn.Module, processor: Callable[[str], _Processor]) -> Iterator[None]:
    """Replaces the processors of all cross-attentions meanwhile, also on error."""
    modules = cross_attentions(denoiser)
    before = {name: module.processor for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.set_processor(processor(name))
        yield
    finally:
        for name, module in modules.items():
            module.set_processor(before[name])


@contextmanager
def seen_attention(denoiser: nn.Module, see: See) -> Iterator[None]:
    """Shows what every cross-attention asks and where it looks; gives the model back as it was, even on error.

    Args:
        denoiser: a UNet or transformer; its processors are replaced meanwhile.
        see: called in each forward pass with the name of each cross-attention, its queries
            (B, heads, P, channels / heads) and its probabilities (B, heads, P, T), with gradients.
    """
    with _processed(denoiser, lambda name: _SeenProcessor(name, see)):
        yield


@contextmanager
def watch_attention(denoiser: nn.Module, wanted: Tensor | None = None) -> Iterator[Tape]:
    """Watches how much of the cross-attention goes to chosen tokens; gives the model back as it was, even on error.

    Args:
        denoiser: a UNet or transformer.
        wanted: (B, T), 1 at the tokens to watch; may be set on the tape before each forward pass instead.
    """
    tape = Tape(len(cross_attentions(denoiser)), torch.zeros(1, 1) if wanted is None else wanted)
    with _processed(denoiser, lambda _name: _WatchedProcessor(tape)):
        yield tape


class Edited(Protocol):
    """A weight of the checkpoint that passes edit."""

    edit: Tensor
    """What passes have changed so far; of the weight's shape."""
    pristine: bool
    """When set, the edit is left out: the base model speaks."""

    def settle(self) -> None:
        """Makes what was trained part of the edit."""


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
def speaking_as_base(layers: Mapping[str, Edited]) -> Iterator[None]:
    """Leaves the edits out meanwhile."""
    for layer in layers.values():
        layer.pristine = True
    try:
        yield
    finally:
        for layer in layers.values():
            layer.pristine = False


@contextmanager
def edited_values(denoiser: nn.Module) -> Iterator[dict[str, EditedLinear]]:
    """Puts an `EditedLinear` in place of every cross-attention's ``to_v``, and takes it out again.

    Yields:
        parameter name, e.g. ``...attn2.to_v.weight`` -> its edited layer.
    """
    layers: dict[str, EditedLinear] = {}
    modules = cross_attentions(denoiser)
    try:
        for name, module in modules.items():
            layers[f"{name}.to_v.weight"] = module.to_v = EditedLinear(module.to_v, module.heads)
        yield layers
    finally:
        for module in modules.values():
            if isinstance(module.to_v, EditedLinear):
                module.to_v = module.to_v.frozen
