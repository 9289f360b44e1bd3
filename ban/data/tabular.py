"""Labelled rows of continuous features: drawn into splits, scaled, kept on the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ban.data.splits import Labelled, Splits, epoch_order, evaluation_batches, make_splits
from ban.data.splits import Options as SplitOptions
from ban.errors import UserError
from ban.interfaces import Batch


@dataclass(frozen=True, kw_only=True)
class Options(SplitOptions):
    """What every table is asked for, wherever its rows come from."""

    features: int
    """Columns without the label."""


class Tabular:
    """A data set on a device. Batches are `[batch, features]`, each feature scaled linearly by its training rows.

    The training rows' least value of a feature becomes 0 and the largest 1, as MUNGE wants it; validation and test rows
    may lie outside. A feature with one value among the training rows is only shifted.
    """

    examples = "rows"
    vocabulary = ()
    spelling = None

    def __init__(self, pool: Labelled, options: Options) -> None:
        """Draws the splits from the pool and moves the training rows to the device.

        Raises:
            UserError: there are not enough rows for what is asked, or they have other features.
        """
        if pool.inputs.shape[1] != options.features:
            raise UserError(f"dataset.features is {options.features}, but the rows have {pool.inputs.shape[1]}.")
        self.splits = make_splits(pool, None, options, scaled)
        train = self.splits.train
        if options.munge:
            train = train.with_unlabelled(options.munge.rows(train.inputs, options.munge_generator()))
        self.count, self.batch_size, self.device = len(train.labels), options.batch_size, options.device
        self.steps_per_epoch, self.examples_per_step = options.steps_of(self.count), self.batch_size
        self.held_out = options.held_out
        self._rows, self._labels = (torch.from_numpy(each).to(self.device) for each in train)

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from `first_step` on: the same for the same key and epoch, wherever it starts."""
        order = epoch_order(self.count, key, epoch).to(self.device)
        for step in range(first_step, self.steps_per_epoch):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch((self._rows[indices],), self._labels[indices], indices)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All labelled rows of a split, in a fixed order."""
        return evaluation_batches(getattr(self.splits, split), self.device)


def scaled(splits: Splits) -> Splits:
    """All splits by the minima and maxima of the training rows, in fp32."""
    low, span = splits.train.inputs.min(0), np.ptp(splits.train.inputs, 0)
    span = np.where(span > 0, span, 1.0)
    return Splits(*(Labelled(((part.inputs - low) / span).astype(np.float32), part.labels) for part in splits))
