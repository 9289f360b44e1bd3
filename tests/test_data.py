"""Images: draws, views, and data that are not what they should be."""

from itertools import pairwise

import numpy as np
import pytest
import sklearn.datasets
import torch
from helpers import DIGITS, Train, digits_of, plan
from torchvision.transforms import functional as transforms

from ban.data import bundled
from ban.data.augmentation import OPERATIONS, Augmentation, Distortion, ResizedCrop, Views
from ban.data.images import Images, Options
from ban.data.splits import Labelled, balanced_order
from ban.errors import UserError
from ban.settings.datasets import CLASS_COUNTS

REFLECT = Augmentation(pad=4, pad_mode="reflect", flip=True, mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 5.0])


def pool(count: int = 60, classes: int = 3, size: int = 12) -> Labelled:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Labelled(images, np.arange(count) % classes)


def images(source: Labelled | None = None, **changes: object) -> Images:
    options = {
        "classes": 3,
        "shape": [3, 12, 12],
        "train_size": 30,
        "validation_size": 12,
        "test_size": 18,
        "split_seed": 0,
        "label_noise": 0.0,
        "augmentation": REFLECT,
        "batch_size": 8,
        "steps_per_epoch": None,
        "device": torch.device("cpu"),
    }
    return Images(source or pool(), None, Options(**(options | changes)))


def test_splits_are_balanced_and_disjoint() -> None:
    data = images()
    assert [np.bincount(split.labels).tolist() for split in data.splits] == [[10] * 3, [4] * 3, [6] * 3]
    seen = [image.tobytes() for split in data.splits for image in split.inputs]
    assert len(set(seen)) == 60


def test_validation_images_do_not_depend_on_the_training_size() -> None:
    assert np.array_equal(images().splits.validation.inputs, images(train_size=9).splits.validation.inputs)


def test_every_beginning_of_the_order_is_balanced() -> None:
    labels = np.array([0] * 50 + [1] * 50 + [2] * 50)
    order = balanced_order(labels, seed=3)
    assert sorted(order) == list(range(150))
    for end in range(3, 150, 3):
        assert np.bincount(labels[order[:end]]).tolist() == [end // 3] * 3


def test_the_split_seed_draws_another_subset() -> None:
    assert not np.array_equal(images().splits.train.inputs, images(split_seed=1).splits.train.inputs)


def test_label_noise_changes_exactly_that_part() -> None:
    clean, noisy = images().splits.train, images(label_noise=0.2).splits.train
    assert np.array_equal(clean.inputs, noisy.inputs)
    assert (clean.labels != noisy.labels).sum() == 6
    assert set(noisy.labels) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_size": 50}, "60 training examples"),
        ({"test_size": 19}, "18 test examples"),
        ({"batch_size": 31}, "recipe.batch_size to 30 or less"),
    ],
)
def test_impossible_sizes(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        images(**changes)


def test_all_162_views_are_those_of_torchvision() -> None:
    data = images()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (REFLECT.mean, REFLECT.std))
    original = torch.from_numpy(data.splits.train.inputs[5]).permute(2, 0, 1)
    padded = transforms.pad(original, [4], padding_mode="reflect")
    found = data.view(data.training_images.stored, torch.full((162,), 5), torch.arange(162))
    for view in range(162):
        top, left = divmod(view // 2, 9)
        expected = transforms.crop(padded, top, left, 12, 12)
        expected = transforms.hflip(expected) if view % 2 else expected
        torch.testing.assert_close(found[view], (expected - mean) / std)


def test_zero_padding_and_no_flip_leave_nine_views() -> None:
    zero = Augmentation(pad=1, pad_mode="constant", flip=False, mean=[0.0] * 3, std=[1.0] * 3)
    data = images(augmentation=zero)
    assert zero.views == 9
    corner = data.view(data.training_images.stored, torch.tensor([0]), torch.tensor([0]))[0]
    assert not corner[:, 0].any() and not corner[:, :, 0].any()
    middle = data.view(data.training_images.stored, torch.tensor([0]), torch.tensor([4]))[0]
    assert torch.equal(middle.permute(1, 2, 0), torch.from_numpy(data.splits.train.inputs[0]).float())


def test_an_epoch_sees_every_image_at_most_once_and_is_repeatable() -> None:
    data = images()
    first, again = list(data.epoch((0, 1, 0), 4)), list(data.epoch((0, 1, 0), 4))
    assert len(first) == data.steps_per_epoch == 3
    assert len(torch.cat([batch.indices for batch in first]).unique()) == 24
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.views[0], other.views[0]) and torch.equal(one.targets, other.targets)


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    data = images()
    whole, rest = list(data.epoch((0, 1, 0), 4)), list(data.epoch((0, 1, 0), 4, first_step=2))
    assert len(rest) == 1 and torch.equal(rest[0].views[0], whole[2].views[0])


