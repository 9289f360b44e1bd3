"""What is in a table: the stages of a plan as rows, with mean, interval and paired differences over all stored seeds.

Reads JSON and numpy only, never torch. A row is a family of stages (one training, repeated over seeds) or an ensemble
of several families. Rows are compared only within one regime (data, sizes, recipe) and network.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ban.plan.contrast import Line, describe, differences, line_of, named
from ban.plan.identity import Identity, identity_of
from ban.plan.stage import Stage
from ban.report.results import Families, Results
from ban.report.statistics import Interval
from ban.settings.schema import Cell, TableLayout
from ban.store.result import coverage, parameters_of, unknown_percent


class Row(NamedTuple):
    """A trained network, or an ensemble."""

    heading: str
    families: Families
    """Empty: the experiment does not train it."""
    measured: Mapping[str, Interval] = {}
    """Split → the table's metric: `test` unless nothing is stored; `validation` and `train` of single networks."""
    gain: Interval | None = None
    """Paired difference to the teacher on the test set."""
    teachers: int = 0
    """The number of different generations 0 that the repetitions descend from."""
    seeds: int = 0
    """The number of different seeds of the repetitions themselves."""
    generation: int = 0
    from_file: bool = False
    """Whether it is a network that was not trained here."""
    settings: Mapping[str, str] = {}
    """Dotted key → value, of those in which the rows differ that are shown together."""


class Compared(NamedTuple):
    """A paired difference between two rows."""

    ours: str
    control: str
    difference: Interval


class Table(NamedTuple):
    """The rows of one network in one regime."""

    title: str
    model: str
    """The network's name in `conf/model`."""
    network: str
    """The network's title."""
    metric: str
    """`error_percent` or `perplexity`: less is better."""
    parameters: int | None
    """None: nothing is stored."""
    rows: Sequence[Row]
    compared: Sequence[Compared]
    own_splits: bool
    """Whether repetitions differ in how the data were split."""
    unknown_percent: Mapping[str, float] = {}
    """Split → the share of a text's words that are not in the vocabulary."""


def compare(stages: Iterable[Stage], results: Results, layout: TableLayout | None = None) -> list[Table]:
    """A table for each network and regime among the stages of a plan, with all stored seeds of their families.

    `layout` selects the rows.
    """
    planned = {stage.family: stage for stage in stages}
    lines = {family: line_of(stage) for family, stage in planned.items()}
    identities = [identity_of(stage) for stage in planned.values()]
    return _tables(identities, results, layout or TableLayout(), lines.__getitem__)


def everything(results: Results) -> list[Table]:
    """A table for each network and regime in the store."""
    return _tables([*results.by_signature.values()], results, TableLayout(), functools.cache(results.line))


def is_baseline(identity: Identity) -> bool:
    """Whether it is a generation 0, trained on the labels alone, of replica 0."""
    return identity["method"] == "labels" and not identity["generation"] and not identity["replica"]


def _tables(
    identities: Iterable[Identity], results: Results, layout: TableLayout, line: Callable[[str], Line]
) -> list[Table]:
    by_family = {identity["family"]: identity for identity in identities if not identity["prepares"]}
    members: dict[tuple[str, str], dict[str, Identity]] = {}
    taught = {ancestor["family"] for each in by_family.values() for ancestor in _ancestors(each, by_family)}
    for family, identity in by_family.items():
        if "weights" in identity and family in taught:  # it has no recipe, so no table but its students'
            continue
        members.setdefault((identity["regime"], identity["network"]), {})[family] = identity
    for group in members.values():  # a teacher of another network or recipe is in its students' table too
        for identity in [*group.values()]:
            for ancestor in _ancestors(identity, by_family):
                group.setdefault(ancestor["family"], ancestor)
    groups = [_Group([*group.values()], by_family, line) for group in members.values()]
    tables = [_table(group, groups, results, layout) for group in groups]
    firsts = [line(group.last["family"])[:1] for group in groups]
    titles = named([table.title for table in tables], firsts, ("dataset", "recipe"))
    networks = named([table.network for table in tables], firsts, ("models",))
    tables = [
        table._replace(title=title, network=network)
        for table, title, network in zip(tables, titles, networks, strict=True)
    ]
    rows = [row for table in tables for row in table.rows]
    settings = iter(differences([line(row.families[-1]) if row.families else () for row in rows]))
    return [table._replace(rows=[row._replace(settings=next(settings)) for row in table.rows]) for table in tables]


def _ancestors(identity: Identity, by_family: Mapping[str, Identity]) -> list[Identity]:
    """The teachers of a stage, the nearest first, as far as they are known."""
    line: list[Identity] = []
    while identity["teacher_families"] and identity["teacher_families"][0] in by_family:
        identity = by_family[identity["teacher_families"][0]]
        line.append(identity)
    return line


