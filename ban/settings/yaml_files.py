"""The YAML files of settings: where Hydra finds them, and what they must be before it reads them."""

import math

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# PyYAML has no complete types.
from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, cast

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf.errors import OmegaConfBaseException

from ban.errors import UserError

MOST_BYTES = 1_000_000
MOST_NODES = 100_000
"""Mappings, lists and values of a file, with every alias written out."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast one where PyYAML was built with it."""
DEEPEST = 50
"""Mappings and lists within each other."""
SAME_CHOICES = {"teacher": "model", "model": "teacher"}
"""Groups that share their names: `teacher=NAME` is a teacher with the network `model=NAME`."""


class Files(ConfigRepository):
    """Hydra's repository, which refuses a broken file in one sentence, and two files of the same name."""

    newest: ClassVar[Path | None] = None
    """The file that was read last. Hydra copies its repositories, so this is the class's."""
    contents: ClassVar[dict[tuple[str | int, ...], ConfigResult | None]] = {}
    """Folder, name and version of a file → its content: a sweep reads the same files for each of its jobs."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Files":
        """A shallow copy: Hydra copies a repository only to give the copy other sources."""
        return copy(self)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """See `ConfigRepository`.

        Raises:
            UserError: a file would never be read, because an earlier folder has one of the same name.
        """
        super().initialize_sources(config_search_path)
        sources = [source for source in self.sources if source.available()]
        for index, source in enumerate(sources):
            if source.scheme() == "file" and source.provider != "main":
                _refuse_hidden(source, sources[:index])

    def load_config(self, config_path: str) -> ConfigResult | None:
        """See `ConfigRepository`.

        Raises:
            UserError: the file is not one of settings.
        """
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return super().load_config(config_path)
        key = (source.full_path(), config_path, *(_version(source, config_path) if source.scheme() == "file" else ()))
        if key not in Files.contents:
            Files.contents[key] = self._load_file(source, config_path)
        content = Files.contents[key]
        return content and replace(content, config=deepcopy(content.config), header=dict(content.header))

    def _load_file(self, source: ConfigSource, config_path: str) -> ConfigResult | None:
        if source.scheme() == "pkg":  # Hydra's own
            return super().load_config(config_path)
        path = Files.newest = _file_of(source, config_path)
        check_file(path)
        try:
            return super().load_config(config_path)
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            _refuse(path, f"is not possible: {' '.join(str(error).split())}")


def _version(source: ConfigSource, name: str) -> tuple[int, int]:
    """When a file was written, and its size in bytes."""
    path = _file_of(source, name)
    try:
        status = path.stat()
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")
    return status.st_mtime_ns, status.st_size


def _file_of(source: ConfigSource, name: str) -> Path:
    return Path(source.path) / f"{name}.yaml"


def _refuse_hidden(source: ConfigSource, earlier: Sequence[ConfigSource]) -> None:
    for other in earlier:
        if other.scheme() != "file" or Path(other.path).samefile(source.path):
            continue
        for group in _groups(Path(other.path)):
            for name in source.list(group, ObjectType.CONFIG) if source.is_group(group) else ():
                for hiding in (group, SAME_CHOICES.get(group, group)):
                    if other.is_config(f"{hiding}/{name}"):
                        _refuse(
                            _file_of(source, f"{group}/{name}"),
                            f"would be mixed up with {_file_of(other, f'{hiding}/{name}')}, which has the same name: "
                            "rename or remove one of them",
                        )


def _groups(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*/") if path.is_dir() and path != folder)


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UserError(f"{path} {reason}.")


def check_file(path: Path) -> None:
    """Looks at a file before it is read.

    Raises:
        UserError: it is not YAML in UTF-8, too large or too deep, or its keys or its defaults list are impossible.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            _refuse(path, f"is larger than {MOST_BYTES} bytes, so it does not hold settings")
        text = path.read_bytes().decode()
        _check_size(path, text)
        root = cast("Any", yaml.compose(text, LOADER))  # pyright: ignore[reportUnknownMemberType]
    except UnicodeDecodeError as error:
        _refuse(path, f"is not UTF-8 (byte {error.start}): save it as UTF-8")
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")
    except yaml.YAMLError as error:
        _refuse(path, f"is not YAML: {' '.join(str(error).split())}")
    if root is not None:  # an empty file
        _check_mapping(path, root)


def _check_mapping(path: Path, root: Any) -> None:
    if not isinstance(root, yaml.MappingNode):
        _refuse(path, "must consist of lines KEY: VALUE")
    _check_keys(path, root)
    for key, value in root.value:
        if key.value == "defaults":
            _check_defaults(path, value)


def _check_size(path: Path, text: str) -> None:
    """Counts without building anything, so that neither aliases nor depth cost time or memory."""
    sizes: dict[str | None, float] = {}
    open_nodes: list[tuple[str | None, float]] = [(None, 0)]  # anchor, and nodes until now
    for event in cast("Iterator[yaml.Event]", yaml.parse(text, LOADER)):  # pyright: ignore[reportUnknownMemberType]
        size = 0.0
        if isinstance(event, yaml.CollectionStartEvent):
            sizes[event.anchor] = math.inf  # until it ends: an alias within it has no end
            open_nodes.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            sizes[anchor] = size
        elif isinstance(event, yaml.NodeEvent):
            size = sizes.get(event.anchor, 1) if isinstance(event, yaml.AliasEvent) else 1
        open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + size)
        if len(open_nodes) > DEEPEST or open_nodes[-1][1] > MOST_NODES:
            _refuse(path, f"has over {DEEPEST} levels, or over {MOST_NODES} values with its aliases written out")


def _check_keys(path: Path, node: Any) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(path, item)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge", ":int", ":float")):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                _refuse(path, f"has the key {shown} in line {key.start_mark.line + 1}: put names in quotes")
            _check_keys(path, value)


def _check_defaults(path: Path, node: Any) -> None:
    """A defaults list holds names, and mappings of one group to one name, to several or to null."""
    entries = node.value if isinstance(node, yaml.SequenceNode) else [None]
    for entry in entries:
        pair = entry.value[0] if isinstance(entry, yaml.MappingNode) and len(entry.value) == 1 else None
        if not (_is_name(entry) or (pair and _is_name(pair[0]) and _is_choice(pair[1]))):
            line = (entry or node).start_mark.line + 1
            _refuse(
                path, f"has a wrong entry in its defaults list, line {line}: write `defaults: [NAME]` to extend NAME"
            )


def _is_name(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":str") and bool(node.value)


def _is_choice(node: Any) -> bool:
    several = isinstance(node, yaml.SequenceNode) and all(_is_name(item) for item in node.value)
    return several or (isinstance(node, yaml.ScalarNode) and (_is_name(node) or node.tag.endswith(":null")))
