"""Checks of settings against each other; those of a single setting are in its type."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from ban.errors import UserError
from ban.ranges import LARGEST
from ban.settings.datasets import CLASS_COUNTS, KINDS, Dataset, ImageDataset
from ban.settings.refusals import explain_invalid, shown
from ban.settings.schema import Method, Network, Pretraining, Recipe, Settings
from ban.settings.types import Node, Part, keys_of
from ban.wording import plural

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
    if method.frozen_from_teacher and not method.teacher_count:
        raise UserError(
            "method.frozen_from_teacher needs a trained teacher: set method.teacher_count, or leave it out."
        )
    if teacher.models and not method.teacher_count:
        raise UserError(f"teacher.models has no effect: method={method.name} has no trained teacher.")
    _check_weights(settings)
    for name, part in {"": settings, "teacher.": teacher}.items():
        _check_network(f"{name}model", part.model, dataset)
        _check_recipe(f"{name}recipe", part.recipe, dataset)
        _check_terms(f"{name}method", part.method)
        changed = _changed(part.method, dataset)
        _check_dataset(changed)
        if not name or method.teacher_count:
            _check_batch(f"{name}recipe", part.recipe, changed)
            _check_pretraining(f"{name}method.pretrain", part.method, part.recipe)
    for name, network in {**settings.peers, **teacher.models}.items():
        _check_network(name, network, dataset)
    return settings


def _check_weights(settings: Settings) -> None:
    """Checks that there is a teacher for each file, and that nothing is set for the training that it replaces."""
    method, teacher = settings.method, settings.teacher
    if teacher.weights is None:
        return
    if not method.teacher_count:
        raise UserError(f"teacher.weights has no effect: method={method.name} has no trained teacher.")
    ineffective = {
        "teacher.recipe": teacher.recipe != settings.recipe,
        "teacher.seed": teacher.seed != settings.seed,
        "teacher.method": teacher.method.name != "labels",
        "replica": settings.replica and not settings.generations,
    }
    for name in (name for name, is_set in ineffective.items() if is_set):
        raise UserError(f"{name} has no effect: teacher.weights names a teacher that is not trained. Leave it out.")
    if len(teacher.weights) != method.teacher_count:
        raise UserError(
            f"teacher.weights names {plural(len(teacher.weights), 'file')}, but method={method.name} has "
            f"{plural(method.teacher_count, 'teacher')}: name one file for each, as in teacher.weights=[A,B]."
        )


def _check_terms(name: str, method: Method | Pretraining) -> None:
    """Checks that constant weights pull more than they push: otherwise nothing would hold the logits."""
    weights = {key: term.weight for key, term in method.terms.items() if not isinstance(term.weight, Mapping)}
    least, total = min(weights, key=weights.__getitem__, default=""), sum(weights.values())
    if len(weights) == len(method.terms) and weights[least] < 0 and total <= 0:
        raise UserError(
            f"{name}.terms.{least}.weight={weights[least]:g} makes the weights add up to {total:g}, but beside a "
            "negative one the others must add up to more: set it or another one higher."
        )
    if isinstance(method, Method) and method.pretrain:
        _check_terms(f"{name}.pretrain", method.pretrain)


def _check_network(name: str, network: Network, dataset: Dataset) -> None:
    if not isinstance(dataset, KINDS.get(network.kind, ())):
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


DRAWN = {"": ("train", "validation", "test"), "training ": ("train", "validation"), "test ": ("test",)}
"""What splits are drawn from → these splits."""


def _check_size(dataset: Dataset) -> None:
    """Refuses more examples or classes than a data set of this package has."""
    for source, counts in CLASS_COUNTS.get(dataset.function, {}).items():
        if dataset.classes > len(counts):
            raise UserError(f"dataset.classes is {dataset.classes}, but {dataset.title} has {len(counts)}.")
        there = sum(counts[: dataset.classes])
        sizes = {f"dataset.{name}_size": getattr(dataset, f"{name}_size") for name in DRAWN[source]}
        if (total := sum(sizes.values())) > there:
            of = "" if dataset.classes == len(counts) else f" of the first {dataset.classes} classes"
            wanted = [f"{name}={size}" for name, size in sizes.items() if size]
            enough = [name for name, size in sizes.items() if size > total - there]  # to lower this one
            scale = ", or choose another scale" if max(sizes.values()) > there else ""
            raise UserError(
                f"{dataset.title} has only {there} {source}{dataset.examples}{of}, but {' and '.join(wanted)} "
                f"{'need' if len(wanted) > 1 else 'needs'} {total}: lower {' or '.join(enough or sizes)}{scale}."
            )


def _check_dataset(dataset: Dataset) -> None:
    _check_size(dataset)
    if dataset.labels is not None and dataset.labels > dataset.train_size:
        raise UserError(
            f"dataset.labelled={dataset.labels} is more than the {dataset.train_size} training examples "
            "(dataset.train_size): set it to fewer, or leave it out."
        )
    if isinstance(dataset, ImageDataset) and dataset.partners and dataset.train_size < 2 * dataset.classes:
        raise UserError(
            f"dataset.train_size={dataset.train_size} is less than two images for each of the {dataset.classes} "
            "classes, but the method pairs images of one class: set it higher, or choose another method."
        )
    if isinstance(dataset, ImageDataset) and dataset.whitening and (dataset.munge or dataset.distortion):
        name = "MUNGE" if dataset.munge else "distortion"
        raise UserError(
            f"dataset.whitening={dataset.whitening} is impossible with the method's {name}, which needs images in "
            "bytes: set dataset.whitening=null, or choose another method."
        )
    if isinstance(dataset, ImageDataset) and dataset.augmentation["_target_"].startswith("ban."):
        channels = dataset.shape[0]
        for name in ("mean", "std"):
            values = dataset.augmentation.get(name)
            if isinstance(values, list) and len(cast("list[Any]", values)) != channels:
                raise UserError(
                    f"dataset.augmentation.{name} is {shown(values)}; it must have one value for each of the images' "
                    f"channels: {channels}."
                )


def _check_batch(name: str, recipe: Recipe, dataset: Dataset) -> None:
    examples, per_step = dataset.training_examples, recipe.examples_per_step
    if per_step > examples and recipe.unroll:
        raise UserError(
            f"the {examples} training words do not fill one batch of {recipe.batch_size} rows of {recipe.unroll} "
            f"words: lower {name}.batch_size or {name}.unroll."
        )
    if per_step > examples:
        raise UserError(
            f"{name}.batch_size={recipe.batch_size} is larger than the training set of {examples} examples: set it to "
            f"{examples} or less, or choose another recipe{' (recipe=digits)' if dataset.name == 'digits' else ''}."
        )
    steps = examples // per_step
    if recipe.steps_per_epoch and recipe.steps_per_epoch > steps:
        raise UserError(
            f"{name}.steps_per_epoch={recipe.steps_per_epoch} is more than the {plural(steps, 'step')} of a whole "
            f"epoch ({examples} {dataset.examples}, {per_step} in each step): set it to {steps} or less, or leave it "
            "out."
        )


def _check_pretraining(name: str, method: Method, recipe: Recipe) -> None:
    first = method.pretrain
    if first and recipe.epochs * first.epochs > LARGEST:
        raise UserError(f"{name}.epochs={first.epochs} makes {recipe.epochs * first.epochs:.3g} epochs: lower it.")
    if first and not 0 < recipe.learning_rate * first.rate < math.inf:
        raise UserError(f"{name}.rate={first.rate} makes the learning rate {recipe.learning_rate * first.rate}.")


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
            f"{name}.beta1 belongs to Adam, but {name}.optimizer is {shown(recipe.optimizer['_target_'])}: set "
            f"{name}.beta1=null, or choose torch.optim.Adam."
        )
