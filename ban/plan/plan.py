"""From a composed configuration to stages: pure, without torch and without a look at the disk.

A stage is one training of one network, or of a cohort that learns together: all that can change its weights, and
nothing else. Its signature is a hash of that, the signatures of its teachers included, so two commands that need the
same training meet in the same folder.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    "method": {
        "name",
        "title",
        "teachers",
        "cohort",
        "begin",
        "shares",
        "data",
        "headline",
    },  # seen in the stages they make
    "recipe": {"name", "evaluate_every", "diagnosed_steps"},
}
"""Settings that do not change the weights (beyond rounding): names to show, places where data are (their checksum is
signed), how often to measure, memory saving."""


@dataclass(frozen=True)
class Parent:
    """One network of a finished stage."""

    stage: "Stage"
    network: str = "0"

    @property
    def index(self) -> int:
        """Which of the stage's models it is; an average is one of the first."""
        return int(self.network) if self.network.isdigit() else 0


@dataclass(frozen=True)
class Inheritance:
    """Weights that a training starts from."""

    parent: Parent
    modules: tuple[str, ...] = ()
    """Names at the top of the network; none: all of it."""
    frozen: bool = False
    """They are kept as they are, and out of the optimizer."""

    def signed(self, name: str) -> list[Any]:
        """With the parent's signature or family."""
        return [getattr(self.parent.stage, name), self.parent.network, list(self.modules), self.frozen]


