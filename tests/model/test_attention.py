"""Cross-attention capture against an independent computation from the published formula."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fmn_guard.errors import PassError
from fmn_guard.model import attention
from fmn_guard.model.attention import EditedLinear, cross_attentions, edited_values, watch_attention
from fmn_guard.model.checkpoint import load_pipeline


@pytest.fixture
def unet(tiny_checkpoint) -> Iterator[torch.nn.Module]:
    yield load_pipeline(tiny_checkpoint).unet


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    text = torch.randn(batch, 32, 32, generator=generator)
    return x, torch.tensor([10, 500, 900][:batch]), text


def reference_masses(unet, x, t, text, wanted) -> Tensor:
    """softmax(Q K^T / sqrt(d)) head by head from the recorded inputs of each attn2, in plain loops."""
    calls: list[tuple[object, Tensor, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs: calls.append((m, args[0], kwargs["encoder_hidden_states"])), with_kwargs=True
        )
        for module in cross_attentions(unet).values()
    ]
    unet(x, t, text)
    for handle in handles:
        handle.remove()
    layers = []
    for module, pixels, tokens in calls:
        query, key = module.to_q(pixels), module.to_k(tokens)
        size = query.shape[-1] // module.heads
        rows = []
        for b in range(len(query)):
            masses = []
            for h in range(module.heads):
                part = slice(h * size, (h + 1) * size)
                probs = (query[b, :, part] @ key[b, :, part].T / math.sqrt(size)).softmax(-1)
                masses.append((probs * wanted[b]).sum(-1).mean())
            rows.append(torch.stack(masses).mean())
        layers.append(torch.stack(rows))
    return torch.stack(layers).mean(0)


def test_mass_equals_the_formula_for_every_row_of_a_batch(unet):
    x, t, text = inputs()
    wanted = torch.zeros(3, 32)
    wanted[0, 1], wanted[1, 2:5], wanted[2, [1, 7]] = 1, 1, 1
    with torch.no_grad():
        expected = reference_masses(unet, x, t, text, wanted)
        with watch_attention(unet, wanted) as tape:
            unet(x, t, text)
            assert len(tape.masses) == len(cross_attentions(unet))
            torch.testing.assert_close(tape.mass(), expected, rtol=1e-4, atol=1e-6)


def test_mass_on_all_tokens_is_one(unet):
    x, t, text = inputs()
    with torch.no_grad(), watch_attention(unet, torch.ones(3, 32)) as tape:
        unet(x, t, text)
    torch.testing.assert_close(tape.mass(), torch.ones(3))


@pytest.mark.parametrize("small", [0, attention._SMALL_MAP])
def test_no_large_map_is_kept_for_the_backward_pass_and_gradients_are_those_of_a_kept_one(unet, monkeypatch, small):
    monkeypatch.setattr(attention, "_SMALL_MAP", small)
    x, t, text = inputs()
    text = text[:, :29].requires_grad_()  # a length that nothing else has
    wanted = torch.zeros(3, 29)
    wanted[:, 2] = 1
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), watch_attention(unet, wanted) as tape:
        unet(x, t, text)
        mass = tape.mass().sum()
    assert bool([shape for shape in kept if shape[-1:] == (29,) and shape[-2] in (64, 16)]) == bool(small)
    [found] = torch.autograd.grad(mass, [text])
    [expected] = torch.autograd.grad(reference_masses(unet, x, t, text, wanted).sum(), [text])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_watching_does_not_change_the_prediction(unet):
    x, t, text = inputs()
    with torch.no_grad():
        before = unet(x, t, text).sample
        with watch_attention(unet, torch.ones(3, 32)):
            during = unet(x, t, text).sample
    torch.testing.assert_close(during, before, rtol=1e-4, atol=1e-5)


def test_processors_come_back_after_an_error(unet):
    before = {name: module.processor for name, module in cross_attentions(unet).items()}
    with pytest.raises(ZeroDivisionError), watch_attention(unet, torch.ones(1, 32)):
        _ = 1 / 0
    assert {name: module.processor for name, module in cross_attentions(unet).items()} == before


def test_silent_hooks_are_an_error_not_a_zero_loss(unet):
    with (
        watch_attention(unet, torch.ones(1, 32)) as tape,
        pytest.raises(PassError, match=r"0 of . cross-attentions were seen"),
    ):
        tape.mass()


def test_edited_layers_are_the_base_until_they_are_trained_and_are_taken_out_again(unet):
    x, t, text = inputs()
    frozen = {name: module.to_v for name, module in cross_attentions(unet).items()}
    with torch.no_grad():
        before = unet(x, t, text).sample
        with edited_values(unet) as layers:
            assert len(layers) == len(frozen)
            torch.testing.assert_close(unet(x, t, text).sample, before)
            for layer in layers.values():
                layer.edit = layer.edit + 0.1
            assert not torch.allclose(unet(x, t, text).sample, before)
            for layer in layers.values():
                layer.pristine = True
            torch.testing.assert_close(unet(x, t, text).sample, before)
    assert {name: module.to_v for name, module in cross_attentions(unet).items()} == frozen


def test_a_settled_edit_maps_as_the_trained_layer_did():
    torch.manual_seed(1)
    layer = EditedLinear(torch.nn.Linear(6, 4, bias=False), heads=2)
    layer.edit = torch.randn(4, 6)
    free = layer.unfold(torch.randn(2, 6, 6))
    with torch.no_grad():
        free += torch.randn(2, 2, 6)
    x = torch.randn(5, 6)
    during = layer(x).detach()
    layer.settle()
    torch.testing.assert_close(layer(x), during)
    assert layer.free is None
