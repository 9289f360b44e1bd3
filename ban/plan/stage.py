"""A stage: one training of one network, or of a cohort that learns together.

It holds all that can change the weights, and nothing else.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ban.plan import signature
from ban.settings.datasets import Dataset
from ban.settings.schema import Method, Network, Pretraining, Recipe
from ban.settings.types import plain, targets_in
from ban.wording import plural


@dataclass(frozen=True)
class Parent:
    """A network of another stage that must be finished first."""

    stage: "Stage"
    network: str = "0"
    """Its number in a cohort, or the name under which a teacher publishes it (`average`). `last` and `1.last` are the
    networks 0 and 1 after the last epoch, where a better epoch was selected."""

    @property
    def index(self) -> int:
        """Which of the stage's models it is an instance of. An average of weights is one of the first model."""
        number = self.network.partition(".")[0]
        return int(number) if number.isdigit() else 0


@dataclass(frozen=True)
class Weights:
    """Weights of a trained network in a file of the user's."""

    path: Path
    sha256: str
    """Of the tensors, as `ban.settings.weights` computes it."""

    def described(self) -> dict[str, str]:
        """As plain data, without the folder, which may be another person's."""
        return {"file": self.path.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Inheritance:
    """Weights that a training starts from."""

    parent: Parent
    modules: tuple[str, ...] = ()
    """Top-level modules of the network; none: all of it."""
    frozen: bool = False
    """Whether they are kept as they are."""

    def described(self, name: Literal["signature", "family"]) -> list[Any]:
        """As plain data, with the parent's signature or family."""
        return [getattr(self.parent.stage, name), self.parent.network, list(self.modules), self.frozen]


@dataclass(frozen=True, eq=False)
class Stage:
    """One training, or the test of a network whose weights are in a file."""

    generation: int
    seed: int
    replica: int
    dataset: Dataset
    models: tuple[Network, ...]
    """One, or those of a cohort."""
    method: Method | Pretraining
    recipe: Recipe
    teachers: tuple[Parent, ...] = ()
    inherits: tuple[Inheritance, ...] = ()
    data_changes: frozenset[str] = frozenset()
    """Keys of the data set that the method has set; they are no part of the regime."""
    weights: Weights | None = None
    """Where the network's weights come from; None: from a training. Method and recipe then change nothing."""

    # Identity

    @cached_property
    def signature(self) -> str:
        """The name of the stage's folder in the store."""
        return signature.digest(self._signed | self.parents_as("signature"))

    @cached_property
    def family(self) -> str:
        """The signature without seeds, which all repetitions of an experiment share."""
        return signature.digest(signature.without_seeds(self._signed) | self.parents_as("family"))

    @cached_property
    def regime(self) -> str:
        """A hash of data set and recipe without seeds. Results are compared only within one regime.

        Changes that a method makes to the data (unlabelled examples, several views, MUNGE) do not count.
        """
        content = self._signed
        dataset = {key: value for key, value in content["dataset"].items() if key not in self.data_changes}
        return signature.digest(signature.without_seeds({"dataset": dataset, "recipe": content.get("recipe")}))

    @cached_property
    def network(self) -> str:
        """A hash of the network's settings."""
        return signature.digest(signature.signed_network(self.model.node()))

    @cached_property
    def step_kind(self) -> str:
        """A hash of all that the shapes, the operations and the time of a training step depend on."""
        content = signature.without_seeds(self._signed)
        tested = ("validation_size", "test_size")  # the training's size is that of terms' and teachers' memories
        dataset = {key: value for key, value in content["dataset"].items() if key not in tested}
        networks = plain([*self.models, *(parent.stage.model for parent in self.parent_networks)])
        if self.weights:  # whose shapes have to be those of the network
            return signature.digest([dataset, content["weights"], networks])
        recipe = {key: value for key, value in content["recipe"].items() if key != "epochs"}
        inherited = [list(each.modules) for each in self.inherits]
        return signature.digest([dataset, content["method"], recipe, networks, inherited, self.reported_networks])

    @property
    def stream_key(self) -> tuple[int, int, int]:
        """Names the stage's random streams. Methods that share it see the same order, views and dropout masks."""
        return (self.seed, self.generation, self.replica)

    @cached_property
    def _signed(self) -> dict[str, Any]:
        """What of the settings goes into signatures."""
        return signature.signed_content(self.settings)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the stage as plain data; `stage.json` holds them."""
        parts = ("generation", "seed", "replica", "dataset", "models", "method", "recipe")
        versions = {"protocol": signature.PROTOCOL, "versions": signature.VERSIONS}
        content = versions | {name: plain(getattr(self, name)) for name in parts}
        return content | ({"method": {}, "recipe": {}, "weights": self.weights.described()} if self.weights else {})

    def parents_as(self, name: Literal["signature", "family"]) -> dict[str, Any]:
        """The parents as plain data, by signature or by family."""
        parents = {"teachers": [[getattr(parent.stage, name), parent.network] for parent in self.teachers]}
        return parents | ({"inherits": [each.described(name) for each in self.inherits]} if self.inherits else {})

    @cached_property
    def streams(self) -> frozenset[Hashable]:
        """What its random numbers come from, and those of its teachers. Stages that share one are not independent."""
        if self.weights:
            return frozenset([self.weights.sha256])
        return frozenset([self.stream_key]).union(*(parent.stage.streams for parent in self.taught_by))

    # Relations

    @property
    def parents(self) -> list["Stage"]:
        """Every stage that must be finished before this one."""
        return [parent.stage for parent in self.parent_networks]

    @property
    def parent_networks(self) -> list[Parent]:
        """The networks that it learns or inherits from."""
        return [*self.teachers, *(each.parent for each in self.inherits)]

    @property
    def taught_by(self) -> tuple[Parent, ...]:
        """Its teachers, or those of the pre-training that it starts from."""
        return self.teachers or next((each.parent.stage.teachers for each in self.inherits), ())

    @property
    def origin(self) -> "Stage":
        """The stage of generation 0 that it descends from through its first parents."""
        return self.parents[0].origin if self.parents else self

    @property
    def root_seed(self) -> int:
        """The seed of the first training that this stage descends from."""
        trained = [parent.stage for parent in self.taught_by if not parent.stage.weights]
        return trained[0].root_seed if trained else self.seed

    # What is trained

    @property
    def model(self) -> Network:
        """The network, or a cohort's first."""
        return self.models[0]

    @property
    def is_pretraining(self) -> bool:
        """Whether its network is only the start of another training."""
        return self.method.until is not None

    @property
    def compares_teacher_with_labels(self) -> bool:
        """Whether the gradient from its trained teachers can be decomposed: every example has a label."""
        return bool(self.teachers) and not self.is_pretraining and not self.dataset.unlabelled_examples

    @property
    def reported_networks(self) -> list[str]:
        """The networks whose mean is the result: all of a cohort, or the one that the method names."""
        name = self.method.reported_network
        return [name] if name else [str(index) for index in range(len(self.models))]

    @property
    def epochs(self) -> int:
        """Of the training; 0 for weights from a file."""
        return 0 if self.weights else self.recipe.epochs

    @property
    def examples_seen(self) -> int:
        """The images, rows or words of all training steps together."""
        steps = self.dataset.training_examples // self.recipe.examples_per_step
        return self.epochs * min(steps, self.recipe.steps_per_epoch or steps) * self.recipe.examples_per_step

    # For people, tables and files

    @property
    def label(self) -> str:
        """Its name for people: Teacher, BAN-1, DKPP-2, with the replica where it is not the first."""
        if self.weights:
            return f"Teacher from {self.weights.path.name}"
        name = self.method.title
        if self.generation:
            name = f"{name}-{self.generation}"
        elif self.method.name == "labels" and not self.replica:
            name = "Teacher"
        return f"{name} (replica {self.replica})" if self.replica else name

    @property
    def regime_title(self) -> str:
        """Data set, sizes and recipe in words."""
        data, recipe = self.dataset, self.recipe
        if self.weights:
            return f"{data.title}, {data.test_size} test {data.description}; weights from a file, not trained"
        steps = f" of {plural(recipe.steps_per_epoch, 'step')}" if recipe.steps_per_epoch else ""
        epochs = f"{plural(recipe.epochs, 'epoch')}{steps}"
        held_out = f", {data.validation_size} validation" if data.validation_size else ""
        unroll = f" × {recipe.unroll}" if recipe.unroll else ""
        return (
            f"{data.title}, {data.train_size} training{held_out} and {data.test_size} test {data.description}; "
            f"recipe {recipe.name}: {epochs}, batch {recipe.batch_size}{unroll}, {recipe.precision}"
        )

    @property
    def targets(self) -> set[str]:
        """Every class and function that the settings name."""
        return targets_in(self.settings)
