"""Labelled rows of continuous features: split, scaled and kept on the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ban.data import inspection
from ban.data.splits import (
    Labelled,
    LabelledData,
    LabelledOptions,
    Splits,
    evaluation_batches,
    make_splits,
)
from ban.interfaces import Batch


@dataclass(frozen=True, kw_only=True)
class TabularOptions(LabelledOptions):
    """Settings of every data set of rows."""

    features: int
    """Number of columns, without the label."""


class Tabular(LabelledData):
    """Rows on a device. Batches are `[batch, features]`.

    Each feature is scaled linearly so that its minimum over the training rows becomes 0 and its maximum 1, as MUNGE
    needs it. Validation and test rows may lie outside. A feature that is constant over the training rows becomes 0.

    Args:
        pool: the rows, `[examples, features]`, that all splits are drawn from.
        options: sizes, seeds, batch size and device.

    Raises:
        UserError: the rows are fewer than `options` requires, have a different number of features, or gaps.
    """

    examples = "rows"

    def __init__(self, pool: Labelled, options: TabularOptions) -> None:
        pool = inspection.rows(pool, options.features)
        self.content = pool.sha256
        self.splits = make_splits(pool, None, options, self._scaled)
        train = self.splits.train
        if options.munge:
            train = train.with_unlabelled(options.munge.rows(train.inputs, options.munge_generator()))
        super().__init__(train, options)
        self.preprocessing = {"low": self._low.tolist(), "span": self._span.tolist()}
        self._rows = torch.from_numpy(train.inputs).to(self.device)

    def _scaled(self, splits: Splits) -> Splits:
        self._low, span = splits.train.inputs.min(0), np.ptp(splits.train.inputs, 0)
        self._span = np.where(span > 0, span, 1.0)
        rescaled = [((part.inputs - self._low) / self._span).astype(np.float32) for part in splits]
        return Splits(*(Labelled(rows, part.labels) for rows, part in zip(rescaled, splits, strict=True)))

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on. They depend on `key` and `epoch` only."""
        order = self.order(key, epoch).to(self.device)
        for step in range(first_step, self.steps_per_epoch):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield Batch((self._rows[indices],), self._labels[indices], indices)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All labelled rows of a split, in a fixed order."""
        return evaluation_batches(getattr(self.splits, split), self.device)
