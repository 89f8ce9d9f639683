"""The small CLIP; its text tower is the diffusion model's frozen text encoder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from .captions import article, caption, corpus
from .legs import train
from .pictures import BROAD, Sprites, compose, draw_scene
from .world import DEFAULT_STYLE, ENTRIES, PORTRAIT, STYLES

BATCH = 96
LENGTH = 32  # tokens; the longest caption has 19
VOCABULARY = 1400


def build_tokenizer(work: Path) -> CLIPTokenizer:
    """Byte-level BPE in CLIP's format, merges learned from captions, any text accepted."""
    folder = work / "tokenizer"
    if not folder.exists():
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        from tokenizers import Regex

        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", fuse_unk=False))
        bpe.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY - 2,
            end_of_word_suffix="</w>",
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=1,
        )
        bpe.train_from_iterator(corpus(), trainer)
        trained = json.loads(bpe.to_str())["model"]
        # CLIP needs every byte as a word's last piece too, or it would drop unknown endings
        vocab: dict[str, int] = dict(trained["vocab"])
        for byte in pre_tokenizers.ByteLevel.alphabet():
            for piece in (byte, f"{byte}</w>"):
                vocab.setdefault(piece, len(vocab))
        for special in ("<|startoftext|>", "<|endoftext|>"):
            vocab.setdefault(special, len(vocab))
        merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in trained["merges"]]
        tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
        tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=128,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


def run(work: Path, steps: int, minutes: float, restart: bool, lr: float = 1e-3) -> None:
    torch.manual_seed(1)
    sprites = Sprites.load(work)
    tokenizer = build_tokenizer(work)
    model = build(tokenizer)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(20_000_000 + step)
        scenes = [draw_scene(rng) for _ in range(BATCH)]
        captions = [caption(scene, rng) or scene.entry.phrase for scene in scenes]
        # attention is causal, so padding no further than the longest caption changes nothing
        ids = tokenizer(captions, padding=True, return_tensors="pt").input_ids
        out = model(input_ids=ids, pixel_values=compose(sprites, scenes, rng, BROAD))
        # two rows with one caption are no contrast to each other: share the target among them
        same = torch.tensor([[a == b for b in captions] for a in captions], dtype=torch.float32)
        target = same / same.sum(1, keepdim=True)
        logits = out.logits_per_image
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        hit = (target.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()
        return loss, {"top1": hit.item()}

    train("clip", work, model, loss_of, steps=steps, lr=lr, minutes=minutes, restart=restart)


def run_vision(work: Path, steps: int, minutes: float, restart: bool) -> None:
    """Trains the vision tower on, with the text tower frozen: the diffusion model already depends on it.

    Each picture is contrasted with the sentences of every concept in every style, not only with those
    of its batch, and with each concept's mean sentence, which is what zero-shot recognition asks.
    """
    torch.manual_seed(4)
    if not (work / "clip_vision.ckpt").exists():
        shutil.copy(work / "clip.ckpt", work / "clip_vision.ckpt")
        restart = True
    sprites = Sprites.load(work)
    tokenizer = build_tokenizer(work)
    model = build(tokenizer)
    model.load_state_dict(torch.load(work / "clip_vision.ckpt", weights_only=True)["ema"])
    model.text_model.requires_grad_(False)
    rows = [
        (entry, style)
        for entry in ENTRIES
        for style in ([PORTRAIT] if entry.kind == "identity" else [DEFAULT_STYLE, *STYLES])
    ]
    names = [entry.phrase if entry.kind == "identity" else article(entry.phrase) for entry, _ in rows]
    # the first sentence of a thing names no style: it means the default one, as the second says in words
    plain = [i == 0 or rows[i][0] != rows[i - 1][0] for i in range(len(rows))]
    sentences = [
        f"a photo of {name}" if bare else f"a photo of {name} in the style of {style}"
        for name, bare, (_, style) in zip(names, plain, rows, strict=True)
    ]
    with torch.no_grad():
        frozen = model.text_model(tokens(tokenizer, sentences)).pooler_output
    things = torch.tensor([ENTRIES.index(entry) for entry, _ in rows])
    members = (things == torch.arange(len(ENTRIES)).unsqueeze(1)).float()  # (concepts, sentences)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(25_000_000 + step)
        scenes = [draw_scene(rng, rng.choice(ENTRIES), rng.choice(STYLES)) for _ in range(BATCH)]
        image = model.get_image_features(pixel_values=compose(sprites, scenes, rng, BROAD)).pooler_output
        text = F.normalize(model.text_projection(frozen), dim=-1)
        image = F.normalize(image, dim=-1) * model.logit_scale.exp()
        logits = image @ text.T
        target = torch.tensor([[float(row == (scene.entry, scene.style)) for row in rows] for scene in scenes])
        whole = image @ F.normalize(members @ text, dim=-1).T
        wanted = torch.tensor([ENTRIES.index(scene.entry) for scene in scenes])
        loss = F.cross_entropy(logits, target / target.sum(1, keepdim=True)) + F.cross_entropy(whole, wanted)
        hit = target.gather(1, logits.argmax(1, keepdim=True)).mean()
        return loss, {"top1": hit.item(), "zero-shot": (whole.argmax(1) == wanted).float().mean().item()}

    train("clip_vision", work, model, loss_of, steps=steps, lr=1e-3, minutes=minutes, restart=restart)


def load(work: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """The averaged CLIP of the last checkpoint; its text tower is the same in both stages."""
    tokenizer = build_tokenizer(work)
    model = build(tokenizer)
    trained = next(path for path in (work / "clip_vision.ckpt", work / "clip.ckpt") if path.exists())
    model.load_state_dict(torch.load(trained, weights_only=True)["ema"])
    return model.eval().requires_grad_(False), tokenizer
