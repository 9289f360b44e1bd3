"""Stored results by family: means over seeds, intervals, ensembles and paired differences. No torch."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from ban import metrics
from ban.errors import UserError
from ban.store.result import Result, measured
from ban.store.store import Store

Families = Sequence[str]
"""What a row of a table is made of: one family, or the members of an ensemble, the latest last."""


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
        """Whether the interval excludes zero."""
        return bool(self.half_width) and abs(self.mean) > (self.half_width or 0)

    def predicts(self, value: float) -> bool | None:
        """Whether `value` is inside the 95 % prediction interval of one more run; None for fewer than three runs."""
        if self.half_width is None or self.count < 3:
            return None
        return bool(abs(value - self.mean) <= self.half_width * math.sqrt(self.count + 1))

    def text(self, sign: bool = False) -> str:
        """Like 12.92 ± 0.65."""
        mean = f"{self.mean:{'+' if sign else ''}.2f}"
        return mean if self.half_width is None else f"{mean} ± {self.half_width:.2f}"


class Results:
    """Stored results by family and by signature."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.by_signature = {result["signature"]: result for result in store.results()}
        self.families: dict[str, list[Result]] = {}
        for result in self.by_signature.values():
            self.families.setdefault(result["family"], []).append(result)
        self._predictions = functools.cache(self._load)

    def _load(self, signature: str) -> metrics.Predictions:
        return self.store.predictions(signature)

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
        while (teachers := line[-1]["teachers"]) and teachers[0] in self.by_signature:
            line.append(self.by_signature[teachers[0]])
        return line

    def partner(self, result: Result, family: str) -> Result | None:
        """The member of `family` that a result descends from, or else the one with the same seeds."""
        for ancestor in self.lineage(result):
            if ancestor["family"] == family:
                return ancestor
        return next((other for other in self.stored(family) if _seeds(other) == _seeds(result)), None)

    def tested(self, families: Families, metric: str) -> dict[str, float]:
        """Signature of the latest member → test metric, of one family or of an ensemble of several.

        Raises:
            UserError: the members of an ensemble were tested on different examples.
        """
        if not families:
            return {}
        tested: dict[str, float] = {}
        for result in self.stored(families[-1]):
            members = [member["signature"] for family in families if (member := self.partner(result, family))]
            if len(members) < len(families):
                continue
            value = self._ensemble(members)[metric] if len(members) > 1 else measured(result, "test", metric)
            if value is not None:
                tested[result["signature"]] = value
        return tested

    def _ensemble(self, signatures: Sequence[str]) -> dict[str, float]:
        try:
            return metrics.measure(metrics.ensemble([self._predictions(signature) for signature in signatures]))
        except ValueError as error:
            raise UserError(f"{' and '.join(signatures)} cannot be averaged: {error}.") from error

    def pairs(self, ours: Families, reference: Families, metric: str) -> list["Pair"]:
        """Each of our results with its partner: what it descends from, or else what has the same seeds."""
        mine, theirs = self.tested(ours, metric), self.tested(reference, metric)
        pairs: list[Pair] = []
        for signature, value in mine.items():
            partner = self.partner(self.by_signature[signature], reference[-1]) if theirs else None
            if partner and partner["signature"] in theirs:
                pairs.append(Pair(value, theirs[partner["signature"]], partner["signature"]))
        return pairs

    def difference(self, ours: Families, reference: Families, metric: str) -> Interval | None:
        """The mean difference of the pairs, if there are any."""
        pairs = self.pairs(ours, reference, metric)
        return Interval.of([pair.ours - pair.theirs for pair in pairs]) if pairs else None


class Pair(NamedTuple):
    """A result's test metric, and its partner's."""

    ours: float
    theirs: float
    signature: str
    """The partner's."""


def _seeds(result: Result) -> tuple[int, int, int | None]:
    return result["seed"], result["root_seed"], result["split_seed"]
