"""From a composed configuration to stages: pure, without torch and without a look at the disk.

A stage is one training of one network: all that can change its weights, and nothing else. Its signature is a hash of
that, the signatures of its teachers included, so two commands that need the same training meet in the same folder.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Node = Mapping[str, Any]
"""A part of the configuration as plain data."""

PROTOCOL = 1
"""Raised when the training loop computes something else than before from the same stage."""

VERSIONS: dict[str, int] = {}
"""Class or function name → version, where it is not 1: raised when a component's mathematics changes, so that old
results are not taken for new ones. A test pins the losses of each component's first steps."""

UNSIGNED = {
    "dataset": {"name", "title", "kind", "metric", "path", "files", "mirrors"},
    "model": {"name", "title", "kind", "checkpointing"},
    "method": {"name", "title"},
    "recipe": {"name", "evaluate_every"},
}
"""Settings that do not change the weights (beyond rounding): names to show, places where data are (their checksum is
signed), how often to measure, memory saving."""


@dataclass(frozen=True)
class Parent:
    """One network of a finished stage."""

    stage: "Stage"
    network: str = "0"


@dataclass(frozen=True, eq=False)
class Stage:
    """One training."""

    generation: int
    seed: int
    replica: int
    dataset: Node
    model: Node
    method: Node
    recipe: Node
    teachers: tuple[Parent, ...] = field(default=())

    @cached_property
    def signature(self) -> str:
        """The name of the stage's folder."""
        parents = [[parent.stage.signature, parent.network] for parent in self.teachers]
        return _digest(self._own() | {"teachers": parents})

    @cached_property
    def family(self) -> str:
        """The signature with all seeds removed: what repetitions of one experiment have in common."""
        parents = [[parent.stage.family, parent.network] for parent in self.teachers]
        return _digest(_without_seeds(self._own()) | {"teachers": parents})

    @cached_property
    def regime(self) -> str:
        """Data set and recipe without seeds: results are compared only within one regime."""
        return _digest(_without_seeds({key: self._own()[key] for key in ("dataset", "recipe")}))

    @property
    def root_seed(self) -> int:
        """The seed of the generation 0 that this stage descends from."""
        return self.teachers[0].stage.root_seed if self.teachers else self.seed

    @property
    def key(self) -> tuple[int, int, int]:
        """What names this stage's random streams: methods that share it see the same order, views and dropout."""
        return (self.seed, self.generation, self.replica)

    @property
    def label(self) -> str:
        """What people call it: Teacher, BAN-1, DKPP-2; a second draw says which replica it is."""
        if self.generation == 0:
            name = "Labels" if self.replica else "Teacher"
        else:
            name = f"{self.method['title']}-{self.generation}"
        return f"{name} (replica {self.replica})" if self.replica else name

    def identity(self) -> dict[str, Any]:
        """What a table needs to know, for `result.json`."""
        parents = [parent.stage for parent in self.teachers]
        return {
            "label": self.label,
            "generation": self.generation,
            "method": self.method["name"],
            "method_title": self.method["title"],
            "model": self.model["name"],
            "model_title": self.model["title"],
            "network": _digest(_signed("model", self.model)),
            "dataset": self.dataset["name"],
            "recipe": self.recipe["name"],
            "seed": self.seed,
            "root_seed": self.root_seed,
            "split_seed": self.dataset.get("split_seed"),
            "metric": self.dataset["metric"],
            "replica": self.replica,
            "signature": self.signature,
            "family": self.family,
            "regime": self.regime,
            "regime_title": self.regime_title,
            "teachers": [parent.signature for parent in parents],
            "teacher_families": [parent.family for parent in parents],
            "train_size": self.dataset["train_size"],
            "epochs": self.recipe["epochs"],
            "batch_size": self.recipe["batch_size"],
            "precision": self.recipe["precision"],
        }

    @property
    def regime_title(self) -> str:
        """Data set, sizes and recipe in words."""
        data, recipe = self.dataset, self.recipe
        steps = f" of {recipe['steps_per_epoch']} steps" if recipe.get("steps_per_epoch") else ""
        epochs = f"{recipe['epochs']} epoch{'s' * (recipe['epochs'] != 1)}{steps}"
        held_out = f", {data['validation_size']} validation" if data["validation_size"] else ""
        noise = f", {data['label_noise']:.0%} of the labels wrong" if data.get("label_noise") else ""
        examples = f"words, vocabulary {data['classes']}" if data["kind"] == "language" else "images"
        unroll = f" × {recipe['unroll']}" if recipe.get("unroll") else ""
        return (
            f"{data['title']}, {data['train_size']} training{held_out} and {data['test_size']} test {examples}{noise}; "
            f"recipe {recipe['name']}: {epochs}, batch {recipe['batch_size']}{unroll}, {recipe['precision']}"
        )

    def describe(self) -> dict[str, Any]:
        """Everything that was asked for, for `stage.json`."""
        parts = {"dataset": self.dataset, "model": self.model, "method": self.method, "recipe": self.recipe}
        teachers = [{"signature": p.stage.signature, "network": p.network} for p in self.teachers]
        return self.identity() | {"protocol": PROTOCOL} | parts | {"teachers": teachers}

    def _own(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "generation": self.generation,
            "seed": self.seed,
            "replica": self.replica,
            "dataset": _signed("dataset", self.dataset),
            "models": [_signed("model", self.model)],
            "method": _signed("method", self.method),
            "recipe": _signed("recipe", self.recipe),
        }


def lineage(settings: Node) -> list[Stage]:
    """The stages that one command asks for, teachers first: generation 0, then generation by generation.

    A method without a teacher is a single stage of generation 0. `replica` belongs to the last generation: a second
    draw of it from the same teacher.
    """
    taught = settings["method"].get("teacher") is not None
    generations = settings["generations"] if taught else 0
    dataset, replica = settings["dataset"], settings["replica"]
    first = settings["teacher"] if taught else settings
    root = Stage(
        generation=0,
        seed=first["seed"],
        replica=0 if generations else replica,
        dataset=dataset,
        model=first["model"],
        method=first["method"],
        recipe=first["recipe"],
    )
    stages = [root]
    for generation in range(1, generations + 1):
        student = Stage(
            generation=generation,
            seed=settings["seed"],
            replica=replica if generation == generations else 0,
            dataset=dataset,
            model=settings["model"],
            method=settings["method"],
            recipe=settings["recipe"],
            teachers=(Parent(stages[-1]),),
        )
        stages.append(student)
    return stages


def union(lineages: Iterable[Iterable[Stage]]) -> list[Stage]:
    """Every stage once, teachers before students."""
    stages: dict[str, Stage] = {}
    for stage in (stage for each in lineages for stage in each):
        stages.setdefault(stage.signature, stage)
    return list(stages.values())


def _signed(part: str, node: Node) -> Any:
    """What of a data set, model, method or recipe goes into the signature."""
    return _canonical({key: value for key, value in node.items() if key not in UNSIGNED[part]})


def _canonical(value: Any) -> Any:
    """The same text for the same meaning: 2 = 2.0, absent = null, and of `_target_` only the class name.

    Moving a class orphans no result; dropping its name would merge, say, two ramps with equal options.
    """
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if item is not None}
        if target := kept.pop("_target_", None):
            kept["class"] = target.rpartition(".")[2]
            kept["version"] = VERSIONS.get(kept["class"], 1)
        return {key: _canonical(item) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = value.items()
        return {k: _without_seeds(v) for k, v in items if k != "seed" and not k.endswith("_seed")}
    if isinstance(value, list):
        return [_without_seeds(item) for item in value]
    return value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
