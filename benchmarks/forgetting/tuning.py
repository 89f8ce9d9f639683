"""``python -m benchmarks.forgetting.tuning``: the dose of ``official-tuned``, found on three development concepts.

The best dose is that with the least left of the targets and lost of the others, both counted as shares.
"""

from __future__ import annotations

from .rows import ROWS, Bench, Row
from .scenarios import DEVELOPMENT, TUNING, Scenario

DOSES = ((2e-5, 35), (3e-5, 35), (5e-5, 35), (1e-4, 35))


def main() -> None:
    """Prints a line for each dose, then the best."""
    bench = Bench(TUNING, ROWS / TUNING.name)
    scores = {}
    print("| learning rate | steps | left of the targets | lost of the others |\n|---|---|---|---|")
    for learning_rate, steps in DOSES:
        eraser = {"preset": "official", "learning_rate": learning_rate, "steps": steps}
        rows = [
            bench.row(
                Scenario(f"tuning-{concept['kind']}", (concept,), seed=8000),
                eraser,
                bench.folder / f"{learning_rate:g}-{steps}" / f"{concept['kind']}.json",
            )
            for concept in DEVELOPMENT
        ]
        left, lost = _left(rows), _lost(rows)
        scores[learning_rate, steps] = left[0] / left[1] + lost[0] / lost[1]
        print(f"| {learning_rate:g} | {steps} | {left[0]} of {left[1]} | {lost[0]} of {lost[1]} |", flush=True)
    print("best: learning rate {:g}, {} steps".format(*min(scores, key=scores.__getitem__)))


def _left(rows: list[Row]) -> tuple[int, int]:
    counts = [count for row in rows for count in row.targets.values()]
    return sum(count.hits for count in counts), sum(count.n for count in counts)


def _lost(rows: list[Row]) -> tuple[int, int]:
    """Net losses of the pictures in which the base shows what is asked for."""
    pairs = [row.retained[group] for row in rows for group in ("held in", "held out")]
    return sum(p.lost - p.gained for p in pairs), sum(p.both + p.lost for p in pairs)


if __name__ == "__main__":
    main()
