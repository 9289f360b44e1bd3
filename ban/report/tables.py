"""Results as tables: families of stages, their mean over seeds, an interval, and the paper's number beside it.

Reads JSON and numpy only, never torch. A *cell* is a family of stages (one experiment, repeated over seeds) or an
ensemble of several families; cells are compared only within one regime (data, sizes, recipe) and network.
"""

import csv
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table as RichTable

from ban import metrics
from ban.display import console
from ban.plan.stage import Stage
from ban.report.results import Families, Interval, Results
from ban.store.store import Store

Identity = Mapping[str, Any]
"""`Stage.identity()`, or a result.json, which contains it."""
SPLITS = {"validation": "validation", "test": "test", "train": "training"}
"""In the order of the columns → their headings."""


@dataclass
class Row:
    """One cell: a network of a generation, or an ensemble."""

    name: str
    measured: dict[str, Interval] = field(default_factory=dict)
    """The table's metric by split: `test` unless nothing is stored; `validation` and `train` of single networks."""
    gain: Interval | None = None
    """Paired difference to the teacher on the test set."""
    planned: bool = True
    """Whether the experiment has such a cell at all."""
    teachers: int = 0
    """How many different generations 0 the repetitions descend from."""


@dataclass
class Table:
    """The cells of one network in one regime."""

    title: str
    network: str
    metric: str
    """`error_percent` or `perplexity`: less is better."""
    parameters: int | None
    rows: list[Row]
    notes: list[str]


def compare(stages: Iterable[Stage], store: Store, layout: Mapping[str, Any] | None) -> list[Table]:
    """A table for each network and regime among the stages of a plan, with all stored seeds of their families."""
    return _tables([stage.identity() for stage in stages], Results(store), layout or {})


def everything(store: Store) -> list[Table]:
    """A table for each network and regime in the store."""
    results = Results(store)
    return _tables([*results.by_signature.values()], results, {})


def _tables(identities: Sequence[Identity], results: Results, layout: Mapping[str, Any]) -> list[Table]:
    by_family = {identity["family"]: identity for identity in identities if not identity["prepares"]}
    groups: dict[tuple[str, str], dict[str, Identity]] = {}
    for identity in by_family.values():
        key = (identity["regime"], identity["network"])
        groups.setdefault(key, {})[identity["family"]] = identity
    for members in groups.values():  # a teacher of another network or recipe stands in its students' table
        for identity in list(members.values()):
            for ancestor in _ancestors(identity, by_family):
                members.setdefault(ancestor["family"], ancestor)
    plans = [_planned([*members.values()], by_family) for members in groups.values()]
    return [_table(plan, plans, by_family, results, layout) for plan in plans]


class _Plan(NamedTuple):
    """The cells of one network in one regime, before anybody looks for results."""

    members: Sequence[Identity]
    last: Identity
    cells: Mapping[str, Families]


def _planned(members: Sequence[Identity], by_family: Mapping[str, Identity]) -> _Plan:
    last = max(members, key=lambda member: member["generation"])
    return _Plan(members, last, _cells(members, by_family, last))


def _ancestors(identity: Identity, by_family: Mapping[str, Identity]) -> list[Identity]:
    """The teachers of a stage, the nearest first, as far as they are known."""
    line: list[Identity] = []
    while identity["teacher_families"] and identity["teacher_families"][0] in by_family:
        identity = by_family[identity["teacher_families"][0]]
        line.append(identity)
    return line


def _table(
    plan: _Plan,
    plans: Sequence[_Plan],
    by_family: Mapping[str, Identity],
    results: Results,
    layout: Mapping[str, Any],
) -> Table:
    members, last, cells = plan
    metric = last["metric"]
    if chosen := layout.get("cells"):
        chosen = chosen | (layout.get("exceptions") or {}).get(last["model_title"], {})
        cells = {name: _chosen(cell, plan, plans) for name, cell in chosen.items()}
    rows = [_row(name, families, members, by_family, results, metric) for name, families in cells.items()]
    stored = [result for family in cells.values() for each in family for result in results.stored(each)]
    parameters = next((result["parameters"] for result in stored if result["network"] == last["network"]), None)
    pairs = {ours: control for ours, control in (layout.get("compare") or {}).items() if {ours, control} <= {*cells}}
    compared = [_comparison(a, b, results.difference(cells[a], cells[b], metric)) for a, b in pairs.items()]
    notes = [note for note in [*_verdicts(rows), *compared] if note]
    return Table(last["regime_title"], last["model_title"], metric, parameters, rows, notes)


