"""What heads read, against plain loops over pixels and tokens."""

from __future__ import annotations

import math

import pytest
import torch

from fmn_guard.forget.reading import added, moments, noised
from fmn_guard.model.attention import cross_attentions
from fmn_guard.model.checkpoint import load_pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


def inputs(count: int = 3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, 8, 8, generator=generator)
    states = torch.randn(2, count, 32, 32, generator=generator)
    return x, torch.tensor([10, 500, 900][:count]), states[0], states[1]


def reference(unet, x, t, text, also):
    """Sums over records of the mean over pixels, from the recorded inputs of each attn2."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs, name=name: seen.update({name: (m, args[0])}), with_kwargs=True
        )
        for name, module in cross_attentions(unet).items()
    ]
    unet(x, t, text)
    for handle in handles:
        handle.remove()
    found = {}
    for name, (module, pixels) in seen.items():
        query, key = module.to_q(pixels), module.to_k(text)
        size = query.shape[-1] // module.heads
        own, crossed = torch.zeros(2, module.heads, 32, 32, dtype=torch.float64)
        for b in range(len(x)):
            for h in range(module.heads):
                part = slice(h * size, (h + 1) * size)
                probs = (query[b, :, part] @ key[b, :, part].T / math.sqrt(size)).softmax(-1).double()
                read, other = probs @ text[b].double(), probs @ also[b].double()
                own[h] += read.T @ read / len(read)
                crossed[h] += other.T @ read / len(read)
        found[f"{name}.to_v.weight"] = (own, crossed)
    return found


@torch.no_grad()
def test_moments_are_those_of_states_averaged_by_attention(pipeline):
    x, t, text, also = inputs()
    own, crossed = moments(pipeline, x, t, text, also)
    expected = reference(pipeline.unet, x, t, text, also)
    assert own.keys() == crossed.keys() == expected.keys()
    for name, (a, b) in expected.items():
        torch.testing.assert_close(own[name], a, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(crossed[name], b, rtol=1e-4, atol=1e-4)


def test_moments_of_parts_add_up(pipeline):
    x, t, text, _ = inputs()
    whole, _ = moments(pipeline, x, t, text)
    one, _ = moments(pipeline, x[:1], t[:1], text[:1])
    rest, _ = moments(pipeline, x[1:], t[1:], text[1:])
    for name, part in added((1.0, one), (1.0, rest)).items():
        torch.testing.assert_close(part, whole[name], rtol=1e-4, atol=1e-5)


def test_latents_are_noised_as_the_schedule_says(pipeline):
    x0 = torch.full((4000, 1, 1, 1), 3.0)
    x_t, t = noised(pipeline, x0, torch.Generator().manual_seed(0))
    alphas = pipeline.scheduler.alphas_cumprod
    assert 0 <= t.min() < 20 and 980 <= t.max() < 1000  # uniform over all of it
    noise = (x_t.flatten() - alphas[t].sqrt() * 3) / (1 - alphas[t]).sqrt()
    assert noise.mean().item() == pytest.approx(0, abs=0.06)
    assert noise.std().item() == pytest.approx(1, abs=0.04)
