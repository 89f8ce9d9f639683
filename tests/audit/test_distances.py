"""Distances to the base: their arithmetic beside other ways to it, and where they come from in an audit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from fmn_guard.audit import embedding
from fmn_guard.audit.auditor import measure
from fmn_guard.audit.detectors.local import read_preprocessing
from fmn_guard.audit.distances import cmmd, frechet_distance, kernel_distance
from fmn_guard.audit.stages import Models
from fmn_guard.errors import InputError
from fmn_guard.evidence import Audit, Distances
from fmn_guard.instruments import DistancesSpec, EmbedderSpec
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.clip import ZeroShot
from fmn_guard.plan import Plan
from fmn_guard.probes import Probe
from fmn_guard.record import digest, file_digest
from fmn_guard.shipped import shipped_model

from .standins import save_vit
from .test_auditor import plan_for

RNG = np.random.default_rng(3)


def units(n: int, d: int, centre: float = 0.0) -> np.ndarray:
    rows = RNG.normal(size=(n, d)) + centre
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---- arithmetic


def cmmd_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([[np.exp(-np.sum((p - q) ** 2) / (2 * 10**2)) for q in y] for p in x]))

    return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


def test_cmmd_is_the_mean_kernel_within_less_that_between() -> None:
    a, b = units(14, 8), units(14, 8, centre=0.5)
    value, _ = cmmd(a, b, ["one"] * 14)
    assert value == pytest.approx(cmmd_by_loops(a, b), rel=1e-9)


def test_cmmd_s_error_is_that_of_leaving_each_prompt_out() -> None:
    a, b = units(12, 8), units(12, 8, centre=0.5)
    prompts = [f"prompt {i % 4}" for i in range(12)]
    _, error = cmmd(a, b, prompts)
    left = []
    for prompt in sorted(set(prompts)):
        kept = [i for i, each in enumerate(prompts) if each != prompt]
        left.append(cmmd_by_loops(a[kept], b[kept]))
    assert error == pytest.approx(np.sqrt(3 / 4 * np.sum((np.array(left) - np.mean(left)) ** 2)), rel=1e-9)


def test_cmmd_of_equal_sets_is_zero_in_whatever_order_and_one_prompt_has_no_error() -> None:
    a = units(700, 16)  # more than are held at once
    value, error = cmmd(a, a[::-1].copy(), ["one"] * 700)
    assert value == pytest.approx(0, abs=1e-9)
    assert error is None


def test_kid_is_the_unbiased_cubic_mmd() -> None:
    a, b = RNG.normal(size=(9, 5)), RNG.normal(size=(9, 5)) + 1

    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        return float((p @ q / 5 + 1) ** 3)

    apart = [(i, j) for i in range(9) for j in range(9) if i != j]
    within = sum(np.mean([kernel(x[i], x[j]) for i, j in apart]) for x in (a, b))
    between = np.mean([[kernel(p, q) for q in b] for p in a])
    assert kernel_distance(a, b) == pytest.approx(within - 2 * between, rel=1e-9)


@pytest.mark.parametrize("n", [200, 6])  # fewer pictures than dimensions have a singular covariance
def test_fid_is_the_frechet_distance_by_scipy_s_root(n: int) -> None:
    a, b = RNG.normal(size=(n, 8)), 2 * RNG.normal(size=(n, 8)) + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected = apart + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


# ---- in an audit


def with_distances(folder: Path, features: EmbedderSpec | None = None) -> Plan:
    """A plan that keeps two concepts, in two prompts and from two seeds each."""
    made = plan_for(folder)
    probes = [
        Probe(
            id=f"retained/{name}/{prompt}/{seed}",
            role="retained",
            subject=name,
            prompt=f"{prompt} {name}",
            seed=seed,
            labels=(f"concept:{name}",),
        )
        for name in ("rose", "lion")
        for prompt in ("a picture of a", "an image of a")
        for seed in (5, 6)
    ]
    clip = EmbedderSpec(called="clip", folder="builtin:emoji-clip")
    asked = DistancesSpec(clip=clip, features=features)
    return made.model_copy(update={"probes": tuple(probes), "detectors": (), "distances": asked})


def audited(plan: Plan, base: Path, out: Path, *, changed: bool, **how: Any) -> Audit:
    def patched() -> Any:
        model = load_pipeline(base)
        if changed:
            torch.manual_seed(1)
            with torch.no_grad():
                for weight in model.unet.parameters():
                    weight.mul_(1.3)
        return model

    models = Models(partial(load_pipeline, base), patched)
    identity = digest("changed") if changed else plan.base.identity
    audit = measure(plan, models, patched_digest=identity, passes_digest=None, out=out, **how)
    assert audit is not None
    return audit


def found(audit: Audit) -> Distances:
    assert audit.distances is not None
    return audit.distances


def test_a_model_that_is_its_base_is_at_no_distance(tiny_checkpoint: Path, tmp_path: Path) -> None:
    distances = found(audited(with_distances(tiny_checkpoint), tiny_checkpoint, tmp_path, changed=False))
    assert {pair.moved for pair in distances.pairs} == {0.0}
    assert all(pair.base == pair.patched for pair in distances.pairs)
    assert [each.n for each in distances.seeds] == [2] * 4
    assert all(each.apart > 0 for each in distances.seeds)
    assert distances.cmmd is not None
    assert (distances.cmmd.value, distances.cmmd.error, distances.cmmd.n) == (0.0, 0.0, 8)


def test_scores_and_distances_are_those_of_the_pictures(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plan = with_distances(tiny_checkpoint)
    distances = found(audited(plan, tiny_checkpoint, tmp_path, changed=True))
    clip = ZeroShot(shipped_model("emoji-clip"))

    ready = read_preprocessing(shipped_model("emoji-clip"))

    def vector(side: str, probe: Probe) -> torch.Tensor:
        pixels = np.asarray(Image.open(tmp_path / "images" / side / probe.picture_name))
        return clip.picture_vectors(ready(pixels)[None])[0]

    probe, other = plan.probes[2], plan.probes[3]
    pair = distances.pairs[2]
    assert pair.probe == probe.id
    text = clip.text_vectors([probe.prompt])[0]
    assert pair.base == pytest.approx(100 * float(vector("base", probe) @ text), abs=1e-3)
    assert pair.patched == pytest.approx(100 * float(vector("patched", probe) @ text), abs=1e-3)
    assert pair.moved == pytest.approx(1 - float(vector("base", probe) @ vector("patched", probe)), abs=1e-5)
    seeds = next(each for each in distances.seeds if each.probe == probe.id)
    assert seeds.apart == pytest.approx(1 - float(vector("base", probe) @ vector("base", other)), abs=1e-5)
    assert distances.cmmd is not None
    assert distances.cmmd.value > 0


def test_kid_and_fid_are_measured_where_a_network_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    weights = file_digest(folder / "model.safetensors")
    features = EmbedderSpec(called="vit", folder=str(folder), weights=weights, licence="none")
    audit = audited(with_distances(tiny_checkpoint, features), tiny_checkpoint, tmp_path / "run", changed=True)
    distances = found(audit)
    assert [each.name for each in audit.instruments] == ["builtin-judge", "clip", "vit"]
    assert distances.kid is not None
    assert distances.fid is not None
    assert distances.fid.value > 0
    assert distances.fid.n == distances.kid.n == 8


def test_a_clip_that_throws_or_is_missing_leaves_every_distance_unmeasured(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = with_distances(tiny_checkpoint)

    def broken(self: object, pixels: np.ndarray) -> np.ndarray:
        return np.full(4, np.nan)

    with monkeypatch.context() as patched:
        patched.setattr(embedding.ClipVectors, "picture", broken)
        thrown = audited(plan, tiny_checkpoint, tmp_path / "thrown", changed=False)
    spec = EmbedderSpec(called="clip", folder="nowhere", weights=digest("x"), licence="none")
    gone = plan.model_copy(update={"distances": DistancesSpec(clip=spec)})
    missing = audited(gone, tiny_checkpoint, tmp_path / "missing", changed=False)
    assert missing.instruments[-1].error is not None
    for audit in (thrown, missing):
        assert {pair.moved for pair in found(audit).pairs} == {None}
        assert found(audit).cmmd is None
        assert all(seen.unscored is None for seen in audit.observations)  # the recogniser saw them all the same


def test_a_prompt_that_the_clip_cannot_read_is_refused_before_anything_is_drawn(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    plan = with_distances(tiny_checkpoint)
    long = plan.probes[0].model_copy(update={"prompt": "a rose " * 200})
    with pytest.raises(InputError, match="tokens, this CLIP reads"):
        audited(plan.model_copy(update={"probes": (long,)}), tiny_checkpoint, tmp_path, changed=False)