@dataclass(frozen=True, eq=False)
class Stage:
    """One training."""

    generation: int
    seed: int
    replica: int
    dataset: Node
    models: tuple[Node, ...]
    """One, or those of a cohort."""
    method: Node
    recipe: Node
    teachers: tuple[Parent, ...] = ()
    inherits: tuple[Inheritance, ...] = ()

    @cached_property
    def signature(self) -> str:
        """The name of the stage's folder."""
        return _digest(self._own() | self._kin("signature"))

    @cached_property
    def family(self) -> str:
        """The signature with all seeds removed: what repetitions of one experiment have in common."""
        return _digest(_without_seeds(self._own()) | self._kin("family"))

    def _kin(self, name: str) -> dict[str, Any]:
        """The parents by signature or family."""
        kin = {"teachers": [[getattr(parent.stage, name), parent.network] for parent in self.teachers]}
        return kin | ({"inherits": [each.signed(name) for each in self.inherits]} if self.inherits else {})

    @cached_property
    def regime(self) -> str:
        """Data set and recipe without seeds: results are compared only within one regime.

        What a method does with the data, to see some without labels, in two views, or munged, is not part of it.
        """
        own, used = self._own(), self.method.get("data") or {}
        dataset = {key: value for key, value in own["dataset"].items() if key not in used}
        return _digest(_without_seeds({"dataset": dataset, "recipe": own["recipe"]}))

    @property
    def examples(self) -> int:
        """In the training set, synthetic ones included."""
        munge = self.dataset.get("munge") or {"multiplier": 0}
        return self.dataset["train_size"] * (1 + munge["multiplier"])

    @property
    def examples_seen(self) -> int:
        """The images, rows or words that the whole training goes through."""
        recipe = self.recipe
        at_once = recipe["batch_size"] * (recipe.get("unroll") or 1)
        steps = self.examples // at_once
        return recipe["epochs"] * min(steps, recipe.get("steps_per_epoch") or steps) * at_once

    @property
    def model(self) -> Node:
        """The network, or a cohort's first."""
        return self.models[0]

    @property
    def parents(self) -> list["Stage"]:
        """Every stage that must be finished before this one."""
        return [parent.stage for parent in self.teachers] + [each.parent.stage for each in self.inherits]

    @property
    def reported_networks(self) -> list[str]:
        """The networks that its result is the mean of: a cohort's all, an average's own."""
        headline = self.method.get("headline")
        return [headline] if headline else [str(index) for index in range(len(self.models))]

    @property
    def is_pretraining(self) -> bool:
        """Whether it is only the beginning of a training, and its network not meant to be used."""
        return self.method.get("until") is not None

    @property
    def root_seed(self) -> int:
        """The seed of the generation 0 that this stage descends from."""
        return self.taught_by[0].stage.root_seed if self.taught_by else self.seed

    @property
    def taught_by(self) -> tuple[Parent, ...]:
        """Its teachers, or those of the training that it goes on from."""
        return self.teachers or next((each.parent.stage.teachers for each in self.inherits), ())

    @property
    def stream_key(self) -> tuple[int, int, int]:
        """What names this stage's random streams: methods that share it see the same order, views and dropout."""
        return (self.seed, self.generation, self.replica)

    @property
    def label(self) -> str:
        """What people call it: Teacher, BAN-1, DKPP-2; a second draw says which replica it is."""
        name = self.method["title"]
        if self.generation:
            name = f"{name}-{self.generation}"
        elif self.method["name"] == "labels" and not self.replica:
            name = "Teacher"
        return f"{name} (replica {self.replica})" if self.replica else name

    def identity(self) -> dict[str, Any]:
        """What a table needs to know, for `result.json`."""
        teachers = [parent.stage for parent in self.taught_by]
        return {
            "label": self.label,
            "generation": self.generation,
            "method": self.method["name"],
            "method_title": self.method["title"],
            "model": self.model["name"],
            "model_title": self.model["title"],
            "network": _digest(_signed("model", self.model)),
            "cohort": len(self.models),
            "unlabelled": bool(self.dataset.get("unlabelled")),
            "prepares": self.is_pretraining,
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
            "teachers": [teacher.signature for teacher in teachers],
            "parents": [parent.signature for parent in self.parents],
            "teacher_families": [teacher.family for teacher in teachers],
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
        examples = {"images": "images", "table": "rows"}.get(data["kind"], f"words, vocabulary {data['classes']}")
        white = ", whitened" if data.get("whitening") else ""
        labels = f", {data['labelled']} labels" if data.get("labelled") else ""
        unroll = f" × {recipe['unroll']}" if recipe.get("unroll") else ""
        return (
            f"{data['title']}, {data['train_size']} training{held_out} and {data['test_size']} test {examples}"
            f"{noise}{labels}{white}; "
            f"recipe {recipe['name']}: {epochs}, batch {recipe['batch_size']}{unroll}, {recipe['precision']}"
        )

    def describe(self) -> dict[str, Any]:
        """Everything that was asked for, for `stage.json`."""
        return self.identity() | self._all() | self._kin("signature")

    @property
    def targets(self) -> set[str]:
        """Every class and function that its settings name."""
        return _targets(self._all())

    def _all(self) -> dict[str, Any]:
        parts = ("generation", "seed", "replica", "dataset", "models", "method", "recipe")
        return {"protocol": PROTOCOL} | {name: getattr(self, name) for name in parts}

    def _own(self) -> dict[str, Any]:
        return _signed_parts(self._all())


def _targets(value: Any) -> set[str]:
    """Every `_target_` in a part of the configuration."""
    if isinstance(value, Mapping):
        own = {value["_target_"]} if isinstance(value.get("_target_"), str) else set()
        return own.union(*(_targets(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(_targets(item) for item in value))
    return set()


def signature_of(description: Node) -> str:
    """The signature that belongs to a stage's description.

    Raises:
        KeyError: it is none.
    """
    kin = {name: description[name] for name in ("teachers", "inherits") if name in description}
    return _digest(_signed_parts(description) | kin)


def lineage(settings: Node) -> list[Stage]:
    """The stages that one command asks for, teachers first: generation 0, then generation by generation.

    A method without trained teachers is a single training of generation 0. Where it wants several, they differ in
    their draws (replicas) and, if `teacher.models` names some, in their networks. `replica` belongs to the last
    generation: another draw of it from the same teacher.
    """
    method, replica = settings["method"], settings["replica"]
    count = method.get("teachers") or 0
    generations = settings["generations"] if count else 0
    if not generations:
        first = settings["teacher"] if count else settings
        return _phases(settings, first, 0, replica, ())
    stages = _teachers(settings, count)
    parents = tuple(Parent(stage, stage.reported_networks[0]) for stage in stages)
    for generation in range(1, generations + 1):
        drawn = replica if generation == generations else 0
        stages += _phases(settings, settings, generation, drawn, parents)
        parents = (Parent(stages[-1], stages[-1].reported_networks[0]),)
    return stages


def _teachers(settings: Node, count: int) -> list[Stage]:
    teacher = settings["teacher"]
    models = [*(teacher.get("models") or {}).values()] or [teacher["model"]]
    return [
        Stage(0, teacher["seed"], index, settings["dataset"], (models[index % len(models)],), *_how(teacher))
        for index in range(count)
    ]


def _how(part: Node) -> tuple[Node, Node]:
    return part["method"], part["recipe"]


def _phases(settings: Node, part: Node, generation: int, replica: int, teachers: tuple[Parent, ...]) -> list[Stage]:
    """A training of one generation: one stage, or two where the method begins with another."""
    method, recipe = _how(part)
    dataset = _merged(settings["dataset"], method.get("data") or {})
    others = [*(settings.get("peers") or {}).values()] if part is settings else []
    models = (part["model"], *others, *[part["model"]] * (method.get("cohort", 1) - 1 - len(others)))
    shares = method.get("shares")
    inherits = (Inheritance(teachers[0], tuple(shares), frozen=True),) if shares else ()
    common = (generation, part["seed"], replica, dataset, models)
    if begin := method.get("begin"):
        first = Stage(*common, begin, _scaled(recipe, begin), teachers, inherits)
        own = teachers if method.get("teacher") else ()
        return [first, Stage(*common, method, recipe, own, (Inheritance(Parent(first)), *inherits))]
    return [Stage(*common, method, recipe, teachers, inherits)]


def _scaled(recipe: Node, begin: Node) -> dict[str, Any]:
    """The recipe of a beginning: so many times the epochs and the learning rate of the training it begins."""
    epochs = max(1, round(recipe["epochs"] * begin.get("epochs", 1)))
    optimizer = recipe["optimizer"] | {"lr": recipe["optimizer"]["lr"] * begin.get("rate", 1)}
    return {**recipe, "epochs": epochs, "optimizer": optimizer}


def _merged(node: Node, changes: Node) -> dict[str, Any]:
    merged = dict(node)
    for key, value in changes.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, Mapping) and key in merged else value
    return merged


def union(lineages: Iterable[Iterable[Stage]]) -> list[Stage]:
    """Every stage once, teachers before students."""
    stages: dict[str, Stage] = {}
    for stage in (stage for each in lineages for stage in each):
        stages.setdefault(stage.signature, stage)
    return list(stages.values())


def _signed_parts(parts: Node) -> dict[str, Any]:
    own = {name: parts[name] for name in ("protocol", "generation", "seed", "replica")}
    signed = {name: _signed(name, parts[name]) for name in ("dataset", "method", "recipe")}
    return own | signed | {"models": [_signed("model", model) for model in parts["models"]]}


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
