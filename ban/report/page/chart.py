"""Figures as Vega-Lite specifications: one definition for the page and for papers."""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Altair's methods and pandas have no complete types.

from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from ban.metrics import Predictions
from ban.report.results import Results
from ban.report.statistics import Interval
from ban.report.tables import Row, Table

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666"]
"""Of Okabe and Ito (2008): colour-blind readers can tell them apart, and most of them in grey."""
SEEDS = 8
"""Repetitions of which curves and predictions are drawn, so that the page stays small."""
ROWS = 24
"""Single networks of which curves and predictions are drawn."""
VALUES = 6_000
"""That a figure draws at most."""
alt.data_transformers.disable_max_rows()  # Altair would refuse 5,000
WIDTH, HEIGHT = 320, 200
"""Of the area of a figure, in pixels; 240 points, a column of a paper."""


class Figure(NamedTuple):
    """A figure, and the data that it shows."""

    name: str
    """Of its files, such as `generations`."""
    title: str
    caption: str
    chart: Any
    data: pd.DataFrame


def figure(name: str, title: str, caption: str, chart: Any, data: pd.DataFrame) -> Figure:
    """A figure in the common style."""
    chart = chart.configure_range(category=alt.RangeScheme(COLOURS)).configure_axis(grid=True, gridOpacity=0.3)
    return Figure(name, title, caption, chart, data)


def single(table: Table) -> list[Row]:
    """The rows of single networks, as many as are drawn."""
    return [row for row in table.rows if len(row.families) == 1 and row.measured][:ROWS]


def predictions_of(row: Row, results: Results, count: int = SEEDS) -> list[Predictions]:
    """Of the first repetitions of a single network."""
    stored = results.stored(row.families[0])[:count]
    found = [results.predictions(result["signature"]) for result in stored]
    return [each for each in found if each is not None]


def interval_record(heading: str, interval: Interval, sign: bool = False) -> dict[str, Any]:
    """A row's mean and interval as data of a figure."""
    half = interval.half_width
    return {
        "row": heading,
        "mean": interval.mean,
        "low": interval.mean - half if half is not None else None,
        "high": interval.mean + half if half is not None else None,
        "text": interval.text(sign=sign),
        "n": interval.count,
    }
