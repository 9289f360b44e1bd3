"""The report's HTML: tables, figures and stages in one file that needs no network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ban import metrics
from ban.report import verdicts
from ban.report.page import examples, outcomes, predictions, trainings
from ban.report.page.chart import SEEDS, Figure
from ban.report.page.lineage import graph
from ban.report.quality import qualities
from ban.report.render import size, texts
from ban.report.results import Results
from ban.report.tables import Table
from ban.store.result import Result, outcome
from ban.wording import duration, plural

FIGURES = (
    outcomes.generations,
    outcomes.gains,
    trainings.curves,
    trainings.gradients,
    predictions.calibration,
    predictions.agreements,
    predictions.classes,
    predictions.words,
    graph,
    trainings.costs,
)
"""Of each network in one regime; a figure without data is left out."""
SETTINGS = 300
"""Stages of which all settings are in the page; of more it would become too large."""
MOST = 1_000_000
"""Characters of figures. When they are reached, later tables get none, so that the page stays small."""

PICTURED = 8
"""Tables with pictures of test images."""


def page(tables: Sequence[Table], results: Results, title: str, data_dir: Path) -> tuple[str, list[Figure]]:
    """The report as HTML, and its figures. Pictures of test images come from the data in `data_dir`."""
    specs: list[str] = []
    figures: list[Figure] = []

    def placed(found: Sequence[Figure]) -> list[dict[str, str]]:
        places: list[dict[str, str]] = []
        for figure in found:
            places.append({"spec": f"{len(specs)}", "title": figure.title, "caption": figure.caption})
            specs.append(json.dumps(figure.chart.to_dict()))
            figures.append(figure)
        return places

    sections: list[dict[str, Any]] = []
    for number, table in enumerate(tables):
        room = sum(map(len, specs)) < MOST
        made = [figure for make in FIGURES if room and (figure := make(table, results)) is not None]
        shown = examples.changed(table, results, data_dir) if number < PICTURED else []
        about = _section(table, number, results)
        sections.append({**about, "figures": placed(made), "whole": room, "examples": shown})
    everything = [*results.by_signature.values()]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    text = environment.get_template("page.html.j2").render(
        title=title,
        about=_about(everything),
        sections=sections,
        figures=placed([each for each in [trainings.timeline(everything)] if each]),
        stages=_stages(everything, results),
        damaged=results.damaged,
        library=Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace("</script", "<\\/script")),
        specs=Markup(f"[{','.join(specs)}]".replace("<", "\\u003c")),
    )
    return text, figures


def _about(results: Sequence[Result]) -> str:
    seconds = sum(result["seconds"] for result in results)
    devices = ", ".join(sorted({result["device_name"] for result in results}))
    return f"{plural(len(results), 'stage')}, {duration(seconds)} of training on {devices}."


def _section(table: Table, number: int, results: Results) -> dict[str, Any]:
    rows = texts(table)
    stored = [results.stored(row.families[-1]) if row.families else [] for row in table.rows]
    anchors = [f"s{each[0]['signature']}" if each else "" for each in stored]
    return {
        "anchor": f"network{number}",
        "name": f"{table.network}{size(table)}",
        "title": table.title,
        "verdict": verdicts.headline(table),
        "tables": [_table("", rows, anchors), *_beyond(table, results)],
        "notes": [
            *verdicts.notes([table])[0],
            *verdicts.about_intervals([table]),
            *filter(None, [verdicts.needed(table)]),
        ],
    }


def _table(title: str, rows: Sequence[Mapping[str, str]], anchors: Sequence[str]) -> dict[str, Any]:
    cells = [{"cells": [*row.values()], "anchor": anchor} for row, anchor in zip(rows, anchors, strict=True)]
    return {"title": title, "headings": [heading or "stage" for heading in rows[0]], "rows": cells}


def _beyond(table: Table, results: Results) -> list[dict[str, Any]]:
    """What predictions say beyond the metric of the table, if any are stored."""
    found = {row.heading: qualities(row.families, results, SEEDS) for row in table.rows}
    names = [*dict.fromkeys(name for each in found.values() for name in each)]
    rows = [
        {"": heading}
        | {name: each[name].text() if name in each else "" for name in names}
        | {"n": f"{next(iter(each.values())).count}"}
        for heading, each in found.items()
        if each
    ]
    title = f"What the test predictions say beyond the {metrics.LABELS[table.metric].removesuffix(' in %')}"
    if any(len(results.stored(row.families[0])) > SEEDS for row in table.rows if row.families):
        title += f" (of at most {SEEDS} repetitions)"
    return [_table(title, rows, [""] * len(rows))] if rows else []


def _stages(everything: Sequence[Result], results: Results) -> list[dict[str, Any]]:
    names = {result["signature"]: f"{result['label']}, seed {result['seed']}" for result in everything}
    students: dict[str, list[str]] = {}
    for result in everything:
        for parent in {*result["parents"]} & names.keys():
            students.setdefault(parent, []).append(result["signature"])
    with_settings = len(everything) <= SETTINGS
    return [
        {
            "signature": result["signature"],
            "name": f"{result['label']}, {result['model_title']}, {result['dataset']}, seed {result['seed']}",
            "outcome": outcome(result),
            "teachers": [_link(name, names) for name in result["teachers"] if name in names],
            "students": [_link(name, names) for name in students.get(result["signature"], [])],
            "facts": _facts(result) if with_settings else "",
            "settings": _settings(results, result["signature"]) if with_settings else "",
        }
        for result in sorted(everything, key=lambda result: (result["generation"], result["label"], result["seed"]))
    ]


def _link(signature: str, names: Mapping[str, str]) -> dict[str, str]:
    return {"signature": signature, "name": names[signature]}


def _facts(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    trained = f"{duration(result['seconds'])} on {result['device_name']}, {plural(result['threads'], 'thread')}"
    return f"{result['signature']}. {result['regime_title']}. {trained}. Finished {result['finished']}. {versions}."


def _settings(results: Results, signature: str) -> str:
    description = results.store.description(signature)
    return "\n".join(
        f"{name}: {json.dumps(description[name], ensure_ascii=False)}"
        for name in filter(description.get, ("dataset", "models", "method", "recipe", "weights"))
    )
