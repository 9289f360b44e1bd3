"""Figures of stored predictions: calibration, agreement, and the classes or words that gained and lost."""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Altair's methods and pandas have no complete types.

from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from ban.metrics import Predictions
from ban.report.page.chart import COLOURS, HEIGHT, SEEDS, WIDTH, Figure, figure, predictions_of, single
from ban.report.pairwise import errors_by_class
from ban.report.quality import agreement, reliability
from ban.report.results import Results
from ban.report.tables import Table
from ban.wording import plural

CHANGED = 6
"""Classes that are shown because they gained most, and because they lost most."""


def calibration(table: Table, results: Results) -> Figure | None:
    """Reliability diagrams of single networks, from the test predictions of the first repetitions."""
    records = list[dict[str, Any]]()
    for row in single(table) if table.metric == "error_percent" else ():
        for predictions in predictions_of(row, results):
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
    ends = pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})
    ideal = alt.Chart(ends).mark_line(strokeDash=[4, 3], color="#888888")
    chart = (ideal.encode(x="confidence:Q", y="accuracy:Q") + lines).properties(width=240, height=240)
    caption = (
        "How often the predicted class is right, by its probability; test examples in bins of equal size, means over "
        f"at most {SEEDS} repetitions. ECE: expected calibration error in points."
    )
    return figure("calibration", "Calibration", caption, chart, data)


def agreements(table: Table, results: Results) -> Figure | None:
    """How many test examples each two networks of one lineage classify alike."""
    rows = [row for row in single(table) if table.metric == "error_percent"][:12]
    latest = max(rows, key=lambda row: row.generation, default=None)
    chosen = results.stored(latest.families[0])[0] if latest else None
    line = {row.heading: results.partner(chosen, row.families[0]) for row in rows if chosen}
    found = {heading: results.predictions(each["signature"]) for heading, each in line.items() if each}
    first = {heading: predictions for heading, predictions in found.items() if predictions}
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
    caption = "Test examples for which two networks of one seed name the same class."
    return figure("agreement", "Agreement", caption, (cells + text).properties(width=side, height=side), data)


def classes(table: Table, results: Results) -> Figure | None:
    """The classes whose test error the latest generation changed most, against its generation 0."""
    pairs = latest_against_teacher(table, results) if table.metric == "error_percent" else []
    if not pairs:
        return None
    dataset = results.store.description(pairs[0].signature)["dataset"]
    count = dataset["classes"]
    names = [*(dataset.get("class_names") or map(str, range(count)))][:count]
    changes = np.mean([errors_by_class(pair.student, pair.teacher, count) for pair in pairs], axis=0)
    order = np.argsort(changes, kind="stable")
    shown = order if count <= 2 * CHANGED else np.concatenate([order[:CHANGED], order[-CHANGED:]])
    data = pd.DataFrame({"class": [names[index] for index in shown], "change": changes[shown]})
    chart = (
        alt.Chart(data)
        .mark_bar(height=10)
        .encode(
            alt.X("change:Q", title="difference of the error to the teacher (points; left is better)"),
            alt.Y("class:N", title=None, sort=[*data["class"]], axis=alt.Axis(labelLimit=160)),
            alt.Color("better:N", legend=None, scale=alt.Scale(domain=[True, False], range=COLOURS[:2])),
            tooltip=["class", alt.Tooltip("change", format="+.2f")],
        )
    )
    chart = chart.transform_calculate(better="datum.change < 0").properties(width=WIDTH, height=16 * len(data))
    most = "" if len(data) == count else f" The {CHANGED} classes that gained most and the {CHANGED} that lost most."
    caption = f"{pairs[0].heading}: means over {plural(len(pairs), 'repetition')}.{most}"
    return figure("classes", "Class by class", caption, chart, data)


def words(table: Table, results: Results) -> Figure | None:
    """The gain in log-probability of words that are rare in the test text, and of frequent ones."""
    pairs = latest_against_teacher(table, results) if table.metric == "perplexity" else []
    if not pairs:
        return None
    counts = np.bincount(pairs[0].student["targets"])[pairs[0].student["targets"]]
    levels = np.floor(np.log2(counts)).astype(int)
    moved = np.mean([pair.student["log_probabilities"] - pair.teacher["log_probabilities"] for pair in pairs], axis=0)
    data = pd.DataFrame(
        [
            {
                "frequency": f"{2**level}" if level == 0 else f"{2**level}–{2 ** (level + 1) - 1}",
                "gain": float(moved[levels == level].mean(dtype=np.float64)),
                "words": int((levels == level).sum()),
            }
            for level in range(levels.max() + 1)
            if (levels == level).any()
        ]
    )
    chart = (
        alt.Chart(data)
        .mark_bar(color=COLOURS[0])
        .encode(
            alt.X("frequency:N", sort=[*data["frequency"]], title="occurrences in the test text"),
            alt.Y("gain:Q", title="gain in log-probability (nats)"),
            tooltip=["frequency", "words", alt.Tooltip("gain", format="+.4f")],
        )
    )
    chart = chart.properties(width=max(WIDTH, 28 * len(data)), height=HEIGHT)
    caption = (
        f"{pairs[0].heading} against the teacher, by how often a word occurs: means over the words and over "
        f"{plural(len(pairs), 'repetition')}; above 0 is better."
    )
    return figure("words", "Rare and frequent words", caption, chart, data)


class Pair(NamedTuple):
    """The predictions of a student and of the generation 0 that it descends from."""

    heading: str
    signature: str
    """The student's."""
    student: Predictions
    teacher: Predictions


def latest_against_teacher(table: Table, results: Results) -> list[Pair]:
    """The first repetitions of the latest generation whose test examples are those of their teachers."""
    students = [row for row in single(table) if row.generation]
    if not students:
        return []
    row = max(students, key=lambda row: row.generation)
    pairs = list[Pair]()
    for result in results.stored(row.families[0])[:SEEDS]:
        first = results.lineage(result)[-1]
        ours, theirs = results.predictions(result["signature"]), results.predictions(first["signature"])
        if not first["generation"] and ours and theirs and np.array_equal(ours["targets"], theirs["targets"]):
            pairs.append(Pair(row.heading, result["signature"], ours, theirs))
    return pairs
