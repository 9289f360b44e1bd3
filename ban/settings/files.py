"""Where the YAML files are, and which settings they hold."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
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


@cache
def keys_in_files(group: str) -> list[str]:
    """The settings in all files of a group, with their paths; the most frequent ones first."""
    trees = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / group).glob("*.yaml"))]
    counts = Counter(key for tree in trees for key in keys_in(tree, f"{group}."))
    return [key for key, _ in counts.most_common()]
