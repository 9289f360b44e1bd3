"""`ban compare`: two stages side by side, and the repetitions of each; or what two stores have in common."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ban.data.corpus import END
from ban.display import console, show_table
from ban.errors import UserError
from ban.metrics import LABELS, Predictions
from ban.plan.contrast import differences
from ban.report import pairwise
from ban.report.pairwise import Difference
from ban.report.results import Results
from ban.report.statistics import LEVEL
from ban.settings.schema import Settings
from ban.store.formats import VOCABULARY
from ban.store.result import Result, measured
from ban.store.store import Store
from ban.wording import plural

USE = "use: ban compare SIGNATURE SIGNATURE, or ban compare DIR DIR with the folders of two stores."
CHANGED_CLASSES = 5
"""Classes that are named because their error differs most, on each side."""


class Side(NamedTuple):
    """One of the two stages."""

    store: Store
    results: Results
    result: Result


def compare(words: Sequence[str], settings: Settings) -> None:
    """Compares two stages, given by their signatures, or two stores, given by their folders.

    Raises:
        UserError: there is no such stage or store, or the stages were tested on different examples.
    """
    if len(words) != 2:
        raise UserError(USE)
    if all((Path(word).expanduser() / "stages").is_dir() for word in words):
        _stores(*(Store(Path(word).expanduser()) for word in words))
        return
    store = Store(settings.machine.outputs)
    results = Results(store)
    _stages(*(Side(store, results, store.result(store.by_prefix(word))) for word in words))


def _stages(first: Side, second: Side) -> None:
    ours, theirs = first.result, second.result
    if ours["signature"] == theirs["signature"]:
        raise UserError(f"both are the stage {ours['signature']}: name another one.")
    for side, result in zip("AB", (ours, theirs), strict=True):
        console.print(
            f"{side}: {result['label']}, {result['model_title']}, seed {result['seed']} ({result['signature']})"
        )
    rows = _settings(first, second)
    show_table(rows, "\nSettings that differ") if rows else console.print("\nNo setting differs.")
    if ours["metric"] != theirs["metric"] or ours["prepares"] or theirs["prepares"]:
        raise UserError("their results cannot be compared: they have different metrics, or one is a pre-training only.")
    mine, other = (side.store.predictions(side.result["signature"]) for side in (first, second))
    if not np.array_equal(mine["targets"], other["targets"]):
        raise UserError("their results cannot be compared: they were tested on different examples.")
    _results(first, second, (mine, other))
    _repetitions(first, second)


def _settings(first: Side, second: Side) -> list[dict[str, str]]:
    sides = (first, second)
    lines = [
        [side.store.description(each["signature"]) for each in side.results.lineage(side.result)] for side in sides
    ]
    ours, theirs = differences(lines)
    named = ("dataset", "model_title", "recipe", "method_title", "generation", "seed", "root_seed", "split_seed")
    titles = {"model_title": "model", "method_title": "method", "root_seed": "teacher's seed"}
    rows = [
        {"setting": titles.get(name, name), "A": f"{first.result[name]}", "B": f"{second.result[name]}"}
        for name in named
        if first.result[name] != second.result[name]
    ]
    keys = dict.fromkeys([*ours, *theirs])
    return rows + [{"setting": key, "A": ours.get(key, "default"), "B": theirs.get(key, "default")} for key in keys]


def _results(first: Side, second: Side, predictions: tuple[Predictions, Predictions]) -> None:
    """The two networks on the same test examples."""
    metric = first.result["metric"]
    rows = [
        {"": f"{split} {LABELS[metric]}", "A": f"{ours:.2f}", "B": f"{theirs:.2f}", "A − B": f"{ours - theirs:+.2f}"}
        for split in ("test", "validation", "train")
        if (ours := measured(first.result, split, metric)) is not None
        and (theirs := measured(second.result, split, metric)) is not None
    ]
    likelihood = pairwise.likelihood(*predictions, end=_end(first))
    found = pairwise.agreement(*predictions) if metric == "error_percent" else None
    if found:
        rows[0] |= _interval(found.error)
    ours, theirs = (measured(side.result, "test", "nll") or 0.0 for side in (first, second))
    nats = {"": "test negative log-likelihood", "A": f"{ours:.4f}", "B": f"{theirs:.4f}"}
    rows.insert(1, nats | {"A − B": f"{likelihood.value:+.4f}"} | _interval(likelihood, 4))
    test_of = "McNemar's exact test; the likelihood: bootstrap" if found else "bootstrap of the lines"
    show_table(rows, "\nThese two networks", f"p: {test_of}. It is about the choice of the test examples alone.")
    if found:
        _examples(found, predictions, first)


def _interval(difference: Difference, digits: int = 2) -> dict[str, str]:
    if math.isinf(difference.low):  # of a single example, or line of a text
        return {}
    p = f"{difference.p_value:.3f}" if difference.p_value >= 0.001 else "< 0.001"
    return {"95 % interval": f"{difference.low:+.{digits}f} to {difference.high:+.{digits}f}", "p": p}


def _end(side: Side) -> int | None:
    """The number of the word that ends the lines of a text."""
    if side.result["metric"] != "perplexity":
        return None
    words = side.store.file(side.result["signature"], VOCABULARY).read_text(encoding="utf-8").splitlines()
    return words.index(END)


def _examples(found: pairwise.Agreement, predictions: tuple[Predictions, Predictions], side: Side) -> None:
    dataset = side.store.description(side.result["signature"])["dataset"]
    names = dataset.get("class_names") or [f"class {number}" for number in range(dataset["classes"])]
    console.print(
        f"\nOf {plural(found.count, 'test example')}, both are right on {found.both_right}, only A on "
        f"{found.only_first}, only B on {found.only_second}, neither on {found.neither}. They name the same class for "
        f"{100 * found.same_class / found.count:.1f} %."
    )
    moved = pairwise.errors_by_class(*predictions, dataset["classes"])
    for name, gained in (("A", -moved), ("B", moved)):
        order = np.argsort(-gained, kind="stable")[:CHANGED_CLASSES]
        better = [f"{names[number]} ({gained[number]:.1f} points)" for number in order if gained[number] > 0]
        if better:
            console.print(f"{name} is better by most on: {', '.join(better)}.")


def _repetitions(first: Side, second: Side) -> None:
    """The families of the two networks: what their trainings, and not these two results, are like."""
    results, metric, families = first.results, first.result["metric"], [first.result["family"], second.result["family"]]
    each = [results.measured(family, "test", metric) for family in families]
    gap = results.difference(families[:1], families[1:], metric) if families[0] != families[1] else None
    if not each[0] or not each[1] or not gap or gap.count < 2:
        console.print(
            "\nThis says nothing about other seeds: train both with several, for example seed=0,1,2, to compare the "
            "methods."
        )
        return
    of = {name: f"{mean.text()} (n = {mean.count})" for name, mean in zip("AB", each, strict=True) if mean}
    row = {"": f"test {LABELS[metric]}", **of, "A − B": gap.text(sign=True)}
    p = gap.p_value
    counts = {"pairs": f"{gap.count}", "p": "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"}
    verdict = "not resolved" if p is None or p > LEVEL else "resolved"
    show_table(
        [row | counts], "\nAll repetitions (seeds)", f"± 95 % interval of the mean over trainings: {verdict} at 5 %."
    )


def _stores(first: Store, second: Store) -> None:
    """Families that both stores have: the same settings, perhaps trained on another machine or by another version."""
    ours, theirs = Results(first), Results(second)
    rows = list[dict[str, str]]()
    for family, results in ours.families.items():
        example = results[0]
        if family not in theirs.families or example["prepares"]:
            continue
        metric = example["metric"]
        means = [each.measured(family, "test", metric) for each in (ours, theirs)]
        same = {result["signature"] for result in results} & {*theirs.by_signature}
        equal = [name for name in same if _test(ours, name, metric) == _test(theirs, name, metric)]
        rows.append(
            {
                "stage": f"{example['label']}, {example['model_title']}",
                "data": example["dataset"],
                "A": means[0].text() if means[0] else "",
                "B": means[1].text() if means[1] else "",
                "trained in both": f"{len(same)}",
                "with equal results": f"{len(equal)}",
            }
        )
    if not rows:
        raise UserError(f"{first.root} and {second.root} have no stages of the same settings.")
    only = [_only(ours, theirs), _only(theirs, ours)]
    show_table(rows, f"A: {first.root}, B: {second.root}")
    console.print(f"Only in A: {only[0]}. Only in B: {only[1]}.")


def _only(results: Results, others: Results) -> str:
    found = [members for family, members in results.families.items() if family not in others.families]
    return f"{len(found)} famil{'y' if len(found) == 1 else 'ies'} ({plural(sum(map(len, found)), 'stage')})"


def _test(results: Results, signature: str, metric: str) -> float | None:
    return measured(results.by_signature[signature], "test", metric)
