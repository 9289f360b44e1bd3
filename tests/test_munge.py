"""MUNGE against what its definition says, and its examples as part of a training set."""

import math

import numpy as np
import pytest
import torch
from helpers import Train, digits_of, plan

from ban.data.labelled import Labelled
from ban.data.munge import Munge, munge
from ban.data.tabular import Tabular, TabularOptions
from ban.errors import UserError

ROWS = np.random.default_rng(1).random((40, 5))
TRAIN = TabularOptions(
    classes=2,
    features=5,
    train_size=30,
    validation_size=0,
    test_size=10,
    split_seed=0,
    label_noise=0.0,
    batch_size=8,
    steps_per_epoch=None,
    device=torch.device("cpu"),
)


def munged(rows: np.ndarray = ROWS, *, k: int = 1, p: float = 0.5, s: float = 1.0, seed: int = 0) -> np.ndarray:
    return munge(rows, k, p, s, np.random.default_rng(seed))


def sorted_columns(rows: np.ndarray) -> np.ndarray:
    return np.sort(rows, axis=0)


def test_without_swaps_it_copies() -> None:
    assert np.array_equal(munged(k=3, p=0.0), np.concatenate([ROWS] * 3))


def test_without_noise_a_pair_swaps_exactly() -> None:
    """By hand: 0 meets 1, 1 meets 0 (they swap back), and 2 meets 1."""
    rows = np.array([[0.0, 0.2], [0.1, 0.3], [0.5, 0.9]])
    assert munged(rows, p=1.0, s=math.inf).tolist() == [[0.0, 0.2], [0.5, 0.9], [0.1, 0.3]]


def test_without_noise_every_column_keeps_its_values() -> None:
    """An implementation that draws the second value from the already changed first one loses values."""
    found = munged(p=0.5, s=math.inf)
    assert np.array_equal(sorted_columns(found), sorted_columns(ROWS))
    assert not np.array_equal(found, ROWS)


def test_attributes_are_swapped_one_by_one() -> None:
    rows = np.array([[0.0] * 2000, [1.0] * 2000])
    swapped = munged(rows, p=0.2, s=math.inf)[0]
    assert swapped.mean() == pytest.approx(2 * 0.2 * 0.8, abs=0.04)  # by one of two meetings, and not back


def test_noise_has_the_mean_of_the_other_and_the_difference_over_s_as_deviation() -> None:
    """Of two rows both meet twice. With p = 1, distance 1 and σ = 1/s, after the first meeting x ~ N(1, σ²) and
    y ~ N(0, σ²); after the second x ~ N(y, |x − y|²σ²), so Var x = σ² + σ² E(x − y)² = σ² + σ² (1 + 2σ²).
    """
    first, second = munged(np.array([[0.0], [1.0]]), k=40_000, p=1.0, s=2.0).reshape(-1, 2).T
    assert (first.mean(), second.mean()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    expected = 0.25 + 0.25 * (1 + 2 * 0.25)
    assert (first.var(), second.var()) == (pytest.approx(expected, rel=0.05), pytest.approx(expected, rel=0.05))


def test_column_means_are_preserved_in_expectation() -> None:
    assert munged(k=3000).mean(0) == pytest.approx(ROWS.mean(0), abs=0.005)


def test_every_pass_starts_from_the_given_examples() -> None:
    passes = munged(k=4, p=1.0, s=math.inf).reshape(4, *ROWS.shape)
    assert all(np.array_equal(each, passes[0]) for each in passes)
    late = munged(k=200, s=3.0).reshape(200, *ROWS.shape)[-20:]
    assert late.var() == pytest.approx(munged(k=20, s=3.0, seed=1).var(), rel=0.1)  # noise does not pile up


def test_equal_examples_are_neighbours_and_not_their_own() -> None:
    rows = np.array([[0.2, 0.2], [0.2, 0.2], [0.9, 0.9], [0.8, 0.8]])
    assert munged(rows, p=1.0)[:2].tolist() == rows[:2].tolist()


def test_rows_and_arguments() -> None:
    before = ROWS.copy()
    assert munged(k=7).shape == (280, 5)
    assert np.array_equal(ROWS, before)
    assert np.array_equal(munged(), munged()) and not np.array_equal(munged(), munged(seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "multiplier is 0; it must be a whole number, 1 or more"),
        ({"k": -2}, "multiplier is -2"),
        ({"p": -0.1}, "swap_probability is -0.1; it must be from 0 to 1"),
        ({"p": 1.1}, "swap_probability is 1.1"),
        ({"s": 0.0}, "local_variance is 0.0; it must be above 0"),
        ({"s": math.nan}, "local_variance is nan"),
        ({"rows": ROWS[:1]}, "two examples or more"),
    ],
)
def test_impossible_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        munged(**options)


# Images


def pictures(count: int = 30) -> np.ndarray:
    return np.random.default_rng(2).integers(3, 250, (count, 4, 4, 2), dtype=np.uint8)


def of_images(images: np.ndarray, **options: object) -> np.ndarray:
    defaults = {"multiplier": 1, "swap_probability": 0.5, "local_variance": 1.0, "components": 100}
    return Munge(**defaults | options).images(images, np.random.default_rng(0))  # pyright: ignore[reportArgumentType]


def test_all_components_give_the_images_back() -> None:
    found = of_images(pictures(), multiplier=2, swap_probability=0.0)
    assert found.dtype == np.uint8 and np.array_equal(found, np.concatenate([pictures()] * 2))


def test_whole_swaps_of_all_components_swap_images() -> None:
    found = of_images(pictures(), swap_probability=1.0, local_variance=math.inf)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in pictures())


