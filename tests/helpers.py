"""What several test modules need, and pytest does not."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ban.plan.lineage import lineage
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.store.store import Store


def cifar100(*overrides: str) -> list[Stage]:
    """A lineage of the paper's size, to plan with."""
    return lineage(compose_settings(["dataset=cifar100", *overrides]))


def published(root: Path) -> Store:
    """A store with one stage."""
    store = Store(root)
    with store.claim("s") as work:
        assert work is not None
        work.write("weights.safetensors", lambda path: path.write_bytes(bytes(1000)))
        work.publish({"value": 1})
    return store


def publish(
    store: Store, stage: Stage, files: Mapping[str, Callable[[Path], Any]] | None = None, **values: float
) -> None:
    """A finished stage, with values of its result and files: name → what writes it."""
    with store.claim(stage.signature) as work:
        assert work is not None
        for name, write in (files or {}).items():
            work.write(name, write)
        work.publish({**stage.identity(), "parameters": 7, **values})


def publish_predictions(store: Store, stage: Stage, wrong: int) -> None:
    """A finished stage with ten test examples, the first `wrong` of them with little confidence in the wrong class."""
    probabilities = np.full((10, 2), 0.1, np.float32)
    probabilities[:, 0] = 0.9
    probabilities[:wrong] = [0.45, 0.55]
    arrays = {"log_probabilities": np.log(probabilities), "targets": np.zeros(10, np.int64)}
    files = {"predictions.safetensors": partial(save_file, arrays)}
    publish(store, stage, files, test_error_percent=10.0 * wrong, train_error_percent=0.0)
