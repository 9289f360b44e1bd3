"""What the types of all settings are made of: closed parts, signed and unsigned fields, types of values."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_type_hints

from annotated_types import MinLen
from pydantic import AfterValidator, BeforeValidator, ConfigDict, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from ban.ranges import one_line

Node = Mapping[str, Any]
"""Plain data under string keys, as in a YAML file."""


class Marker(Enum):
    """Whether a setting is part of signatures."""

    SIGNED = True
    UNSIGNED = False


Value = TypeVar("Value")
Signed = Annotated[Value, Marker.SIGNED]
Unsigned = Annotated[Value, Marker.UNSIGNED]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", validate_by_name=True))
class Part:
    """A closed part of the settings: an unknown key is refused."""

    others: ClassVar[str | None] = None
    """The field that takes the keys of other names; None: there are none."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):  # an object that was checked before, or a value that pydantic refuses
            return given
        node = cast("Node", given)
        known = keys_of(cls)
        values = {key: value for key, value in node.items() if key in known and value is not None}  # absent is null
        unknown = {key: value for key, value in node.items() if key not in known}  # null may differ from the default
        if unknown and cls.others:
            cls._check_others(node, unknown)
            return values | {cls.others: unknown}
        if unknown:
            raise unknown_key(next(iter(unknown)), known)
        return values

    @classmethod
    def _check_others(cls, node: Node, unknown: Node) -> None:
        """Refuses keys that the constructor would refuse. Any are accepted where only the constructor knows."""

    def node(self) -> dict[str, Any]:
        """As plain data under the keys of YAML files, without what has its default value."""
        values: dict[str, Any] = {}
        for key, name in keys_of(type(self)).items():
            value = getattr(self, name)
            if value != default_of(type(self), name):
                values[key] = plain(value)
        return {**(getattr(self, self.others) if self.others else {}), **values}


def plain(value: Any) -> Any:
    """Parts as plain data, in mappings and sequences too."""
    if isinstance(value, Part):
        return value.node()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Node", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return value


@cache
def keys_of(part: type[Part]) -> dict[str, str]:
    """Key in YAML files → field."""
    return {("_target_" if f.name == "function" else f.name): f.name for f in fields(part) if f.name != part.others}


@cache
def default_of(part: type[Part], name: str) -> Any:
    """A field's default value; `MISSING` where it has none."""
    found = next(each for each in fields(part) if each.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()


@cache
def unsigned_keys(part: type[Part]) -> frozenset[str]:
    """The keys that signatures leave out.

    Raises:
        TypeError: a field does not say whether it is signed.
    """
    hints, unsigned = get_type_hints(part, include_extras=True), set[str]()
    for key, name in keys_of(part).items():
        markers = [each for each in getattr(hints[name], "__metadata__", ()) if isinstance(each, Marker)]
        if len(markers) != 1:
            raise TypeError(f"{part.__name__}.{name} must be Signed or Unsigned")
        if markers == [Marker.UNSIGNED]:
            unsigned.add(key)
    return frozenset(unsigned)


RENAMED = {
    "teachers": "teacher_count",
    "begin": "pretrain",
    "shares": "frozen_from_teacher",
    "headline": "reported_network",
    "tensorboard": "trackers",
}
"""Settings of earlier versions → their names now. None of them was signed."""


def unknown_key(key: str, known: Sequence[str] | Mapping[str, Any]) -> PydanticCustomError:
    """The refusal of a key, with the nearest valid one."""
    known = [name for name in known if not name.endswith("_sha256")]
    key = str(key)
    close = [RENAMED[key]] if RENAMED.get(key) in known else difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}."
    return PydanticCustomError("unknown_key", "{advice}", {"key": key, "advice": advice})


def merged(node: Node, changes: Node) -> dict[str, Any]:
    """`node` with the values of `changes`; mappings are merged key by key."""
    result = dict(node)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], cast("Node", value)) if both else value
    return result


# Types of values


def _path(value: Any, kind: str) -> Any:
    """A text as a path, with the user's home folder for `~`."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        advice = "is empty (is a variable of the shell unset?); name a {kind}"
        raise PydanticCustomError("empty_path", advice, {"kind": kind})
    try:
        return Path(one_line(value)).expanduser()
    except RuntimeError:
        raise PydanticCustomError("no_home", "names the home folder of an unknown user") from None


Folder = Annotated[Path, BeforeValidator(partial(_path, kind="folder"))]
_file = partial(_path, kind="file")


def _files(value: Any) -> Any:
    return cast("Any", value) if isinstance(value, list) else [_file(value)]


File = Annotated[Path, BeforeValidator(_file), AfterValidator(Path.absolute)]
"""Absolute, for processes with another working folder."""
Files = Annotated[Sequence[File], BeforeValidator(_files), MinLen(1)]
"""One file, or a list of them."""


def _with_target(node: Node) -> Node:
    target = node.get("_target_")
    if not isinstance(target, str) or not target.strip():
        raise PydanticCustomError("no_target", "has no _target_: it needs a line `_target_: …`")
    return node


Component = Annotated[Node, AfterValidator(_with_target)]
"""A class or function and its arguments."""


def targets_in(value: Any) -> set[str]:
    """Every `_target_` in plain data."""
    if isinstance(value, Mapping):
        node = cast("Node", value)
        own: set[str] = {node["_target_"]} if isinstance(node.get("_target_"), str) else set()
        return own.union(*(targets_in(item) for item in node.values()))
    if isinstance(value, list):
        return set[str]().union(*(targets_in(item) for item in cast("list[Any]", value)))
    return set()
