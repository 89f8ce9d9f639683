"""How far the patched model's pictures of what is retained are from the base's, by vectors that a store keeps.

(Plan, Audit, Store) --distances_of--> Distances     needs numpy, and no torch

A pair counts if both of its pictures are scored and have vectors; the others are told by their absence.
"""

from __future__ import annotations

from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..evidence import Audit, Distances, Instrument, PairDistance, SeedDistance, SetDistance, Side
from ..plan import Plan
from ..probes import Probe
from ..store import Seen, Store, instrument_key, prompt_key

SIGMA = 10.0
"""Width of CMMD's Gaussian kernel (Jayasumana et al. 2024, arXiv 2401.09603, section 4)."""
SCALE = 1000.0
"""By what CMMD is multiplied, as there."""
_ROWS = 512  # of a kernel matrix that are held at once

Vectors = Mapping[tuple[str, Side], np.ndarray]
"""Vectors by probe and side."""


def distances_of(plan: Plan, audit: Audit, store: Store) -> Distances:
    """Measures the retained probes of a plan.

    Args:
        plan: Which asks for distances.
        audit: What was seen; tells which pictures are scored.
        store: Vectors of pictures and prompts.
    """
    first = 1 + len(plan.detectors)
    clip, *features = audit.instruments[first:]
    retained = [probe for probe in plan.probes if probe.role == "retained"]
    vectors = _vectors(clip, audit, store)
    paired = _paired(retained, vectors)
    kid = fid = None
    if features:
        found = _vectors(features[0], audit, store)
        kept = _paired(retained, found)
        if len(kept) > 1:
            base, patched = _stacked(kept, found)
            kid = SetDistance(value=round(kernel_distance(base, patched), 6), error=None, n=len(kept))
            fid = SetDistance(value=round(frechet_distance(base, patched), 6), error=None, n=len(kept))
    return Distances(
        pairs=tuple(_pairs(retained, vectors, _prompts(clip, retained, store))),
        seeds=tuple(_seeds(plan.probes, vectors)),
        cmmd=_cmmd(paired, *_stacked(paired, vectors)) if len(paired) > 1 else None,
        kid=kid,
        fid=fid,
    )


def cmmd(base: np.ndarray, patched: np.ndarray, groups: Sequence[str]) -> tuple[float, float | None]:
    """CMMD of two sets of unit vectors, and its standard error.

    1000 times the squared maximum mean discrepancy under k(x, y) = exp(-|x - y|^2 / (2 * 10^2)), as a V-statistic: the
    mean over all pairs, a picture with itself among them, as the authors' program takes it. It is never below zero, and
    zero for equal sets; of two sets of n from one distribution it is about 2000 (1 - mean k) / n.

    Args:
        base: (n, d).
        patched: (n, d), of the same probes in the same order.
        groups: Prompt of each pair. The standard error is that of the jackknife which leaves out one prompt at a time
            (Arvesen 1969, Ann. Math. Stat. 40:2076), since pictures of one prompt are alike.

    Returns:
        Both; no error where there is a single prompt.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    member = np.zeros((len(names), len(groups)))  # (P, n)
    member[[names[each] for each in groups], range(len(groups))] = 1
    sums = np.zeros((len(names),) * 2)  # (P, P), of the kernel of pairs x pairs
    for start in range(0, len(base), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = _gauss(base[rows], base) + _gauss(patched[rows], patched)
        kernel -= _gauss(base[rows], patched) + _gauss(patched[rows], base)
        sums += member[:, rows] @ kernel @ member.T
    pairs, total = member.sum(1), sums.sum()
    value = max(0.0, float(SCALE * total / len(base) ** 2))  # rounding may leave less
    if len(names) < 2:
        return value, None
    without = SCALE * (total - sums.sum(0) - sums.sum(1) + sums.diagonal()) / (len(base) - pairs) ** 2
    spread = ((without - without.mean()) ** 2).sum()
    return value, float(np.sqrt((len(names) - 1) / len(names) * spread))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kernel inception distance of two sets (n, d): squared MMD under (x.y / d + 1)^3, unbiased, over all of them.

    Binkowski et al. 2018, arXiv 1801.01401; there it is the mean over subsets of 1,000.
    """

    def within(x: np.ndarray) -> float:
        kernel = (x @ x.T / x.shape[1] + 1) ** 3
        return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(((a @ b.T / a.shape[1] + 1) ** 3).mean())


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the normal distributions with mean and covariance of two sets (n, d).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Heusel et al. 2017, arXiv 1706.08500. The root's trace is that of
    (S_a^(1/2) S_b S_a^(1/2))^(1/2), which is symmetric.
    """
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, axes = np.linalg.eigh(cov_a)
    root = (axes * np.sqrt(values.clip(min=0))) @ axes.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(max(0.0, apart + np.trace(cov_a) + np.trace(cov_b) - 2 * shared))


def _gauss(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel of unit vectors (n, d) and (m, d): (n, m)."""
    kernel: np.ndarray = np.exp((a @ b.T - 1) / SIGMA**2)  # |x - y|^2 = 2 - 2 x.y
    return kernel


