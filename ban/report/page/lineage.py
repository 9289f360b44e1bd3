"""The stages of a table as a graph, from generation 0 on: which family taught which."""

# pyright: basic, reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportArgumentType=false
# Altair's methods and pandas have no complete types.

import functools
from typing import Any

import altair as alt
import pandas as pd

from ban.metrics import describe
from ban.report.page.chart import COLOURS, WIDTH, Figure, figure, single
from ban.report.results import Results
from ban.report.tables import Table, labels
from ban.wording import duration

ROW_HEIGHT = 44
COLUMN_WIDTH = 170


def graph(table: Table, results: Results) -> Figure | None:
    """A mark for each family, with lines from teachers; a click leads to the family's first stage."""
    families = _with_ancestors([row.families[0] for row in single(table)], results)
    if len(families) < 2:
        return None
    headings = dict(zip(families, labels(families, results), strict=True))
    headings |= {row.families[0]: row.heading for row in single(table)}
    parents = {family: _parents(family, results) for family in families}

    @functools.cache
    def depth(family: str) -> int:
        return max((1 + depth(parent) for parent in parents[family]), default=0)

    columns: dict[int, list[str]] = {}
    for family in families:
        columns.setdefault(depth(family), []).append(family)
    places = {
        family: {"x": x, "y": y - (len(column) - 1) / 2}
        for x, column in columns.items()
        for y, family in enumerate(column)
    }
    nodes = pd.DataFrame([{**places[family], **_node(family, headings[family], results)} for family in families])
    lines = pd.DataFrame(
        [
            {**places[parent], "x2": places[family]["x"], "y2": places[family]["y"]}
            for family in families
            for parent in parents[family]
        ]
    )
    rows = max(map(len, columns.values()))
    axes = {
        "x": alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.5, max(columns) + 0.5])),
        "y": alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-rows / 2, rows / 2], reverse=True)),
    }
    edges = alt.Chart(lines).mark_rule(opacity=0.6, color=COLOURS[6]).encode(**axes, x2="x2:Q", y2="y2:Q")
    base = alt.Chart(nodes).encode(**axes, href="link:N", tooltip=["family", "test", "stages", "trained for", "on"])
    marks = base.mark_point(filled=True, size=120, color=COLOURS[0], opacity=1)
    names = base.mark_text(dy=-13, limit=COLUMN_WIDTH, color=COLOURS[0]).encode(text="family:N")
    values = base.mark_text(dy=16, fontSize=9, color=COLOURS[6]).encode(text="short:N")
    chart = alt.layer(edges, marks, names, values).configure_view(stroke=None)
    chart = chart.properties(width=max(WIDTH, COLUMN_WIDTH * (max(columns) + 1)), height=ROW_HEIGHT * rows)
    caption = "From teachers to their students, with the mean of the test set. A click leads to the first stage."
    return figure("lineage", "Who taught whom", caption, chart, nodes.drop(columns=["x", "y", "link"]))


def _with_ancestors(families: list[str], results: Results) -> list[str]:
    """The families, and those whose stages they need, as far as these are stored."""
    found = dict.fromkeys(families)
    for family in families:
        found |= dict.fromkeys(_with_ancestors(_parents(family, results), results))
    return [*found]


def _parents(family: str, results: Results) -> list[str]:
    parents = results.stored(family)[0]["parents"]
    return [*dict.fromkeys(results.by_signature[each]["family"] for each in parents if each in results.by_signature)]


def _node(family: str, heading: str, results: Results) -> dict[str, Any]:
    stored = results.stored(family)
    first = stored[0]
    mean = results.measured(family, "test", first["metric"])
    return {
        "family": heading,
        "test": describe("test", first["metric"], mean.mean) if mean else "",
        "short": mean.text() if mean else "",
        "stages": len(stored),
        "trained for": duration(sum(each["seconds"] for each in stored)),
        "on": ", ".join(sorted({each["device_name"] for each in stored})),
        "link": f"#s{first['signature']}",
    }
