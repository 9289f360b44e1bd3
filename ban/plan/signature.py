"""The hash that names a stage: of all that can change its weights, and of nothing else.

Two commands that need the same training get the same signature, and so meet in the same folder of the store.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from ban.settings.datasets import Dataset, types_of
from ban.settings.schema import Method, Network, Pretraining, Recipe
from ban.settings.types import RENAMED, Node, Part, unsigned_keys

PROTOCOL = 1
"""Raised when the training loop computes something else than before from the same stage."""

VERSIONS = {"AverageWeights": 2, "CharacterLSTM": 2, "EpochAverage": 2, "Peers": 2, "bf16": 2}
"""Class or function name, or `recipe.precision` → version, where it is not 1: raised when a component computes
something else, so that results of the old code are not taken for results of the new. `stage.json` holds the versions
that a stage was signed with. A test pins the losses of each component's first steps."""

EARLIER: dict[type[Part], frozenset[str]] = {Method: frozenset(RENAMED), Dataset: frozenset({"metric"})}
"""Unsigned keys that `stage.json` of version 0.1.0 holds."""


def signature_of(description: Node) -> str:
    """The signature of a stage's description, as `stage.json` holds it.

    Raises:
        KeyError: it is not the description of a stage.
    """
    return digest(signed_content(description) | parents_of(description))


def parents_of(description: Node) -> dict[str, Any]:
    """The teachers, and the stages whose weights are inherited."""
    return {name: description[name] for name in ("teachers", "inherits") if name in description}


def signed_content(description: Node) -> dict[str, Any]:
    """What of a stage's description goes into its signature, its parents excepted."""
    content = {name: description[name] for name in ("protocol", "generation", "seed", "replica")}
    versions = description.get("versions", {})
    content["dataset"] = signed(description["dataset"], versions, *types_of(description["dataset"]))
    content["models"] = [signed(model, versions, Network) for model in description["models"]]
    if "weights" in description:  # from a file: not trained, so there is no method and no recipe
        return content | {"weights": description["weights"]["sha256"]}
    content["method"] = signed(description["method"], versions, Method, Pretraining)
    content["recipe"] = signed(description["recipe"], versions, Recipe)
    if version := versions.get(content["recipe"]["precision"]):
        content["recipe"]["precision"] += f", version {version}"
    return content


def signed_network(model: Node) -> Any:
    """What of a network's settings goes into signatures."""
    return signed(model, VERSIONS, Network)


def signed(node: Node, versions: Mapping[str, int], *types: type[Part]) -> Any:
    """The signed settings of a part, as canonical data."""
    left_out = frozenset[str]().union(*map(unsigned_keys, types))
    for part, keys in EARLIER.items():
        if any(issubclass(each, part) for each in types):
            left_out |= keys
    return canonical({key: value for key, value in node.items() if key not in left_out}, versions)


def canonical(value: Any, versions: Mapping[str, int]) -> Any:
    """The same data for the same meaning: 2 is 2.0, absent is null, and of a `_target_` only the class name counts.

    Moving a class therefore changes no signature. Dropping its name would give, say, two ramps with equal options the
    same one.
    """
    if isinstance(value, str | int):  # most values: asking for a mapping takes longer
        return value
    if isinstance(value, Mapping):
        kept = {key: item for key, item in cast("Node", value).items() if item is not None}
        if target := kept.pop("_target_", None):
            kept["class"] = target.rpartition(".")[2]
            kept["version"] = versions.get(kept["class"], 1)
        return {key: canonical(item, versions) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, versions) for item in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def without_seeds(value: Any) -> Any:
    """Canonical data without `seed` and all keys that end in `_seed`."""
    if isinstance(value, Mapping):
        items = cast("Node", value).items()
        return {key: without_seeds(item) for key, item in items if key != "seed" and not key.endswith("_seed")}
    if isinstance(value, list):
        return [without_seeds(item) for item in cast("list[Any]", value)]
    return value


def digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of canonical data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
