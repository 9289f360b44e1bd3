"""Figures of trainings: what was recorded by epoch, what the gradient consisted of, when and where it ran, its cost."""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Altair's methods and pandas have no complete types.

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import altair as alt
import pandas as pd

from ban import metrics
from ban.report.gradients import HEADINGS
from ban.report.page.chart import COLOURS, SEEDS, VALUES, WIDTH, Figure, figure, single
from ban.report.results import Results
from ban.report.tables import Table
from ban.store.formats import Record
from ban.store.result import Result

PANEL = 230
"""Width of one of several panels, in pixels."""
FEWEST, MOST = 25, 200
"""Epochs of a curve that are drawn; of longer ones every k-th. Rather fewer repetitions than fewer epochs."""
DIAGNOSIS = "diagnosis."
"""What begins the names of the records of `recipe.diagnosed_steps`."""


def curves(table: Table, results: Results) -> Figure | None:
    """Losses, errors and the learning rate by epoch."""
    caption = "A click on the legend singles a row out."
    return _panels("curves", "Learning curves", caption, table, results, _title_of_curve)


def gradients(table: Table, results: Results) -> Figure | None:
    """What the students' gradients consisted of, by epoch (Furlanello et al. 2018, section 3.2)."""
    caption = (
        "Means over the diagnosed steps of each epoch, as `ban table diagnostics` shows them for the last one. "
        "Dark knowledge: what the teacher says of the classes other than the true one."
    )
    return _panels("gradients", "What the students learn from", caption, table, results, _title_of_diagnostic)


def _title_of_curve(name: str) -> str | None:
    """The title of a panel; None: it is not in this figure."""
    if name.startswith(DIAGNOSIS) or name in ("epoch", "seconds"):
        return None
    if name == "rate":
        return "learning rate, relative to the recipe's"
    metric = next((metric for metric in metrics.LABELS if name.endswith(f"_{metric}")), None)
    return f"{name.removesuffix(f'_{metric}')} {metrics.LABELS[metric]}" if metric else f"loss: {name}"


def _title_of_diagnostic(name: str) -> str | None:
    return HEADINGS.get(name.removeprefix(DIAGNOSIS)) if name.startswith(DIAGNOSIS) else None


def _panels(
    name: str, title: str, caption: str, table: Table, results: Results, title_of: Callable[[str], str | None]
) -> Figure | None:
    """A panel for each curve: repetitions thin, their mean bold."""
    rows = single(table)
    firsts = [results.stored(row.families[0])[0] for row in rows]
    names = {name for result in firsts for name in results.last_epoch(result) if title_of(name)}
    stored = max((len(results.stored(row.families[0])) for row in rows), default=0)
    seeds = max(1, min(SEEDS, stored, VALUES // max(1, FEWEST * len(rows) * len(names))))
    points = max(2, min(MOST, VALUES // max(1, seeds * len(rows) * len(names))))
    values = [
        {"row": row.heading, "stage": result["signature"], "curve": panel, "epoch": record["epoch"], "value": value}
        for row in rows
        for result in results.stored(row.families[0])[:seeds]
        for record in _thinned(results.curves(result), points)
        for key, value in record.items()
        if value is not None and (panel := title_of(key))
    ]
    data = pd.DataFrame(values, columns=["row", "stage", "curve", "epoch", "value"])
    data = data[data.groupby("curve")["epoch"].transform("nunique").to_numpy() > 1]
    if data.empty:
        return None
    # A row has the same colour in all figures, also in those without its teacher.
    colours = {row.heading: COLOURS[index % len(COLOURS)] for index, row in enumerate(rows)}
    present = [*data["row"].unique()]
    scale = alt.Scale(domain=present, range=[colours[heading] for heading in present])
    legend = alt.Color("row:N", title=None, scale=scale, legend=alt.Legend(orient="top"))
    choice = alt.selection_point(fields=["row"], bind="legend")
    fade = alt.condition(choice, alt.value(0.25), alt.value(0.02))
    base = alt.Chart().encode(alt.X("epoch:Q"), alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)), legend)
    thin = base.mark_line(strokeWidth=0.7).encode(detail="stage:N", opacity=fade)
    bold = base.mark_line(strokeWidth=2).encode(
        y="mean(value):Q", opacity=alt.condition(choice, alt.value(1), alt.value(0.05)), tooltip=["row", "epoch"]
    )
    chart = alt.layer(thin, bold.add_params(choice), data=data).properties(width=PANEL, height=0.55 * PANEL)
    panels = alt.Facet("curve:N", title=None, sort=[*HEADINGS.values(), *sorted(data["curve"].unique())])
    chart = chart.facet(panels, columns=3).resolve_scale(y="independent")
    several = f"Thin lines: {seeds} repetitions, at most {points} epochs each; bold lines: their means."
    drawn = several if seeds > 1 else f"At most {points} epochs are drawn."
    return figure(name, title, f"{caption} {drawn}", chart, data)


def _thinned(records: Sequence[Record], most: int) -> Sequence[Record]:
    step = max(1, -(-len(records) // most))
    return [*records[-1::-step]][::-1]


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
            alt.Color("kind:N", title=None, sort=[*data["kind"].unique()]),
            tooltip=["stage", "place", "begin:T", "end:T", "signature"],
        )
    )
    chart = chart.properties(width=2 * WIDTH, height=min(600, 6 * len(data)))
    caption = (
        "The latest 500 stages. A bar ends when the stage was finished and is as long as its training took, without "
        "evaluations and interruptions."
    )
    return figure("timeline", "What ran when", caption, chart, data)


def costs(table: Table, results: Results) -> Figure | None:
    """The training time of each row's stages, by device."""
    records = [
        {"row": row.heading, "device": result["device_name"], "hours": result["seconds"] / 3600}
        for row in single(table)
        for result in results.stored(row.families[0])
    ]
    if not records:
        return None
    data = pd.DataFrame(records).groupby(["row", "device"], sort=False)["hours"].agg(["sum", "count"]).reset_index()
    unit, scale = ("hours", 1) if float(data["sum"].max()) >= 1 else ("minutes", 60)
    data = data.assign(time=data.pop("sum") * scale, stages=data.pop("count"))
    chart = (
        alt.Chart(data)
        .mark_bar(height=12)
        .encode(
            alt.X("time:Q", title=f"training time, all repetitions ({unit})"),
            alt.Y("row:N", title=None, sort=[*data["row"].unique()], axis=alt.Axis(labelLimit=160)),
            alt.Color("device:N", title=None, legend=alt.Legend(orient="bottom", labelLimit=WIDTH)),
            tooltip=["row", "device", "stages", alt.Tooltip("time", title=unit, format=".2f")],
        )
    )
    chart = chart.properties(width=WIDTH, height=max(60, 24 * data["row"].nunique()))
    return figure("costs", "Cost", "Without the evaluations at the end, and without waiting.", chart, data)
