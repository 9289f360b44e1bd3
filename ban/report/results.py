"""What the store holds, by family of repetitions: means, intervals and paired differences. No torch."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file
from scipy.special import stdtrit

from ban import metrics
from ban.errors import UserError
from ban.store.store import Store

Families = Sequence[str]
"""What a cell of a table is made of: one family, or the members of an ensemble, the latest last."""


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
        return bool(self.half_width) and abs(self.mean) > (self.half_width or 0)

    def predicts(self, value: float) -> bool | None:
        """Whether a single further run could well give `value`: the 95 % prediction interval, from three runs on."""
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
        self.families: dict[str, list[dict[str, Any]]] = {}
        for result in self.by_signature.values():
            self.families.setdefault(result["family"], []).append(result)
        self._predictions = functools.cache(self._load)

    def _load(self, signature: str) -> dict[str, np.ndarray]:
        return load_file(self.store.file(signature, "predictions.safetensors"))

    def stored(self, family: str) -> list[dict[str, Any]]:
        """The results of a family, one for each repetition."""
        return self.families.get(family, [])

    def lineage(self, result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """A result and its teachers', down to generation 0 or to the first that is no longer stored."""
        line = [result]
        while (teachers := line[-1]["teachers"]) and teachers[0] in self.by_signature:
            line.append(self.by_signature[teachers[0]])
        return line

    def partner(self, result: Mapping[str, Any], family: str) -> Mapping[str, Any] | None:
        """The member of `family` that a result descends from, or else the one that was drawn with the same seeds."""
        for ancestor in self.lineage(result):
            if ancestor["family"] == family:
                return ancestor
        return next((other for other in self.stored(family) if _seeds(other) == _seeds(result)), None)

    def tested(self, families: Families, metric: str) -> dict[str, float]:
        """The test metric by the signature of the latest member: of one family, or of an ensemble of several."""
        if not families:
            return {}
        tested = {}
        for result in self.stored(families[-1]):
            members = [self.partner(result, family) for family in families]
            if len(members) == 1:
                tested[result["signature"]] = result[f"test_{metric}"]
            elif all(members):
                tested[result["signature"]] = self._ensemble([m["signature"] for m in members if m])[metric]
        return tested

    def _ensemble(self, signatures: Sequence[str]) -> dict[str, float]:
        try:
            return metrics.measure(metrics.ensemble([self._predictions(signature) for signature in signatures]))
        except ValueError as error:
            raise UserError(f"{' and '.join(signatures)} cannot be averaged: {error}.") from error

    def pairs(self, ours: Families, reference: Families, metric: str) -> list["Pair"]:
        """Results beside their partners': a student and what it descends from, others and those of the same seeds."""
        mine, theirs = self.tested(ours, metric), self.tested(reference, metric)
        pairs = []
        for signature, error in mine.items():
            partner = self.partner(self.by_signature[signature], reference[-1]) if theirs else None
            if partner and partner["signature"] in theirs:
                pairs.append(Pair(error, theirs[partner["signature"]], partner["signature"]))
        return pairs

    def difference(self, ours: Families, reference: Families, metric: str) -> Interval | None:
        """The mean difference of the pairs, if there are any."""
        pairs = self.pairs(ours, reference, metric)
        return Interval.of([pair.ours - pair.theirs for pair in pairs]) if pairs else None


class Pair(NamedTuple):
    """A test metric and its partner's, which has the signature."""

    ours: float
    theirs: float
    signature: str


def _seeds(result: Mapping[str, Any]) -> tuple[int, int, int]:
    return result["seed"], result["root_seed"], result["split_seed"]
