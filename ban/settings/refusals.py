"""What the settings' types refuse, as one sentence that says what to do."""

import difflib
import json
import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from ban.settings.datasets import KINDS
from ban.settings.datasets import OWN as OWN_DATA
from ban.settings.files import keys_in, keys_in_files
from ban.settings.schema import LocalLauncherSettings, Settings, SlurmLauncherSettings
from ban.settings.types import Part, keys_of
from ban.settings.words import group_of

GROUPS = ("dataset", "machine", "method", "model", "recipe", "teacher")
"""The parts of the settings that a file can hold."""
FILE_GROUPS = ("dataset", "method", "model", "recipe")
"""Those of them whose files hold arguments of constructors."""
WANTED = {
    "path_type": "must be a path",
    "mapping_type": "must be a mapping, for example {_target_: …}",
    "dict_type": "must be a mapping, for example {_target_: …}",
    "bool_type": "must be true or false",
    "sequence_str": "must be a list",
    "is_instance_of": "must be a list",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
}
"""A type of pydantic's errors → what the value must be, where pydantic's sentence is unclear."""
OWN = ("no_target", "no_rate", "broken_target", "empty_text", "empty_path", "unprintable", "no_home")
"""Types of errors whose message follows the setting's name."""


def explain_invalid(error: ValidationError, prefix: str = "") -> str:
    """The first setting that its type refuses. `prefix` is what the checked part is called."""
    first: Any = error.errors(include_url=False)[0]
    path = [str(step) for index, step in enumerate(first["loc"]) if not _is_branch(str(step), index, first["loc"])]
    where = ".".join([*filter(None, [prefix]), *path])
    kind, given = first["type"], first["input"]
    if kind == "unknown_key":
        return unknown(f"{where}.{first['ctx']['key']}".removeprefix("."), first["msg"], given)
    if kind == "extra_forbidden":
        return f"there is no setting '{where}'."
    if kind == "missing":
        parent, _, key = where.rpartition(".")
        key = "_target_" if key == "constructor" else key
        node = cast("dict[str, Any]", given) if isinstance(given, dict) else dict[str, Any]()
        names: list[str] = [*node, *node.get("constructor", {})]  # other keys of a term are arguments
        if meant := difflib.get_close_matches(key, names, 1, 0.8):
            return f"{parent} has no {key}: did you write {parent}.{meant[0]} for it?"
        return f"{parent or 'the configuration'} has no {key}: it is missing in the YAML file, was removed, or is null."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"{where}.kind must be one of {', '.join(KINDS)}."
    if kind == "dataclass_type":
        return f"{where} is {shown(given)}, but it must be a mapping of settings{_file_for(where, given)}."
    where = where.removesuffix(".constructor")
    if kind in OWN:
        return f"{where} {first['msg']}."
    quoted = isinstance(given, str) and kind in ("int_type", "float_type", "bool_type")
    return f"{where} is {f'the text {given!r}' if quoted else shown(given)}; it {WANTED.get(kind) or _wanted(first)}."


def _wanted(first: Any) -> str:
    """The end of pydantic's sentence as the end of ours."""
    if bound := re.search(r"at (least|most) (\d+) item", first["msg"]):  # of a list or mapping
        return f"must have {bound[2]} or {'more' if bound[1] == 'least' else 'fewer'} entries"
    pattern = r"^(?:Input|Value) should (be )?(a valid (?=integer|number|string))?"
    return re.sub(pattern, _must_be, first["msg"]).replace("'", "")


def _must_be(found: re.Match[str]) -> str:
    article = ("an " if found.string[found.end()] == "i" else "a ") if found[2] else ""
    return f"must {found[1] or ''}{article}"


def _file_for(where: str, given: Any) -> str:
    """How to choose a file, where a part of the settings is a name."""
    choosable = where in GROUPS or group_of(where)
    return (
        f": choose a file with {where}={given}" if choosable and isinstance(given, str) and given.isidentifier() else ""
    )


def _is_branch(step: str, index: int, path: Sequence[int | str]) -> bool:
    """Whether a step of pydantic's path is not a key but the branch of a union that was tried."""
    kind = index == 1 and path[0] == "dataset" and step in (*KINDS, *OWN_DATA.values())
    return kind or step in ("float", "int", "str", "bool") or step.startswith("constrained-") or "[" in step


def shown(value: Any) -> str:
    """A value in one short line, as in YAML."""
    text = str(value) if isinstance(value, str | float) else json.dumps(value, ensure_ascii=False, default=str)
    text = text if text.isprintable() else json.dumps(text)
    return text if len(text) <= 80 else f"{text[:79]}…"


# Unknown keys


def unknown(name: str, advice: str, node: Any = None) -> str:
    """The refusal of a key. `advice` says what there is beside it, `node` holds what there is below."""
    parent = name.rpartition(".")[0]
    near = advice.replace("'", f"'{parent}." if parent else "'", 1) if advice.startswith("did you mean") else None
    return f"there is no setting '{name}': {below(name, node) or near or elsewhere(name) or advice}"


def below(name: str, node: Any = None) -> str | None:
    """Where `node`, or a file of the same group, has a setting of that name further down."""
    parent = name.rpartition(".")[0]
    return _same_name(name, keys_in(node, f"{parent}." if parent else "")) or _same_name(name, keys_of_files(name), 1)


def elsewhere(name: str) -> str | None:
    """Where another part of the settings has a setting of that name."""
    return _same_name(name, KNOWN)


def _same_name(name: str, keys: Sequence[str], most: int = 2) -> str | None:
    found = [key for key in keys if key.rpartition(".")[2] == name.rpartition(".")[2] and key != name]
    nearest = "' or '".join([*dict.fromkeys(found)][:most])
    return f"did you mean '{nearest}'?" if found else None


def keys_of_files(name: str) -> list[str]:
    """The settings in the files of the group that a setting belongs to, or of all groups, with their paths."""
    steps = name.split(".")
    place = next((place for place in reversed(range(len(steps))) if steps[place] in FILE_GROUPS), None)
    if place is None:
        return [] if len(steps) > 1 else [key for group in FILE_GROUPS for key in keys_in_files(group)]
    prefix = "".join(f"{step}." for step in steps[:place])
    return [prefix + key for key in keys_in_files(steps[place])]


def _keys_of_type(hint: Any, prefix: str) -> list[str]:
    """The keys of every closed part that a type consists of, with their paths."""
    if isinstance(hint, type) and issubclass(hint, Part):
        hints = get_type_hints(hint, include_extras=True)
        keys = {f"{prefix}{key}": hints[name] for key, name in keys_of(hint).items()}
        return [name for key, inner in keys.items() for name in (key, *_keys_of_type(inner, f"{key}."))]
    if get_origin(hint) in (Annotated, Union, UnionType):
        return [name for inner in get_args(hint) for name in _keys_of_type(inner, prefix)]
    return []


KNOWN = [
    *_keys_of_type(Settings, ""),
    *_keys_of_type(LocalLauncherSettings | SlurmLauncherSettings, "hydra.launcher."),
]
"""The keys of all closed parts, with their paths."""
