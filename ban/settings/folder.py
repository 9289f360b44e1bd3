"""The user's own folder of YAML files (`--config-dir`), looked at before Hydra reads it."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# A file of the user's may hold anything.

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from ban.errors import UserError

BYTES, DEPTH, ALIASES = 2**20, 50, 20
"""The largest file, the deepest nesting, and the most aliases (`*name`): each can double what a file expands to."""


def check_folder(folder: Path, shipped: Path) -> None:
    """Checks every file.

    Args:
        folder: the user's files, in groups such as `model/`.
        shipped: this program's.

    Raises:
        UserError: a file cannot be read as settings, or has the name of a shipped one, which Hydra would use instead.
    """
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    extended: dict[str, list[str]] = {}
    for name, path in files.items():
        if (shipped / path.relative_to(folder)).is_file():
            raise UserError(
                f"{path} has the name of a file of this program, which would be used instead: give it another name."
            )
        extended[name] = _extended(_read(path), path, name.rpartition("/")[0])
    for name in files:
        if circle := _circle(name, extended, ()):
            raise UserError(f"{files[name]} extends itself: its defaults list leads from {' to '.join(circle)}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise UserError(f"{path} is not a regular file.")
        if path.stat().st_size > BYTES:
            raise UserError(f"{path} is larger than 1 MiB, so it does not hold settings.")
        text = path.read_text(encoding="utf-8")
        _check_events(yaml.parse(text), path)
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} must hold KEY: VALUE lines, not a {type(cast('object', content)).__name__}.")
    _check_keys(content or {}, path)
    return cast("dict[str, Any]", content or {})


def _check_events(events: Iterator[yaml.Event], path: Path) -> None:
    """Bounds what the file expands to, before anything is built from it."""
    depth = aliases = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEPTH or aliases > ALIASES:
            what = f"nested deeper than {DEPTH} levels" if depth > DEPTH else f"built of more than {ALIASES} aliases"
            raise UserError(f"{path} is {what}, line {event.start_mark.line + 1}: settings are simpler than that.")


def _check_keys(node: Any, path: Path) -> None:
    if isinstance(node, list):
        for item in cast("list[Any]", node):
            _check_keys(item, path)
    elif isinstance(node, dict):
        for key, value in cast("dict[Any, Any]", node).items():
            if not isinstance(key, str | int | float) or isinstance(key, bool) or key == "":
                written = "null" if key is None else str(key).lower()
                raise UserError(f"{path} has the key {written!r}, which YAML does not read as text: quote it.")
            _check_keys(value, path)


def _extended(content: dict[str, Any], path: Path, group: str) -> list[str]:
    """The files that the file extends, as `group/name`."""
    entries = content.get("defaults") or []
    if not isinstance(entries, list):
        raise UserError(f"{path}: defaults must be a list, such as [digits], not {entries!r}.")
    names: list[str] = []
    for entry in cast("list[Any]", entries):
        if isinstance(entry, str):
            names.append(entry.lstrip("/") if entry.startswith("/") else f"{group}/{entry}".lstrip("/"))
        elif isinstance(entry, dict) and len(entry) == 1:
            key, value = next(iter(cast("dict[str, Any]", entry).items()))
            chosen = key.removeprefix("override ").removeprefix("optional ").partition("@")[0]
            names.append(f"{chosen.lstrip('/') if chosen.startswith('/') else f'{group}/{chosen}'.lstrip('/')}/{value}")
        else:
            raise UserError(f"{path}: {entry!r} in defaults is neither a NAME nor GROUP: NAME.")
    return names


def _circle(name: str, extended: dict[str, list[str]], path: tuple[str, ...]) -> tuple[str, ...]:
    """The files from one to itself; empty if there is no such way."""
    if name in path:
        return (*path[path.index(name) :], name)
    ways = (_circle(each, extended, (*path, name)) for each in extended.get(name, []))
    return next(filter(None, ways), ())
