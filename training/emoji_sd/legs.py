"""One resumable training loop for every stage."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of weights, short at first so that early samples are honest."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)


def train(
    name: str,
    work: Path,
    model: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    steps: int,
    lr: float,
    minutes: float,
    ema_decay: float = 0.999,
    warmup: int = 200,
    floor: float = 0.02,
    restart: bool = False,
    weight_decay: float = 1e-2,
) -> dict[str, Tensor]:
    """Trains until ``steps`` or until ``minutes`` have passed, checkpointing every two minutes.

    The learning rate warms up, then follows a cosine down to ``floor * lr`` at ``steps``.

    Args:
        loss_of: step -> (loss, figures to log). Draws its batch from the step number alone,
            so that a resumed run sees what an unbroken one would have.
        restart: keep the weights of the checkpoint, forget its optimiser and step.

    Returns:
        The averaged weights.
    """
    path = work / f"{name}.ckpt"
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    ema = Ema(model, ema_decay)
    step = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if restart:
            model.load_state_dict(saved["ema"])
        else:
            model.load_state_dict(saved["model"])
            optimiser.load_state_dict(saved["optimiser"])
            step = saved["step"]
        ema.weights = saved["ema"]

    def save() -> None:
        part = path.with_suffix(".part")
        state = {"model": model.state_dict(), "ema": ema.weights, "optimiser": optimiser.state_dict(), "step": step}
        torch.save(state, part)
        os.replace(part, path)

    began = saved_at = logged_at = time.monotonic()
    running: dict[str, float] = {}
    model.train()
    while step < steps and time.monotonic() - began < minutes * 60:
        progress = max(0.0, (step - warmup) / max(1, steps - warmup))
        rate = lr * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, figures = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        ema.update(model, step)
        for key, value in {"loss": loss.item(), **figures}.items():
            running[key] = value if key not in running else 0.98 * running[key] + 0.02 * value
        now = time.monotonic()
        if now - logged_at > 20:
            text = " ".join(f"{k} {v:.4f}" for k, v in running.items())
            print(f"{name} step {step}/{steps} {(now - began) / 60:.1f} min lr {rate:.1e} {text}", flush=True)
            logged_at = now
        if now - saved_at > 120:
            save()
            saved_at = now
    save()
    return ema.weights