@pytest.mark.parametrize(("key", "epoch"), [((0, 1, 0), 5), ((1, 1, 0), 4), ((0, 2, 0), 4), ((0, 1, 1), 4)])
def test_order_and_views_differ_between_epochs_seeds_generations_and_replicas(key: tuple, epoch: int) -> None:
    data = images()
    reference, other = next(data.epoch((0, 1, 0), 4)), next(data.epoch(key, epoch))
    assert not torch.equal(reference.indices, other.indices)


def test_evaluation_is_whole_and_plain() -> None:
    batches = list(images().evaluation("test"))
    assert sum(len(batch.targets) for batch in batches) == 18
    mean, std = torch.tensor(REFLECT.mean), torch.tensor(REFLECT.std)
    plain = batches[0].views[0].permute(0, 2, 3, 1) * std + mean
    torch.testing.assert_close(plain, torch.from_numpy(images().splits.test.inputs).float(), atol=1e-4, rtol=0)


class TestWhitening:
    """Of 300 images with 48 numbers each, enough for a covariance of full rank."""

    def whitened(self, **changes: object) -> Images:
        options = {"train_size": 300, "validation_size": 0, "test_size": 100, "shape": [3, 4, 4], "whitening": "zca"}
        return images(pool(400, size=4), **(options | changes))

    def test_training_images_are_uncorrelated(self) -> None:
        rows = torch.from_numpy(self.whitened().splits.train.inputs).flatten(1)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.mean(0), torch.zeros(48), atol=1e-5, rtol=0)
        torch.testing.assert_close(rows.T @ rows / 300, torch.eye(48), atol=2e-3, rtol=0)

    def test_test_images_are_whitened_by_the_training_images(self) -> None:
        plain, white = self.whitened(whitening=None), self.whitened()
        train, test = (
            torch.from_numpy(part.inputs).flatten(1).double() / 255 for part in (plain.splits.train, plain.splits.test)
        )
        values, vectors = torch.linalg.eigh(torch.cov(train.T, correction=0))
        expected = (test - train.mean(0)) @ vectors @ torch.diag((values + 1e-5) ** -0.5) @ vectors.T
        torch.testing.assert_close(
            torch.from_numpy(white.splits.test.inputs).flatten(1).double(), expected, atol=1e-4, rtol=0
        )
        (batch,) = white.evaluation("test")
        torch.testing.assert_close(batch.views[0].permute(0, 2, 3, 1).flatten(1).double(), expected, atol=1e-4, rtol=0)

    def test_it_learns_from_unlabelled_images_whether_the_method_sees_them_or_not(self) -> None:
        whole, few = self.whitened(labelled=30, unlabelled=True), self.whitened(labelled=30)
        assert np.array_equal(whole.splits.train.inputs[:30], few.splits.train.inputs)
        assert np.array_equal(whole.splits.test.inputs, few.splits.test.inputs)

    def test_the_views_are_the_same_ones(self) -> None:
        no_norm = Augmentation(pad=1, pad_mode="reflect", flip=True, mean=[0.0] * 3, std=[1.0] * 3)
        white = self.whitened(augmentation=no_norm)
        plain = self.whitened(augmentation=no_norm, whitening=None)
        indices, views = torch.arange(18) + 7, torch.arange(18)
        originals = torch.from_numpy(white.splits.train.inputs).permute(0, 3, 1, 2)
        for index, view, found in zip(
            indices, views, white.view(white.training_images.stored, indices, views), strict=True
        ):
            top, left = divmod(int(view) // 2, 3)
            expected = transforms.crop(transforms.pad(originals[index], [1], padding_mode="reflect"), top, left, 4, 4)
            assert torch.equal(found, transforms.hflip(expected) if view % 2 else expected)
        first, second = (next(data.epoch((0, 0, 0), 0)) for data in (white, plain))
        assert torch.equal(first.indices, second.indices) and torch.equal(first.targets, second.targets)

    def test_bytes_stay_bytes_without_it(self) -> None:
        assert images().training_images.stored.dtype == torch.uint8

    def test_null_is_not_in_a_signature_and_zca_is(self) -> None:
        default, null, zca = (
            plan(*option)[0] for option in ((), ("dataset.whitening=null",), ("dataset.whitening=zca",))
        )
        assert default.signature == null.signature != zca.signature
        assert ", whitened; recipe" in zca.regime_title and "whitened" not in null.regime_title


def test_fewer_classes(train: Train) -> None:
    result = train("dataset.classes=4", "dataset.train_size=40", "dataset.test_size=200", "method=labels")[0]
    assert result["test_error_percent"] < 15


def test_a_class_without_examples_is_refused(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ban.settings.checks.CLASS_COUNTS", {})  # as nothing is known of the data of others
    with pytest.raises(
        UserError, match=r"dataset.classes=12 selects classes 0 to 11, but the data have no examples of class 10\."
    ):
        train("dataset.classes=12", "method=labels")


def test_other_digits_than_the_signature_names_are_refused(train: Train) -> None:
    with pytest.raises(UserError, match="checksum"):
        train("dataset.checksum=sha256:0", *DIGITS)


class TestDistortion:
    def after(self, name: str, shown: torch.Tensor, magnitude: float = 1.0, sign: int = 1) -> torch.Tensor:
        """One image, `[height, width]`, after one operation."""
        drawn = torch.tensor([[sign * (OPERATIONS.index(name) + 1)]])
        return Distortion(operations=1, magnitude=magnitude)(shown[None, :, :, None], drawn)[0, :, :, 0]

    def test_what_is_moved_is_where_it_should_be(self) -> None:
        shown = torch.zeros(20, 20)
        shown[8:12, 8:12] = 100.0
        for sign in (1, -1):  # to the left first: the places that are looked up move to the right
            moved = self.after("move x", shown, magnitude=4 / 9, sign=sign)  # by a fifth of the side
            torch.testing.assert_close(moved, shown.roll(-4 * sign, 1), atol=1e-3, rtol=0)
            moved = self.after("move y", shown, magnitude=4 / 9, sign=sign)
            torch.testing.assert_close(moved, shown.roll(-4 * sign, 0), atol=1e-3, rtol=0)
        torch.testing.assert_close(self.after("identity", shown), shown, atol=1e-3, rtol=0)
        rotated, sheared = self.after("rotate", shown), self.after("shear x", shown)
        for changed in (rotated, sheared):
            torch.testing.assert_close(changed, changed.flip(0, 1), atol=1e-3, rtol=0)  # around the centre
            assert not torch.allclose(changed, shown, atol=1) and changed.sum() == pytest.approx(1600, rel=0.1)

    def test_colours_are_those_of_their_formulas(self) -> None:
        shown = torch.arange(64.0).view(8, 8) * 4  # white is 252, the mean 126
        expected = {
            ("brightness", 1): (shown * 1.475).clamp(max=252),
            ("brightness", -1): shown * 0.525,
            ("contrast", 1): (126 + (shown - 126) * 1.475).clamp(0, 252),
            ("contrast", -1): 126 + (shown - 126) * 0.525,
            ("posterise", -1): (shown / 252 * 64).floor() / 64 * 252,
            ("solarise", 1): torch.where(shown >= 126, 252 - shown, shown),
        }
        for (name, sign), image in expected.items():
            torch.testing.assert_close(self.after(name, shown, 0.5, sign), image, atol=2e-3, rtol=0)
        assert (
            not self.after("solarise", torch.zeros(8, 8)).any() and not self.after("posterise", torch.zeros(8, 8)).any()
        )

    def test_every_image_has_operations_of_its_own_and_each_is_drawn_equally_often(self) -> None:
        drawn = Distortion(operations=2).drawn(10_000, torch.Generator().manual_seed(0))
        counts = drawn.flatten().add(10).bincount(minlength=21)
        assert drawn.shape == (10_000, 2) and not counts[10]
        assert (counts[torch.arange(21) != 10] - 1000).abs().max() < 5 * 1000**0.5
        shown, few = torch.rand(50, 8, 8, 3) * 255, Distortion()
        one_by_one = torch.cat([few(shown[i : i + 1], drawn[i : i + 1]) for i in range(50)])
        torch.testing.assert_close(few(shown, drawn[:50]), one_by_one, atol=1e-3, rtol=1e-5)

    @pytest.mark.parametrize("augmentation", [REFLECT, ResizedCrop(crops=3, mean=REFLECT.mean, std=REFLECT.std)])
    def test_the_first_view_is_distorted_and_the_last_the_image_itself(self, augmentation: Views) -> None:
        noisy = images(augmentation=augmentation, distortion={"operations": 1}, views=2)
        alone = images(augmentation=augmentation, views=2)
        (whole,) = (batch.views[0] for batch in alone.evaluation("train"))
        batches = [*noisy.epoch((0, 0, 0), 1)]
        for one, other in zip(batches, alone.epoch((0, 0, 0), 1), strict=True):
            distorted, second, plain = one.views
            assert second.equal(other.views[1]) and one.indices.equal(other.indices)
            assert plain.equal(whole[one.indices])
            same = [torch.allclose(*pair, atol=1e-3) for pair in zip(distorted, other.views[0], strict=True)]
            assert same.count(False) > 4
        for batch, again in zip(batches[1:], noisy.epoch((0, 0, 0), 1, 1), strict=True):
            assert all(map(torch.equal, batch.views, again.views))

    def test_whitened_images_are_refused(self) -> None:
        for method, name in (("noisy_student", "distortion"), ("munge", "MUNGE")):
            with pytest.raises(UserError, match=f"{name}, which needs images in bytes"):
                plan(f"method={method}", "dataset.whitening=zca")


class TestPartners:
    plain = Augmentation(pad=0, pad_mode="constant", flip=False, mean=[0.0] * 3, std=[1.0] * 3)

    def shown(self, epochs: int, **changes: object) -> torch.Tensor:
        """The numbers of an image, its partner and its class, `[steps, 3, batch]`: image n is of the colour n."""
        numbers = np.arange(60, dtype=np.uint8)
        numbered = Labelled(np.broadcast_to(numbers[:, None, None, None], (60, 12, 12, 3)).copy(), pool().labels)
        data = images(numbered, augmentation=self.plain, partners=True, **changes)
        return torch.stack(
            [
                torch.stack([*(view[:, 0, 0, 0] for view in batch.views), batch.targets.float()])
                for epoch in range(epochs)
                for batch in data.epoch((0, 0, 0), epoch)
            ]
        )

    def test_a_partner_is_another_image_of_the_class_and_each_is_drawn_equally_often(self) -> None:
        image, partner, label = self.shown(400).transpose(0, 1)
        assert (image % 3 == label).all() and (partner % 3 == label).all() and not (image == partner).any()
        first = image.flatten()[0]
        counts = partner[image == first].unique(return_counts=True)[1]
        expected = int(counts.sum()) / 9  # the others of ten in its class
        assert len(counts) == 9 and (counts - expected).abs().max() < 5 * expected**0.5

    def test_the_first_view_is_that_of_an_epoch_without_partners(self) -> None:
        paired, alone = images(partners=True), images()
        for one, other in zip(paired.epoch((0, 0, 0), 1), alone.epoch((0, 0, 0), 1), strict=True):
            assert torch.equal(one.views[0], other.views[0]) and torch.equal(one.indices, other.indices)

    def test_an_unlabelled_image_is_its_own(self) -> None:
        image, partner, label = self.shown(3, labelled=12, unlabelled=True).transpose(0, 1)
        assert (image == partner).equal(label < 0) and (label < 0).any()

    def test_a_class_with_one_image_is_refused(self) -> None:
        with pytest.raises(UserError, match="class 0 has a single training image"):
            images(train_size=4, batch_size=2, partners=True)


@pytest.mark.parametrize("size", [7, 8])
def test_repeated_batches_begin_with_other_views_of_the_end_of_the_one_before(size: int) -> None:
    data, plain = images(batch_size=size, repeated=True), images(batch_size=size)
    shown = [*data.epoch((0, 0, 0), 1)]
    assert len(shown) == len([*plain.epoch((0, 0, 0), 1)]) == 30 // size
    for before, batch in pairwise(shown):
        half = size - size // 2
        assert batch.indices[:half].equal(before.indices[-half:]) and batch.targets[:half].equal(before.targets[-half:])
        assert not {*batch.indices[half:].tolist()} & {*before.indices.tolist()}
        assert not torch.equal(batch.views[0][:half], before.views[0][-half:])
        assert all(torch.equal(data._labels[batch.indices], batch.targets) for batch in shown)
    for batch, again in zip(shown[2:], data.epoch((0, 0, 0), 1, 2), strict=True):
        assert torch.equal(batch.views[0], again.views[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset.train_size=19", "recipe.batch_size=8"), "is less than two images for each of the 10 classes"),
        (("model=lstm_small", "dataset=ptb", "recipe=lstm"), "needs partners, which language data do not support"),
        (("model=mlp_16", "dataset=wine", "recipe=tabular"), "needs partners, which tabular data do not support"),
    ],
)
def test_a_method_with_partners_is_for_images_in_pairs(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan("method=cs_kd", *words)


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "digits_features", "wine"])
def test_the_examples_of_each_class_are_known_without_the_data(name: str) -> None:
    loaded = getattr(sklearn.datasets, f"load_{name.removesuffix('_features')}")()
    assert [*CLASS_COUNTS[f"ban.data.bundled.{name}"][""]] == np.bincount(loaded.target).tolist()


def test_a_scikit_learn_without_its_data_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "FILES", {"digits": ("missing.csv.gz", 0)})
    with pytest.raises(UserError, match=r"scikit-learn has no .*missing\.csv\.gz: install the version"):
        digits_of()
