"""Results as tables: families of stages, their mean over seeds, an interval, and the paper's number beside it.

Reads JSON and numpy only, never torch. A *cell* is a family of stages (one experiment, repeated over seeds) or an
ensemble of several families; cells are compared only within one regime (data, sizes, recipe) and network.
"""

import csv
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table as RichTable
from safetensors.numpy import load_file
from scipy.special import stdtrit

from ban import metrics
from ban.display import console
from ban.plan import Stage
from ban.store import Store

TEACHER = "Teacher"
Identity = Mapping[str, Any]
"""`Stage.identity()`, or a result.json, which contains it."""
Seeds = tuple[int, int]
"""The seed of a stage and of its generation 0."""


@dataclass(frozen=True)
class Interval:
    """Mean and half the width of its 95 % confidence interval (Student's t); no width for a single value."""

    mean: float
    half_width: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Of independent repetitions."""
        count = len(values)
        if count < 2:
            return cls(float(values[0]), None, count)
        width = stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count)
        return cls(float(np.mean(values)), float(width), count)

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def predicts(self, value: float) -> bool | None:
        """Whether a single further run could well give `value`: the 95 % prediction interval, from three runs on."""
        if self.half_width is None or self.count < 3:
            return None
        return bool(abs(value - self.mean) <= self.half_width * math.sqrt(self.count + 1))

    def text(self, sign: bool = False) -> str:
        """Like 12.92 ± 0.65."""
        mean = f"{self.mean:{'+' if sign else ''}.2f}"
        return mean if self.half_width is None else f"{mean} ± {self.half_width:.2f}"


@dataclass
class Row:
    """One cell: a network of a generation, or an ensemble."""

    name: str
    error: Interval | None = None
    gain: Interval | None = None
    """Paired difference to the teacher."""
    train_error: Interval | None = None
    paper: float | None = None
    judged: bool = False
    """Whether recipe, data and network are the paper's, so that its number may be judged."""


@dataclass
class Table:
    """The cells of one network in one regime."""

    title: str
    network: str
    parameters: int | None
    rows: list[Row]
    notes: list[str]


