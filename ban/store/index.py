"""What earlier commands read of a store, so that thousands of results load at once.

It is kept in the user's cache folder. What was read counts as long as the files are the same ones, as their inodes,
sizes and times of change say. Checksums were compared when they were read; `ban stages verify` compares them again.
"""

import atexit
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from ban.store.formats import DESCRIPTION, PREDICTIONS, RESULT, SUMS
from ban.store.remembered import Memory, folder, key

FEWEST = 100
"""New entries that are worth a new file: fewer are read again in less time than it takes to write all."""
MOST = 2**17
LIMIT = 2**30
"""The most entries of a file, and its bytes."""


class Index:
    """Key → what was read, with the state of the files that it was read from."""

    def __init__(self, root: Path) -> None:
        self.root, self.new = root, dict[str, Any]()
        name = hashlib.sha256(os.fspath(root).encode()).hexdigest()[:32]
        self.memory, self.software = Memory(folder() / "stores" / f"{name}.json", MOST, LIMIT), key()

    def state(self, *signatures: str) -> str:
        """The state of the files of stages that results and predictions are read from, and of the code that reads."""
        return hashlib.sha256("".join([self.software, *map(self._files, signatures)]).encode()).hexdigest()[:32]

    def _files(self, signature: str) -> str:
        names = (SUMS, DESCRIPTION, RESULT, PREDICTIONS)
        return "".join(_state(f"{self.root}/stages/{signature}/{name}") for name in names)

    def get(self, name: str, state: str) -> Any:
        """What was read from files in this state; None: nothing."""
        match self.new.get(name) or self.memory.found.get(name):
            case [found, value] if found == state:
                return value
            case _:
                return None

    def add(self, name: str, state: str, value: Any) -> None:
        """Keeps what was read from files in this state."""
        self.new[name] = [state, value]

    def save(self) -> None:
        """Writes what is new, if it is much."""
        if len(self.new) >= FEWEST:
            self.memory.add(self.new)


@cache
def index_of(root: Path) -> Index:
    """The index of a store. It is read once in a process, and saved when the process ends."""
    index = Index(root)
    atexit.register(index.save)
    return index


def _state(path: str) -> str:
    try:
        found = os.lstat(path)
    except OSError:
        return "-;"
    return f"{found.st_ino} {found.st_size} {found.st_ctime_ns};"
