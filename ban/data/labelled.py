"""Labelled examples in main memory, or in a file that is read when they are needed. Does not import torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ban.errors import UserError
from ban.streams import stream
from ban.wording import plural


class Gathered:
    """Images of a memory map in an order of their own, which are read when they become an array."""

    def __init__(self, images: NDArray[np.uint8], chosen: NDArray[np.int64]) -> None:
        """`images`: `[any, height, width, channels]`; `chosen`: which of them, in order."""
        self.images, self.chosen = images, chosen
        self.dtype, self.shape, self.ndim = images.dtype, (len(chosen), *images.shape[1:]), images.ndim

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, chosen: Any) -> "Gathered":
        """The same images without the others; nothing is read."""
        return Gathered(self.images, self.chosen[chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The images in main memory, read in the order of the file, which is faster."""
        places = np.argsort(self.chosen, kind="stable")
        found = np.empty(self.shape, self.dtype)
        found[places] = self.images[self.chosen[places]]
        return found if dtype is None else found.astype(dtype)


def digest(example: NDArray[Any]) -> bytes:
    """A hash of an example's content: 16 bytes."""
    return hashlib.blake2b(np.ascontiguousarray(example).data, digest_size=16).digest()


def order_by_content(digests: Sequence[bytes], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of examples by their digests and labels: the same wherever and however they are stored."""
    halves = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2)
    return np.lexsort((labels, halves[:, 1], halves[:, 0]))


def content_sha256(
    shape: Sequence[int],
    classes: int,
    digests: Mapping[str, Sequence[bytes]],
    labels: Mapping[str, NDArray[np.int64]],
) -> str:
    """A hash of the examples of all splits, in the order of their content."""
    found = hashlib.sha256(json.dumps([*shape, classes]).encode())
    for split, of_examples in digests.items():
        found.update(f"{split} {len(of_examples)}".encode() + b"".join(of_examples))
        found.update(labels[split].astype("<i8").tobytes())
    return found.hexdigest()


def proportional_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A random order of which any first, next or last n examples have each class in proportion, up to one example."""
    shuffled = np.random.default_rng(stream(seed, "split")).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.empty(len(labels))
    share[by_class] = (rank + 0.5) / np.repeat(counts, counts)
    return shuffled[np.argsort(share[shuffled], kind="stable")]


def sizes_of(
    found: Mapping[str, int], train: int | None, validation: int | None, test: int | None, noun: str
) -> tuple[int, int, int]:
    """The sizes of the splits: as given, or all that there are; a fifth for testing where no split is for that.

    Args:
        found: split → number of its examples; the split `all` where there are none.
        train: size as given, or None.
        validation: the same.
        test: the same.
        noun: what messages call one example.

    Raises:
        UserError: there are fewer examples.
    """
    tested, pool = found.get("test", 0), found.get("train") or found.get("all", 0)
    if validation is None:
        validation = found.get("validation", 0)
    if test is None:
        test = tested or max(1, round(0.2 * pool))
    others = (0 if tested else test) + (0 if found.get("validation") else validation)
    train = pool - others if train is None else train
    for name, size, most in (("test", test, tested or pool - 1), ("train", train, pool - others)):
        if not 0 < size <= most:
            raise UserError(f"dataset.{name}_size={size}, but there are {plural(max(most, 0), noun)} for that.")
    return train, validation, test


class Labelled(NamedTuple):
    """Examples and their labels, in main memory."""

    inputs: Any
    """An array or `Gathered`: `[examples, height, width, channels]` bytes, or `[examples, features]`."""
    labels: NDArray[np.int64]
    """`[examples]`; -1 for unlabelled examples."""

    def first(self, classes: int) -> "Labelled":
        """The examples of the first `classes` classes.

        Raises:
            UserError: one of these classes has no examples.
        """
        chosen = self[self.labels < classes]
        if lost := sorted({*range(classes)} - {*chosen.labels.tolist()}):
            raise UserError(
                f"dataset.classes={classes} selects classes 0 to {classes - 1}, but the data have no examples of class "
                f"{lost[0]}."
            )
        return chosen

    def by_content(self) -> "Labelled":
        """The same examples in the order of their content."""
        return self[order_by_content([digest(each) for each in self.inputs], self.labels)]

    def with_unlabelled(self, inputs: NDArray[Any]) -> "Labelled":
        """These examples, followed by `inputs` without labels."""
        labels = np.concatenate([self.labels, np.full(len(inputs), -1)])
        return Labelled(np.concatenate([self.inputs, inputs]), labels)

    @property
    def sha256(self) -> str:
        """A hash of the examples and their labels."""
        digest = hashlib.sha256(f"{self.inputs.dtype} {self.inputs.shape}".encode())
        for array in (self.inputs, self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "Labelled":  # pyright: ignore[reportIncompatibleMethodOverride]
        """The chosen examples."""
        return Labelled(self.inputs[chosen], self.labels[chosen])
