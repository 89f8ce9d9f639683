"""``python -m benchmarks.forgetting.rows PRESET [--quick]``: measures the rows of one preset, in this process."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from unittest.mock import patch

import torch
from pydantic import Field

from fmn_guard.audit.detectors import load_recogniser
from fmn_guard.audit.drawing import draw_batch
from fmn_guard.evidence import PassRecord
from fmn_guard.facts import Checkpoint
from fmn_guard.forget import retain, runner, watch
from fmn_guard.forget.patch import PATCH, Part, apply_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.manifest import label_of
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.clip import ZeroShot
from fmn_guard.model.sampler import decode, draw_latents
from fmn_guard.plan import Plan
from fmn_guard.presets import PRESETS, PresetName
from fmn_guard.probes import Probe
from fmn_guard.record import Digest, Record, canonical_json, digest, read_record, write_atomic, write_record
from fmn_guard.shipped import shipped_model

from .inversions import TOKENS, recovered
from .scenarios import FULL, QUICK, Scenario, Size, checkpoint, plan_of, scenarios, suite_of, unrelated_prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

ROWS = Path("build/bench-forgetting")
Seen = dict[str, dict[str, float]]
"""Scores of pictures, by prompt and seed."""


class Count(Record):
    """Pictures that show something, of those looked at."""

    hits: int
    n: int


class Pairs(Record):
    """Base and patched pictures of the same probes: which of the two show what is asked for."""

    both: int
    lost: int
    gained: int
    neither: int


class Distance(Record):
    """Mean cosine distance of pictures, between their vectors in the built-in CLIP."""

    moved: float
    """From the base's to the patched model's, prompt and seed being the same."""
    seeds: float
    """From the base's to the base's at another seed."""
    n: int
    """Pairs."""


class Row(Record):
    """One scenario under one preset."""

    schema_version: Literal["fmn-guard/bench-forgetting/v1"] = "fmn-guard/bench-forgetting/v1"
    preset: PresetName
    scenario: str
    size: str
    plan_digest: Digest
    learning_rate: float
    steps: tuple[int, ...]
    """Taken, of each pass."""
    eraser_seed: int
    first_seed: int
    base: dict[str, Count]
    """What the base shows of each target, by slug."""
    targets: dict[str, Count]
    """What is left of it after the last pass; of a correction, its dominant reading."""
    own: dict[str, Count]
    """What was left right after its own pass; nothing where passes do not follow one another."""
    aliases: Count
    expected: Count
    """The expected reading of corrections, in their prompts."""
    dominant_elsewhere: Pairs
    """The dominant reading of corrections, asked for by its own name."""
    retained: dict[str, Pairs] = Field(default_factory=dict)
    """By group: held in, held out, neighbours, same kind, other kinds; groups overlap."""
    unrelated: Distance | None
    seconds: tuple[float, ...]
    """Of CPU time, of each pass, drawing included: other work on the machine does not count."""
    drawing: tuple[float, ...]
    """The same, drawing alone."""
    memory: int | None
    """Peak bytes of a pass above what was there before it; None where the system does not tell."""
    patch: int
    """Bytes."""
    unet: int
    """Bytes."""
    recovered: Annotated[dict[str, Count], Field(exclude_if=lambda counts: not counts)] = Field(default_factory=dict)
    """By the number of tokens: what of the pictures shows the concept that inverted tokens draw."""
    recovered_on_base: Annotated[dict[str, Count], Field(exclude_if=lambda counts: not counts)] = Field(
        default_factory=dict
    )
    """The same, of tokens inverted on the base."""
    directions_left: Annotated[float | None, Field(exclude_if=lambda share: share is None)] = None
    """Where the language's sentences are counted: the share of directions of what heads read that hardly any of it
    takes, less than the damping of the closed form; mean of heads and layers."""


class Bench:
    """What all rows of a process share: the base, the recogniser, and what was seen of the base before.

    Args:
        size: how much is drawn.
        folder: of rows and of what the base showed.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint: Checkpoint = checkpoint()
        self.model = load_pipeline(self.checkpoint.folder)
        self._clip = ZeroShot(shipped_model("emoji-clip"))
        suite = suite_of(size, Scenario("base", ()))
        # what was seen of another base, drawn otherwise or by another recogniser, says nothing of this one
        drawn = digest([self.checkpoint.facts.identity, *map(digest, (suite.spec.sampler, suite.spec.recogniser))])
        self._memory = folder / f"base-{drawn.removeprefix('sha256:')[:12]}.json"
        self._base: Seen = json.loads(self._memory.read_text("utf-8")) if self._memory.exists() else {}

    def row(self, scenario: Scenario, eraser: dict[str, Any], path: Path) -> Row:
        """Measures a row, unless its file is there and of the same plan."""
        plan = plan_of(scenario, self.size, eraser, self.checkpoint)
        if path.exists() and (done := read_record(path, Row)).plan_digest == plan.digest:
            return done
        run = path.with_suffix("")
        shutil.rmtree(run, ignore_errors=True)  # times of a pass that was cut short would be wrong
        row = self._measured(plan, scenario, run)
        write_record(path, row)
        shutil.rmtree(run)  # patches of whole UNets
        return row

    def _measured(self, plan: Plan, scenario: Scenario, run: Path) -> Row:
        base = self._base_sees(plan)
        meter = _Meter()
        with meter.reading():
            records = run_plan(plan, self.checkpoint, run)
        asked = {
            spec.slug: [p for p in plan.probes if p.subject == spec.slug and p.role != "alias"] for spec in plan.passes
        }
        patched = self._patched(plan, run)
        sees = self._sees(plan, patched, list(plan.probes))
        own = {}
        for done, (slug, probes) in enumerate(asked.items() if plan.sequence == "sequential" else (), start=1):
            last = done == len(plan.passes)
            own[slug] = _count(plan, probes, sees if last else self._sees(plan, self._patched(plan, run, done), probes))
        corrections = [p for p in plan.probes if p.role == "correction"]
        corrected = {spec.slug for spec in plan.passes if spec.kind == "correction"}
        elsewhere = [p for p in plan.probes if p.role == "retained" and corrected & set(p.neighbour_of)]
        spec = plan.passes[0]
        return Row(
            preset=spec.preset,
            scenario=scenario.name,
            size=self.size.name,
            plan_digest=plan.digest,
            learning_rate=spec.learning_rate,
            steps=tuple(done.steps for done in records.passes),
            eraser_seed=scenario.seed,
            first_seed=self.size.first_seed,
            base={slug: _count(plan, probes, base) for slug, probes in asked.items()},
            targets={slug: _count(plan, probes, sees) for slug, probes in asked.items()},
            own=own,
            aliases=_count(plan, [p for p in plan.probes if p.role == "alias"], sees),
            expected=_count(plan, corrections, sees, label=1),
            dominant_elsewhere=_pairs(plan, elsewhere, base, sees),
            retained={name: _pairs(plan, group, base, sees) for name, group in self._groups(plan, scenario).items()},
            unrelated=self._distance(plan, patched) if self.size.unrelated and len(plan.passes) > 1 else None,
            seconds=meter.seconds,
            drawing=meter.drawn,
            memory=meter.memory,
            patch=(run / PATCH).stat().st_size,
            unet=sum(weight.numel() * weight.element_size() for weight in patched.unet.parameters()),
            recovered=self._recovered(plan, patched, scenario.inverted) if scenario.inverted else {},
            recovered_on_base=self._recovered_on_base(plan, scenario.inverted) if scenario.inverted else {},
            directions_left=self._directions_left(plan) if scenario.sentences else None,
        )

    def _recovered(self, plan: Plan, model: StableDiffusionPipeline, steps: int) -> dict[str, Count]:
        (spec,) = plan.passes
        found = {tokens: recovered(model, self.model, plan, spec, tokens, steps) for tokens in TOKENS}
        return {f"{tokens}": Count(hits=shown, n=n) for tokens, (shown, n) in found.items()}

    def _recovered_on_base(self, plan: Plan, steps: int) -> dict[str, Count]:
        """The same for every preset, and kept."""
        memory = self.folder / f"{self._memory.stem}-{plan.passes[0].slug}-inverted-{steps}.json"
        if not memory.exists():
            counts = self._recovered(plan, self.model, steps)
            write_atomic(memory, canonical_json({tokens: c.model_dump() for tokens, c in counts.items()}))
        return {tokens: Count(**count) for tokens, count in json.loads(memory.read_text("utf-8")).items()}

    def _directions_left(self, plan: Plan) -> float:
        (spec,) = plan.passes
        assert spec.projection is not None
        language = retain.RetainedLanguage(self.model, self.checkpoint.words(), plan.sampler).moments(spec.retain)
        shares = [torch.linalg.eigvalsh(moment) < spec.projection for moment in language.whole.values()]
        return torch.stack([share.double().mean() for share in shares]).mean().item()

    def _patched(self, plan: Plan, run: Path, passes: int | None = None) -> StableDiffusionPipeline:
        """The model as the first passes left it, or all of them."""
        model = load_pipeline(self.checkpoint.folder)
        apply_patch(model, run / PATCH, plan.base.identity, passes=passes)
        return model

    def _groups(self, plan: Plan, scenario: Scenario) -> dict[str, list[Probe]]:
        kinds = {label_of(r.kind, r.phrase): r.kind for r in suite_of(self.size, scenario).spec.retained}
        forgotten = {concept["kind"] for concept in scenario.concepts}
        retained = [p for p in plan.probes if p.role == "retained"]
        told = [p for p in retained if not p.neighbour_of]
        return {
            "held in": [p for p in told if not p.held_out],
            "held out": [p for p in told if p.held_out],
            "neighbours": [p for p in retained if p.neighbour_of],
            "same kind": [p for p in told if kinds[p.labels[0]] in forgotten],
            "other kinds": [p for p in told if kinds[p.labels[0]] not in forgotten],
        }

    def _base_sees(self, plan: Plan) -> Seen:
        if missing := [p for p in plan.probes if _key(p) not in self._base]:
            self._base |= self._sees(plan, self.model, missing)
            write_atomic(self._memory, json.dumps(self._base))
        return self._base

    def _sees(self, plan: Plan, model: StableDiffusionPipeline, probes: list[Probe]) -> Seen:
        recogniser = load_recogniser(plan.recogniser)
        seen: Seen = {}
        for start in range(0, len(probes), plan.sampler.batch):
            part = tuple(probes[start : start + plan.sampler.batch])
            pixels, _ = draw_batch(plan, model, part)
            for probe, scores in zip(part, recogniser.recognise(pixels), strict=True):
                seen[_key(probe)] = {label: round(score, 4) for label, score in scores.items() if score >= 1e-3}
        return seen

    def _distance(self, plan: Plan, patched: StableDiffusionPipeline) -> Distance:
        prompts = unrelated_prompts(plan, self.size.unrelated)
        first = self.size.first_seed + 500_000

        def vectors(model: StableDiffusionPipeline, seed: int) -> torch.Tensor:
            latents = draw_latents(model, prompts, range(seed, seed + len(prompts)), plan.sampler)
            return self._clip.picture_vectors(decode(model, latents))

        base = vectors(self.model, first)
        moved = 1 - (base * vectors(patched, first)).sum(-1)
        others = 1 - (base * vectors(self.model, first + 1000)).sum(-1)
        return Distance(moved=moved.mean().item(), seeds=others.mean().item(), n=len(prompts))


