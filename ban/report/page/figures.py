"""Figures as Vega-Lite specifications: one definition for the page and for papers."""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Altair's methods and pandas have no complete types.

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from ban import metrics
from ban.metrics import Predictions
from ban.report.quality import agreement, reliability
from ban.report.results import Results
from ban.report.tables import Row, Table
from ban.store.result import Result

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666"]
"""Of Okabe and Ito (2008): colour-blind readers can tell them apart, and most of them in grey."""
POINTS = 200
"""Epochs of a curve; of longer ones every k-th is drawn."""
SEEDS = 8
"""Repetitions of which curves and predictions are drawn, so that the page stays small."""
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


def figures_of(table: Table, results: Results) -> list[Figure]:
    """The figures of one network in one regime."""
    made = (generations, gains, curves, calibration, agreements)
    return [figure for make in made if (figure := make(table, results)) is not None]


def _figure(name: str, title: str, caption: str, chart: Any, data: pd.DataFrame) -> Figure:
    chart = chart.configure_range(category=alt.RangeScheme(COLOURS)).configure_axis(grid=True, gridOpacity=0.3)
    return Figure(name, title, caption, chart, data)


def generations(table: Table, results: Results) -> Figure | None:
    """Each row's test metric: single trainings as dots, mean and interval in bold."""
    rows = [row for row in table.rows if "test" in row.measured]
    if not rows:
        return None
    dots = [
        {"row": row.heading, "value": tested.value, "stage": signature, "seed": results.by_signature[signature]["seed"]}
        for row in rows
        for signature, tested in results.tested(row.families, table.metric).items()
    ]
    means = [_interval(row.heading, row.measured["test"]) for row in rows]
    order, unit = [row.heading for row in rows], metrics.LABELS[table.metric]
    axis = alt.X("row:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=140))
    scale = alt.Scale(zero=False)
    points = alt.Chart(pd.DataFrame(dots)).mark_point(size=18, opacity=0.55, color=COLOURS[6])
    points = points.encode(
        axis,
        alt.Y("value:Q", title=f"test {unit}", scale=scale),
        tooltip=["row", "seed", alt.Tooltip("value", format=".3f"), "stage"],
        xOffset=alt.value(-6),
    )
    base = alt.Chart(pd.DataFrame(means)).encode(axis)
    mean = base.mark_point(filled=True, size=60, color=COLOURS[0]).encode(
        y="mean:Q", xOffset=alt.value(6), tooltip=["row", alt.Tooltip("text", title="mean"), "n"]
    )
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, color=COLOURS[0])
    bars = bars.encode(alt.Y("low:Q", scale=scale), y2="high:Q", xOffset=alt.value(6))
    layers = [points, *([bars] if any(row["low"] is not None for row in means) else []), mean]
    chart = alt.layer(*layers).properties(width=_width(len(rows)), height=HEIGHT)
    caption = "Dots are single trainings, or ensembles of one lineage; the bold marks are means with 95 % intervals."
    return _figure("generations", "Generation by generation", caption, chart, pd.DataFrame(means))


def gains(table: Table, results: Results) -> Figure | None:
    """Each row's paired difference to the teacher."""
    rows = [(row, row.gain) for row in table.rows if row.gain]
    if not rows:
        return None
    data = pd.DataFrame([_interval(row.heading, gain, sign=True) for row, gain in rows])
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
    return _figure("gains", "Against the teacher", caption, chart, data)


def curves(table: Table, results: Results) -> Figure | None:
    """Everything that was recorded by epoch, a panel each: repetitions thin, their mean bold."""
    records = [
        {"row": row.heading, "stage": result["signature"], "curve": name.replace("_", " "), **point}
        for row in _single(table)
        for result in results.stored(row.families[0])[:SEEDS]
        for name, point in _points(results, result)
    ]
    if not records:
        return None
    data = pd.DataFrame(records)
    data = data[data.groupby("curve")["epoch"].transform("nunique").to_numpy() > 1]
    if data.empty:
        return None
    legend = alt.Color("row:N", title=None, sort=[row.heading for row in _single(table)])
    choice = alt.selection_point(fields=["row"], bind="legend")
    fade = alt.condition(choice, alt.value(0.25), alt.value(0.02))
    base = alt.Chart().encode(alt.X("epoch:Q"), alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)), legend)
    thin = base.mark_line(strokeWidth=0.7).encode(detail="stage:N", opacity=fade)
    bold = base.mark_line(strokeWidth=2).encode(
        y="mean(value):Q", opacity=alt.condition(choice, alt.value(1), alt.value(0.05)), tooltip=["row", "epoch"]
    )
    chart = alt.layer(thin, bold.add_params(choice), data=data).properties(width=260, height=140)
    chart = chart.facet(alt.Facet("curve:N", title=None), columns=2).resolve_scale(y="independent")
    thinned = f" At most {POINTS} epochs and {SEEDS} repetitions are drawn." if len(data) > POINTS else ""
    caption = f"Thin lines are repetitions, bold ones their means. A click on the legend singles one out.{thinned}"
    return _figure("curves", "Learning curves", caption, chart, data)


