"""What a model is told by a prompt, and what draws by it: the one place where families of checkpoints differ.

Stable Diffusion is told the states of one text encoder. Stable Diffusion XL is told those of two, side by side, and
apart from them one vector for the whole prompt and the size of the picture. PixArt is told the states of a T5, which
it projects before its cross-attentions read them; of the tokens that fill a prompt up they see nothing.

Text travels as one tensor (B, T, d + p): at each token the d numbers of its state, and beside them p that the model is
told apart. Of XL these are the vector, repeated; of PixArt 1 at a token that is seen and 0 at one that is not. So rows,
means and sums of texts are rows, means and sums of all of it: where sums are of texts of unequal lengths, a token is
seen if more than half of their weight says so, and what a text has beyond its end is the state of its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..family import FAMILIES, Family

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_PROMPTS = 256  # at once
_UNSEEN = -10_000.0  # what a score is lowered by, as diffusers does


def family_in(pipeline: StableDiffusionPipeline) -> Family:
    """The family of a loaded checkpoint."""
    return FAMILIES[type(pipeline).__name__]


def denoiser(pipeline: StableDiffusionPipeline) -> Any:
    """The part of a checkpoint that draws: a UNet, or a transformer."""
    return getattr(pipeline, family_in(pipeline).denoiser)


def prompt_tokens(pipeline: StableDiffusionPipeline) -> int:
    """Tokens T of a prompt: what is beyond is cut, what is missing is filled up."""
    length: int = family_in(pipeline).prompt_tokens or pipeline.tokenizer.model_max_length
    return length


def text_encoders(pipeline: StableDiffusionPipeline) -> int:
    """How many a family has."""
    return 2 if family_in(pipeline).text == "two-clips" else 1


@torch.inference_mode()
def text_states(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> Tensor:
    """Encodes prompts as the stock pipeline of the family does.

    Stable Diffusion reads the final layer of its text encoder, normalised; Stable Diffusion XL the layer before the
    last of both; PixArt the final layer of its own, of the prompt in lower case. An XL checkpoint may ask for zeros in
    place of the empty prompt.

    Returns:
        (len(prompts), T, d + p) float32, padded by each tokenizer's own rule to its length T.
    """
    return torch.cat([_encode(pipeline, block) for block in _blocks(prompts)])


@torch.inference_mode()
def brief_states(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> list[Tensor]:
    """`text_states` of each prompt on the CPU, (T', d + p): up to its end, where the model sees nothing beyond it."""
    if family_in(pipeline).text != "t5":
        return [row.cpu() for block in _blocks(prompts) for row in _encode(pipeline, block)]
    texts = (_t5_text(pipeline, text_ids(pipeline, block)).float().cpu() for block in _blocks(prompts))
    return [row[: int(row[:, -1].sum())].clone() for text in texts for row in text]


def side_by_side(rows: Sequence[Tensor]) -> Tensor:
    """Texts of `brief_states` as one tensor (B, T', d + p), of the length of the longest."""
    longest = max(map(len, rows))
    return torch.stack([row if len(row) == longest else _filled(row, longest) for row in rows])


def text_of(pipeline: StableDiffusionPipeline, ids: Tensor) -> Tensor:
    """What a model with one text encoder is told by tokens: (B, T, d + p), in the encoder's precision; has gradients.

    Args:
        pipeline: the model.
        ids: (B, T), filled up.
    """
    if family_in(pipeline).text == "clip":
        states: Tensor = pipeline.text_encoder(ids).last_hidden_state
        return states
    return _filled(_t5_text(pipeline, ids), ids.shape[1])


def text_ids(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> Tensor:
    """Tokens of prompts as a model's first text encoder reads them: (B, T)."""
    return _tokens(pipeline, pipeline.tokenizer, [as_read(pipeline, prompt) for prompt in prompts])


def token_table(pipeline: StableDiffusionPipeline) -> torch.nn.Embedding:
    """Where a model's first text encoder looks its tokens up."""
    encoder: Any = pipeline.text_encoder
    if family_in(pipeline).text == "t5":
        encoder = encoder.encoder  # of its two modules with the same table, the one that is asked
    table: torch.nn.Embedding = encoder.get_input_embeddings()
    return table


def as_read(pipeline: StableDiffusionPipeline, prompt: str) -> str:
    """A prompt as the stock pipeline hands it to the tokenizer: PixArt's in lower case."""
    return prompt.lower().strip() if family_in(pipeline).text == "t5" else prompt


def read_states(pipeline: StableDiffusionPipeline, text: Tensor) -> Tensor:
    """What values and keys of cross-attentions read of texts: (B, T, d) of UNets, (B, T, channels) of PixArt."""
    part = denoiser(pipeline)
    if family_in(pipeline).text != "t5":
        states: Tensor = text[..., : part.config.cross_attention_dim]
        return states
    if part.caption_projection is None:
        return text[..., :-1]
    weight = part.caption_projection.linear_1.weight
    return torch.cat([part.caption_projection(block[..., :-1].to(weight)).to(text) for block in text.split(_PROMPTS)])


def seen_tokens(pipeline: StableDiffusionPipeline, text: Tensor) -> Tensor | None:
    """(B, T) bool, the tokens of texts that cross-attentions see; None where they see all."""
    return text[..., -1] > 0.5 if family_in(pipeline).text == "t5" else None


def seen_length(pipeline: StableDiffusionPipeline, text: Tensor) -> int:
    """Tokens up to the last that is seen of any text."""
    seen = seen_tokens(pipeline, text)
    return text.shape[1] if seen is None else int(seen.any(0).nonzero().max()) + 1


def score_bias(pipeline: StableDiffusionPipeline, text: Tensor) -> Tensor | None:
    """What is added to the scores of texts' tokens, (B, 1, T): so little that unseen ones get nothing; or None."""
    seen = seen_tokens(pipeline, text)
    return None if seen is None else _UNSEEN * (~seen[:, None]).to(denoiser(pipeline).dtype)


def denoise(pipeline: StableDiffusionPipeline, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """What the model predicts, in its own precision: (B, C, h, w) float32.

    Args:
        pipeline: the model.
        x_t: (B, C, h, w), noisy latents, scaled for their timesteps.
        t: one timestep, or (B,).
        text: (B, T, d + p), from `text_states`.
    """
    part = denoiser(pipeline)
    x_t, text = x_t.to(part.dtype), text.to(part.dtype)
    height, width = (side * pipeline.vae_scale_factor for side in x_t.shape[-2:])
    apart: dict[str, Tensor | None] | None = None
    match family_in(pipeline).text:
        case "clip":
            predicted: Tensor = part(x_t, t, read_states(pipeline, text), added_cond_kwargs=apart).sample
        case "two-clips":
            states = read_states(pipeline, text)
            # as if the picture had had this size from the start, and nothing had been cropped
            sizes = x_t.new_tensor([height, width, 0, 0, height, width])
            apart = {"text_embeds": text[:, 0, states.shape[-1] :], "time_ids": sizes.expand(len(x_t), 6)}
            predicted = part(x_t, t, states, added_cond_kwargs=apart).sample
        case "t5":
            apart = {"resolution": None, "aspect_ratio": None}
            if part.use_additional_conditions:
                apart["resolution"] = x_t.new_tensor([[height, width]]).expand(len(x_t), 2)
                apart["aspect_ratio"] = x_t.new_tensor([[height / width]]).expand(len(x_t), 1)
            predicted = part(
                x_t,
                text[..., :-1],
                t.expand(len(x_t)),
                added_cond_kwargs=apart,
                encoder_attention_mask=seen_tokens(pipeline, text),
            ).sample[:, : x_t.shape[1]]  # the rest is the variance, which no sampler here reads
    return predicted.float()


def _blocks(prompts: Sequence[str]) -> list[list[str]]:
    return [list(prompts[start : start + _PROMPTS]) for start in range(0, len(prompts), _PROMPTS)]


def _encode(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    encode: Callable[[Any, list[str]], Tensor] = _encode_two if text_encoders(pipeline) == 2 else _encode_one
    return encode(pipeline, prompts).float()


def _tokens(pipeline: StableDiffusionPipeline, tokenizer: Any, prompts: list[str]) -> Tensor:
    length = family_in(pipeline).prompt_tokens or tokenizer.model_max_length
    batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: Tensor = batch.input_ids.to(pipeline.device)
    return tokens


def _encode_one(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    return text_of(pipeline, text_ids(pipeline, prompts))


def _t5_text(pipeline: StableDiffusionPipeline, ids: Tensor) -> Tensor:
    """What PixArt is told by tokens (B, T): (B, T', d + 1), up to the longest end, for no state depends on padding."""
    padding = ids == pipeline.tokenizer.pad_token_id
    seen = ~padding.long().flip(-1).cummin(-1).values.flip(-1).bool()  # a prompt may spell it before its end
    ends = seen.sum(-1)
    ids, seen = ids[:, : ends.max()], seen[:, : ends.max()]
    states = pipeline.text_encoder(ids, attention_mask=seen.long()).last_hidden_state
    end = states[torch.arange(len(ids), device=ids.device), ends - 1]  # (B, d)
    states = torch.where(seen[..., None], states, end[:, None])
    return torch.cat([states, seen[..., None].to(states)], -1)


def _filled(text: Tensor, length: int) -> Tensor:
    """Texts (..., T', d + 1) with the state of their end, unseen, up to so many tokens."""
    more = text[..., -1:, :].repeat(*[1] * (text.ndim - 2), length - text.shape[-2], 1)
    more[..., -1] = 0
    return torch.cat([text, more], -2)


def _encode_two(pipeline: Any, prompts: list[str]) -> Tensor:
    encoders = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
    outputs = [
        encoder(_tokens(pipeline, tokenizer, prompts), output_hidden_states=True) for tokenizer, encoder in encoders
    ]
    states = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    pooled = outputs[1].text_embeds
    text = torch.cat([states, pooled[:, None].expand(-1, states.shape[1], -1)], -1)
    if pipeline.config.force_zeros_for_empty_prompt:
        text[[i for i, prompt in enumerate(prompts) if prompt == ""]] = 0
    return text