def _cmmd(probes: Sequence[Probe], base: np.ndarray, patched: np.ndarray) -> SetDistance:
    value, error = cmmd(base, patched, [probe.prompt for probe in probes])
    return SetDistance(value=round(value, 6), error=None if error is None else round(error, 6), n=len(probes))


def _pairs(probes: Sequence[Probe], vectors: Vectors, prompts: Mapping[str, np.ndarray]) -> list[PairDistance]:
    def score(probe: Probe, side: Side) -> float | None:
        picture, prompt = vectors.get((probe.id, side)), prompts.get(probe.prompt)
        return None if picture is None or prompt is None else round(100 * float(picture @ prompt), 4)

    def between(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
        return None if a is None or b is None else 1 - float(a @ b)

    found = []
    for probe in probes:
        base, patched = (vectors.get((probe.id, side)) for side in ("base", "patched"))
        moved = between(base, patched)
        found.append(
            PairDistance(
                probe=probe.id,
                base=score(probe, "base"),
                patched=score(probe, "patched"),
                moved=None if moved is None else round(max(0.0, moved), 6),
            )
        )
    return found


def _seeds(probes: Sequence[Probe], vectors: Vectors) -> Iterator[SeedDistance]:
    alike: defaultdict[str, dict[int, Probe]] = defaultdict(dict)
    for probe in probes:
        if probe.role != "prompted" and (probe.id, "base") in vectors:
            alike[probe.prompt].setdefault(probe.seed, probe)
    for drawn in alike.values():
        if (n := len(drawn)) > 1:
            rows = np.array([vectors[probe.id, "base"] for probe in drawn.values()])  # (n, d)
            apart = 1 - (rows @ rows.T)[np.triu_indices(n, 1)].mean()
            yield SeedDistance(probe=next(iter(drawn.values())).id, apart=round(max(0.0, float(apart)), 6), n=n)


def _paired(probes: Sequence[Probe], vectors: Vectors) -> list[Probe]:
    return [probe for probe in probes if {(probe.id, "base"), (probe.id, "patched")} <= vectors.keys()]


def _stacked(probes: Sequence[Probe], vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of probes: (n, d) each."""
    base, patched = ([vectors[probe.id, side] for probe in probes] for side in ("base", "patched"))
    return np.array(base), np.array(patched)


def _vectors(instrument: Instrument, audit: Audit, store: Store) -> Vectors:
    """Vectors of what is scored; none by a network that did not load."""
    by = None if instrument.error else instrument_key(instrument)
    found = {
        (seen.probe, seen.side): _unpacked(store.seen(seen.image_digest, by))
        for seen in audit.observations
        if by and seen.image_digest and seen.unscored is None
    }
    return {key: vector for key, vector in found.items() if vector is not None}


def _prompts(clip: Instrument, probes: Sequence[Probe], store: Store) -> dict[str, np.ndarray]:
    if clip.error:
        return {}
    by = instrument_key(clip)
    found = {prompt: _unpacked(store.seen(prompt_key(prompt), by)) for prompt in {p.prompt for p in probes}}
    return {prompt: vector for prompt, vector in found.items() if vector is not None}


def _unpacked(seen: Seen | None) -> np.ndarray | None:
    if seen is None or seen.vector is None:
        return None
    return np.frombuffer(b64decode(seen.vector), "<f4").astype(np.float64)
