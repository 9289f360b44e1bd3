"""`ban compare`, and the statistics of two networks on the same test examples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import DIGITS, Say, Train
from scipy.stats import binomtest

from ban.report.pairwise import Agreement, agreement, errors_by_class, likelihood, mcnemar


def predictions(right: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Classifiers that name class 2 where they are not right."""
    classes = np.where(right, targets, 2)
    return {"log_probabilities": np.log(0.7 * np.eye(3)[classes] + 0.1), "targets": targets}


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (10, 3), (3, 10), (0, 6), (40, 25)])
def test_the_p_value_is_the_binomial_one(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)


def test_the_cells_are_counted() -> None:
    targets = np.array([0, 0, 0, 1, 1, 1])
    ours, theirs = np.array([1, 1, 0, 1, 0, 0], bool), np.array([1, 0, 1, 0, 0, 0], bool)
    found = agreement(predictions(ours, targets), predictions(theirs, targets))
    assert found == Agreement(both_right=1, only_first=2, only_second=1, neither=2, same_class=3)
    assert found.error.value == pytest.approx(100 * (1 - 2) / 6)
    moved = errors_by_class(predictions(ours, targets), predictions(theirs, targets), 3)
    np.testing.assert_allclose(moved, [0, -100 / 3, 0])


def test_intervals_hold_what_they_promise() -> None:
    """1,000 pairs of classifiers that differ by 2 points, and as many that do not."""
    draws = np.random.default_rng(0)
    covered, false = 0, 0
    for _ in range(1000):
        targets = np.zeros(400, np.int64)
        same = draws.random((2, 400)) < 0.9
        false += agreement(*(predictions(each, targets) for each in same)).error.p_value <= 0.05
        moved = draws.random((2, 400)) < np.array([[0.92], [0.90]])
        error = agreement(*(predictions(each, targets) for each in moved)).error
        covered += error.low <= -2 <= error.high
    assert false <= 50 and 935 <= covered <= 975


def test_lines_are_drawn_whole() -> None:
    """Words of a line that move together: their number says nothing, that of the lines does."""
    draws = np.random.default_rng(0)
    moved = np.repeat(draws.normal(size=200), 10)
    targets = np.tile(np.arange(10), 200)
    ours, theirs = ({"log_probabilities": values, "targets": targets} for values in (-moved, np.zeros(2000)))
    lines, words = likelihood(ours, theirs, end=9), likelihood(ours, theirs)
    assert lines.value == pytest.approx(moved.mean())
    assert (lines.high - lines.low) / (words.high - words.low) == pytest.approx(np.sqrt(10), rel=0.1)
    width = 2 * 1.96 * moved[::10].std() / np.sqrt(200)
    assert lines.high - lines.low == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize("end", [None, 1])
def test_a_single_example_or_line_says_nothing_about_others(end: int | None) -> None:
    targets = np.array([1] if end is None else [0, 0, 1])
    ours, theirs = ({"log_probabilities": np.full(len(targets), value), "targets": targets} for value in (-1.0, -2.0))
    found = likelihood(ours, theirs, end)
    assert (found.value, found.low, found.high, found.p_value) == (-1.0, -np.inf, np.inf, 1.0)


def test_two_stages_and_their_repetitions_are_compared(train: Train, say: Say, tmp_path: Path) -> None:
    quick = ["method=ban", "recipe.epochs=2"]
    signatures = [[result["signature"] for result in train(*quick, f"seed={seed}")] for seed in (0, 1, 2)]
    teacher, student = signatures[0]
    said = " ".join(say("compare", student, teacher, "machine.outputs=.").split())
    for words in ("method │ BAN │ Labels", "McNemar", "test examples, both are right on", "pairs", "± 95 % interval"):
        assert words in said
    (other,) = train("method=labels", "recipe.epochs=2", "recipe.optimizer.lr=0.05")
    said = " ".join(say("compare", teacher, other["signature"], "machine.outputs=.").split())
    assert "recipe.optimizer.lr │ 0.1 │ 0.05" in said and "This says nothing about other seeds" in said
    with pytest.raises(SystemExit, match="both are the stage"):
        say("compare", teacher, teacher, "machine.outputs=.")
    with pytest.raises(SystemExit, match="use: ban compare"):
        say("compare", teacher, "machine.outputs=.")
    with pytest.raises(SystemExit, match="different examples"):
        say("compare", *signatures[0][:1], signatures[1][0], "machine.outputs=.")  # another seed draws another split


def test_texts_are_compared_by_lines(train: Train, say: Say) -> None:
    quick = ["method=labels", "recipe.epochs=1", "model.units=8"]
    names = [train(*quick, f"seed={seed}", kind="language")[0]["signature"] for seed in (0, 1)]
    said = say("compare", *names, "machine.outputs=.")
    assert "bootstrap of the lines" in said and "test perplexity" in said


def test_stages_of_different_metrics_are_refused(train: Train, say: Say) -> None:
    (digits,) = train("method=labels", "recipe.epochs=1")
    (words,) = train("method=labels", "recipe.epochs=1", "model.units=8", kind="language")
    with pytest.raises(SystemExit, match="different metrics"):
        say("compare", digits["signature"], words["signature"], "machine.outputs=.")


def test_two_stores_are_compared(say: Say, tmp_path: Path) -> None:
    words = ["machine=single_threaded", *DIGITS[:3], "method=labels", "recipe.epochs=1"]
    for name, more in (("here", []), ("there", []), ("there", ["recipe.epochs=2"])):
        say(*words, *more, f"machine.outputs={name}")
    said = " ".join(say("compare", "here", "there").split())
    assert "Only in A: 0 families (0 stages). Only in B: 1 family (1 stage)." in said and "│ 1 │ 1 │" in said
    say(*words, "recipe.epochs=3", "machine.outputs=elsewhere")
    with pytest.raises(SystemExit, match="have no stages of the same settings"):
        say("compare", "here", "elsewhere")
