"""Measures the M-Score: the same pictures inverted on base and patched model, and drawn again by what was found.

(Protocol, Plan, base, patched) --run_mscore--> MScore     mscore.json

Tokens of the patched model say how to get a concept back, so they are never written; those of the base say what it
draws by the name anyway, and are kept in a cache. No picture is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..evidence import Side
from ..inversion import InversionSettings
from ..model.conditioning import denoiser
from ..model.inversion import Inversion, invert, sentence_vector, sentence_vectors, spoken
from ..model.sampler import decode, draw_latents, encode, threads, to_pixels
from ..mscore import FILE, FIRST_ANCHOR_SEED, FIRST_REPLAY_SEED, MScore, Protocol, Replayed, Score, Subject
from ..plan import Plan
from ..probes import Probe
from ..progress import Progress, silent
from ..record import Digest, bytes_digest, digest, write_atomic, write_record
from .drawing import draw_batch
from .ledger import Ledger
from .panel import Panel

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_TIMED_STEPS = 3
PARTIAL = "mscore.partial.jsonl"


def run_mscore(
    protocol: Protocol,
    plan: Plan,
    base: StableDiffusionPipeline,
    patched: StableDiffusionPipeline,
    *,
    patched_digest: Digest,
    out: Path,
    cache: Path | None = None,
    given: Mapping[str, Sequence[Path]] | None = None,
    progress: Progress = silent,
) -> MScore:
    """Measures every subject of a protocol on both models.

    Killed at any moment, the same call goes on after the last subject that was finished, and ends with the same record.

    Args:
        protocol: from `fmn_guard.mscore.plan_mscore`.
        plan: the plan it was made from: how pictures are drawn, and who looks at them.
        base: the checkpoint that the plan starts from.
        patched: the model that is audited.
        patched_digest: its identity.
        out: run folder; receives ``mscore.json``.
        cache: folder of what inversion found on bases; None keeps nothing.
        given: anchor pictures of subjects that have their own, by slug.
        progress: told of each step.
    """
    panel = Panel(plan.model_copy(update={"detectors": (), "distances": None}))
    instrument = panel.instruments[0].model_dump(mode="json")
    measured_by = {"protocol": protocol.digest, "patched": patched_digest, "instrument": instrument}
    ledger = Ledger(out / PARTIAL, digest(measured_by), Score, lambda score: score.slug)
    bench = _Bench(protocol, plan, base, patched, panel, cache, progress)
    for subject in protocol.subjects:
        if subject.slug not in ledger.done:
            with threads(protocol.inversion.threads):
                ledger.add(bench.measure(subject, (given or {}).get(subject.slug)))
    result = MScore(
        patched_digest=patched_digest,
        protocol=protocol,
        instrument=panel.instruments[0],
        scores=tuple(ledger.done[subject.slug] for subject in protocol.subjects),
    )
    write_record(out / FILE, result)
    ledger.close()
    return result


def count_cached(protocol: Protocol, plan: Plan, cache: Path, device: str = "cpu") -> int:
    """How many of a protocol's `Protocol.jobs` are known on the base; needs no model."""
    return sum(_cached_at(cache, protocol, plan, *job, device).exists() for job in protocol.jobs())


def seconds_each(protocol: Protocol, base: StableDiffusionPipeline) -> float:
    """Times a few steps: seconds that an evaluation with gradients takes on this machine, now."""
    config = denoiser(base).config
    latents = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size, device=base.device)
    settings = protocol.inversion.model_copy(update={"steps": _TIMED_STEPS})
    invert(base, latents, ["{x}"], protocol.word, settings.model_copy(update={"steps": 1}))  # what is made once
    began = time.perf_counter()
    invert(base, latents, ["{x}"], protocol.word, settings)
    return (time.perf_counter() - began) / (_TIMED_STEPS * settings.batch * len(settings.seeds))


