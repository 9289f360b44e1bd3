"""What earlier commands found out, in the user's cache folder, so that repeating a command does not compute it again.

Only what follows from code and settings alone, or from these and the machine, is remembered. It is found again when
`ban` or torch change, when the file is damaged, and when the folder is not there; refusals are never remembered.
"""

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ban.store.files import BadFile, read
from ban.store.formats import read_json

MOST = 4096
"""Facts in a file; the oldest are dropped."""
LIMIT = 2**22
"""Bytes of a file that is read."""
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")
"""Packages whose versions count, beside the code of `ban`."""


class Memory:
    """Key → fact, in one file. Several processes may use it: a file is replaced as a whole."""

    def __init__(self, path: Path, most: int | None = None, limit: int = LIMIT) -> None:
        """`most`: facts that are kept, `MOST` by default; `limit`: bytes of the file that are read."""
        self.path, self.most, self.limit = path, most, limit

    @cached_property
    def found(self) -> dict[str, Any]:
        """All facts, those of earlier commands included; none where the file is missing or damaged."""
        return self._stored()

    def _stored(self) -> dict[str, Any]:
        try:
            return read_json(read(self.path, self.limit))
        except (BadFile, OSError):
            return {}

    def add(self, facts: Mapping[str, Any]) -> None:
        """Remembers facts, as far as the folder can be written."""
        self.found.update(facts)
        others = {name: fact for name, fact in self._stored().items() if name not in facts}
        kept = [*others.items(), *facts.items()][-(self.most or MOST) :]
        temporary = self.path.with_suffix(f".{secrets.token_hex(4)}.part")
        with suppress(OSError, ValueError):  # ValueError: a number is not finite
            if self.path.is_absolute():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(dict(kept), allow_nan=False), encoding="utf-8")
                temporary.replace(self.path)


def memory(name: str) -> Memory:
    """The file of this name, read once in a process."""
    return _opened(folder() / f"{name}.json")


@cache
def _opened(path: Path) -> Memory:
    return Memory(path)


def folder() -> Path:
    """`ban` in the user's cache folder; a relative path where there is none, because the user has no home folder."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path(os.path.expanduser("~/.cache"))) / "ban"  # noqa: PTH111


def key(*parts: Any) -> str:
    """A hash of plain data, and of the code that a fact about them depends on."""
    text = json.dumps([_software(), *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _software() -> list[str]:
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode())
        digest.update(path.read_bytes())
    return [digest.hexdigest(), sys.version, *(f"{name} {_version(name)}" for name in PACKAGES)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
