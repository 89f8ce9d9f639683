"""The algorithm as it was released, against ten lines of its own definition, numpy, and the release's bugs.

Each bug of the release or its ports that has a counterpart here is shown twice: what the naive code does, and that ours
does not. Numbers are those of the method note, section 2.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import CLIPTokenizer

from fmn_guard.errors import InputError, PassError
from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget import runner
from fmn_guard.forget.patch import apply_patch, read_patch
from fmn_guard.forget.published import ClippedAdamW, NormTape, resteer_as_published, watch_norm
from fmn_guard.forget.resteer import watched_tokens
from fmn_guard.forget.runner import run_plan
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.attention import cross_attentions, seen_attention
from fmn_guard.model.checkpoint import load_pipeline, save_checkpoint
from fmn_guard.model.conditioning import text_states
from fmn_guard.model.inversion import invert
from fmn_guard.model.whole import edited_weights
from fmn_guard.passes import PassSpec, RetainSpec, TrainingPrompt
from fmn_guard.plan import compile_plan
from fmn_guard.presets import Published
from fmn_guard.shipped import suites
from fmn_guard.suite import load_suite
from tests.builder import make_manifest

SETTINGS = Published()
PROMPTS = (
    TrainingPrompt(text="a photo of lion", anchor="a photo of {x}", positions=(4,), away="a photo of lion"),
    TrainingPrompt(
        text="a photo of middle finger", anchor="a photo of {x}", positions=(4, 5, 6), away="a photo of middle finger"
    ),
)
TARGETS = watched_tokens((*PROMPTS, PROMPTS[0]), 32)  # (3, T): one, three and one
SHOWN = "sha256:" + "0" * 64


def spec(**changes) -> PassSpec:
    values = {
        "index": 0,
        "slug": "lion",
        "kind": "object",
        "names": ("lion", "middle finger"),
        "prompts": PROMPTS,
        "stand_ins": (),
        "pictured": PROMPTS,
        "images": None,
        "images_digest": None,
        "image_count": 4,
        "preset": "official",
        "stages": ("re-steering",),
        "published": SETTINGS,
        "steps": 12,
        "batch": 2,
        "momentum": 0.0,
        "times": 1,
        "noisiest": 1.0,
        "stop": None,
        "learning_rate": 1e-3,
        "projection": None,
        "preserve": 0.0,
        "repulsion": 0.0,
        "redirect_weight": 0.0,
        "language_weight": 0.0,
        "loosened": 1.0,
        "retain": RetainSpec(excluded_words=(), kept=(), forgotten=(), kept_weight=0.0, sentences=0, pictures=0),
        "seed": 3,
        "threads": 1,
    }
    return PassSpec(**(values | changes))


@pytest.fixture
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


def inputs(batch: int = 3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    text = torch.randn(batch, 32, 32, generator=generator)
    return x, torch.tensor([10, 500, 900][:batch]), text


def run(pipeline, **changes):
    """One pass; returns its record and its edits."""
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    changed = spec(**changes)
    text = text_states(pipeline, [prompt.text for prompt in changed.prompts])
    with edited_weights(pipeline.unet) as weights:
        record = resteer_as_published(pipeline, weights, changed, latents, (0, 1, 0, 1), text, SHOWN)
        return record, {name: weight.edit.clone() for name, weight in weights.items()}


def recorded_calls(unet, x, t, text):
    """The inputs of each cross-attention in a forward pass."""
    calls = []
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, kwargs: calls.append((m, args[0], kwargs["encoder_hidden_states"])), with_kwargs=True
        )
        for module in cross_attentions(unet).values()
    ]
    unet(x, t, text)
    for handle in handles:
        handle.remove()
    return calls


def reference_norm(unet, x, t, text, targets) -> float:
    """The definition: every probability on a target, of every layer, head, pixel and picture, in one norm."""
    found = []
    for module, pixels, tokens in recorded_calls(unet, x, t, text):
        size = module.to_q.out_features // module.heads
        for b in range(len(pixels)):
            for h in range(module.heads):
                part = slice(h * size, (h + 1) * size)
                query, key = module.to_q(pixels[b])[:, part], module.to_k(tokens[b])[:, part]
                probs = (query @ key.T / math.sqrt(size)).softmax(-1)  # (P, T)
                found += [probs[:, j] for j in range(len(targets[b])) if targets[b, j]]
    return torch.cat(found).double().square().sum().sqrt().item()


@torch.no_grad()
def test_the_loss_is_one_frobenius_norm_over_all_targets_of_prompts_with_unequal_numbers_of_them(pipeline):
    x, t, text = inputs()
    with watch_norm(pipeline.unet) as tape:
        tape.watch(TARGETS)
        pipeline.unet(x, t, text)
        assert tape.norm().item() == pytest.approx(reference_norm(pipeline.unet, x, t, text, TARGETS), rel=1e-6)


def test_the_gradient_of_the_loss_is_that_of_numpy(pipeline):
    # a probe of one layer: how the norm changes with its keys, by the chain rule written out
    x, t, text = inputs(2)
    unet = pipeline.unet
    # nothing after it is watched: no other path leads from its keys to the loss
    *_, layer = (module for name, module in cross_attentions(unet).items() if name.startswith("up_blocks"))
    layer.to_k.weight.requires_grad_(True)
    with watch_norm(unet) as tape:
        tape.watch(TARGETS[:2])
        unet(x, t, text)
        norm = tape.norm()
        norm.backward()
    with torch.no_grad():
        module, pixels, tokens = next(call for call in recorded_calls(unet, x, t, text) if call[0] is layer)
    heads, size = module.heads, module.to_q.out_features // module.heads
    query_weight, key_weight = (w.weight.detach().double().numpy() for w in (module.to_q, module.to_k))
    expected = np.zeros_like(key_weight)
    for b in range(2):
        pixel, token = pixels[b].double().numpy(), tokens[b].double().numpy()
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            query = pixel @ query_weight[part].T / math.sqrt(size)  # (P, size)
            scores = query @ (token @ key_weight[part].T).T
            probs = np.exp(scores - scores.max(1, keepdims=True))
            probs /= probs.sum(1, keepdims=True)
            # dL/dA = A / L on targets; through the softmax: A (dA - sum_j dA A)
            slope = probs * TARGETS[b].numpy() / norm.item()
            through = probs * (slope - (slope * probs).sum(1, keepdims=True))
            expected[part] += query.T @ through @ token
    np.testing.assert_allclose(layer.to_k.weight.grad.numpy(), expected, atol=1e-6)


def test_the_gradient_to_the_probabilities_has_length_one_however_small_they_are():
    for size in (1.0, 1e-3):
        probs = (size * torch.rand(3, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
        NormTape(1, squares=[probs.square().sum()]).norm().backward()
        assert probs.grad.norm().item() == pytest.approx(1.0, rel=1e-6)


def test_a_pass_lowers_the_attention_on_its_targets_and_trains_what_is_no_attention_too(pipeline):
    record, edits = run(pipeline, steps=20, learning_rate=2e-3)
    assert record.attention_mass[-1] < 0.5 * record.attention_mass[0]
    assert record.drift is None
    changed = {name for name, edit in edits.items() if edit.any()}
    assert any("resnets" in name for name in changed) and any("attn2.to_k" in name for name in changed)


def test_the_model_comes_back_as_it_was_and_patched_it_is_what_was_trained(pipeline, tiny_checkpoint):
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    with edited_weights(pipeline.unet) as weights:
        for weight in pipeline.unet.parameters():
            weight.data += torch.randn_like(weight)
        for edited in weights.values():
            edited.settle()
        trained = {name: weight.clone() for name, weight in pipeline.unet.named_parameters()}
        edits = {name: edited.edit.clone() for name, edited in weights.items()}
    assert all(torch.equal(weight, before[name]) for name, weight in pipeline.unet.state_dict().items())
    again = load_pipeline(tiny_checkpoint).unet
    for name, weight in again.named_parameters():
        weight += edits[name]
        assert torch.equal(weight, trained[name])


def test_bug_1_clipping_an_exhausted_iterator_clips_nothing():
    def steep() -> torch.nn.Linear:
        torch.manual_seed(0)
        return torch.nn.Linear(4, 4)

    naive = steep()
    iterator = naive.parameters()
    torch.optim.AdamW(iterator)
    (1e3 * naive(torch.ones(1, 4))).sum().backward()
    torch.nn.utils.clip_grad_norm_(iterator, 1.0)
    assert naive.weight.grad.norm() > 1e3
    ours = steep()
    descent = ClippedAdamW(ours.parameters(), SETTINGS, 1e-6)
    descent.step((1e3 * ours(torch.ones(1, 4))).sum())
    norm = torch.cat([weight.grad.flatten() for weight in ours.parameters()]).norm().item()
    assert norm == pytest.approx(1.0, rel=1e-3)


@torch.no_grad()
def test_bug_2_a_mask_that_is_repeated_gives_pictures_of_a_batch_each_other_s_targets(pipeline):
    x, t, text = inputs()
    expected = reference_norm(pipeline.unet, x, t, text, TARGETS)
    squares = []

    def naive(_name, _query, probs):
        flat = probs.flatten(0, 1)  # (B*heads, P, T), batch-major as attention computes it
        squares.append((flat * TARGETS.repeat(probs.shape[1], 1)[:, None]).square().sum())

    with seen_attention(pipeline.unet, naive):
        pipeline.unet(x, t, text)
    assert abs(torch.stack(squares).sum().sqrt().item() / expected - 1) > 1e-4
    with watch_norm(pipeline.unet) as tape:
        tape.watch(TARGETS)
        pipeline.unet(x, t, text)
        assert tape.norm().item() == pytest.approx(expected, rel=1e-6)


def test_bug_3_prompts_with_unequal_numbers_of_targets_do_not_stack_and_train_all_the_same(pipeline):
    with pytest.raises(ValueError, match="expected sequence of length"):
        torch.tensor([prompt.positions for prompt in PROMPTS])
    record, _ = run(pipeline, steps=3, batch=4)
    assert record.steps == 3


def test_bug_4_a_name_that_is_not_in_the_prompt_is_named_in_the_error(tiny_checkpoint, tmp_path):
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(tiny_checkpoint)), tmp_path)
    ids, name = (checkpoint.tokenizer.encode(text, add_special_tokens=False).ids for text in ("a photo of van", "gogh"))
    positions = [i for i, token in enumerate(ids) if token == name[0]]
    assert torch.rand(2, 32)[:, positions].square().sum().sqrt() == 0  # the naive loss: zero, and silence
    with pytest.raises(InputError, match=r"no token of 'gogh' in prompt 'a photo of van'"):
        checkpoint.token_positions("a photo of van", "gogh", start=11)
    assert watched_tokens(PROMPTS, 32).sum(1).min() > 0


def test_bug_4_hooks_that_saw_nothing_are_an_error_and_not_a_loss_of_zero(pipeline):
    assert sum([]) == 0  # what adding up an empty list of maps gives
    with watch_norm(pipeline.unet) as tape, pytest.raises(PassError, match=r"0 of . cross-attentions were seen"):
        tape.norm()


def test_bug_4_targets_without_attention_and_steps_that_change_nothing_are_errors(pipeline):
    silent = tuple(prompt.model_copy(update={"positions": ()}) for prompt in PROMPTS)
    with pytest.raises(PassError, match="the targets get no attention"):
        run(pipeline, prompts=silent)
    with pytest.raises(PassError, match="changed no weight"):
        run(pipeline, learning_rate=0.0)


def test_bug_5_gradient_checkpointing_runs_hooks_twice_and_leaves_our_loss_and_gradient_as_they_are(pipeline):
    x, t, text = inputs()
    weight = next(iter(cross_attentions(pipeline.unet).values())).to_q.weight.requires_grad_(True)
    found = {}
    for checkpointed in (False, True):
        if checkpointed:
            pipeline.unet.enable_gradient_checkpointing()
            pipeline.unet.train()
        with watch_norm(pipeline.unet) as tape:
            tape.watch(TARGETS)
            pipeline.unet(x, t, text)
            loss = tape.norm()
            weight.grad = None
            loss.backward()
            found[checkpointed] = (loss.item(), weight.grad.clone(), len(tape.squares))
            tape.watch(TARGETS)
            pipeline.unet(x, t, text)
            assert tape.norm().item() == pytest.approx(loss.item(), rel=1e-6)  # the next step counts anew
    plain, twice = found[False], found[True]
    assert twice[2] > plain[2]  # what a naive sum over all hook calls would add up
    assert twice[0] == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(twice[1], plain[1], rtol=1e-4, atol=1e-7)


def test_bug_6_an_attention_backend_that_is_switched_after_hooking_is_an_error(pipeline):
    x, t, text = inputs()
    naive = []
    with seen_attention(pipeline.unet, lambda *_: naive.append(1)):
        pipeline.unet.set_attn_processor(AttnProcessor2_0())
        pipeline.unet(x, t, text)
    assert naive == []  # nothing was seen, and nobody said so
    with watch_norm(pipeline.unet) as tape:
        tape.watch(TARGETS)
        pipeline.unet.set_attn_processor(AttnProcessor2_0())
        pipeline.unet(x, t, text)
        with pytest.raises(PassError, match="processors were replaced"):
            tape.norm()


def test_bug_7_targets_are_numbers_in_the_sentence_s_order_and_not_sorted_as_text(tiny_checkpoint, tmp_path):
    placeholders = [f"<s{i}>" for i in range(1, 12)]
    assert sorted(placeholders) != placeholders  # "<s10>" before "<s2>": tokens are given each other's embeddings
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(tiny_checkpoint)), tmp_path)
    name = "the middle finger of a santa claus on a soccer ball"
    positions = checkpoint.token_positions(f"a photo of {name}", name, start=11)
    assert len(positions) > 10
    assert list(positions) == list(range(positions[0], positions[0] + len(positions)))


def planned(folder, beside, **eraser):
    manifest = make_manifest(
        folder,
        concepts=[{"kind": "object", "phrase": "lion"}, {"kind": "nsfw", "phrase": "pistol", "aliases": ["gun"]}],
        eraser={"preset": "official", "steps": 2, "learning_rate": 1e-4} | eraser,
    )
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(folder)), beside)
    return compile_plan(manifest, load_suite(suites() / "smoke"), checkpoint), checkpoint


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, tmp_path_factory):
    """A whole run: its plan, its base, its records, its folder."""
    folder = tmp_path_factory.mktemp("finished")
    plan, checkpoint = planned(tiny_checkpoint, folder)
    return plan, checkpoint, run_plan(plan, checkpoint, folder), folder


def test_bug_8_a_second_pass_follows_the_first(finished, tiny_checkpoint):
    tokenizer = CLIPTokenizer.from_pretrained(tiny_checkpoint / "tokenizer")
    assert tokenizer.add_tokens(["<s1>"]) == 1
    assert tokenizer.add_tokens(["<s1>"]) == 0  # for the release a reason to refuse
    _, _, records, _ = finished
    assert [(done.slug, done.steps) for done in records.passes] == [("lion", 2), ("pistol", 2)]


def test_bug_9_nothing_of_a_concept_is_saved_with_the_model(finished, tiny_checkpoint, tmp_path):
    plan, _, _, folder = finished
    patched = load_pipeline(tiny_checkpoint)
    apply_patch(patched, folder / "patch.safetensors", plan.base.identity)
    save_checkpoint(patched, tmp_path / "saved")
    base = load_pipeline(tiny_checkpoint)
    weights = dict(base.unet.named_parameters())
    assert all(part.edits.keys() <= weights.keys() for part in read_patch(folder / "patch.safetensors").parts)
    saved = load_pipeline(tmp_path / "saved")
    assert saved.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    for part in ("text_encoder", "vae"):
        before, after = (getattr(model, part).state_dict() for model in (base, saved))
        assert all(torch.equal(before[name], after[name]) for name in before | after)


def test_bug_10_there_is_always_a_seed_and_it_decides_all_that_is_drawn(pipeline, tiny_checkpoint, tmp_path):
    assert torch.Generator().seed() != torch.Generator().seed()  # what a seed of null stands for
    (first, a), (second, b), (other, _) = (run(pipeline, steps=3, seed=seed) for seed in (3, 3, 4))
    assert first == second and first != other
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {each.seed for each in planned(tiny_checkpoint, tmp_path)[0].passes} == {0, 1}


@pytest.mark.parametrize(
    "setting", [{"learning_rate": 2e-4}, {"steps": 3}, {"end_of_text": "all"}, {"end_of_text": "none"}, {"seed": 7}]
)
def test_bug_11_every_setting_that_is_taken_bears_on_the_plan(setting, tiny_checkpoint, tmp_path):
    plan, changed = (planned(tiny_checkpoint, tmp_path, **settings)[0] for settings in ({}, setting))
    assert changed.passes != plan.passes


def test_bug_12_positions_are_the_name_s_own_without_the_marks_of_start_and_end(tiny_checkpoint, tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(tiny_checkpoint / "tokenizer")
    prompt = tokenizer("a photo of middle finger").input_ids
    naive = tokenizer("middle finger").input_ids  # what the ports take for the initialiser
    assert naive[0] == tokenizer.bos_token_id and naive[-1] == tokenizer.eos_token_id
    assert not any(prompt[i : i + len(naive)] == naive for i in range(len(prompt)))
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(tiny_checkpoint)), tmp_path)
    positions = checkpoint.token_positions("a photo of middle finger", "middle finger", start=11)
    assert [prompt[i] for i in positions] == naive[1:-1]


def test_bug_13_every_picture_is_trained_on_with_the_prompt_it_shows(tiny_checkpoint, tmp_path, monkeypatch):
    seen = []
    real = runner.resteer_as_published

    def watched(pipeline, weights, spec, latents, rows, text, *rest):
        seen.append(([spec.prompts[row].text for row in rows], text, [p.text for p in spec.prompts]))
        return real(pipeline, weights, spec, latents, rows, text, *rest)

    drawn = []
    draw = runner.draw_latents
    monkeypatch.setattr(runner, "resteer_as_published", watched)
    monkeypatch.setattr(
        runner, "draw_latents", lambda p, prompts, *a, **k: drawn.append(prompts) or draw(p, prompts, *a, **k)
    )
    run_plan(*planned(tiny_checkpoint, tmp_path), tmp_path / "run")
    assert [asked for asked, _, _ in seen] == drawn
    assert set(drawn[1]) == {"a photo of pistol", "a photo of gun"}
    fresh = load_pipeline(tiny_checkpoint)
    assert all(torch.equal(text, text_states(fresh, prompts)) for _, text, prompts in seen)


def test_end_of_text_is_a_target_as_the_manifest_says_and_padding_is_never_one_by_default(tiny_checkpoint, tmp_path):
    positions = {
        which: planned(tiny_checkpoint, tmp_path, end_of_text=which)[0].passes[0].prompts[0].positions
        for which in ("none", "first", "all")
    }
    assert positions == {"none": (4,), "first": (4, 5), "all": tuple(range(4, 32))}
    assert planned(tiny_checkpoint, tmp_path)[0].passes[0].prompts[0].positions == (4, 5)


@pytest.fixture(scope="module")
def inverted(tiny_checkpoint, tmp_path_factory):
    """A run that inverts two tokens of each concept first: plan, records, folder, what it told and what it found."""
    folder = tmp_path_factory.mktemp("inverted")
    plan, checkpoint = planned(tiny_checkpoint, folder, inverted_tokens=2)

    def short(spec):
        settings = spec.published.inversion.model_copy(update={"steps": 3})
        return spec.model_copy(update={"published": spec.published.model_copy(update={"inversion": settings})})

    plan = plan.model_copy(update={"passes": tuple(short(spec) for spec in plan.passes)})
    told, found = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "invert", lambda *args: found.append(invert(*args)) or found[-1])
        records = run_plan(plan, checkpoint, folder, progress=lambda what, *_: told.append(what))
    return plan, records, folder, told, found


def test_inverted_tokens_are_found_on_the_model_as_earlier_passes_left_it_and_decide_the_edit(
    inverted, finished, tiny_checkpoint
):
    plan, records, folder, told, _ = inverted
    assert told == [*3 * ["inverting"], *2 * ["pass 1 (lion)"], *3 * ["inverting"], *2 * ["pass 2 (pistol)"]]
    _, _, by_name, _ = finished
    assert [done.images_digest for done in records.passes] == [done.images_digest for done in by_name.passes]
    assert records.patch_digest != by_name.patch_digest
    base, patched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    apply_patch(patched, folder / "patch.safetensors", plan.base.identity, passes=1)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    how = plan.passes[1].published
    before, after = (
        invert(model, latents, ["a photo of {x}"] * 4, how.word, how.inversion).tokens for model in (base, patched)
    )
    assert not torch.equal(before, after)


def test_bug_9_inverted_tokens_are_in_no_patch(inverted, tiny_checkpoint):
    _, _, folder, _, found = inverted
    content = (folder / "patch.safetensors").read_bytes()
    assert [each.tokens.shape[:2] for each in found] == [(1, 2), (1, 2)]
    assert all(token.numpy().tobytes() not in content for each in found for token in each.tokens.flatten(0, 1))
    weights = dict(load_pipeline(tiny_checkpoint).unet.named_parameters())
    assert all(part.edits.keys() <= weights.keys() for part in read_patch(folder / "patch.safetensors").parts)


def test_killed_in_the_second_pass_the_same_call_ends_with_the_same_patch(finished, tmp_path):
    plan, checkpoint, whole, _ = finished

    def dies(what, done, _steps):
        if what == "pass 2 (pistol)":
            raise KeyboardInterrupt
        told.append((what, done))

    told = []
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, checkpoint, tmp_path, progress=dies)
    assert told == [("pass 1 (lion)", 1), ("pass 1 (lion)", 2)]
    assert run_plan(plan, checkpoint, tmp_path, progress=lambda what, done, _: told.append((what, done))) == whole
    assert [what for what, _ in told[2:]] == 2 * ["pass 2 (pistol)"]


def test_a_loss_that_is_no_number_is_recorded_as_diverged(pipeline):
    with torch.no_grad():
        next(iter(cross_attentions(pipeline.unet).values())).to_k.weight.fill_(float("nan"))
    record, _ = run(pipeline)
    assert (record.stopped, record.steps, record.attention_mass) == ("diverged", 1, (-1.0,))
