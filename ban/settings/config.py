"""Compose the configuration with Hydra, check it, and freeze it into plain data."""

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ban.errors import UserError

_INSTALLED = Path(__file__).parents[1] / "conf"
CONF = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[2] / "conf"
"""The YAML files: inside the package in a wheel, at the top level in a checkout."""

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


class Kind(NamedTuple):
    """What is said of a kind of data to somebody whose settings do not fit it."""

    name: str
    models: str
    recipes: str
    extras: Sequence[str] = ()
    """What methods may ask of such data."""


KINDS = {
    "images": Kind(
        "images",
        "leave dataset out, and the model brings its own",
        "wrn, digits, budget_images",
        ("unlabelled", "views", "shared_flip", "munge"),
    ),
    "table": Kind(
        "tables", "choose model=mlp_256 or another of the MLPs", "table, budget_table", ("unlabelled", "munge")
    ),
    "language": Kind("language", "choose model=lstm or another of the LSTMs", "lstm, cnn_lstm, budget_language"),
}

# The schema: types and no values; those live in conf/. hydra needs typing.Optional.


@dataclass
class Recipe:
    """How one network is trained."""

    name: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    steps_per_epoch: Optional[int] = None  # noqa: UP045
    unroll: Optional[int] = None  # noqa: UP045
    loss_scale: Optional[float] = None  # noqa: UP045
    clip_norm: Optional[float] = None  # noqa: UP045
    select: Optional[str] = None  # noqa: UP045
    diagnosed_steps: Optional[int] = None  # noqa: UP045
    optimizer: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    beta1: Any = None
    precision: str = MISSING
    evaluate_every: int = MISSING


@dataclass
class Teacher:
    """How generation 0 is trained."""

    seed: int = MISSING
    model: Any = MISSING
    models: dict[str, Any] = field(default_factory=dict)
    method: Any = MISSING
    recipe: Any = MISSING


@dataclass
class Machine:
    """Where and how to run: never part of a signature."""

    device: str = MISSING
    threads: Optional[int] = MISSING  # noqa: UP045
    outputs: str = MISSING
    data_dir: str = MISSING
    download: bool = MISSING
    checkpoint_seconds: float = MISSING
    log_seconds: float = MISSING
    compile: bool = MISSING
    tensorboard: bool = MISSING


@dataclass
class Schema:
    """The skeleton of the configuration."""

    seed: int = MISSING
    generations: int = MISSING
    replica: int = MISSING
    dry_run: bool = MISSING
    yes: bool = MISSING
    table: Optional[dict[str, Any]] = MISSING  # noqa: UP045
    dataset: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    method: dict[str, Any] = MISSING
    recipe: Recipe = field(default_factory=Recipe)
    peers: dict[str, Any] = MISSING
    teacher: Teacher = field(default_factory=Teacher)
    machine: Machine = field(default_factory=Machine)


ConfigStore.instance().store("schema", Schema)


def settings(config: DictConfig) -> dict[str, Any]:
    """The composed configuration as checked plain data.

    Raises:
        UserError: a setting is impossible; one sentence says which, and what to do.
    """
    plain = OmegaConf.create({key: value for key, value in config.items() if key != "hydra"})
    if "min_count" in plain.dataset and "path" in plain.dataset:
        from ban.data.corpus import measure_text  # numpy: not for help and completion

        plain.dataset.update(measure_text(plain.dataset))  # before other settings refer to them
    frozen: dict[str, Any] = OmegaConf.to_container(plain, resolve=True)  # pyright: ignore[reportAssignmentType]
    check(frozen)
    return _with_sources(frozen)


def compose_settings(overrides: Sequence[str]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The settings that `ban OVERRIDES` would have, and Hydra's part (the experiment's sweeps).

    Raises:
        UserError: an override is unknown or impossible.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", list(overrides), return_hydra_config=True)
    except COMPOSITION_ERRORS as error:
        raise UserError(sentence(error)) from None
    return settings(config), config.hydra