def _row(
    name: str,
    families: Families,
    members: Sequence[Identity],
    by_family: Mapping[str, Identity],
    results: Results,
    metric: str,
) -> Row:
    tested = results.tested(families, metric)
    if not tested:
        return Row(name, planned=bool(families))
    row = Row(name, {"test": Interval.of([*tested.values()])})
    row.teachers = len({results.lineage(results.by_signature[signature])[-1]["signature"] for signature in tested})
    teacher = _teacher(by_family[families[-1]], members, by_family)
    if teacher and list(families) != [teacher]:
        row.gain = results.difference(families, [teacher], metric)
    if len(families) == 1:
        stored = results.stored(families[0])
        for split in ("validation", "train"):
            if values := [result[f"{split}_{metric}"] for result in stored if f"{split}_{metric}" in result]:
                row.measured[split] = Interval.of(values)
    return row


def _teacher(identity: Identity, members: Sequence[Identity], by_family: Mapping[str, Identity]) -> str | None:
    """The family that a stage is measured against: its own generation 0, or the label-trained network like it."""
    if identity["generation"]:
        first = _first_teacher(identity, by_family)
        return first["family"] if first else None
    same = [m for m in members if is_baseline(m) and m["network"] == identity["network"]]
    return same[0]["family"] if len(same) == 1 else None


def is_baseline(identity: Identity) -> bool:
    """Whether it is a first generation, trained on the labels alone."""
    return identity["method"] == "labels" and not identity["generation"] and not identity["replica"]


def _cells(members: Sequence[Identity], by_family: Mapping[str, Identity], last: Identity) -> dict[str, Families]:
    """Name → families: each stage by its label, and the ensembles of the generations of each lineage."""
    ordered = sorted(members, key=lambda member: (member["generation"], member["replica"]))
    cells: list[tuple[str, Families]] = []
    for member in ordered:
        differs = [member["model_title"]] * (member["network"] != last["network"])
        differs += [f"recipe {member['recipe']}"] * (member["regime"] != last["regime"])
        if (guide := _first_teacher(member, by_family)) and guide["network"] != member["network"]:
            differs.append(f"taught by {guide['model_title']}")
        cells.append((f"{member['label']} ({', '.join(differs)})" if differs else member["label"], [member["family"]]))
    for member in ordered:
        line = [member, *_ancestors(member, by_family)]
        if member["generation"] > 1 and not member["replica"] and len(line) == member["generation"] + 1:
            families = [each["family"] for each in reversed(line[:-1])]  # the teacher is not a member
            prefix = "" if member["method"] == "ban" else f"{member['method_title']} "
            cells.append((f"{prefix}Ens*{len(families)}", families))
    names = [name for name, _ in cells]
    return {  # different settings under one label are told apart by the beginning of their family
        name if names.count(name) == 1 else f"{name} [{families[-1][:6]}]": families for name, families in cells
    }


def _first_teacher(identity: Identity, by_family: Mapping[str, Identity]) -> Identity | None:
    """The generation 0 that a stage descends from."""
    line = _ancestors(identity, by_family)
    return line[-1] if line and not line[-1]["generation"] else None


def _chosen(cell: Any, plan: _Plan, plans: Sequence[_Plan]) -> Families:
    """The families behind a cell of a layout: a label, a list of labels, or a label among another network's cells."""
    if not isinstance(cell, Mapping):
        return _families(cell, plan.cells)
    label = cell["cell"].format(row=plan.last["model_title"])
    others = [p for p in plans if p.last["model_title"] == cell["network"] and p.last["regime"] == plan.last["regime"]]
    return _families(label, others[0].cells) if others else []


def _families(labels: str | Sequence[str], cells: Mapping[str, Families]) -> Families:
    """The families behind a layout's label, or list of labels: none if any of them is not planned."""
    wanted = [labels] if isinstance(labels, str) else labels
    families = [family for label in wanted for family in cells.get(label, [])]
    return families if len(families) == len(wanted) else []


def _verdicts(rows: Sequence[Row]) -> list[str]:
    """What the paired differences resolve."""
    verdicts = ("better than the teacher", "worse than the teacher", "not resolved", "not known from one pair")
    groups: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
    for row in rows:
        if row.gain:
            groups[_verdict(row.gain)].append(row.name)
    parts = [f"{verdict}: {', '.join(names)}" for verdict, names in groups.items() if names]
    return ["By the 95 % interval of the paired difference – " + "; ".join(parts) + "."] if parts else []


def _verdict(difference: Interval) -> str:
    if not difference.resolved:
        return "not known from one pair" if difference.half_width is None else "not resolved"
    return "better than the teacher" if difference.mean < 0 else "worse than the teacher"


def _comparison(ours: str, control: str, difference: Interval | None) -> str:
    """A further paired difference that an experiment asks for."""
    if difference is None:
        return ""
    verdict = "resolved" if difference.resolved else _verdict(difference)
    return f"{ours} against {control}: {difference.text(sign=True)} points, {verdict}."


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
        title = f"{table.network}{_size(table)}, {metrics.SHOWN[table.metric]}"
        present(title, table.title, _texts(table), table.notes)
    write(pd.concat(frames), [(_caption(table), _texts(table), table.notes) for table in tables], outputs, name)