@dataclass(frozen=True)
class _Group:
    """The families of one network in one regime, and their teachers."""

    members: Sequence[Identity]
    by_family: Mapping[str, Identity]
    """All families of the plan."""
    line: Callable[[str], Line]
    """Family → its settings and its teachers'."""

    @cached_property
    def last(self) -> Identity:
        """The latest generation, whose network and regime are the group's."""
        return max(self.members, key=lambda member: member["generation"])

    def has_network_of(self, member: Identity) -> bool:
        """Whether a member has the group's network and regime. A teacher's may be others; one from a file has none."""
        regime = self.last["regime"] if "weights" in member else member["regime"]
        return (member["network"], regime) == (self.last["network"], self.last["regime"])

    def ancestors(self, member: Identity) -> list[Identity]:
        """Its teachers, the nearest first."""
        return _ancestors(member, self.by_family)

    def generation_0(self, member: Identity) -> Identity | None:
        """The generation 0 that a member descends from."""
        line = self.ancestors(member)
        return line[-1] if line and not line[-1]["generation"] else None

    def teacher(self, family: str) -> str | None:
        """The family it is compared with: its generation 0, or the label-trained one of its network."""
        identity = self.by_family[family]
        if "weights" in identity:  # it has no seed, so no partner
            return None
        if identity["generation"]:
            first = self.generation_0(identity)
            return first["family"] if first else None
        alike = [each for each in self.members if is_baseline(each) and each["network"] == identity["network"]]
        return alike[0]["family"] if len(alike) == 1 else None

    def labels_alone(self, family: str, results: Results) -> str | None:
        """The stored family of its network and regime that was trained on the labels, if its teacher's is another."""
        identity = self.by_family[family]
        first = self.generation_0(identity)
        if not first or first["network"] == identity["network"]:
            return None
        stored = results.by_network().get((identity["regime"], identity["network"]), [])
        alike = [each for each in stored if is_baseline(results.stored(each)[0])]
        return alike[0] if len(alike) == 1 else None

    def matching(self, cell: Cell, teacher: str) -> list[str]:
        """The family that a cell means; empty if there is none, or more than one.

        `teacher` is the model of its generation 0. Weights from a file stand for a training on the labels.
        """
        wanted = (cell.method, cell.generation, cell.replica)
        found: list[str] = []
        for member in filter(self.has_network_of, self.members):
            first = self.generation_0(member)
            same_teacher = first is None or first["model"] == teacher
            method = "labels" if "weights" in member else member["method"]
            if same_teacher and (method, member["generation"], member["replica"]) == wanted:
                found.append(member["family"])
        return found if len(found) == 1 else []


# Rows


def _table(group: _Group, groups: Sequence[_Group], results: Results, layout: TableLayout) -> Table:
    last = group.last
    chosen = {**layout.cells, **layout.exceptions.get(last["model"], {})} if layout.cells else {}
    rows = {heading: _families(cells, group, groups) for heading, cells in chosen.items()} or _all_rows(group)
    shown = [_row(heading, families, group, results) for heading, families in rows.items()]
    stored = [result for families in rows.values() for family in families for result in results.stored(family)]
    counts = [parameters_of(result) for result in stored if result["network"] == last["network"]]
    headings = {tuple(families): heading for heading, families in rows.items()}
    compared: list[Compared] = []
    for comparison in layout.compare:
        ours, control = (tuple(_families(cells, group, groups)) for cells in (comparison.cell, comparison.control))
        difference = results.difference(ours, control, last["metric"]) if ours and control else None
        if difference and ours in headings and control in headings:
            compared.append(Compared(headings[ours], headings[control], difference))
    for heading, families in rows.items():
        control = group.labels_alone(families[0], results) if len(families) == 1 else None
        difference = results.difference(families, [control], last["metric"]) if control else None
        if difference:
            compared.append(Compared(heading, "the same network trained on the labels", difference))
    alike = (result for result in stored if result["regime"] == last["regime"])
    unknown = next(map(unknown_percent, alike), dict[str, float]())
    return Table(
        title=last["regime_title"] + coverage(unknown),
        model=last["model"],
        network=last["model_title"],
        metric=last["metric"],
        parameters=next(filter(None, counts), None),
        rows=shown,
        compared=compared,
        own_splits=len({result["split_seed"] for result in stored}) > 1,
        unknown_percent=unknown,
    )


def _families(cells: Sequence[Cell], group: _Group, groups: Sequence[_Group]) -> Families:
    """The family of each cell; empty if any of them is not planned."""
    found = [family for cell in cells for family in _family(cell, group, groups)]
    return found if len(found) == len(cells) else []


