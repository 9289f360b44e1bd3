"""Learning curves as text."""

import itertools
from collections.abc import Sequence

from ban.display import console
from ban.store.formats import Record

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 6
"""Lines of a plot."""
SPLITS = ("test", "validation", "train")
"""In the order of preference."""


def show_curves(records: Sequence[Record], metric: str) -> None:
    """Plots a metric over the epochs: of the first split that was measured between epochs, and of the training set."""
    measured = [f"{split}_{metric}" for split in SPLITS]
    found = [name for name in measured if sum(record.get(name) is not None for record in records) > 1]
    for name in dict.fromkeys([*found[:1], *found[-1:]]):
        points = [(record["epoch"] or 0, value) for record in records if (value := record.get(name)) is not None]
        console.print(f"{name}, epochs {points[0][0]:.0f} to {points[-1][0]:.0f}")
        for line in plot([value for _, value in points], min(72, console.width - 12)):
            console.print(line)


def plot(values: Sequence[float], width: int) -> list[str]:
    """Lines with a bar for each value, or for the mean of neighbouring ones, between the least and the greatest."""
    columns = min(len(values), max(width, 8))
    bounds = [index * len(values) // columns for index in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
    low, high = min(means), max(means)
    eighths = [round(1 + (mean - low) / ((high - low) or 1.0) * (8 * HEIGHT - 1)) for mean in means]
    lines: list[str] = []
    for row in reversed(range(HEIGHT)):
        label = {HEIGHT - 1: f"{high:.4g}", 0: f"{low:.4g}"}.get(row, "")
        bars = "".join(BLOCKS[min(8, max(0, value - 8 * row))] for value in eighths)
        lines.append(f"{label:>9} ┤{bars}".rstrip())
    return lines