def _size(table: Table) -> str:
    if table.parameters is None:
        return ""
    small = table.parameters < 100_000
    return f" ({table.parameters:,} parameters)" if small else f" ({table.parameters / 1e6:.2f} M)"


def _caption(table: Table) -> str:
    return f"{table.network}{_size(table)}. {table.title}."


def _texts(table: Table) -> pd.DataFrame:
    """The table as people read it."""
    splits = [split for split in SPLITS if any(split in row.measured for row in table.rows)]
    rows = []
    for row in table.rows:
        line = {"": row.name}
        for split in splits:
            missing = "missing" if split == "test" and row.planned and not row.measured else ""
            line[SPLITS[split]] = row.measured[split].text() if split in row.measured else missing
            if split == "test":
                line["against the teacher"] = row.gain.text(sign=True) if row.gain else ""
        rows.append(line | {"n": _count(row)})
    return pd.DataFrame(rows)


def _count(row: Row) -> str:
    """The repetitions, and the teachers behind them where they are fewer."""
    if "test" not in row.measured:
        return "0"
    count = row.measured["test"].count
    return f"{count}, {row.teachers} teacher{'s' * (row.teachers > 1)}" if row.teachers < count else f"{count}"


def _record(table: Table, row: Row) -> dict[str, Any]:
    """The same in full precision, one cell a line."""
    record: dict[str, Any] = {"regime": table.title, "network": table.network, "cell": row.name}
    parts = {f"{split}_{table.metric}": row.measured.get(split) for split in SPLITS} | {"difference": row.gain}
    for name, interval in parts.items():
        record[name] = interval.mean if interval else None
        record[f"{name}_half_width"] = interval.half_width if interval else None
    count = row.measured["test"].count if row.measured else 0
    return record | {"n": count, "teachers": row.teachers}


def present(title: str, caption: str, frame: pd.DataFrame, notes: Sequence[str]) -> None:
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


def write(
    records: pd.DataFrame, parts: Sequence[tuple[str, pd.DataFrame, Sequence[str]]], outputs: Path, name: str
) -> None:
    """Writes captioned frames with notes as Markdown and LaTeX, the records behind them as CSV."""
    target = outputs / "tables" / name
    blocks = [
        [caption, frame.to_markdown(index=False, disable_numparse=True), *notes] for caption, frame, notes in parts
    ]
    latex = [f"% {caption}\n{frame.to_latex(index=False, escape=True)}" for caption, frame, _ in parts]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        markdown = "\n\n".join(text for block in blocks for text in block) + "\n"
        Path(f"{target}.md").write_text(markdown, encoding="utf-8")
        Path(f"{target}.tex").write_text("\n".join(latex), encoding="utf-8")
        records.to_csv(f"{target}.csv", index=False)
    except OSError as error:  # of somebody else's store
        console.print(f"Not written to {target.parent}: {error.strerror}.")
        return
    console.print(f"Written: {target}.md, .csv, .tex")


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


def show_paper_table(tables: Sequence[Table], layout: Mapping[str, Any], as_published: bool, outputs: Path) -> None:
    """Networks by columns as in the paper: measured mean, interval and n, and the paper's number beside it.

    `as_published` says that recipe, data, networks and methods are the paper's. Its numbers are single runs, so then
    they are judged by the 95 % prediction interval of one more run of ours. `layout` is the experiment's `table`: its
    `number`, with `splits` a column of each for every cell, and with `rows` the networks that have one.
    """
    number = layout["number"]
    rows = layout.get("rows") or [table.network for table in tables]
    tables = sorted((table for table in tables if table.network in rows), key=lambda table: rows.index(table.network))
    published = paper_numbers(number)
    lines, records = [], []
    for table in tables:
        paper = published.get(table.network, {})
        line = {"network": f"{table.network}{_size(table)}"}
        for split, suffix in (layout.get("splits") or {"test": ""}).items():
            for row in table.rows:
                column = f"{row.name} {suffix}".strip()
                measured, theirs = row.measured.get(split), paper.get(column)
                line[column] = _paper_cell(row, measured, theirs, as_published)
                records.append(_record(table, row) | {"column": column, "paper": theirs})
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
    present(f"Table {number}, {metrics.SHOWN[tables[0].metric]}", regime, frame, notes)
    write(pd.DataFrame(records), [(f"Table {number}. {regime}.", frame, notes)], outputs, f"table{number}")


def _paper_cell(row: Row, measured: Interval | None, paper: float | None, reported_networks: bool) -> str:
    missing = "missing" if row.planned else "–"
    ours = f"{measured.text()} ({_count(row)})" if measured else missing
    if paper is None:
        return ours
    inside = measured.predicts(paper) if reported_networks and measured else None
    mark = "" if inside is None else " ✓" if inside else " ✗"
    return f"{ours} [{paper:.2f}]{mark}"
