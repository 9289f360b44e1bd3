"""What a tracker is told of a stage, and what a tracker is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from ban.plan.contrast import name_in_line

Outcome = Literal["finished", "stopped", "failed"]
PARAMETERS = ("seed", "generation", "replica", "dataset", "models", "method", "recipe", "weights")
"""The parts of a stage's description that are settings."""
TAGS = ("signature", "family", "regime", "generation", "seed", "replica", "label", "model_title", "method_title")


@dataclass(frozen=True)
class Run:
    """A stage as trackers show it."""

    signature: str
    """Identifies the run: a resumed stage continues it."""
    lineage: str
    """The signature of the generation 0 that the stage descends from, which groups runs."""
    name: str
    epochs: int
    parameters: dict[str, Any]
    """Dotted key → text, number, flag or None."""
    tags: dict[str, str]

    @classmethod
    def of(cls, description: Mapping[str, Any], lineage: str) -> "Run":
        """The run of the stage that `stage.json` describes."""
        seed = None if "weights" in description else description["seed"]
        tags = {name: str(description[name]) for name in TAGS} | {"lineage": lineage}
        return cls(
            description["signature"],
            lineage,
            name_in_line(description["label"], description["model_title"], seed),
            description["epochs"],
            dict(_flat("", {name: description[name] for name in PARAMETERS if name in description})),
            {f"ban.{name}": value for name, value in tags.items()},
        )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list of plain values is one text."""
    if isinstance(value, list | tuple):
        values = cast("Sequence[Any]", value)
        if not any(isinstance(item, Mapping | list | tuple) for item in values):
            yield prefix, json.dumps(values, ensure_ascii=False)
            return
        value = dict(enumerate(values)) if len(values) > 1 or prefix != "models" else {"": values[0]}
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in cast("Mapping[Any, Any]", value).items():
        yield from _flat(f"{prefix}.{key}" if prefix and key != "" else f"{prefix}{key}", item)


class Tracker(Protocol):
    """One stage's run in a tracker, opened by a constructor that takes a `Run` and `machine.outputs`.

    Constructor and methods may raise any exception.
    """

    logged: int
    """The last epoch that the run has; -1: none."""

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """Adds the values of epochs, in order. After an exception or a kill, each is there as a whole or not at all."""
        ...

    def add_files(self, paths: Sequence[Path]) -> None:
        """Adds files of the finished stage."""
        ...

    def close(self, outcome: Outcome) -> None:
        """Ends the run, until it is opened again."""
        ...
