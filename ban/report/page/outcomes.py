"""Figures of results: each generation's test metric, and its difference to the teacher."""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Altair's methods and pandas have no complete types.

from itertools import islice

import altair as alt
import pandas as pd

from ban import metrics
from ban.report.page.chart import COLOURS, HEIGHT, VALUES, WIDTH, Figure, figure, interval_record
from ban.report.results import Results
from ban.report.tables import Table

DRAWN = 60
"""Rows that are drawn; the table has all of them."""


def generations(table: Table, results: Results) -> Figure | None:
    """Each row's test metric: single trainings as dots, mean and interval in bold."""
    rows = [row for row in table.rows if "test" in row.measured][:DRAWN]
    if not rows:
        return None
    dots = [
        {"row": row.heading, "value": tested.value, "stage": signature, "seed": results.by_signature[signature]["seed"]}
        for row in rows
        for signature, tested in islice(results.tested(row.families, table.metric).items(), VALUES // len(rows))
    ]
    means = [interval_record(row.heading, row.measured["test"]) for row in rows]
    order, unit = [row.heading for row in rows], metrics.LABELS[table.metric]
    left, right = (
        alt.X("row:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=140), bandPosition=position)
        for position in (0.35, 0.65)
    )
    scale = alt.Scale(zero=False)
    points = alt.Chart(pd.DataFrame(dots)).mark_point(size=18, opacity=0.55, color=COLOURS[6])
    points = points.encode(
        left,
        alt.Y("value:Q", title=f"test {unit}", scale=scale),
        tooltip=["row", "seed", alt.Tooltip("value", format=".3f"), "stage"],
    )
    base = alt.Chart(pd.DataFrame(means)).encode(right)
    mean = base.mark_point(filled=True, size=60, color=COLOURS[0]).encode(
        y="mean:Q", tooltip=["row", alt.Tooltip("text", title="mean"), "n"]
    )
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, color=COLOURS[0])
    bars = bars.encode(alt.Y("low:Q", scale=scale), y2="high:Q")
    layers = [points, *([bars] if any(row["low"] is not None for row in means) else []), mean]
    chart = alt.layer(*layers).properties(width=max(WIDTH, 36 * len(rows)), height=HEIGHT)
    caption = "Dots are single trainings, or ensembles of one lineage; the bold marks are means with 95 % intervals."
    return figure("generations", "Generation by generation", caption, chart, pd.DataFrame(means))


def gains(table: Table, results: Results) -> Figure | None:
    """Each row's paired difference to the teacher."""
    rows = [(row, row.gain) for row in table.rows if row.gain][:DRAWN]
    if not rows:
        return None
    data = pd.DataFrame([interval_record(row.heading, gain, sign=True) for row, gain in rows])
    order = [row.heading for row, _ in rows]
    base = alt.Chart(data).encode(alt.Y("row:N", sort=order, title=None, axis=alt.Axis(labelLimit=160)))
    unit = "points" if table.metric == "error_percent" else metrics.LABELS[table.metric]
    axis = alt.X("mean:Q", title=f"difference to the teacher ({unit}; left is better)")
    dots = base.mark_point(filled=True, size=60, color=COLOURS[0]).encode(axis, tooltip=["row", "text", "n"])
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, color=COLOURS[0])
    bars = bars.encode(x="low:Q", x2="high:Q")
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(strokeDash=[4, 3]).encode(x="zero:Q")
    chart = zero + bars + dots if any(gain.half_width is not None for _, gain in rows) else zero + dots
    chart = chart.properties(width=WIDTH, height=max(60, 24 * len(rows)))
    caption = "Means of paired differences with 95 % intervals, not adjusted for their number."
    return figure("gains", "Against the teacher", caption, chart, data)