def _family(cell: Cell, row: _Group, groups: Sequence[_Group]) -> list[str]:
    """A cell's family, of the row's network or of the one it names; empty if it is not planned."""
    others = (g for g in groups if (g.last["model"], g.last["regime"]) == (cell.model, row.last["regime"]))
    group = next(others, None) if cell.model else row
    return group.matching(cell, cell.teacher or row.last["model"]) if group else []


def _row(heading: str, families: Families, group: _Group, results: Results) -> Row:
    metric = group.last["metric"]
    tested = results.tested(families, metric)
    if not tested:
        return Row(heading, families)
    intervals = {"test": Interval.of(*zip(*tested.values(), strict=True))}
    if len(families) == 1:
        others = {split: results.measured(families[0], split, metric) for split in ("validation", "train")}
        intervals |= {split: interval for split, interval in others.items() if interval}
    teacher = group.teacher(families[-1])
    gain = results.difference(families, [teacher], metric) if teacher and [*families] != [teacher] else None
    repetitions = [results.by_signature[signature] for signature in tested]
    return Row(
        heading,
        families,
        intervals,
        gain,
        teachers=len({results.root(result) for result in repetitions}),
        seeds=len({result["seed"] for result in repetitions}),
        generation=repetitions[0]["generation"],
        from_file="weights" in repetitions[0],
    )


# Headings: the only place where stages get the names that people read


def _all_rows(group: _Group) -> dict[str, Families]:
    """Heading → families: every stage, and the ensembles of the generations of each lineage."""
    ordered = sorted(group.members, key=lambda member: (member["generation"], member["replica"]))
    settings = _row_settings(ordered, group)
    rows: list[tuple[str, Families]] = [(_heading(member, group, settings), [member["family"]]) for member in ordered]
    for member in ordered:
        line = [member, *group.ancestors(member)]
        if member["generation"] > 1 and not member["replica"] and len(line) == member["generation"] + 1:
            families = [each["family"] for each in reversed(line[:-1])]  # the teacher is not a member
            prefix = "" if member["method"] == "ban" else f"{member['method_title']} "
            rows.append((in_brackets(f"{prefix}Ens*{len(families)}", settings[member["family"]]), families))
    headings = distinct([(heading, families[-1]) for heading, families in rows])
    return {heading: families for heading, (_, families) in zip(headings, rows, strict=True)}


def _row_settings(members: Sequence[Identity], group: _Group) -> dict[str, str]:
    """Family → in words, the settings in which it differs from the others of the table."""
    own = [member for member in members if group.has_network_of(member)]  # their title names data, recipe and network
    found: dict[str, str] = {}
    for compared in (members, own):
        lines = [group.line(member["family"]) for member in compared]
        for member, settings in zip(compared, differences(lines), strict=True):
            found[member["family"]] = describe(settings)
    return found


def _heading(member: Identity, group: _Group, settings: Mapping[str, str]) -> str:
    """Its label, and in brackets what it does not share with the other rows."""
    differs = [member["model_title"]] * (member["network"] != group.last["network"])
    differs += [f"recipe {member['recipe']}"] * (member["recipe"] not in ("", group.last["recipe"]))
    if (first := group.generation_0(member)) and first["network"] != member["network"]:
        differs.append(f"taught by {first['model_title']}")
    return in_brackets(member["label"], *differs, settings[member["family"]])


def in_brackets(heading: str, *details: str) -> str:
    """The heading with the details that are not empty."""
    shown = ", ".join(filter(None, details))
    return f"{heading} ({shown})" if shown else heading


def distinct(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Headings of (heading, family), with the beginning of the family where nothing else tells them apart."""
    headings = [heading for heading, _ in rows]
    return [f"{heading} [{family[:6]}]" if headings.count(heading) > 1 else heading for heading, family in rows]


def labels(families: Sequence[str], results: Results) -> list[str]:
    """The headings of stored families of one network: their labels, with the settings in which they differ."""
    found = map(describe, differences([results.line(family) for family in families]))
    named = [
        in_brackets(results.stored(family)[0]["label"], each) for family, each in zip(families, found, strict=True)
    ]
    return distinct([*zip(named, families, strict=True)])


def regimes(families: Sequence[str], results: Results) -> list[str]:
    """The titles of the regimes of families, with the settings in which they differ."""
    titles = [results.stored(family)[0]["regime_title"] for family in families]
    return named(titles, [results.line(family)[:1] for family in families], ("dataset", "recipe"))


def networks(families: Sequence[str], results: Results) -> list[str]:
    """The titles of the networks of families, with the settings in which they differ."""
    titles = [results.stored(family)[0]["model_title"] for family in families]
    return named(titles, [results.line(family)[:1] for family in families], ("models",))
