"""The tables of Furlanello et al. 2018, with the numbers they print (`paper_tables.csv`) beside ours."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ban import metrics
from ban.errors import UserError
from ban.report import render
from ban.report.results import Interval
from ban.report.tables import Row, Table
from ban.settings.schema import TableLayout


class Column(NamedTuple):
    """A column of a table of the paper."""

    heading: str
    split: str


@functools.cache
def paper_numbers(number: int) -> dict[str, dict[Column, float]]:
    """Model → column → the number that Furlanello et al. 2018 print in table `number`."""
    models: dict[str, dict[Column, float]] = {}
    with (Path(__file__).parent / "paper_tables.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["table"] == str(number) and row["value"]:
                split = row["metric"].partition("_")[0]
                models.setdefault(row["model"], {})[Column(row["column"], split)] = float(row["value"])
    return models


def show_paper_table(tables: Sequence[Table], layout: TableLayout, as_published: bool, outputs: Path) -> None:
    """Shows and writes networks by columns as in the paper: mean, interval and n, and the paper's number.

    `as_published` says that recipe, data, networks and methods are the paper's. Its numbers are single runs, so they
    are then judged by the 95 % prediction interval of one more run of ours.

    Raises:
        UserError: none of the tables is of a network that has a row.
    """
    assert layout.number is not None
    rows, published = layout.rows or [table.model for table in tables], paper_numbers(layout.number)
    tables = sorted((table for table in tables if table.model in rows), key=lambda table: rows.index(table.model))
    if not tables:
        raise UserError(f"table {layout.number} has rows for {', '.join(rows)} only: leave model and teacher out.")
    lines: list[dict[str, str]] = []
    records: list[dict[str, Any]] = []
    for table in tables:
        numbers = published.get(table.model, {})
        line = {"network": f"{table.network}{render.size(table)}"}
        for split, suffix in layout.splits.items():
            for row in table.rows:
                column = f"{row.heading} {suffix}".strip()
                number = numbers.get(Column(row.heading, split))
                line[column] = _text(row, row.measured.get(split), number, as_published)
                records.append({**render.record(table, row), "column": column, "paper": number})
        lines.append(line)
    regime = "; ".join(dict.fromkeys(table.title for table in tables))
    notes = [*_notes(as_published), *(f"{table.network}: {note}" for table in tables for note in table.notes)]
    title = f"Table {layout.number}"
    render.present(f"{title}, {metrics.LABELS[tables[0].metric]}", render.Section(regime, lines, notes))
    render.write(records, [render.Section(f"{title}. {regime}.", lines, notes)], outputs, f"table{layout.number}")


def _notes(as_published: bool) -> list[str]:
    return [
        "Mean ± 95 % interval (number of seeds) [the paper's single run].",
        "✓ / ✗: the paper's number is inside / outside the 95 % prediction interval of our runs (n ≥ 3)."
        if as_published
        else "Recipe, data, networks or methods differ from the paper's, so its numbers are not comparable.",
    ]


def _text(row: Row, measured: Interval | None, paper: float | None, as_published: bool) -> str:
    missing = "missing" if row.planned else "–"
    ours = f"{measured.text()} ({render.count(row)})" if measured else missing
    if paper is None:
        return ours
    inside = measured.predicts(paper) if as_published and measured else None
    mark = "" if inside is None else " ✓" if inside else " ✗"
    return f"{ours} [{paper:.2f}]{mark}"
