"""Intervals against closed forms, and false verdicts in simulated studies without any true difference."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from helpers import DIGITS, publish, result_of
from scipy import stats

from ban.plan.identity import description_of
from ban.plan.lineage import lineage
from ban.report.results import Results
from ban.report.statistics import Interval, Streams, clusters, resolved
from ban.report.tables import everything
from ban.report.verdicts import about, count
from ban.settings.compose import compose_settings
from ban.store.store import Store


def test_interval_is_students() -> None:
    values = [12.9, 11.8, 13.4, 12.0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    interval = Interval.of(values)
    assert (interval.mean - (interval.half_width or 0), interval.mean + (interval.half_width or 0)) == pytest.approx(
        (low, high)
    )
    assert interval.text() == f"{np.mean(values):.2f} ± {(high - low) / 2:.2f}"
    assert interval.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_a_single_value_has_no_interval_and_resolves_nothing() -> None:
    interval = Interval.of([3.0])
    assert interval.text() == "3.00" and interval.p_value is None and interval.predicts(3.0) is None


def test_equal_values_predict_nothing() -> None:
    for values, streams in (([5.0] * 3, None), ([5.0] * 4, [{"a"}, {"a"}, {"b"}, {"c"}])):
        interval = Interval.of(values, streams)
        assert interval.half_width == 0 and interval.prediction is None and interval.predicts(5.01) is None


def test_only_intervals_that_there_are_are_explained() -> None:
    alone, several = Interval.of([1.0]), Interval.of([1.0, 2.0])
    assert about([alone], "error", own_splits=False) == [] != about([alone, several], "error", own_splits=False)


def test_prediction_interval() -> None:
    values = [16.0, 16.4, 16.8]
    width = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 3)
    assert Interval.of(values).predicts(16.4 + 0.99 * width)
    assert Interval.of(values).predicts(16.4 + 1.01 * width) is False
    assert Interval.of(values[:2]).predicts(16.4) is None


@pytest.mark.parametrize("values", [[-3.0, -3.0], [13.5 - 14.0, 12.3 - 12.8]])
def test_equal_differences_have_no_interval_and_resolve_nothing(values: Sequence[float]) -> None:
    """Not even where they are equal but for rounding."""
    interval = Interval.of(values)
    assert interval.p_value is None and interval.text(sign=True) == f"{values[0]:+.2f}"
    assert interval.text() == f"{values[0]:.2f} ± 0.00"  # equal values, of training errors for example


def test_clusters_are_averaged_first_and_counted() -> None:
    streams = [frozenset(names) for names in ("ab", "bc", "d", "ce", "f")]
    assert sorted(map(sorted, clusters(streams))) == [[0, 1, 3], [2], [4]]
    interval, means = Interval.of([1, 2, 7, 3, 5], streams), [2, 7, 5]
    alone = Interval.of(means)
    assert (interval.mean, interval.half_width, interval.clusters, interval.count) == (
        alone.mean,
        alone.half_width,
        3,
        5,
    )
    assert interval.spread == pytest.approx(np.sqrt(np.var(means, ddof=1) + np.var([1, 2, 3]) / 3))


def test_holm() -> None:
    """Against the adjusted p-values of R's p.adjust(c(0.01, 0.02, 0.03, 0.005), "holm"): 0.03, 0.04, 0.04, 0.02."""

    def difference(p: float) -> Interval:
        return Interval(1.0, float(stats.t.ppf(0.975, 3) / stats.t.ppf(1 - p / 2, 3)), 4, 4)

    assert resolved([*map(difference, (0.01, 0.02, 0.03, 0.005)), None]) == [True] * 4 + [False]
    assert resolved([*map(difference, (0.01, 0.04, 0.03, 0.005))]) == [True, False, False, True]
    assert resolved([Interval.of([1.0]), difference(0.04)]) == [False, True]  # what cannot be tested does not count


# Studies without any true difference