def test_few_components_keep_the_largest_variance() -> None:
    """Images that vary in brightness alone, but for a little noise: one component is enough for the brightness."""
    noise = np.random.default_rng(0).integers(0, 2, (30, 4, 4, 1))
    images = (np.arange(30)[:, None, None, None] * 8 + noise).astype(np.uint8)
    found = of_images(images, swap_probability=0.0, components=1)
    assert np.abs(found.astype(int) - images).max() <= 2
    assert not np.array_equal(found, images)


def test_munged_images_have_the_values_of_the_images() -> None:
    found = of_images(pictures(), multiplier=20, local_variance=0.2)
    assert (found.min(), found.max()) == (pictures().min(), pictures().max())


def test_images_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="all the same"):
        of_images(np.full((5, 4, 4, 1), 7, np.uint8))


def test_components_must_be_some() -> None:
    with pytest.raises(ValueError, match="components is 0"):
        Munge(1, 0.5, 1.0, components=0)


# In a training set


def table(**changes: object) -> Tabular:
    pool = Labelled(10 * ROWS - 3, np.arange(40) % 2)
    return Tabular(pool, TabularOptions(**vars(TRAIN) | changes))  # pyright: ignore[reportArgumentType]


def seen(data: Tabular) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and labels in the order in which they are stored."""
    batches = list(data.epoch((0, 0, 0), 0))
    indices = torch.cat([batch.indices for batch in batches])
    rows, labels = torch.cat([b.views[0] for b in batches]), torch.cat([b.targets for b in batches])
    return rows[indices.argsort()], labels[indices.argsort()]


def test_rows_are_scaled_by_the_training_rows() -> None:
    data = table()
    assert (
        data.splits.train.inputs.min(0).tolist() == [0.0] * 5 and data.splits.train.inputs.max(0).tolist() == [1.0] * 5
    )
    low, high = ((table().splits.test.inputs.min(0) < 0).any(), (table().splits.test.inputs.max(0) > 1).any())
    assert low or high  # not scaled by themselves
    assert [len(split.labels) for split in data.splits] == [30, 0, 10]


def test_a_feature_that_never_changes_is_harmless() -> None:
    rows = ROWS.copy()
    rows[:, 2] = 7.0
    data = Tabular(Labelled(rows, np.arange(40) % 2), TRAIN)
    assert not data.splits.train.inputs[:, 2].any()


def test_other_features_than_the_configuration_says_are_refused() -> None:
    with pytest.raises(UserError, match=r"dataset\.features is 4, but the rows have 5"):
        table(features=4)


def test_an_epoch_of_rows_is_repeatable_and_can_be_entered_in_the_middle() -> None:
    data = table()
    whole, rest = list(data.epoch((0, 1, 0), 4)), list(data.epoch((0, 1, 0), 4, first_step=2))
    assert len(whole) == data.steps_per_epoch == 3 and len(rest) == 1
    assert torch.equal(rest[0].views[0], whole[2].views[0]) and torch.equal(rest[0].targets, whole[2].targets)
    assert not torch.equal(next(data.epoch((0, 1, 0), 5)).indices, whole[0].indices)


def test_synthetic_rows_come_in_addition_and_have_no_labels() -> None:
    data = table(munge=Munge(3, 0.5, 1.0))
    assert data.steps_per_epoch == 4 * 30 // 8
    rows, labels = seen(data)
    assert (labels >= 0).sum() == 30 and (labels == -1).sum() == 90
    assert torch.equal(rows[labels >= 0], torch.from_numpy(data.splits.train.inputs))
    known = torch.cat([batch.targets for batch in data.evaluation("train")])
    assert len(known) == 30 and bool((known >= 0).all())


def test_synthetic_rows_are_the_same_for_the_same_split() -> None:
    one, same, other = (table(munge=Munge(3, 0.5, 1.0), split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(seen(one)[0], seen(same)[0])
    assert not torch.equal(seen(one)[0], seen(other)[0])


def test_synthetic_images_come_in_addition() -> None:
    data = digits_of("method=munge", "method.data.munge.multiplier=2")
    assert data.count == 300 and data.steps_per_epoch == 300 // 32
    assert len(torch.cat([batch.targets for batch in data.evaluation("train")])) == 100


def test_only_the_student_has_synthetic_rows_and_they_count_as_its_examples() -> None:
    *teachers, student = plan("method=munge", kind="tabular")
    assert len(teachers) == 3 and not any(stage.dataset.munge for stage in teachers)
    assert (teachers[0].dataset.training_examples, student.dataset.training_examples) == (100, 1100)


def test_with_and_without_synthetic_rows_stand_in_one_table() -> None:
    plain, synthetic = (plan(f"method={name}", kind="tabular")[-1] for name in ("model_compression", "munge"))
    assert plain.regime == synthetic.regime and plain.signature != synthetic.signature
    assert plain.teachers[0].stage.signature == synthetic.teachers[0].stage.signature
    other = plan("method=munge", "method.data.munge.multiplier=9", kind="tabular")[-1]
    assert other.signature != synthetic.signature


def test_gradients_of_synthetic_rows_are_not_compared_with_labels(train: Train) -> None:
    overrides = ("method=munge", "method.data.munge.multiplier=1", "recipe.epochs=1", "+recipe.diagnosed_steps=2")
    assert train(*overrides, kind="tabular")[-1]["generation"] == 1


def test_a_small_student_of_large_teachers(train: Train) -> None:
    overrides = ("method=munge", "dataset=breast_cancer", "dataset.train_size=100", "teacher=mlp_256")
    *teachers, student = train(*overrides, "recipe.epochs=30", "method.data.munge.multiplier=3", kind="tabular")
    assert [stage["model"] for stage in teachers] == ["mlp_256"] * 3 and student["model"] == "mlp_16"
    assert student["parameters"] == (30 + 1) * 16 + (16 + 1) * 2 and student["test_error_percent"] < 10
