"""The YAML files: where they are, which settings they hold, and what they say of themselves."""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

_INSTALLED = Path(__file__).parents[1] / "conf"
CONF = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[2] / "conf"
"""The YAML files: inside the package in a wheel, at the top level in a checkout."""


def keys_in(tree: Any, prefix: str = "") -> list[str]:
    """The keys of nested mappings with their paths below `prefix`; of another value, none."""
    if not isinstance(tree, Mapping):
        return []
    items = cast("Mapping[str, Any]", tree).items()
    return [name for key, value in items for name in (f"{prefix}{key}", *keys_in(value, f"{prefix}{key}."))]


@functools.cache
def keys_in_files(group: str) -> list[str]:
    """The settings in all files of a group, with their paths; the most frequent ones first."""
    trees = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / group).glob("*.yaml"))]
    counts = Counter(key for tree in trees for key in keys_in(tree, f"{group}."))
    return [key for key, _ in counts.most_common()]


def files_of(group: str, folder: Path | None = None) -> dict[str, Path]:
    """Name → file of the choices of a setting, in this package and in the user's folder."""
    places = [CONF, *([folder] if folder else [])]
    found = {path.stem: path for place in places for path in (place / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def title_of(path: Path) -> str:
    """The title in a file or in those that it extends; empty if there is none."""
    node = content_of(path)
    return re.sub(r"\$\{\.(\w+)\}", lambda key: f"{node.get(key[1]) or '?'}", f"{node.get('title') or ''}")


def content_of(path: Path) -> dict[str, Any]:
    """A file's keys, and those of the files that it extends."""
    from ban.settings.types import merged  # imports pydantic

    node: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    bases = [base for base in node.get("defaults", ()) if isinstance(base, str) and base != "_self_"]
    inherited = [content_of(path.with_stem(base)) for base in bases if path.with_stem(base).is_file()]
    return functools.reduce(merged, [*inherited, node])


def comment_of(path: Path) -> str:
    """The comment at the beginning of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return " ".join(line.lstrip("# ") for line in head if not line.startswith("# @"))


def size_of(path: Path) -> str:
    """The number of a network's parameters, as its file has it."""
    found = re.search(r"([\d.,]+(?: M)?) (?:parameters|weights)", comment_of(path))
    return found[1] if found and path.parent.name == "model" else ""


def sentence_of(path: Path) -> str:
    """The first sentence of a file's comment, without its full stop."""
    return re.split(r"(?<!al)\.\s+(?=[^a-z\d])|\s+ban (?:-m )?experiment=", comment_of(path))[0].rstrip(".")
