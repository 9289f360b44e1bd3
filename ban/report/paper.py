"""The tables of Furlanello et al. 2018, with the numbers they print (`paper_tables.csv`) beside ours."""

import csv
import functools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from ban import metrics
from ban.errors import UserError
from ban.plan.stage import Stage
from ban.report import render, verdicts
from ban.report.markup import Section
from ban.report.statistics import Interval
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


def is_as_published(stage: Stage) -> bool:
    """Whether the files of its networks, recipe and data set say that they are the paper's, and its teachers' too."""
    facts = [part.as_published for part in (*stage.models, stage.recipe, stage.dataset)]
    return not stage.weights and all(facts) and all(map(is_as_published, stage.parents))


def show_paper_table(tables: Sequence[Table], layout: TableLayout, published: AbstractSet[str], outputs: Path) -> None:
    """Shows and writes networks by columns as in the paper: mean, interval and n, and the paper's number.

    `published` holds the families whose networks, recipe, data set and method are the paper's. Its numbers are single
    runs, so there they are judged by the 95 % prediction interval of one more run of ours.

    Raises:
        UserError: none of the tables is of a network that has a row.
    """
    assert layout.number is not None
    rows = layout.rows or [table.model for table in tables]
    tables = sorted((table for table in tables if table.model in rows), key=lambda table: rows.index(table.model))
    if not tables:
        raise UserError(f"table {layout.number} has rows for {', '.join(rows)} only: leave model and teacher out.")
    lines = [_line(table, layout, published) for table in tables]
    texts = [
        {"network": f"{table.network}{render.size(table)}", **{cell.column: cell.text for cell in line}}
        for table, line in zip(tables, lines, strict=True)
    ]
    records = [
        {**render.record(table, cell.row), "column": cell.column, "split": cell.split, **cell.judged._asdict()}
        for table, line in zip(tables, lines, strict=True)
        for cell in line
    ]
    regime = "; ".join(dict.fromkeys(table.title for table in tables))
    notes = _notes(tables, [cell.judged for line in lines for cell in line])
    for table, sentences in zip(tables, verdicts.notes(tables), strict=True):
        notes += [f"{table.network}: {sentence}" for sentence in sentences]
    title = f"Table {layout.number}"
    shown = (f"{title}, {metrics.LABELS[tables[0].metric]}", Section(regime, texts, notes))
    written = Section(f"{title}. {regime}.", texts, notes)
    render.publish([shown], records, [written], outputs / "tables" / f"table{layout.number}")


class Judged(NamedTuple):
    """A number of the paper, beside one of ours."""

    paper: float | None
    """None: the paper has no such number."""
    prediction_half_width: float | None = None
    inside: bool | None = None
    """Whether it is inside the prediction interval; None: it is not comparable, or there are too few runs."""


class Entry(NamedTuple):
    """A number of ours in a table of the paper."""

    column: str
    """Its heading."""
    row: Row
    """What was measured."""
    split: str
    judged: Judged

    @property
    def text(self) -> str:
        """Mean, interval and n, and the paper's number."""
        return _text(self.row, self.row.measured.get(self.split), self.judged)


def _line(table: Table, layout: TableLayout, published: AbstractSet[str]) -> list[Entry]:
    """The row of the paper's table that a table of ours becomes."""
    assert layout.number is not None
    numbers = paper_numbers(layout.number).get(table.model, {})
    found: list[Entry] = []
    for split, suffix in layout.splits.items():
        for row in table.rows:
            number = numbers.get(Column(row.heading, split))
            judged = _judged(row.measured.get(split), number, {*row.families} <= published)
            found.append(Entry(f"{row.heading} {suffix}".strip(), row, split, judged))
    return found


def _judged(measured: Interval | None, paper: float | None, comparable: bool) -> Judged:
    if paper is None or measured is None or not comparable:
        return Judged(paper)
    return Judged(paper, measured.prediction, measured.predicts(paper))


def _notes(tables: Sequence[Table], judged: Sequence[Judged]) -> list[str]:
    notes = ["Mean ± 95 % interval (n) [the paper's single run]."]
    if any(each.inside is not None for each in judged):
        width = Interval.of([-0.25, 0.0, 0.25]).prediction
        notes.append(
            "✓ / ✗: the paper's number is inside / outside the 95 % prediction interval of one more run of ours, whose "
            "half width stands behind the number (n ≥ 3). ✓ does not mean agreement: three runs with a standard "
            f"deviation of 0.25 give ± {width:.1f}. ✗ is not adjusted: chance alone gives one in twenty."
        )
    if any(each.paper is not None and each.inside is None for each in judged):
        notes.append("No mark: network, recipe, data or method is not the paper's, so not comparable, or n < 3.")
    return [*notes, *verdicts.about_intervals(tables)]


def _text(row: Row, measured: Interval | None, judged: Judged) -> str:
    ours = f"{measured.text()} ({verdicts.count(row)})" if measured else "missing" if row.families else "–"
    if judged.paper is None:
        return ours
    if judged.inside is None:
        return f"{ours} [{judged.paper:.2f}]"
    return f"{ours} [{judged.paper:.2f} ± {judged.prediction_half_width:.2f}] {'✓' if judged.inside else '✗'}"
