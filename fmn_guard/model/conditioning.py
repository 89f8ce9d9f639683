"""What a model is told by a prompt: the one place where families of checkpoints differ.

Stable Diffusion is told the states of one text encoder. Stable Diffusion XL is told those of two, side by side, and
apart from them one vector for the whole prompt and the size of the picture.

Text travels as one tensor (B, T, d + p): at each token the d numbers that cross-attentions read, and beside them,
repeated, the p that the model is told apart. So rows, means and sums of texts are rows, means and sums of all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_PROMPTS = 256  # at once


@torch.inference_mode()
def text_states(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> Tensor:
    """Encodes prompts as the stock pipeline of the family does.

    Stable Diffusion reads the final layer of its text encoder, normalised; Stable Diffusion XL the layer before the
    last of both. An XL checkpoint may ask for zeros in place of the empty prompt.

    Returns:
        (len(prompts), T, d + p) float32, padded by each tokenizer's own rule to its length T.
    """
    blocks = [list(prompts[start : start + _PROMPTS]) for start in range(0, len(prompts), _PROMPTS)]
    encode = _encode_two if told_apart(pipeline) else _encode_one
    return torch.cat([encode(pipeline, block).float() for block in blocks])


def read_states(pipeline: StableDiffusionPipeline, text: Tensor) -> Tensor:
    """What cross-attentions read of texts: (B, T, d)."""
    return text[..., : pipeline.unet.config.cross_attention_dim]


def denoise(pipeline: StableDiffusionPipeline, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """What the UNet predicts, in its own precision: (B, C, h, w) float32.

    Args:
        pipeline: the model.
        x_t: (B, C, h, w), noisy latents, scaled for their timesteps.
        t: one timestep, or (B,).
        text: (B, T, d + p), from `text_states`.
    """
    precision = pipeline.unet.dtype
    x_t, text = x_t.to(precision), text.to(precision)
    states = read_states(pipeline, text)
    apart: dict[str, Tensor] | None = None
    if told_apart(pipeline):
        height, width = (side * pipeline.vae_scale_factor for side in x_t.shape[-2:])
        # as if the picture had had this size from the start, and nothing had been cropped
        sizes = x_t.new_tensor([height, width, 0, 0, height, width])
        apart = {"text_embeds": text[:, 0, states.shape[-1] :], "time_ids": sizes.expand(len(x_t), 6)}
    predicted: Tensor = pipeline.unet(x_t, t, states, added_cond_kwargs=apart).sample
    return predicted.float()


def told_apart(pipeline: StableDiffusionPipeline) -> bool:
    """Whether the model is told one vector of the whole prompt, as SDXL is by its second text encoder."""
    return bool(pipeline.unet.config.addition_embed_type == "text_time")


def _tokens(pipeline: StableDiffusionPipeline, tokenizer: Any, prompts: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    batch = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: Tensor = batch.input_ids.to(pipeline.device)
    return tokens


def _encode_one(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    states: Tensor = pipeline.text_encoder(_tokens(pipeline, pipeline.tokenizer, prompts)).last_hidden_state
    return states


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
