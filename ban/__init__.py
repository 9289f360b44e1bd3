"""Born-again neural networks: a student identical to its teacher, taught by it, generation after generation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

    from ban.inference.trained import TrainedStage

__version__ = "0.3.0.dev0"


def load(
    outputs: str | Path,
    signature: str,
    *,
    network: str | None = None,
    modules: Sequence[str] = (),
    device: str = "cpu",
) -> "TrainedStage":
    """A finished stage's network, with its classes, the transformation of its inputs, and its result.

    Args:
        outputs: the folder that `machine.outputs` named; `outputs` by default.
        signature: of the stage, from `ban stages`; its first characters are enough.
        network: the number of a network of a cohort, `average`, or `last` for the last epoch's where a better one was
            selected; None: the network whose result is the stage's.
        modules: your modules or packages that define networks. A stage file names classes, and no others are used.
        device: where the network is put, for example `cuda`.

    Raises:
        ban.errors.UserError: there is no such stage or network, or it is damaged or of an unknown class.
    """
    from ban.inference.trained import load as load_stage  # imports torch
    from ban.store.store import Store

    return load_stage(Store(Path(outputs)), signature, network, modules, device)


def results(outputs: str | Path) -> "DataFrame":
    """All finished stages, one row each: identity, settings in short, sizes, times and metrics.

    Stages that cannot be read are left out with a warning.

    Raises:
        ban.errors.UserError: the store itself cannot be read.
    """
    from ban.report.frame import frame
    from ban.store.store import Store

    return frame(Store(Path(outputs)))
