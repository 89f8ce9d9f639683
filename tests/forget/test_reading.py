"""What heads read, against plain loops over pixels and tokens."""

from __future__ import annotations

import math

import pytest
import torch

from fmn_guard.forget.reading import added, moments, moved, noised, queries
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


def asked(pipeline, x, t, text):
    return queries(pipeline, x, t, text, torch.Generator().manual_seed(1))


@torch.no_grad()
def test_queries_are_those_of_the_records_pixels_in_random_order(pipeline):
    x, t, text, _ = inputs()
    pixels = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs, name=name: pixels.update({name: args[0]}), with_kwargs=True
        )
        for name, module in cross_attentions(pipeline.unet).items()
    ]
    found = asked(pipeline, x, t, text)
    for handle in handles:
        handle.remove()
    for name, module in cross_attentions(pipeline.unet).items():
        real = module.to_q(pixels[name])  # (B, P, C)
        distances = (found[f"{name}.to_v.weight"].flatten(1)[:, None] - real.flatten(0, 1)).abs().amax(-1)
        assert distances.min(1).values.max() < 1e-5
        records = distances.argmin(1) // real.shape[1]
        assert records.bincount().tolist() == [64, 64, 64]
        assert records[:40].unique().tolist() == [0, 1, 2]


def reference(unet, asked, text, also, each):
    """Sums over sentences of the mean over each, in plain loops; sentence i takes the i-th batch of queries."""
    found = {}
    for name, module in cross_attentions(unet).items():
        key, all_queries = module.to_k(text), asked[f"{name}.to_v.weight"]
        size = key.shape[-1] // module.heads
        own, crossed = torch.zeros(2, module.heads, 32, 32, dtype=torch.float64)
        for b in range(len(text)):
            for h in range(module.heads):
                query = torch.stack([all_queries[(b * each + i) % len(all_queries), h] for i in range(each)])
                probs = (query @ key[b, :, h * size : (h + 1) * size].T / math.sqrt(size)).softmax(-1).double()
                read, other = probs @ text[b].double(), probs @ also[b].double()
                own[h] += read.T @ read / each
                crossed[h] += other.T @ read / each
        found[f"{name}.to_v.weight"] = (own, crossed)
    return found


@torch.no_grad()
@pytest.mark.parametrize("each", [5, 100])  # 100 sentences' worth is more than there are queries
def test_moments_are_those_of_states_averaged_by_attention(pipeline, each):
    x, t, text, also = inputs()
    found = asked(pipeline, x, t, text)
    own, crossed = moments(pipeline, found, text, each, also)
    expected = reference(pipeline.unet, found, text, also, each)
    assert own.keys() == crossed.keys() == expected.keys()
    for name, (a, b) in expected.items():
        torch.testing.assert_close(own[name], a, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(crossed[name], b, rtol=1e-4, atol=1e-4)


def test_moments_of_parts_add_up(pipeline):
    x, t, text, _ = inputs()
    found = asked(pipeline, x, t, text)
    every = len(next(iter(found.values())))  # all queries to each sentence
    whole, _ = moments(pipeline, found, text, every)
    one, _ = moments(pipeline, found, text[:1], every)
    rest, _ = moments(pipeline, found, text[1:], every)
    for name, part in added((1.0, one), (1.0, rest)).items():
        torch.testing.assert_close(part, whole[name], rtol=1e-4, atol=1e-5)


def test_latents_are_noised_as_the_schedule_says(pipeline):
    x0 = torch.full((4000, 1, 1, 1), 3.0)
    x_t, t = noised(pipeline, x0, torch.Generator().manual_seed(0))
    alphas = pipeline.scheduler.alphas_cumprod
    assert 0 <= t.min() < 20 and 980 <= t.max() < 1000  # uniform over all of it
    _, noisy = noised(pipeline, x0, torch.Generator().manual_seed(0), noisiest=0.5)
    assert 500 <= noisy.min() < 510 and 990 <= noisy.max() < 1000
    noise = (x_t.flatten() - alphas[t].sqrt() * 3) / (1 - alphas[t]).sqrt()
    assert noise.mean().item() == pytest.approx(0, abs=0.06)
    assert noise.std().item() == pytest.approx(1, abs=0.04)


@torch.no_grad()
def test_how_far_a_sentence_moves_is_what_the_change_of_values_makes_of_what_is_read_of_it(pipeline):
    x, t, text, _ = inputs()
    found, each = asked(pipeline, x, t, text), 3
    values, change, expected = {}, {}, torch.zeros(len(text), dtype=torch.float64)
    for i, (name, module) in enumerate(cross_attentions(pipeline.unet).items()):
        weight = module.to_v.weight.double()
        part = torch.randn(weight.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        values[f"{name}.to_v.weight"] = weight.unflatten(0, (module.heads, -1))
        change[f"{name}.to_v.weight"] = part.unflatten(0, (module.heads, -1))
        key, size = module.to_k(text), module.to_k.out_features // module.heads
        energy = torch.zeros(2, len(text), dtype=torch.float64)
        for b in range(len(text)):
            for h in range(module.heads):
                rows = slice(h * size, (h + 1) * size)
                query = torch.stack([found[f"{name}.to_v.weight"][b * each + i, h] for i in range(each)])
                read = (query @ key[b, :, rows].T / math.sqrt(size)).softmax(-1).double() @ text[b].double()
                for row, whole in enumerate((part, weight)):
                    energy[row, b] += (read @ whole[rows].T).square().sum() / each
        expected += energy[0] / energy[1].mean()
    torch.testing.assert_close(moved(pipeline, found, text, each, values, change), expected, rtol=1e-4, atol=1e-6)