class _Meter:
    """CPU seconds of each pass, how much of them is drawing, and the memory they take above the loaded model."""

    def __init__(self) -> None:
        self.seconds: tuple[float, ...] = ()
        self.drawn: tuple[float, ...] = ()
        self.memory: int | None = None
        self._drawn = 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Times every pass that the eraser runs meanwhile, and whatever it draws."""
        run_pass = runner._run_pass

        def metered(*args: Any) -> tuple[PassRecord, Part]:
            self._drawn = 0.0
            resident, began = _reset_peak(), time.process_time()
            done = run_pass(*args)
            self.seconds += (round(time.process_time() - began, 3),)
            self.drawn += (round(self._drawn, 3),)
            peak = _status("VmHWM")
            if peak is not None and resident is not None:
                self.memory = max(self.memory or 0, peak - resident)
            return done

        def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
            began = time.process_time()
            try:
                return draw_latents(*args, **kwargs)
            finally:
                self._drawn += time.process_time() - began

        with ExitStack() as stack:
            stack.enter_context(patch.object(runner, "_run_pass", metered))
            for module in (runner, retain, watch):
                stack.enter_context(patch.object(module, "draw_latents", timed))
            yield


def _key(probe: Probe) -> str:
    return f"{probe.prompt}|{probe.seed}"


def _shows(plan: Plan, probe: Probe, seen: Seen, label: int = 0) -> bool:
    return seen[_key(probe)].get(probe.labels[label], 0.0) >= plan.recogniser.threshold


def _count(plan: Plan, probes: list[Probe], seen: Seen, label: int = 0) -> Count:
    return Count(hits=sum(_shows(plan, p, seen, label) for p in probes), n=len(probes))


def _pairs(plan: Plan, probes: list[Probe], base: Seen, patched: Seen) -> Pairs:
    pairs = [(_shows(plan, p, base), _shows(plan, p, patched)) for p in probes]
    return Pairs(
        both=pairs.count((True, True)),
        lost=pairs.count((True, False)),
        gained=pairs.count((False, True)),
        neither=pairs.count((False, False)),
    )


def _reset_peak() -> int | None:
    """Starts the peak anew where Linux lets us; resident bytes now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def main() -> None:
    """Measures what is missing of a preset's rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="scenarios whose name begins so")
    asked = parser.parse_args()
    preset, size = cast(PresetName, asked.preset), QUICK if asked.quick else FULL
    bench = Bench(size, ROWS / size.name)
    for scenario in scenarios(size, preset):
        if not scenario.name.startswith(asked.only):
            continue
        path = bench.folder / preset / f"{scenario.name}.json"
        row = bench.row(scenario, {"preset": preset}, path)
        print(f"{preset} {scenario.name}: {row.targets}", flush=True)


if __name__ == "__main__":
    main()
