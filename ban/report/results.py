"""Stored results by family: repetitions, ensembles, and pairs of trainings. No torch."""

import functools
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple, TypeVar

from ban import metrics
from ban.display import console
from ban.errors import StageError, UserError
from ban.plan.contrast import Line
from ban.report.statistics import Interval, Streams
from ban.store.formats import Record
from ban.store.result import Result, measured
from ban.store.store import Store

Families = Sequence[str]
"""What a row of a table is made of: one family, or the members of an ensemble, the latest last."""

KEPT = 128
"""Predictions that are kept in memory: half a gigabyte for ten thousand images of a hundred classes."""
Read = TypeVar("Read")


class Tested(NamedTuple):
    """A test metric of a training or of an ensemble, and what its random numbers come from."""

    value: float
    streams: Streams


class Pair(NamedTuple):
    """A training's test metric, and its partner's."""

    ours: float
    theirs: float
    signature: str
    """The partner's."""
    split: int | None
    """The seed of the split of the data."""
    streams: Streams

    @property
    def difference(self) -> float:
        """Less is better."""
        return self.ours - self.theirs


class Results:
    """Stored results by family and by signature. Damaged stages are named on the console, and left out."""

    def __init__(self, store: Store, families: Collection[str] | None = None) -> None:
        """`families`: those that are wanted; None: all."""
        self.store = store
        self.damaged: list[str] = []
        """What is wrong with the stages that were left out."""
        self.by_signature: dict[str, Result] = {}
        self.families: dict[str, list[Result]] = {}
        self.predictions = functools.lru_cache(KEPT)(self._load)
        self._tested = functools.cache(self._measure)
        self._by_seeds = functools.cache(self._with_seeds)
        self._streams: dict[str, Streams] = {}
        for signature in store.finished():
            result = self._read(functools.partial(store.listed, signature))
            if result and (families is None or result["family"] in families):
                self.by_signature[signature] = result
                self.families.setdefault(result["family"], []).append(result)
        for repetitions in self.families.values():  # so that what is shown of the first ones is of the same seeds
            repetitions.sort(key=lambda result: (result["seed"], result["signature"]))

    def _load(self, signature: str) -> metrics.Predictions | None:
        return self._read(functools.partial(self.store.predictions, signature))

    def curves(self, result: Result) -> list[Record]:
        """The records of all epochs; none if they are damaged."""
        return self._read(functools.partial(self.store.curves, result["signature"])) or []

    def last_epoch(self, result: Result) -> dict[str, float]:
        """The finite values of the last epoch's record; empty if it is damaged."""
        records = self.curves(result)
        return {name: value for name, value in records[-1].items() if value is not None} if records else {}

    def line(self, family: str) -> Line:
        """The settings of a family's first stage and of its teachers, as far as they are stored."""
        return [self.store.description(each["signature"]) for each in self.lineage(self.stored(family)[0])]

    def _read(self, read: Callable[[], Read]) -> Read | None:
        try:
            return read()
        except StageError as damage:
            if f"{damage}" not in self.damaged:
                self.damaged.append(f"{damage}")
                console.print(f"Left out of the table: {damage}")
            return None

    def stored(self, family: str) -> list[Result]:
        """The results of a family, one for each repetition."""
        return self.families.get(family, [])

    def by_network(self) -> dict[tuple[str, str], list[str]]:
        """(Regime, network) → families, without pre-trainings."""
        families: dict[tuple[str, str], list[str]] = {}
        for family, (first, *_) in self.families.items():
            if not first["prepares"]:
                families.setdefault((first["regime"], first["network"]), []).append(family)
        return families

    def lineage(self, result: Result) -> list[Result]:
        """A result and its teachers', down to generation 0 or to the first that is no longer stored."""
        line = [result]
        while first := self._stored_teachers(line[-1], line[-1]["teachers"][:1]):
            line += first
        return line

    def _stored_teachers(self, result: Result, teachers: Sequence[str]) -> list[Result]:
        """Those of earlier generations: `result.json` may name others, and a circle would have no end."""
        stored = [self.by_signature[each] for each in teachers if each in self.by_signature]
        return [teacher for teacher in stored if teacher["generation"] < result["generation"]]

    def partner(self, result: Result, family: str) -> Result | None:
        """The member of `family` that a result descends from, or else the one with the same seeds."""
        for ancestor in self.lineage(result):
            if ancestor["family"] == family:
                return ancestor
        return self._by_seeds(family).get(_seeds(result))

    def _with_seeds(self, family: str) -> dict[tuple[int, int, int | None], Result]:
        """Seeds → the first repetition of a family that has them."""
        return {_seeds(result): result for result in reversed(self.stored(family))}

    def streams(self, result: Result) -> Streams:
        """What a training's random numbers come from: its own streams and those of its teachers, back to generation 0.

        Two results that have a name in common are not independent. Weights from a file are one such name.
        """
        known = self._streams.get(result["signature"])
        return known or self._streams.setdefault(result["signature"], self._named(result))

    def _named(self, result: Result) -> Streams:
        if "weights" in result:
            return {result["weights"]["sha256"]}
        names: set[Hashable] = {(result["seed"], result["generation"], result["replica"])}
        for teacher in self._stored_teachers(result, result["teachers"]):
            names |= self.streams(teacher)
        for teacher in result["teachers"]:
            if teacher not in self.by_signature:  # removed from the store: its seed is known if it was a generation 0
                names |= {teacher, (result["root_seed"], 0, 0)}
        return names

    def root(self, result: Result) -> str:
        """What names the stored generation 0 that a result descends from: its signature, or the hash of its file."""
        last = self.lineage(result)[-1]
        if "weights" in last:
            return last["weights"]["sha256"]
        return last["teachers"][0] if last["teachers"] else last["signature"]

    def tested(self, families: Families, metric: str) -> dict[str, Tested]:
        """Signature of the latest member → test metric, of one family or of an ensemble of several.

        Raises:
            UserError: the members of an ensemble were tested on different examples.
        """
        return self._tested(tuple(families), metric)

    def _measure(self, families: tuple[str, ...], metric: str) -> dict[str, Tested]:
        tested: dict[str, Tested] = {}
        for signature, members in self.repetitions(families).items():
            value = measured(members[-1], "test", metric)
            if len(members) > 1:
                value = self._of_an_ensemble(members, metric)
            if value is not None:
                streams = frozenset[Hashable]().union(*map(self.streams, members))
                tested[signature] = Tested(value, streams)
        return tested

    def _of_an_ensemble(self, members: Sequence[Result], metric: str) -> float | None:
        def measure() -> float | None:
            averaged = self.averaged(members)
            return metrics.measure(averaged).get(metric) if averaged else None

        return self.store.remembered(f"ensemble {metric}", [member["signature"] for member in members], measure)

    def repetitions(self, families: Families) -> dict[str, list[Result]]:
        """Signature of the latest member → all members, of each repetition of one family, or of an ensemble's."""
        found: dict[str, list[Result]] = {}
        for result in self.stored(families[-1]) if families else ():
            members = [member for family in families if (member := self.partner(result, family))]
            if len(members) == len(families):
                found[result["signature"]] = members
        return found

    def averaged(self, members: Sequence[Result]) -> metrics.Predictions | None:
        """The mean of the members' predictions; None if those of a member are missing or damaged.

        Raises:
            UserError: the members were tested on different examples.
        """
        signatures = [member["signature"] for member in members]
        predictions = [self.predictions(signature) for signature in signatures]
        try:
            whole = [each for each in predictions if each is not None]
            return metrics.ensemble(whole) if len(whole) == len(members) else None
        except ValueError as error:
            raise UserError(f"{' and '.join(signatures)} cannot be averaged: {error}.") from error

    def measured(self, family: str, split: str, metric: str) -> Interval | None:
        """A metric of a split over the repetitions of a family; None if it was not measured."""
        found = [(measured(result, split, metric), self.streams(result)) for result in self.stored(family)]
        values = [(value, streams) for value, streams in found if value is not None]
        return Interval.of(*zip(*values, strict=True)) if values else None

    def pairs(self, ours: Families, reference: Families, metric: str) -> list[Pair]:
        """Each of our results with its partner: what it descends from, or else what has the same seeds."""
        mine, theirs = self.tested(ours, metric), self.tested(reference, metric)
        pairs: list[Pair] = []
        for signature, (value, streams) in mine.items():
            partner = self.partner(self.by_signature[signature], reference[-1]) if theirs else None
            if partner and (other := theirs.get(partner["signature"])):
                shared = partner["signature"], partner["split_seed"]
                pairs.append(Pair(value, other.value, *shared, streams | other.streams))
        return pairs

    def difference(self, ours: Families, reference: Families, metric: str) -> Interval | None:
        """The mean difference of the pairs, if there are any."""
        pairs = self.pairs(ours, reference, metric)
        return Interval.of([pair.difference for pair in pairs], [pair.streams for pair in pairs]) if pairs else None


def _seeds(result: Result) -> tuple[int, int, int | None]:
    return result["seed"], result["root_seed"], result["split_seed"]
