"""Rows into one table: a figure a line, a preset a column, every share with its interval and its n."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import get_args

from fmn_guard.manifest import SequenceMode
from fmn_guard.stats import newcombe_paired, percent, wilson

from .rows import Count, Pairs, Row
from .scenarios import SINGLES

CONFIDENCE = 0.95


def table(by_preset: dict[str, list[Row]]) -> Iterator[str]:
    """A Markdown table of the rows of each preset, and what it says nothing about."""
    yield f"| figure | {' | '.join(by_preset)} |"
    yield f"|{'---|' * (len(by_preset) + 1)}"
    columns = [dict(_figures(rows)) for rows in by_preset.values()]
    fullest_first = sorted(columns, key=len, reverse=True)
    for figure in dict.fromkeys(name for column in fullest_first for name in column):
        yield f"| {figure} | {' | '.join(column.get(figure, 'not run') for column in columns)} |"
    rows = [row for found in by_preset.values() for row in found]
    seeds = sorted({row.first_seed for row in rows}), sorted({row.eraser_seed for row in rows})
    yield ""
    yield (
        f"{100 * CONFIDENCE:g} % intervals: Wilson of shares, Newcombe of paired drops. Seeds: pictures from "
        f"{_listed(seeds[0])}, eraser {_listed(seeds[1])}. Aliases are the only paraphrases: "
        "the built-in model has learnt captions and no language."
    )


def _figures(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    named = {row.scenario: row for row in rows}
    singles = [named[f"one-{c['kind']}"] for c in SINGLES if f"one-{c['kind']}" in named]
    sequences = [row for row in rows if row.scenario.startswith("sequence")]
    whole = [row for row in rows if row.scenario.startswith("whole-sequence")]
    for row in singles:
        kind = row.scenario.removeprefix("one-")
        yield f"one concept, {kind}: still shown (base)", _before_and_after(row.base, row.targets)
    if singles:
        yield "one concept: aliases still shown", _share(row.aliases for row in singles)
        for group in ("same kind", "other kinds", "neighbours", "held in", "held out"):
            yield f"one concept: retained, {group}: net loss", _drop(row.retained[group] for row in singles)
    for found, language in ((sequences, ""), (whole, ", whole vocabulary")):
        if found:
            yield from _sequence_figures(f"{len(found[0].targets)} passes{language}", found)
    others = [("short-sequence", "passes"), *((f"long-{mode}", f"concepts, {mode}") for mode in get_args(SequenceMode))]
    for scenario, words in others:
        for prefix, language in (("", ""), ("whole-", ", whole vocabulary")):
            if row := named.get(f"{prefix}{scenario}"):
                yield from _sequence_figures(f"{len(row.targets)} {words}{language}", [row])
    for row in (row for row in rows if row.recovered):
        kind = row.scenario.removeprefix("inverted-").removeprefix("rounds-")
        if row.scenario.startswith("rounds-"):
            kind += ", inversion rounds"
            yield f"{kind}: still shown (base)", _before_and_after(row.base, row.targets)
            for group in ("held in", "held out", "neighbours"):
                yield f"{kind}: retained, {group}: net loss", _drop([row.retained[group]])
            yield f"{kind}: CPU seconds", f"{sum(row.seconds):.0f}"
        for tokens, count in row.recovered.items():
            before = row.recovered_on_base[tokens]
            yield (
                f"{kind}, by {tokens} inverted token{'s' if tokens != '1' else ''}: shown (base)",
                f"{_share([count])} ({before.hits} of {before.n})",
            )
    if correction := named.get("correction"):
        yield (
            "correction: dominant reading in its prompt (base)",
            _before_and_after(correction.base, correction.targets),
        )
        yield "correction: expected reading in its prompt", _share([correction.expected])
        yield "correction: dominant reading by its own name: net loss", _drop([correction.dominant_elsewhere])
    for row in sorted((row for row in rows if row.directions_left is not None), key=lambda row: -row.directions_left):
        yield (
            f"{percent(row.directions_left)} of all directions left: still shown; retained, held out: net loss",
            f"{_share(row.targets.values())}; {_drop([row.retained['held out']])}",
        )
    for row in (row for row in rows if row.scenario.startswith("tokens-")):
        kind = f"{row.scenario.removeprefix('tokens-')}, with the release's inversion stage"
        yield f"{kind}: still shown (base)", _before_and_after(row.base, row.targets)
        yield f"{kind}: CPU seconds", f"{sum(row.seconds):.0f}"
    inverting = ("rounds-", "tokens-")
    alone = [row for row in rows if len(row.seconds) == len(row.targets) and not row.scenario.startswith(inverting)]
    seconds = [s for row in alone for s in row.seconds]
    yield (
        "CPU seconds a concept, drawing included; drawing alone (medians)",
        (f"{median(seconds):.1f}; {median(d for row in alone for d in row.drawing):.1f}, n {len(seconds)}"),
    )
    if memory := [row.memory for row in rows if row.memory is not None]:
        yield "peak memory above the loaded model", f"{max(memory) / 2**20:.0f} MiB"
    size = median(row.patch / len(row.targets) / row.unet for row in rows)
    yield "patch a concept, of the UNet's bytes", percent(size)


def _sequence_figures(named: str, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    yield (
        f"{named}: targets still shown (base)",
        _before_and_after(
            *({(i, slug): n for i, row in enumerate(rows) for slug, n in counts(row)} for counts in _SIDES)
        ),
    )
    worst = max((count for row in rows for count in row.targets.values()), key=lambda c: c.hits / c.n)
    yield f"{named}: the worst target", _share([worst])
    if rebounds := [row.targets[slug].hits - own.hits for row in rows for slug, own in row.own.items()]:
        yield f"{named}: most pictures of a concept that came back", f"{max(0, *rebounds)} of {worst.n}"
    for group in ("held in", "held out", "same kind", "other kinds", "neighbours"):
        if any(_asked(row.retained[group]) for row in rows):
            yield f"{named}: retained, {group}: net loss", _drop(row.retained[group] for row in rows)
    distances = [row.unrelated for row in rows if row.unrelated]
    if distances:
        moved, seeds = sum(d.moved for d in distances), sum(d.seeds for d in distances)
        pairs = sum(d.n for d in distances)
        yield f"{named}: unrelated pictures moved, of another seed's way", f"{percent(moved / seeds)}, n {pairs}"


_SIDES = (lambda row: row.base.items(), lambda row: row.targets.items())


def _before_and_after(base: dict, after: dict) -> str:
    before = _pooled(base.values())
    return f"{_share(after.values())} ({before.hits} of {before.n})"


def _share(counts: Iterable[Count]) -> str:
    pooled = _pooled(counts)
    if not pooled.n:
        return "none asked"
    return f"{pooled.hits} of {pooled.n}: {wilson(pooled.hits, pooled.n, CONFIDENCE)}"


def _pooled(counts: Iterable[Count]) -> Count:
    every = list(counts)
    return Count(hits=sum(c.hits for c in every), n=sum(c.n for c in every))


def _asked(pairs: Pairs) -> int:
    return pairs.both + pairs.lost + pairs.gained + pairs.neither


def _drop(parts: Iterable[Pairs]) -> str:
    every = list(parts)
    both, lost, gained, neither = (
        sum(getattr(part, field) for part in every) for field in ("both", "lost", "gained", "neither")
    )
    n = both + lost + gained + neither
    if not n:
        return "none asked"
    interval = newcombe_paired(both, lost, gained, neither, CONFIDENCE)
    return f"{percent((lost - gained) / n)}, {interval}; {lost} lost, {gained} gained of {n}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