def check(settings: Mapping[str, Any]) -> None:
    """Refuses what no part of the program could do.

    Raises:
        UserError: with the setting, its value and what is possible.
    """
    _check_keys(settings)
    dataset, machine = settings["dataset"], settings["machine"]
    _check_whole("", settings, {"generations": 0, "replica": 0})
    _check_whole("dataset.", dataset, {"classes": 2, "train_size": 1, "test_size": 1, "validation_size": 0})
    _check_whole("machine.", machine, {"threads": 1}, optional=["threads"])
    if not 0 <= (dataset.get("label_noise") or 0) < 1:
        raise UserError(f"dataset.label_noise is {dataset['label_noise']}; it is a part: from 0 to below 1.")
    if dataset.get("whitening") not in (None, "zca"):
        raise UserError(f"dataset.whitening is {dataset['whitening']}; choose zca, or null for none.")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(machine["device"])):
        raise UserError(f"machine.device is {machine['device']}; choose auto, cpu, cuda or cuda:N.")
    _check_method(settings)
    for name, part in {"": settings, "teacher.": settings["teacher"]}.items():
        _check_model(f"{name}model", part["model"], dataset)
        _check_recipe(f"{name}recipe", part["recipe"], dataset)
        _check_data(part["method"], dataset)
        if not name or settings["method"].get("teachers"):
            _check_batch(f"{name}recipe", part["recipe"], part["method"], dataset)


def _check_keys(settings: Mapping[str, Any]) -> None:
    """What the file of a data set, network or method cannot leave out."""
    needed = {"dataset": ("name", "title", "kind"), "model": ("name", "title"), "method": ("name", "title", "terms")}
    parts = {name: (settings[name], keys) for name, keys in needed.items()}
    terms = settings["method"].get("terms") or {}
    parts |= {f"method.terms.{name}": (term, ("_target_", "weight")) for name, term in terms.items()}
    for name, (part, keys) in parts.items():
        for key in keys:
            if key not in part:
                raise UserError(f"{name} has no {key}: its YAML file needs a line `{key}: …`.")


def _check_whole(prefix: str, part: Mapping[str, Any], least: Mapping[str, int], optional: Sequence[str] = ()) -> None:
    """Whole numbers, that many or more; the optional ones may be null."""
    for name, number in least.items():
        value = part.get(name)
        if value is None and name in optional:
            continue
        if not isinstance(value, int) or value < number:
            raise UserError(f"{prefix}{name} is {value}; it must be a whole number, {number} or more.")


