"""Checks the arguments of the classes that the settings name against their constructors, before anything is built.

A constructor is the schema of its arguments: their names, and the types and ranges in its annotations (`ban.ranges`).
"""

import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError
from torch import nn

from ban.errors import UserError
from ban.interfaces import Teacher, Term
from ban.settings.construct import MEASURED
from ban.settings.datasets import OWN, Dataset, ImageDataset
from ban.settings.refusals import explain_invalid, shown, unknown
from ban.settings.schema import Method, Network, Pretraining, Recipe, Settings
from ban.settings.types import Node, unknown_key
from ban.training import build

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
DOWNLOADED = ("ban.data.text.ptb", "ban.data.cifar.cifar10", "ban.data.cifar.cifar100")
SOURCES = {
    "path": ("ban.data.text.text", *OWN),
    "files": ("ban.data.text.ptb",),
    "mirrors": DOWNLOADED,
    "minimum_speed": DOWNLOADED,
}
"""Settings of all data sets that only some of this program's data sets take."""
NO_ARGUMENTS = ("_target_", *MEASURED)
"""Keys of a node that are not passed to its class."""


class Role(NamedTuple):
    """What a class must be, and which arguments the program passes to it."""

    title: str
    base: type | None = None
    leading: int = 0
    """Positional arguments."""
    given: frozenset[str] = frozenset()
    """Arguments by name."""
    makes: Callable[[Node], bool] = lambda _: True
    """Builds an object. Returns whether it is what it must be."""


NETWORK = Role(
    "a network", nn.Module, given=frozenset({"classes", "channels", "features", "spelling", "checkpointing"})
)
TERM = Role("a term of a loss", Term)
TEACHER = Role("a teacher", Teacher, leading=1)
OPTIMIZER = Role("an optimizer", torch.optim.Optimizer, leading=1, makes=lambda node: _is_optimizer(node))
SCHEDULE = Role("a schedule", makes=lambda node: callable(build.build(node)))
ANY = Role("")


def check_arguments(settings: Settings) -> None:
    """Checks the arguments of all classes and functions that the settings name.

    Raises:
        UserError: an argument is unknown, missing, of the wrong type or out of range. One sentence says which.
    """
    for name, part in {"": settings, "teacher.": settings.teacher}.items():
        _check_network(f"{name}model", part.model)
        _check_method(f"{name}method", part.method)
        _check_recipe(f"{name}recipe", part.recipe)
    for prefix, networks in {"peers": settings.peers, "teacher.models": settings.teacher.models}.items():
        for name, network in networks.items():
            _check_network(f"{prefix}.{name}", network)
    _check_dataset("dataset", settings.dataset)
    for name, part in {"": settings, "teacher.": settings.teacher}.items():
        if part.method.data:
            _check_dataset(f"{name}method.data", settings.dataset.with_changes(part.method.data))


def _check_network(path: str, network: Network) -> None:
    _check(path, network.constructor, NETWORK)
    made = _imported(path, network.constructor["_target_"])
    if network.checkpointing is not None and "checkpointing" not in _parameters(made) and not _takes_any(made):
        raise UserError(f"{path}.checkpointing has no effect: {network.title} cannot recompute its activations.")


def _check_method(path: str, method: Method | Pretraining) -> None:
    if method.teacher:
        _check(f"{path}.teacher", method.teacher, TEACHER)
    for name, term in method.terms.items():
        if "." in name or hasattr(nn.ModuleDict, name):
            raise UserError(f"{path}.terms.{name}: torch does not take {name!r} as a name of a part, choose another.")
        _check(f"{path}.terms.{name}", term.constructor, TERM)
        if isinstance(term.weight, Mapping):
            _check(f"{path}.terms.{name}.weight", term.weight, SCHEDULE)
    if isinstance(method, Method) and method.pretrain:
        _check_method(f"{path}.pretrain", method.pretrain)


def _check_recipe(path: str, recipe: Recipe) -> None:
    _check(f"{path}.optimizer", recipe.optimizer, OPTIMIZER)
    _check(f"{path}.schedule", recipe.schedule, SCHEDULE)
    if recipe.beta1:
        _check(f"{path}.beta1", recipe.beta1, SCHEDULE)