def calibration(table: Table, results: Results) -> Figure | None:
    """Reliability diagrams of single networks, from all repetitions' test predictions."""
    records = list[dict[str, Any]]()
    for row in _single(table) if table.metric == "error_percent" else ():
        for predictions in _predictions(row, results):
            found = reliability(predictions)
            records += [
                {"row": row.heading, "bin": number, "confidence": confidence, "accuracy": accuracy, "ece": found.error}
                for number, (confidence, accuracy, _) in enumerate(zip(*found, strict=True))
            ]
    if not records:
        return None
    data = pd.DataFrame(records).groupby(["row", "bin"], sort=False).mean().reset_index()
    data["title"] = data["row"] + data.groupby("row")["ece"].transform("mean").map(lambda ece: f" (ECE {ece:.1f})")
    legend = alt.Color("title:N", title=None, sort=[*data["title"].unique()])
    unit = alt.Scale(domain=[0, 1])
    lines = (
        alt.Chart(data)
        .mark_line(point=alt.OverlayMarkDef(size=20))
        .encode(
            alt.X("confidence:Q", scale=unit),
            alt.Y("accuracy:Q", scale=unit),
            legend,
            alt.Shape("title:N", legend=None),
            tooltip=["row", alt.Tooltip("confidence", format=".3f"), alt.Tooltip("accuracy", format=".3f")],
        )
    )
    ideal = alt.Chart(pd.DataFrame({"x": [0, 1], "y": [0, 1]})).mark_line(strokeDash=[4, 3], color="#888888")
    chart = (ideal.encode(x="x:Q", y="y:Q") + lines).properties(width=240, height=240)
    caption = (
        "How often the predicted class is right, by its probability; test examples in bins of equal size, means over "
        "repetitions. ECE: expected calibration error in points."
    )
    return _figure("calibration", "Calibration", caption, chart, data)


def agreements(table: Table, results: Results) -> Figure | None:
    """How many test examples each two networks of one lineage classify alike."""
    rows = [row for row in _single(table) if table.metric == "error_percent"][:12]
    first = {row.heading: found[0] for row in rows if (found := _predictions(row, results, 1))}
    if len(first) < 2:
        return None
    data = pd.DataFrame(
        [
            {"row": one, "column": other, "agreement": each.same_class_percent, "divergence": each.divergence}
            for one, ours in first.items()
            for other, theirs in first.items()
            if np.array_equal(ours["targets"], theirs["targets"])
            for each in [agreement(ours, theirs)]
        ]
    )
    order = [*first]
    base = alt.Chart(data).encode(
        alt.X("column:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35)), alt.Y("row:N", sort=order, title=None)
    )
    cells = base.mark_rect().encode(
        alt.Color("agreement:Q", title="% alike", scale=alt.Scale(scheme="blues")),
        tooltip=["row", "column", alt.Tooltip("agreement", format=".1f"), alt.Tooltip("divergence", format=".4f")],
    )
    middle = float(data["agreement"].to_numpy().mean())
    colour = alt.condition(f"datum.agreement > {middle}", alt.value("white"), alt.value("black"))
    text = base.mark_text(fontSize=10).encode(alt.Text("agreement:Q", format=".1f"), color=colour)
    side = 36 * len(order)
    caption = "Test examples for which two networks of the first seed name the same class."
    return _figure("agreement", "Agreement", caption, (cells + text).properties(width=side, height=side), data)


def timeline(results: Sequence[Result]) -> Figure | None:
    """What was trained when, and where."""
    if not results:
        return None
    records = [
        {
            "stage": f"{result['label']}, {result['model_title']}, seed {result['seed']}",
            "kind": result["label"],
            "place": f"{result['device_name']}, {result['threads']} threads",
            "begin": (end := datetime.fromisoformat(result["finished"])) - timedelta(seconds=result["seconds"]),
            "end": end,
            "signature": result["signature"],
        }
        for result in sorted(results, key=lambda result: result["finished"])[-500:]
    ]
    data = pd.DataFrame(records)
    chart = (
        alt.Chart(data)
        .mark_bar(height=4)
        .encode(
            alt.X("begin:T", title="time (your zone)"),
            alt.X2("end:T"),
            alt.Y("signature:N", sort=[*data["signature"]], axis=None),
            alt.Color("kind:N", title=None),
            tooltip=["stage", "place", "begin:T", "end:T", "signature"],
        )
    )
    chart = chart.properties(width=2 * WIDTH, height=min(600, 6 * len(data)))
    caption = "Training time of each stage, the latest 500; evaluations and waiting are not in it."
    return _figure("timeline", "What ran when", caption, chart, data)


# Parts


def _interval(heading: str, interval: Any, sign: bool = False) -> dict[str, Any]:
    half = interval.half_width
    return {
        "row": heading,
        "mean": interval.mean,
        "low": interval.mean - half if half is not None else None,
        "high": interval.mean + half if half is not None else None,
        "text": interval.text(sign=sign),
        "n": interval.count,
    }


def _single(table: Table) -> list[Row]:
    """The rows of single networks."""
    return [row for row in table.rows if len(row.families) == 1 and row.measured]


def _points(results: Results, result: Result) -> list[tuple[str, dict[str, float | None]]]:
    """The finite values of a stage's curves, thinned."""
    records = results.curves(result)
    step = max(1, -(-len(records) // POINTS))
    return [
        (name, {"epoch": record["epoch"], "value": value})
        for record in records[step - 1 :: step]
        for name, value in record.items()
        if value is not None and name not in ("epoch", "seconds")
    ]


def _predictions(row: Row, results: Results, count: int = SEEDS) -> list[Predictions]:
    stored = results.stored(row.families[0])[:count]
    found = [results.predictions(result["signature"]) for result in stored]
    return [each for each in found if each is not None]


def _width(rows: int) -> int:
    return max(WIDTH, 36 * rows)