DESIGNS: dict[str, list[tuple[int, int]]] = {
    "independent lineages": [(seed, seed) for seed in range(8)],
    "eight students of one teacher": [(seed, 9) for seed in range(8)],
    "four students of each of two teachers": [(seed, 8 + seed // 4) for seed in range(8)],
    "the same four seeds with each of two teachers": [(seed % 4, 8 + seed // 4) for seed in range(8)],
    "eight teachers at one seed": [(0, teacher) for teacher in range(8)],
    "five, two and one student of three teachers": [(s, 8 + (s > 4) + (s > 6)) for s in range(8)],
    "two students of each of four teachers": [(seed, 8 + seed // 2) for seed in range(8)],
}
"""(Seed of the student, seed of the teacher) of each student."""
TEXTS = ("8", "8 students, 1 teacher", "8 students, 2 teachers", "8 students, 2 teachers, 4 seeds, 1 cluster")
TEXTS += ("8 students, 1 seed", "8 students, 3 teachers", "8 students, 4 teachers")
CLUSTERS = (8, 1, 2, 1, 1, 3, 4)
STUDIES = 1000


class Study:
    """Two families of students, their teachers and label-trained networks of the same seeds, in no store."""

    def __init__(self, design: Sequence[tuple[int, int]]) -> None:
        self.stages: dict[str, dict[str, Any]] = {}
        for seed, root in design:
            self._add("labels", root, root, 0, [])
            self._add("labels", seed, seed, 0, [])
            for method in ("ban", "dkpp"):
                self._add(method, seed, root, 1, [f"labels {root} {root}"])
        self.store = cast("Store", SimpleNamespace(finished=lambda: [*self.stages], listed=self.stages.__getitem__))

    def _add(self, family: str, seed: int, root: int, generation: int, teachers: list[str]) -> None:
        signature = f"{family} {seed} {root}"
        own = {"signature": signature, "family": family, "generation": generation, "teachers": teachers}
        self.stages[signature] = own | {"seed": seed, "root_seed": root, "replica": 0, "split_seed": 0}

    def draw(self, random: np.random.Generator) -> None:
        """Errors that depend on the streams, on the teacher, and on the method's own noise."""
        effects: dict[Hashable, float] = {}
        for stage in self.stages.values():  # teachers first
            key = stage["seed"], stage["generation"]
            inherited = sum(0.5 * (self.stages[each]["test_error_percent"] - 20) for each in stage["teachers"])
            noise = 0.3 * random.standard_normal() if stage["generation"] else 0.0
            own = effects.setdefault(key, random.standard_normal())
            stage["test_error_percent"] = 20 + own + inherited + noise
        self.results = Results(self.store)

    def differences(self) -> list[Interval]:
        """To the teacher, to another method, and to the labels alone."""
        pairs = (("ban", "labels"), ("dkpp", "labels"), ("ban", "dkpp"))
        found = [self.results.difference([ours], [theirs], "error_percent") for ours, theirs in pairs]
        return [each for each in found if each]


@pytest.mark.parametrize(("design", "number"), [*zip(DESIGNS, CLUSTERS, strict=True)], ids=[*DESIGNS])
def test_studies_without_a_difference_rarely_find_one(design: str, number: int) -> None:
    study, random = Study(DESIGNS[design]), np.random.default_rng(0)
    false, any_false = np.zeros(3), 0
    for _ in range(STUDIES):
        study.draw(random)
        differences = study.differences()
        assert {each.clusters for each in differences} == {number}
        false += [resolved([each])[0] for each in differences]
        any_false += any(resolved(differences))
    assert (false / STUDIES).max() <= 0.06 and any_false / STUDIES <= 0.06
    assert number > 1 or not false.any()


@pytest.mark.parametrize(("design", "text"), [*zip(DESIGNS, TEXTS, strict=True)], ids=[*DESIGNS])
def test_shared_teachers_and_seeds_are_named(design: str, text: str, tmp_path: Path) -> None:
    settings, store = compose_settings([*DIGITS, "dataset.split_seed=0"]), Store(tmp_path)
    random = np.random.default_rng(0)
    for seed, root in DESIGNS[design]:
        for stage in lineage(replace(settings, seed=seed, teacher=replace(settings.teacher, seed=root))):
            if not store.has(stage.signature):
                publish(store, stage, test_error_percent=20 + random.standard_normal())
    (table,) = everything(Results(store))
    (row,) = (row for row in table.rows if row.heading == "BAN-1")
    assert count(row) == text


def test_a_circle_of_teachers_ends(tmp_path: Path) -> None:
    """`teachers` in `result.json` are not signed, but a teacher has an earlier generation, which is."""
    store = Store(tmp_path)
    stages = lineage(compose_settings([*DIGITS, "generations=2"]))
    for stage in stages:
        with store.claim(stage.signature) as work:
            assert work is not None
            work.write_json("stage.json", description_of(stage))
            work.publish(result_of(stage) | {"teachers": [other.signature for other in stages]})  # pyright: ignore
    results = Results(store)
    lines = [[each["generation"] for each in results.lineage(results.by_signature[s.signature])] for s in stages]
    assert lines == [[0], [1, 0], [2, 0]]
    assert results.streams(results.by_signature[stages[2].signature])


def test_a_lineage_ends_at_its_first_teacher_if_that_was_removed() -> None:
    study = Study([(1, 8), (1, 9)])
    student = study.stages["ban 1 8"]
    student["teachers"] = ["labels 8 8", "labels 9 9"]
    del study.stages["labels 8 8"]
    study.results = Results(study.store)
    assert study.results.lineage(student) == [student]  # pyright: ignore[reportArgumentType]
    assert study.results.root(student) == "labels 8 8"  # pyright: ignore[reportArgumentType]


def test_a_removed_teacher_still_joins_its_students() -> None:
    """Whether the students name the same teacher, or only the seed of the same generation 0."""
    study = Study([(1, 9), (2, 9), (3, 3)])
    for signature in ("labels 9 9", "labels 3 3"):
        del study.stages[signature]
    study.results = Results(study.store)
    streams: list[Streams] = [study.results.streams(each) for each in study.results.stored("ban")]
    assert sorted(map(sorted, clusters(streams))) == [[0, 1], [2]]