def _is_optimizer(node: Node) -> bool:
    return isinstance(build.build(node, [nn.Parameter(torch.zeros(1))]), torch.optim.Optimizer)


def _check_dataset(path: str, dataset: Dataset) -> None:
    if isinstance(dataset, ImageDataset):
        _check(f"{path}.augmentation", dataset.augmentation, ANY)
    function, hints = dataset.function, _hints(_imported(path, dataset.function))
    for key, sources in SOURCES.items():
        if function.startswith("ban.") and function not in sources and getattr(dataset, key) is not None:
            raise UserError(f"{path}.{key} has no effect: {function} does not take it.")
    for key, value in dataset.arguments.items():
        _check_value(f"{path}.{key}", value, hints.get(key, Any))


def _check(path: str, node: Node, role: Role) -> None:
    """Checks a class or function, and the arguments that a node gives it."""
    known = json.dumps([role.title, node])
    if known in _PASSED:
        return
    target = node["_target_"]
    made = _imported(path, target)
    if role.base and isinstance(made, type) and not issubclass(made, role.base):
        raise UserError(f"{path} is {target}, but it must be {role.title}: a {role.base.__name__}.")
    parameters, hints = _parameters(made), _hints(made)
    names = [name for name in [*parameters][role.leading :] if name not in role.given]
    given = {key: value for key, value in node.items() if key not in NO_ARGUMENTS}
    if not _takes_any(made) and (foreign := [key for key in given if key not in names]):
        advice = unknown_key(foreign[0], dict.fromkeys(names)).message() if names else f"{target} takes none."
        raise UserError(unknown(f"{path}.{foreign[0]}", advice))
    if lacking := [name for name in names if parameters[name].default is inspect.Parameter.empty and name not in given]:
        raise UserError(f"{path} has no {lacking[0]}, which {target} needs: set {path}.{lacking[0]}.")
    for key, value in given.items():
        _check_value(f"{path}.{key}", value, hints.get(key, Any))
    try:
        fits = role.makes(node)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not fits:
        raise UserError(f"{path} is {target}, but it must be {role.title}.")
    _PASSED.add(known)


_PASSED = set[str]()
"""Roles and nodes that were checked: the jobs of a sweep share most of them."""


def _check_value(path: str, value: Any, hint: Any) -> None:
    if isinstance(value, Mapping) and "_target_" in value:
        _check(path, cast("Node", value), ANY)
    try:
        _adapter(_checkable(hint)).validate_python(value)
    except ValidationError as error:
        raise UserError(explain_invalid(error, path)) from None


# Signatures


def _imported(path: str, target: str) -> Callable[..., Any]:
    try:
        made = pkgutil.resolve_name(target)
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{path} names {shown(target)}, which cannot be imported: {cause.rstrip('.')}.") from error
    if not callable(made):
        raise UserError(f"{path} names {target}, which is neither a class nor a function.")
    return made


def _signature(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    if getattr(made, "__init__", None) is nn.Module.__init__:  # a module without arguments
        return {}
    try:
        return inspect.signature(made).parameters
    except ValueError:  # written in C
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _parameters(made: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments that can be given by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in _signature(made).items() if parameter.kind in by_name}


def _takes_any(made: Callable[..., Any]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in _signature(made).values())


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the arguments; none where they cannot be evaluated."""
    try:
        return get_type_hints(made.__init__ if isinstance(made, type) else made, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=STRICT)


def _checkable(hint: Any) -> Any:
    """The part of an annotation that plain data can be checked against; `Any` where there is none."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (int, float, bool, str, None, type(None)) or origin is Literal:
        return hint
    if origin is Annotated:
        return Annotated[(_checkable(inner[0]), *inner[1:])] if _checkable(inner[0]) is not Any else Any
    if origin in (Union, UnionType):
        members = [each for each in map(_checkable, inner) if each is not Any]
        return Union[tuple(members)] if members else Any  # noqa: UP007 – the members are not known here
    if origin is tuple:
        return Annotated[tuple[tuple(each if each is ... else _checkable(each) for each in inner)], Strict(False)]
    if origin in (Sequence, Mapping, list, dict):
        return cast("Any", origin)[tuple(map(_checkable, inner))]
    return Any
