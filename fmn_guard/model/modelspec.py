"""What tools read of a file before they load it: Stability AI's ModelSpec 1.0.1, all that it says a file must tell.

No date and no name of a person or concept: the same weights give the same bytes, and such files are published.
"""

from __future__ import annotations

from pathlib import Path

from ..facts import ModelFacts
from ..jsonfile import read_object

_ORIGINAL = "https://github.com/Stability-AI/generative-models"


def checkpoint_spec(facts: ModelFacts, folder: Path) -> dict[str, str]:
    """Of a whole checkpoint in the original layout.

    Args:
        facts: what is known of it.
        folder: its diffusers folder.
    """
    architecture = _architecture(facts, folder)
    return _spec(facts, architecture, _ORIGINAL, f"{architecture}, weights {_short(facts.weights_digest)}")


def lora_spec(facts: ModelFacts, folder: Path, concepts: int, *, diffusers: bool) -> dict[str, str]:
    """Of a patch as a LoRA or as whole differences.

    Args:
        facts: what is known of the base.
        folder: its diffusers folder.
        concepts: how many are forgotten or corrected.
        diffusers: whether its names are those of diffusers.
    """
    what = f"{concepts} concept{'' if concepts == 1 else 's'}"
    return _spec(
        facts,
        f"{_architecture(facts, folder)}/lora",
        "diffusers" if diffusers else _ORIGINAL,
        f"patch that forgets or corrects {what}",
    ) | {
        "modelspec.description": "An fmn-guard patch. It was audited at strength 1 on the base with the weights "
        f"{facts.weights_digest}; on another, or at another strength, nothing is known of it.",
        "modelspec.usage_hint": "strength 1",
    }


def _spec(facts: ModelFacts, architecture: str, implementation: str, title: str) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": implementation,
        "modelspec.title": title,
        "modelspec.prediction_type": "v" if facts.prediction_type == "v_prediction" else "epsilon",
        "modelspec.resolution": f"{facts.picture_size}x{facts.picture_size}",
    }


def _architecture(facts: ModelFacts, folder: Path) -> str:
    if facts.family.startswith("pixart"):
        return facts.family
    if facts.family == "stable-diffusion-xl":
        return "stable-diffusion-xl-v1-base"
    if read_object(folder / "text_encoder" / "config.json").get("hidden_act", "quick_gelu") == "quick_gelu":
        return "stable-diffusion-v1"
    return "stable-diffusion-v2-768-v" if facts.prediction_type == "v_prediction" else "stable-diffusion-v2-512"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