class Results:
    """Stored results by family."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.families: dict[str, dict[Seeds, dict[str, Any]]] = {}
        for result in store.results():
            seeds = (result["seed"], result["root_seed"])
            self.families.setdefault(result["family"], {})[seeds] = result
        self._predictions = functools.cache(self._load)

    def _load(self, signature: str) -> dict[str, np.ndarray]:
        return load_file(self.store.folder(signature) / "predictions.safetensors")

    def stored(self, family: str) -> dict[Seeds, dict[str, Any]]:
        """The results of a family by seeds."""
        return self.families.get(family, {})

    def errors(self, families: Sequence[str]) -> dict[Seeds, float]:
        """Test error in percent by seeds: of one family, or of the ensemble of several that share a lineage."""
        if len(families) == 1:
            return {seeds: r["test_error_percent"] for seeds, r in self.stored(families[0]).items()}
        lineages = sorted({seeds for family in families for seeds in self.stored(family)})
        errors = {}
        for seeds in lineages:
            members = [self._of_lineage(family, seeds) for family in families]
            if all(members):
                arrays = [self._predictions(member["signature"]) for member in members if member]
                mixed = metrics.ensemble([each["log_probabilities"] for each in arrays])
                errors[seeds] = metrics.error_percent(mixed, arrays[0]["targets"])
        return errors

    def _of_lineage(self, family: str, seeds: Seeds) -> dict[str, Any] | None:
        results = self.stored(family)
        return results.get(seeds) or results.get((seeds[1], seeds[1]))


def paired(ours: Mapping[Seeds, float], reference: Mapping[Seeds, float]) -> Interval | None:
    """The mean difference over seeds; a student is paired with the generation 0 that it descends from."""
    differences = []
    for seeds, value in ours.items():
        other = reference.get(seeds, reference.get((seeds[1], seeds[1])))
        if other is not None:
            differences.append(value - other)
    return Interval.of(differences) if differences else None


def compare(stages: Iterable[Stage], store: Store, layout: Mapping[str, Any] | None) -> list[Table]:
    """A table for each network and regime among the stages of a plan, with all stored seeds of their families."""
    return _tables([stage.identity() for stage in stages], Results(store), layout or {})


def everything(store: Store) -> list[Table]:
    """A table for each network and regime in the store."""
    results = Results(store)
    return _tables([result for family in results.families.values() for result in family.values()], results, {})


def _tables(identities: Sequence[Identity], results: Results, layout: Mapping[str, Any]) -> list[Table]:
    by_family = {identity["family"]: identity for identity in identities}
    groups: dict[tuple[str, str], dict[str, Identity]] = {}
    for identity in by_family.values():
        key = (identity["regime"], identity["model_title"])
        groups.setdefault(key, {})[identity["family"]] = identity
    for members in groups.values():  # a teacher of another network or recipe stands in its students' table
        for identity in list(members.values()):
            for ancestor in _ancestors(identity, by_family):
                members.setdefault(ancestor["family"], ancestor)
    return [_table(list(members.values()), by_family, results, layout) for members in groups.values()]


def _ancestors(identity: Identity, by_family: Mapping[str, Identity]) -> list[Identity]:
    """The teachers of a stage, the nearest first."""
    line = []
    while identity["teacher_families"]:
        identity = by_family[identity["teacher_families"][0]]
        line.append(identity)
    return line


def _table(
    members: Sequence[Identity],
    by_family: Mapping[str, Identity],
    results: Results,
    layout: Mapping[str, Any],
) -> Table:
    cells = _cells(members, by_family)
    last = max(members, key=lambda member: member["generation"])
    if chosen := layout.get("cells"):
        chosen = chosen | (layout.get("exceptions") or {}).get(last["model_title"], {})
        cells = {name: _families(labels, cells) for name, labels in chosen.items()}
    errors = {name: results.errors(families) if families else {} for name, families in cells.items()}
    rows = []
    for name, families in cells.items():
        row = Row(name)
        if errors[name]:
            row.error = Interval.of(list(errors[name].values()))
            row.gain = None if name == TEACHER else paired(errors[name], errors.get(TEACHER, {}))
            if len(families) == 1:
                stored = results.stored(families[0]).values()
                row.train_error = Interval.of([result["train_error_percent"] for result in stored])
        rows.append(row)
    stored = [result for family in cells.values() if family for result in results.stored(family[-1]).values()]
    parameters = next((r["parameters"] for r in stored if r["model"] == last["model"]), None)
    notes = [*_verdicts(rows), *_comparisons(errors, layout.get("compare") or {})]
    return Table(last["regime_title"], last["model_title"], parameters, rows, notes)


def _cells(members: Sequence[Identity], by_family: Mapping[str, Identity]) -> dict[str, list[str]]:
    """Name → families: each stage by its label, and the ensembles of the generations of each lineage."""
    ordered = sorted(members, key=lambda member: (member["generation"], member["replica"]))
    cells = {member["label"]: [member["family"]] for member in ordered}
    for member in ordered:
        if member["generation"] > 1 and not member["replica"]:
            line = [member, *_ancestors(member, by_family)][:-1]  # the teacher is not a member
            families = [each["family"] for each in reversed(line)]
            prefix = "" if member["method"] == "ban" else f"{member['method_title']} "
            cells.setdefault(f"{prefix}Ens*{len(families)}", families)
    return cells


def _families(labels: str | Sequence[str], cells: Mapping[str, list[str]]) -> list[str]:
    """The families behind a layout's label, or list of labels: none if any of them is not planned."""
    wanted = [labels] if isinstance(labels, str) else labels
    families = [family for label in wanted for family in cells.get(label, [])]
    return families if len(families) == len(wanted) else []


def _verdicts(rows: Sequence[Row]) -> list[str]:
    """What the paired differences resolve."""
    compared = [row for row in rows if row.gain]
    groups = {
        "better than the teacher": [r.name for r in compared if r.gain and r.gain.resolved and r.gain.mean < 0],
        "worse than the teacher": [r.name for r in compared if r.gain and r.gain.resolved and r.gain.mean > 0],
        "not resolved": [r.name for r in compared if r.gain and not r.gain.resolved],
    }
    parts = [f"{verdict}: {', '.join(names)}" for verdict, names in groups.items() if names]
    return ["By the 95 % interval of the paired difference – " + "; ".join(parts) + "."] if parts else []


def _comparisons(errors: Mapping[str, Mapping[Seeds, float]], pairs: Mapping[str, str]) -> list[str]:
    """Further paired differences that an experiment asks for."""
    notes = []
    for ours, control in pairs.items():
        difference = paired(errors.get(ours, {}), errors.get(control, {}))
        if difference:
            verdict = "resolved" if difference.resolved else "not resolved"
            notes.append(f"{ours} against {control}: {difference.text(sign=True)} points, {verdict}.")
    return notes


# Showing and writing


def show(tables: Sequence[Table], outputs: Path, name: str = "last") -> None:
    """Prints comparison tables and writes them as Markdown, CSV and LaTeX under `<outputs>/tables`."""
    if not tables:
        console.print("No finished stage here yet.")
        return
    frames = []
    for table in tables:
        frame = pd.DataFrame([_record(table, row) for row in table.rows])
        frames.append(frame)
        _print(f"{table.network}{_size(table)}, test error in %", table.title, _texts(table), table.notes)
    _write(pd.concat(frames), [(_caption(table), _texts(table), table.notes) for table in tables], outputs, name)


def _size(table: Table) -> str:
    if table.parameters is None:
        return ""
    small = table.parameters < 100_000
    return f" ({table.parameters:,} parameters)" if small else f" ({table.parameters / 1e6:.2f} M)"


