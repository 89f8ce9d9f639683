"""``python -m benchmarks.sampling``: how well the built-in model draws the quickstart's probes, by sampler."""

from __future__ import annotations

from pathlib import Path

import torch

from fmn_guard.audit.detectors import load_recogniser
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.sampler import decode, draw_latents, to_pixels
from fmn_guard.plan import compile_plan

# Denoising steps, and how many of them are guided.
SAMPLERS = ((5, 5), (4, 4), (5, 4), (5, 3), (6, 4), (5, 2), (4, 2))


@torch.no_grad()
def run() -> None:
    """Prints, for each sampler, how many of the base's pictures are recognised, and how surely."""
    torch.set_num_threads(1)
    manifest, checkpoint = lint_manifest(Path("manifests/quickstart.yaml"))
    plan = compile_plan(manifest, lint_policy(Path("policies/default.yaml"))[1], checkpoint)
    pipeline = load_pipeline(checkpoint.folder)
    recogniser = load_recogniser(plan.recogniser)
    print("steps guided evaluations | probes: recognised, mean | retained: recognised, mean, below .7")
    for steps, guided in SAMPLERS:
        sampler = plan.sampler.model_copy(update={"steps": steps, "unguided": steps - guided})
        shown: dict[bool, list[float]] = {True: [], False: []}
        probes = [p for p in plan.probes if p.role in ("target", "alias", "retained")]
        for start in range(0, len(probes), sampler.batch):
            part = probes[start : start + sampler.batch]
            latents = draw_latents(pipeline, [p.prompt for p in part], [p.seed for p in part], sampler)
            for probe, scores in zip(part, recogniser.recognise(to_pixels(decode(pipeline, latents))), strict=True):
                shown[probe.role == "retained"].append(min(scores[label] for label in probe.labels))
        texts = [
            f"{sum(p >= plan.recogniser.threshold for p in part)} of {len(part)}, {sum(part) / len(part):.4f}"
            for part in (shown[False], shown[True])
        ]
        weak = sum(p < 0.7 for p in shown[True])
        print(f"{steps} {guided} {sampler.evaluations} | {texts[0]} | {texts[1]}, {weak}", flush=True)


if __name__ == "__main__":
    run()