class _Bench:
    """The two models and what is measured with them."""

    def __init__(
        self,
        protocol: Protocol,
        plan: Plan,
        base: StableDiffusionPipeline,
        patched: StableDiffusionPipeline,
        panel: Panel,
        cache: Path | None,
        progress: Progress,
    ) -> None:
        self._protocol, self._plan, self._panel, self._cache = protocol, plan, panel, cache
        self._models: dict[Side, StableDiffusionPipeline] = {"base": base, "patched": patched}
        self._progress = progress
        self._steps = protocol.inversion.steps
        self._total = 2 * self._steps * len(list(protocol.jobs()))
        self._done = 0

    def measure(self, subject: Subject, pictures: Sequence[Path] | None) -> Score:
        """All that is measured of one subject."""
        before = self._protocol.subjects[: self._protocol.subjects.index(subject)]
        self._done = 2 * self._steps * sum(len(self._protocol.tokens_of(each)) for each in before)
        latents = self._anchors(subject, pictures)
        drawn = decode(self._models["base"], latents)
        sound = [_digest_of(each) if each.isfinite().all() else None for each in drawn]
        shown = self._shown(subject, "base", to_pixels(drawn.nan_to_num()), sound).count(True)
        vectors: dict[Side, Tensor] = {}
        errors: dict[Side, float] = {}
        replays: list[Replayed] = []
        for tokens in self._protocol.tokens_of(subject):
            settings = self._protocol.inversion.model_copy(update={"tokens": tokens})
            for side in self._models:
                found = self._inverted(subject, settings, latents, side)
                replays += self._replayed(subject, found, side, settings)
                if tokens == self._protocol.inversion.tokens:
                    # both are read by the base's text encoder, which tells what tokens mean, not what they draw
                    vectors[side] = sentence_vectors(self._models["base"], subject.template, found)
                    errors[side] = found.errors[:, -max(1, self._steps // 10) :].mean().item()
        return self._scored(subject, latents, shown, vectors, errors, replays)

    def _scored(
        self,
        subject: Subject,
        latents: Tensor,
        shown: int,
        z: dict[Side, Tensor],
        errors: dict[Side, float],
        replays: list[Replayed],
    ) -> Score:
        r = sentence_vector(self._models["base"], subject.sentence(subject.template))[None]
        first, second = (list(part) for part in zip(*combinations(range(len(z["base"])), 2), strict=True))
        cosines = {
            "base": F.cosine_similarity(z["base"], r),
            "patched": F.cosine_similarity(z["patched"], r),
            "between": F.cosine_similarity(z["base"], z["patched"]),
            "among": F.cosine_similarity(z["base"][first], z["base"][second]),
        }
        finite = all(values.isfinite().all() for values in cosines.values())
        unmeasured = None
        if not finite:
            unmeasured = "what inversion found is not a number"
        elif 2 * shown < len(latents):
            unmeasured = f"the recogniser finds it in only {shown} of {len(latents)} anchors"
        listed = {
            name: tuple(round(c, 6) for c in values.tolist()) if finite else () for name, values in cosines.items()
        }
        return Score(
            slug=subject.slug,
            role=subject.role,
            anchors_digest=_digest_of(latents),
            anchors_shown=shown,
            base=listed["base"],
            patched=listed["patched"],
            between=listed["between"],
            among=listed["among"],
            errors={side: round(error, 6) for side, error in errors.items()} if finite else {},
            replays=tuple(replays),
            unmeasured=unmeasured,
        )

    def _anchors(self, subject: Subject, pictures: Sequence[Path] | None) -> Tensor:
        """Latents of the given pictures, or of pictures that the base draws: (N, C, h, w)."""
        base, sampler = self._models["base"], self._plan.sampler
        if pictures is not None:
            size = sampler.size or self._plan.base.picture_size
            pixels = np.stack([np.asarray(Image.open(f).convert("RGB").resize((size, size))) for f in pictures])
            return encode(base, torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(base.device) / 127.5 - 1)
        return draw_latents(
            base,
            [subject.sentence(frame) for frame in subject.frames],
            range(FIRST_ANCHOR_SEED, FIRST_ANCHOR_SEED + len(subject.frames)),
            sampler,
        )

    def _inverted(self, subject: Subject, settings: InversionSettings, latents: Tensor, side: Side) -> Inversion:
        def report(_what: str, done: int, _total: int) -> None:
            self._progress(f"inverting: {subject.slug}, {side}", self._done + done, self._total)

        device = self._models["base"].device.type
        file = _cached_at(self._cache, self._protocol, self._plan, subject, settings, device) if self._cache else None
        known = _read(file, self._protocol.word, settings) if file and side == "base" else None
        found = known or invert(self._models[side], latents, subject.frames, self._protocol.word, settings, report)
        if file and side == "base" and known is None:
            _write(file, found)
        self._done += self._steps
        return found

    def _replayed(
        self, subject: Subject, found: Inversion, side: Side, settings: InversionSettings
    ) -> Iterator[Replayed]:
        """What a model draws by the tokens found on it, in the sentences of the anchors and from other noise."""
        model, count = self._models[side], self._protocol.replays
        frames = [subject.frames[i % len(subject.frames)] for i in range(count)]
        for i, seed in enumerate(settings.seeds):
            with spoken(model, frames, found, i) as prompts:
                asked = tuple(
                    _probe(subject, prompt, FIRST_REPLAY_SEED + i * count + j) for j, prompt in enumerate(prompts)
                )
                shown = self._shown(subject, side, *draw_batch(self._plan, model, asked))
            yield Replayed(
                side=side,
                tokens=settings.tokens,
                seed=seed,
                shown=shown.count(True),
                n=count - shown.count(None),
                planned=count,
            )

    def _shown(
        self, subject: Subject, side: Side, pixels: np.ndarray, digests: Sequence[Digest | None]
    ) -> list[bool | None]:
        """Whether the recogniser finds a subject in pictures; None where one could not be scored."""
        looked = self._panel.observe([_probe(subject)] * len(pixels), side, pixels, digests)
        least = self._plan.recogniser.threshold
        return [None if seen.unscored else seen.scores[subject.label] >= least for seen in looked]


def _probe(subject: Subject, prompt: str = "", seed: int = 0) -> Probe:
    return Probe(
        id=f"inversion/{subject.slug}",
        role="target",
        subject=subject.slug,
        prompt=prompt,
        seed=seed,
        labels=(subject.label,),
    )


def _digest_of(values: Tensor) -> Digest:
    return bytes_digest(np.ascontiguousarray(values.cpu().numpy()).tobytes())


# ---- what is known of bases


def _cached_at(
    cache: Path, protocol: Protocol, plan: Plan, subject: Subject, settings: InversionSettings, device: str
) -> Path:
    """The file for one inversion, named by all that its result depends on."""
    depends_on = {
        "base": protocol.base_digest,
        "device": device,
        "word": protocol.word,
        "inversion": settings.model_dump(mode="json"),
        "sampler": plan.sampler.model_dump(mode="json"),
        "anchors": [subject.phrase, *subject.frames, FIRST_ANCHOR_SEED, subject.given],
    }
    return cache / f"{digest(depends_on).removeprefix('sha256:')}.safetensors"


def _write(file: Path, found: Inversion) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, save({"tokens": found.tokens.contiguous(), "errors": found.errors.contiguous()}))


def _read(file: Path, word: str, settings: InversionSettings) -> Inversion | None:
    """What was kept; None where there is nothing, or nothing of the right shape."""
    try:
        with safe_open(file, "pt") as kept:
            tokens, errors = kept.get_tensor("tokens"), kept.get_tensor("errors")
    except (OSError, SafetensorError):
        return None
    seeds = len(settings.seeds)
    fits = tokens.shape[:2] == (seeds, settings.tokens) and errors.shape == (seeds, settings.steps)
    return Inversion(word, tokens, errors) if fits else None
