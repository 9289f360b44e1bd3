"""From YAML files and overrides to checked settings."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ban.errors import UserError
from ban.settings.checks import check, validated
from ban.settings.code_hash import SHIPPED, source_hash
from ban.settings.data_hash import with_content
from ban.settings.datasets import MEASURED, own_type
from ban.settings.files import CONF
from ban.settings.hydra_versions import VERSION_BASE
from ban.settings.loader import SAME_AS, follow
from ban.settings.messages import explain, is_composition_error
from ban.settings.schema import Machine, Method, Recipe, Settings
from ban.settings.types import Node, Part
from ban.settings.weights import with_weights
from ban.settings.words import read

MOVED_TARGETS = {
    "ban.data.Augmentation": "ban.data.augmentation.Augmentation",
    "ban.data.images.Augmentation": "ban.data.augmentation.Augmentation",
    "ban.data.embedded.": "ban.data.bundled.",
    "ban.data.words.": "ban.data.text.",
}
"""Beginnings of a `_target_` in files for earlier versions → where that is now."""


def _optional_keys(part: type[Part]) -> dict[str, None]:
    """The settings that a file may leave out, so that the command line can set them without a `+`."""
    required = [field for field in fields(part) if field.default is MISSING and field.default_factory is MISSING]
    return {field.name: None for field in fields(part) if field not in required}


ConfigStore.instance().store(
    "schema", {"recipe": _optional_keys(Recipe), "method": _optional_keys(Method), "teacher": {"weights": None}}
)


def register_teachers(folder: Path | None = None) -> None:
    """Makes `teacher=NAME` a choice for every network in `model/`, of this package and of the user's `folder`.

    Such a teacher is trained like `teacher=same`, but for its network.
    """
    store = ConfigStore.instance()
    names = sorted({path.stem for conf in filter(None, (CONF, folder)) for path in (conf / "model").glob("*.yaml")})
    if sorted(store.repo.get("teacher", ())) == [f"{name}.yaml" for name in names]:
        return  # by an earlier call: storing copies each node
    store.repo.pop("teacher", None)
    for name in names:
        files = [{"/method@method": "labels"}, {"/model@model": name}, {"/recipe@recipe": None}]
        node = {"defaults": ["_self_", *files], "seed": "${seed}", "recipe": {SAME_AS: "recipe"}}
        store.store(name, node, group="teacher")


def compose_settings(overrides: Sequence[str], folder: Path | None = None) -> Settings:
    """The settings of `ban OVERRIDES`, with the user's files in `folder`.

    Raises:
        UserError: an override is unknown or impossible.
    """
    return freeze(compose_config(overrides, folder))


def compose_config(overrides: Sequence[str], folder: Path | None = None) -> DictConfig:
    """The composed configuration, Hydra's own part included.

    Raises:
        UserError: an override is unknown, or a file is invalid.
    """
    register_teachers(folder)
    quoted = "" if folder is None else str(folder.resolve()).replace("'", r"\'")
    path = [f"hydra.searchpath=['{quoted}']"] if quoted else []
    try:
        with initialize_config_dir(str(CONF), **VERSION_BASE):
            return compose("config", [*path, *read(overrides)], return_hydra_config=True)
    except Exception as error:
        if not is_composition_error(error):
            raise
        raise UserError(explain(error, CONF)) from None


def freeze(config: DictConfig) -> Settings:
    """The composed configuration as checked settings: the only way from one to the other.

    Raises:
        UserError: a setting is unknown or impossible. One sentence says which, and what to do.
    """
    own = OmegaConf.create({key: value for key, value in config.items() if key != "hydra"})
    try:
        dataset = own.get("dataset")
        if isinstance(dataset, DictConfig) and {"min_count", "path"} <= {*dataset}:
            from ban.data.corpus import measure_text

            dataset.update(measure_text(dataset))  # before other settings refer to the numbers
        measured = _measure_own(own)
        follow(own)
        plain = cast("dict[str, Any]", OmegaConf.to_container(own, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(explain(error, CONF)) from None
    node = _with_sources(plain)
    if measured:
        node["dataset"].update(measured)
    return with_weights(with_content(check(validated(Settings, node))))


def _measure_own(config: DictConfig) -> dict[str, Any]:
    """What the user's files say of the data set that they are. The numbers in it are added to the configuration.

    Texts are not: `${…}` in one would be taken for a reference.
    """
    dataset = config.get("dataset")
    if not isinstance(dataset, DictConfig):
        return {}
    kind = own_type(cast("Node", OmegaConf.to_container(dataset)))  # a wrong reference is reported later, with its key
    if kind is None:
        return {}
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    given = {key: value for key, value in plain["dataset"].items() if value is not None}
    if "path" in given:
        validated(kind, {**MEASURED, **kind.measured, **given}, "dataset")  # before files are read for it
    machine = validated(Machine, plain["machine"], "machine")
    found = kind.measure(plain["dataset"], machine.data_dir)
    numbers = {key: value for key, value in found.items() if isinstance(value, int) or key == "shape"}
    config.dataset.update(numbers)
    return found


def _with_sources(value: Any) -> Any:
    """Moves targets to where they are now, and adds to every other module's target the hash of its code.

    Editing code of the user's therefore changes the signature of all that uses it.
    """
    if isinstance(value, list):
        return [_with_sources(item) for item in cast("list[Any]", value)]
    if not isinstance(value, Mapping):
        return value
    node = {key: _with_sources(item) for key, item in cast("Node", value).items()}
    target = node.get("_target_")
    if isinstance(target, str) and target.strip():  # else its type refuses it
        for old, new in MOVED_TARGETS.items():
            if target.startswith(old):
                node["_target_"] = new + target.removeprefix(old)
        if target.partition(".")[0] not in SHIPPED:
            node["source_sha256"] = source_hash(target)
    return node
