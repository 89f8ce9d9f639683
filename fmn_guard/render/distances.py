"""Distances to the base, in words that the page, the Markdown and the terminal share."""

from __future__ import annotations

from collections.abc import Iterator

from ..distances import DistanceFigure, DistanceSummary, Figure
from ..policy import DISTANCES
from ..report import Report

HEADER = ("Distance", "Value", "Interval", "Pairs", "What it is")
"""Columns of the table."""

_NAMES: dict[Figure, tuple[str, str]] = {
    "clip_score_base": ("CLIP score, base", "mean of 100 cos(prompt, picture); higher is closer to the prompt"),
    "clip_score_patched": ("CLIP score, patched", "the same of the patched model's pictures"),
    "clip_score_drop": ("CLIP score, drop", "the base's less the patched model's, pair by pair"),
    "paired_distance": ("Paired distance", "mean of 1 - cos(base, patched), prompt and seed being the same"),
    "seed_distance": (
        "Base, seed to seed",
        "the same between the base's pictures of one prompt, of what is forgotten too; over prompts",
    ),
    "cmmd": ("CMMD", "1000 MMD² of the two sets, Gaussian kernel of sigma 10, V-statistic"),
    "kid": ("KID", "MMD² of the two sets, cubic kernel, unbiased"),
    "fid": ("FID", "Frechet distance of the two sets; biased below 10,000 pictures"),
}
_WRITTEN = DISTANCES | {
    "clip_score_base": "{:.2f}",
    "clip_score_patched": "{:.2f}",
    "seed_distance": DISTANCES["paired_distance"],
    "kid": "{:.5f}",
    "fid": "{:.3f}",
}


def row_of(figure: DistanceFigure) -> tuple[str, ...]:
    """A figure, as a row under `HEADER`."""
    name, meaning = _NAMES[figure.name]
    number = _WRITTEN[figure.name].format
    value = "not measured" if figure.value is None else number(figure.value)
    interval = f"{number(figure.interval.low)} to {number(figure.interval.high)}" if figure.interval else ""
    return name, value, interval, f"{figure.n} of {figure.n_planned}", meaning


def measured_by(found: DistanceSummary) -> str:
    """Who measured, in a sentence."""
    features = f"; KID and FID by {found.features}" if found.features else ""
    return f"What is retained, base beside patched, by {found.clip}{features}. Instruments are under provenance."


def in_brief(report: Report) -> Iterator[str]:
    """A line for a terminal."""
    if report.distances is None:
        return
    told = {figure.name: row_of(figure)[1] for figure in report.distances.figures}
    yield (
        f"Distances to the base: paired {told['paired_distance']}, the base's own from seed to seed "
        f"{told['seed_distance']}; CMMD {told['cmmd']}; CLIP score drop {told['clip_score_drop']}."
    )
