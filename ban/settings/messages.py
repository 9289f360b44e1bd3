"""Errors of Hydra, OmegaConf and the settings' types as one sentence that says what to do."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from ban.settings.datasets import KINDS
from ban.settings.hydra_versions import VERSION_BASE
from ban.settings.schema import LocalLauncherSettings, Settings, SlurmLauncherSettings
from ban.settings.types import RENAMED, Part, keys_of
from ban.settings.words import group_of

GROUP_VALUE = "Config group override must be a string"


def is_composition_error(error: Exception) -> bool:
    """Whether Hydra, OmegaConf or PyYAML refuse a setting, so that the error is not one of this program."""
    known = isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError)
    return known or str(error).startswith(GROUP_VALUE)


def explain(error: Exception, conf: Path) -> str:
    """A refusal of Hydra or OmegaConf as one sentence. `conf` is the folder of the YAML files."""
    text = str(error).strip()
    if isinstance(error, yaml.YAMLError):
        return f"a file is not YAML: {' '.join(text.split())}."
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"there is no {group} '{name}': choose one of {', '.join(sorted(error.options))}."
    if isinstance(error, OverrideParseException):
        return _explain_syntax(error.override or "", text)
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return _explain_unknown(unknown[1], conf)
    if wrong := re.match(r"Error merging override (\S+)", text):
        return f"{wrong[1]} is not possible: {str(error.__cause__).splitlines()[0]}."
    for pattern, answer in ANSWERS.items():
        if found := re.search(pattern, text):
            return found.expand(answer)
    return ": ".join(line.strip().rstrip(":") for line in text.splitlines()[:2])


ANSWERS = {
    r"Ambiguous value for argument '([^']+)'": r"\1 names several values: sweep over them with `ban -m \1`.",
    r"An item is already at '([^']+)'": r"\1 is set already: leave out the +.",
    GROUP_VALUE: "a file of settings is chosen by its name, for example recipe=wrn.",
}
"""Pattern in a message of Hydra or OmegaConf → the sentence that replaces it."""


def _explain_syntax(override: str, text: str) -> str:
    if reason := re.search(r"while evaluating '.*': (.*)", text):
        return f"'{override}' cannot be read: {reason[1]}."
    if "=" not in override:
        return f"'{override}' is not KEY=VALUE. A list has no spaces: method=ban,dkpp."
    return (
        f"'{override}' cannot be read. Lists have no spaces (method=ban,dkpp), brackets are closed, and values with "
        "special characters are quoted twice, for the shell and for Hydra (KEY='\"a, b\"')."
    )


def _explain_unknown(key: str, conf: Path) -> str:
    GlobalHydra.instance().clear()  # the failed command's, if it got that far
    with initialize_config_dir(str(conf), **VERSION_BASE):
        known = [*KNOWN, *_keys(OmegaConf.to_container(compose("config"), resolve=False))]
    known += [folder.name for folder in conf.iterdir() if folder.is_dir()]
    if key in known:
        return f"{key} has no such option yet: add it with +{key}.OPTION=VALUE."
    parent = key.rpartition(".")[0]
    renamed = ".".join(RENAMED.get(step, step) for step in key.split("."))
    near = [name for name in known if name.partition(".")[0] == key.partition(".")[0]]  # of the same part
    matches = difflib.get_close_matches(key, near, n=1) or difflib.get_close_matches(key, known, n=1)
    if close := [renamed] if renamed in known else matches:
        return f"there is no setting '{key}': did you mean '{close[0]}'?"
    siblings = [name for name in known if name.rpartition(".")[0] == parent] or [n for n in known if "." not in n]
    return f"there is no setting '{key}': choose one of {', '.join(dict.fromkeys(siblings))}."


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


def _keys(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, Mapping):
        return []
    items = cast("Mapping[str, Any]", tree).items()
    return [name for key, value in items for name in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))]


def explain_invalid(error: ValidationError, prefix: str = "") -> str:
    """The first setting that its type refuses. `prefix` is what the checked part is called."""
    first = error.errors(include_url=False)[0]
    path = [str(step) for index, step in enumerate(first["loc"]) if not _is_branch(str(step), index, first["loc"])]
    where = ".".join([*filter(None, [prefix]), *path])
    parent, _, key = where.rpartition(".")
    match first["type"]:
        case "unknown_key":
            name = ".".join(filter(None, [where, str(first["ctx"]["key"])]))  # pyright: ignore[reportTypedDictNotRequiredAccess]
            return f"there is no setting '{name}': {first['msg']}"
        case "missing":
            key = "_target_" if key == "constructor" else key
            return f"{parent or 'the configuration'} has no {key}: its YAML file needs a line `{key}: …`."
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{where}.kind must be one of {', '.join(KINDS)}."
        case "no_target" | "no_rate" | "broken_target":
            return f"{where} {first['msg']}."
        case "dataclass_type":
            advice = f": choose a file with {where}={first['input']}" if group_of(where) or where in GROUPS else ""
            return f"{where} is {first['input']}, but it must be a mapping of settings{advice}."
        case "path_type":
            return f"{where} is {first['input']}; it must be a path."
        case "mapping_type" | "dict_type":
            return f"{where} is {first['input']}; it must be a mapping, for example {{_target_: …}}."
        case _:
            wanted = re.sub(
                r"^(?:Input|Value) should (be )?(a valid (?=integer|number|string|boolean))?", _must_be, first["msg"]
            )
            return f"{where} is {first['input']}; it {wanted.replace(chr(39), '')}."


GROUPS = ("dataset", "machine", "method", "model", "recipe", "teacher")
"""The parts of the settings that a file can hold."""


def _is_branch(step: str, index: int, path: Sequence[int | str]) -> bool:
    """Whether a step of pydantic's path is not a key but the branch of a union that was tried."""
    kind = index == 1 and path[0] == "dataset" and step in KINDS
    return kind or step in ("float", "int", "str") or "[" in step


def _must_be(found: re.Match[str]) -> str:
    """The beginning of pydantic's sentence as the end of ours."""
    article = ("an " if found.string[found.end()] == "i" else "a ") if found[2] else ""
    return f"must {found[1] or ''}{article}"