def _caption(table: Table) -> str:
    return f"{table.network}{_size(table)}. {table.title}."


def _texts(table: Table) -> pd.DataFrame:
    """The table as people read it."""
    rows = [
        {
            "": row.name,
            "test error": row.error.text() if row.error else "missing",
            "against the teacher": row.gain.text(sign=True) if row.gain else "",
            "training error": row.train_error.text() if row.train_error else "",
            "n": f"{row.error.count}" if row.error else "0",
        }
        for row in table.rows
    ]
    return pd.DataFrame(rows)


def _record(table: Table, row: Row) -> dict[str, Any]:
    """The same in full precision, one cell a line."""
    record: dict[str, Any] = {"regime": table.title, "network": table.network, "cell": row.name}
    parts = {"test_error_percent": row.error, "difference": row.gain, "train_error_percent": row.train_error}
    for name, interval in parts.items():
        record[name] = interval.mean if interval else None
        record[f"{name}_half_width"] = interval.half_width if interval else None
    return record | {"n": row.error.count if row.error else 0, "paper": row.paper}


def _print(title: str, caption: str, frame: pd.DataFrame, notes: Sequence[str]) -> None:
    """On the console; a table too wide for it is turned on its side."""
    widths = [max(map(len, [str(column), *map(str, frame[column])])) + 3 for column in frame.columns]
    if sum(widths) > console.width and len(frame) < len(frame.columns):
        frame = frame.set_index(frame.columns[0]).T.rename_axis("").reset_index()
    rich = RichTable(title=title, caption=caption, caption_justify="left")
    for column in frame.columns:
        rich.add_column(str(column), justify="left" if column in ("", "network") else "right")
    for row in frame.itertuples(index=False):
        rich.add_row(*map(str, row))
    console.print(rich)
    for note in notes:
        console.print(note)


def _write(
    records: pd.DataFrame, parts: Sequence[tuple[str, pd.DataFrame, Sequence[str]]], outputs: Path, name: str
) -> None:
    folder = outputs / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [[caption, frame.to_markdown(index=False), *notes] for caption, frame, notes in parts]
    (folder / f"{name}.md").write_text("\n\n".join(text for block in blocks for text in block) + "\n", encoding="utf-8")
    latex = [f"% {caption}\n{frame.to_latex(index=False, escape=True)}" for caption, frame, _ in parts]
    (folder / f"{name}.tex").write_text("\n".join(latex), encoding="utf-8")
    records.to_csv(folder / f"{name}.csv", index=False)
    console.print(f"Written: {folder / name}.md, .csv, .tex")


# The paper's tables


@functools.cache
def paper_numbers(number: int) -> dict[str, dict[str, float]]:
    """Network → column → the number that Furlanello et al. 2018 print in table `number`."""
    with (Path(__file__).parent / "paper_tables.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["table"] == str(number) and row["value"]]
    networks: dict[str, dict[str, float]] = {}
    for row in rows:
        networks.setdefault(row["network"], {})[row["column"]] = float(row["value"])
    return networks


def show_paper_table(tables: Sequence[Table], number: int, as_published: bool, outputs: Path) -> None:
    """Networks by columns as in the paper: measured mean, interval and n, and the paper's number beside it.

    `as_published` says that recipe and data are the paper's. Its numbers are single runs, so then they are judged by
    the 95 % prediction interval of one more run of ours.
    """
    published = paper_numbers(number)
    lines, records = [], []
    for table in tables:
        paper = published.get(table.network, {})
        line = {"network": f"{table.network}{_size(table)}"}
        for row in table.rows:
            row.paper, row.judged = paper.get(row.name), as_published
            line[row.name] = _paper_cell(row)
            records.append(_record(table, row))
        lines.append(line)
    frame = pd.DataFrame(lines).fillna("")
    regime = "; ".join(dict.fromkeys(table.title for table in tables))
    notes = ["Measured mean ± 95 % interval (n seeds), and in brackets the paper's single run."]
    if not as_published:
        notes.append(
            "Not the paper's recipe and data size: its numbers stand beside ours, they are not to be compared."
        )
    else:
        notes.append("✓ / ✗: the paper's number is inside / outside the 95 % prediction interval of our runs (n ≥ 3).")
    notes += [f"{table.network}: {note}" for table in tables for note in table.notes]
    _print(f"Table {number}, test error in %", regime, frame, notes)
    _write(pd.DataFrame(records), [(f"Table {number}. {regime}.", frame, notes)], outputs, f"table{number}")


def _paper_cell(row: Row) -> str:
    ours = f"{row.error.text()} ({row.error.count})" if row.error else "missing"
    if row.paper is None:
        return ours
    mark = ""
    if row.judged and row.error and (inside := row.error.predicts(row.paper)) is not None:
        mark = " ✓" if inside else " ✗"
    return f"{ours} [{row.paper:.2f}]{mark}"
