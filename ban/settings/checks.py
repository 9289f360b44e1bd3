"""Checks of settings against each other; those of a single setting are in its type."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ban.errors import UserError
from ban.settings.datasets import KINDS, Dataset
from ban.settings.messages import explain_invalid
from ban.settings.schema import Method, Network, Recipe, Settings
from ban.settings.types import Node, Part, keys_of

PartType = TypeVar("PartType", bound=Part)


def validated(part: type[PartType], node: Node, prefix: str = "") -> PartType:
    """Plain data as a part of the settings. `prefix` is what messages call that part.

    Raises:
        UserError: a key is unknown, missing or has an impossible value.
    """
    try:
        return TypeAdapter(part).validate_python(node)
    except ValidationError as error:
        raise UserError(explain_invalid(error, prefix)) from None


def check(settings: Settings) -> Settings:
    """The settings as they are.

    Raises:
        UserError: two settings do not fit together. One sentence says which, and what to do.
    """
    method, teacher, dataset = settings.method, settings.teacher, settings.dataset
    if not method.teacher_count and settings.generations > 1:
        raise UserError(
            f"method={method.name} has no trained teacher, so there is no generation {settings.generations}: leave "
            "generations out, or choose a method with a teacher."
        )
    for name, part in {"": settings, "teacher.": teacher}.items():
        _check_network(f"{name}model", part.model, dataset)
        _check_recipe(f"{name}recipe", part.recipe, dataset)
        changed = _changed(part.method, dataset)
        if not name or method.teacher_count:
            _check_batch(f"{name}recipe", part.recipe, changed)
    for name, network in {**settings.peers, **teacher.models}.items():
        _check_network(name, network, dataset)
    return settings


def _check_network(name: str, network: Network, dataset: Dataset) -> None:
    if KINDS.get(network.kind) is not type(dataset):
        raise UserError(
            f"{name}={network.name} does not read {dataset.title_in_messages}, which dataset={dataset.name} consists "
            f"of: {dataset.suitable_models}."
        )


def _changed(method: Method, dataset: Dataset) -> Dataset:
    """The data set as the method changes it."""
    unknown = {key for key in method.data if key not in keys_of(type(dataset))}
    if unknown and unknown <= {key for kind in KINDS.values() for key in keys_of(kind)}:
        raise UserError(
            f"method={method.name} needs {', '.join(sorted(unknown))}, which {dataset.title_in_messages} do not "
            "support: choose another method or data set."
        )
    try:
        return dataset.with_changes(method.data)
    except ValidationError as error:
        raise UserError(explain_invalid(error, "method.data")) from None


def _check_batch(name: str, recipe: Recipe, dataset: Dataset) -> None:
    examples = dataset.fills_a_batch_from
    if examples is not None and recipe.batch_size > examples:
        raise UserError(
            f"{name}.batch_size={recipe.batch_size} is larger than the training set of {examples} examples: set it to "
            f"{examples} or less, or choose another recipe (recipe=digits for dataset=digits)."
        )


def _check_recipe(name: str, recipe: Recipe, dataset: Dataset) -> None:
    if dataset.is_text != (recipe.unroll is not None):
        raise UserError(
            f"{name}={recipe.name} is not for {dataset.title_in_messages}: choose one like {dataset.suitable_recipes}."
        )
    if recipe.schedule["_target_"].endswith(".Plateau") and not recipe.select:
        raise UserError(f"{name}.schedule follows the validation results, so it needs {name}.select=best_validation.")
    if recipe.select and not dataset.validation_size:
        raise UserError(f"{name}.select=best_validation needs a validation set: set dataset.validation_size.")
    if recipe.beta1 is not None and not recipe.uses_adam:
        raise UserError(
            f"{name}.beta1 belongs to Adam, but {name}.optimizer is {recipe.optimizer['_target_']}: set "
            f"{name}.beta1=null, or choose torch.optim.Adam."
        )