def _check_model(name: str, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    if model.get("kind", "images") != dataset["kind"]:
        kind = KINDS[dataset["kind"]]
        raise UserError(
            f"{name}={model['name']} does not read {kind.name}, as dataset={dataset['name']} wants: {kind.models}."
        )


def _check_data(method: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Refuses what a method wants of its data and what such data do not have."""
    kind, wanted = KINDS[dataset["kind"]], {**dataset, **(method.get("data") or {})}
    asked = {extra for each in KINDS.values() for extra in each.extras if wanted.get(extra)}
    if missing := sorted(asked - {*kind.extras}):
        raise UserError(
            f"method={method['name']} with dataset={dataset['name']} asks for {', '.join(missing)}, which there is not "
            f"of {kind.name}: choose another method or data set."
        )


def _check_batch(name: str, recipe: Mapping[str, Any], method: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Refuses a batch that the training examples do not fill."""
    wanted = {**dataset, **(method.get("data") or {})}
    if dataset["kind"] == "language" or wanted.get("munge"):
        return
    known = dataset.get("labelled")
    examples = dataset["train_size"] if known is None or wanted.get("unlabelled") else known
    if recipe["batch_size"] > examples:
        raise UserError(
            f"{name}.batch_size={recipe['batch_size']} is larger than the training set of {examples} examples: set it "
            f"to {examples} or less, or choose another recipe (for dataset=digits recipe=digits)."
        )


def _check_recipe(name: str, recipe: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    optional = {"unroll": 1, "steps_per_epoch": 1, "diagnosed_steps": 0}
    _check_whole(f"{name}.", recipe, {"epochs": 1, "batch_size": 1, "evaluate_every": 0} | optional, [*optional])
    positive = {key: recipe.get(key) for key in ("loss_scale", "clip_norm")}
    positive["optimizer.lr"] = recipe["optimizer"].get("lr", "missing")
    for key, value in positive.items():
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise UserError(f"{name}.{key} is {value}; it must be a number above 0.")
    if recipe["precision"] not in ("fp32", "bf16"):
        raise UserError(f"{name}.precision is {recipe['precision']}; choose fp32 or bf16.")
    kind = KINDS[dataset["kind"]]
    if (dataset["kind"] == "language") != (recipe.get("unroll") is not None):
        raise UserError(f"{name}={recipe['name']} is not for {kind.name}: choose one like {kind.recipes}.")
    select = recipe.get("select")
    if select not in (None, "best_validation"):
        raise UserError(f"{name}.select is {select}; choose best_validation, or null for the last epoch.")
    _check_schedules(name, recipe)
    if select and not dataset["validation_size"]:
        raise UserError(f"{name}.select=best_validation needs a validation set: set dataset.validation_size.")


def _check_schedules(name: str, recipe: Mapping[str, Any]) -> None:
    if recipe["schedule"]["_target_"].endswith(".Plateau") and not recipe.get("select"):
        raise UserError(f"{name}.schedule follows the validation set: it needs {name}.select=best_validation.")
    beta1, optimizer = recipe.get("beta1"), str(recipe["optimizer"].get("_target_"))
    if beta1 is None:
        return
    if not isinstance(beta1, Mapping) or "_target_" not in beta1:
        raise UserError(f"{name}.beta1 is {beta1}; it must be a schedule, as in recipe=laine_aila, or null.")
    if optimizer.rpartition(".")[2] not in ("Adam", "AdamW"):
        raise UserError(
            f"{name}.beta1 is Adam's, but {name}.optimizer is {optimizer}: set {name}.beta1=null, or choose "
            "torch.optim.Adam."
        )


def _check_method(settings: Mapping[str, Any]) -> None:
    if not isinstance(settings["teacher"]["recipe"], dict):
        name = settings["teacher"]["recipe"]
        raise UserError(f"teacher.recipe={name} names no settings: choose a file with +recipe@teacher.recipe={name}.")
    if not settings["method"].get("teachers") and settings["generations"] > 1:
        raise UserError(
            f"method={settings['method']['name']} learns from no trained network, so there is no generation "
            f"{settings['generations']}: leave generations out, or choose a method with a teacher."
        )


def _with_sources(value: Any) -> Any:
    """Adds to every class from outside the package and torch the hash of its source, so that editing it retrains."""
    if isinstance(value, list):
        return [_with_sources(item) for item in value]
    if not isinstance(value, dict):
        return value
    node = {key: _with_sources(item) for key, item in value.items()}
    target = node.get("_target_")
    if isinstance(target, str) and target.split(".")[0] not in ("ban", "torch"):
        node["source_sha256"] = _source_hash(target)
    return node


def _source_hash(target: str) -> str:
    module = target.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(
            f"_target_: {target} names the module '{module}', which cannot be imported from here: is it in PYTHONPATH?"
        )
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def sentence(error: Exception) -> str:
    """What Hydra or OmegaConf refuse, said in one sentence with the choices."""
    text = str(error).strip()
    if isinstance(error, yaml.YAMLError):
        return f"a file is not YAML: {' '.join(text.split())}."
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"there is no {group} '{name}': choose one of {', '.join(sorted(error.options))}."
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override or "", text)
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return _unknown_setting(unknown[1])
    if wrong := re.match(r"Error merging override (\S+)", text):
        return f"{wrong[1]} does not fit: {str(error.__cause__).splitlines()[0]}."
    if ambiguous := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]} names several values: sweep over them with `ban -m {ambiguous[1]}`."
    return ": ".join(line.strip().rstrip(":") for line in text.splitlines()[:2])


def _unreadable(override: str, text: str) -> str:
    if reason := re.search(r"while evaluating '.*': (.*)", text):
        return f"'{override}' cannot be read: {reason[1]}."
    if "=" not in override:
        return f"'{override}' is not KEY=VALUE. A list has no spaces: method=ban,dkpp."
    return (
        f"'{override}' cannot be read: a list has no spaces (method=ban,dkpp), brackets are closed, and a "
        "value with other signs is quoted twice, for the shell and for Hydra (KEY='\"a, b\"')."
    )


def _unknown_setting(key: str) -> str:
    GlobalHydra.instance().clear()  # the failed command's, if it got that far
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = _keys(OmegaConf.to_container(compose("config"), resolve=False))
    known += [folder.name for folder in CONF.iterdir() if folder.is_dir()]
    if key in known:
        return f"{key} has no such option yet: add it with +{key}.OPTION=VALUE."
    if close := difflib.get_close_matches(key, known, n=1):
        return f"there is no setting '{key}': did you mean '{close[0]}'?"
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent] or [n for n in known if "." not in n]
    return f"there is no setting '{key}': there are {', '.join(dict.fromkeys(siblings))}."


def _keys(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return []
    return [name for key, value in tree.items() for name in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))]
