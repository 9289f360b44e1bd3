"""The files of a finished stage, in a folder or in an archive."""

import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from ban.metrics import Predictions
from ban.store import formats
from ban.store.files import BadFile, read
from ban.store.formats import CURVES, DESCRIPTION, PREDICTIONS, RESULT, SUMS, VOCABULARY, Record
from ban.store.result import Result

Content = TypeVar("Content")


class StageFiles:
    """Reads a file only if it is listed, matches its checksum and has the content that its name promises.

    Every method raises `BadFile` where that is not so; the message begins with the file's name.
    """

    def __init__(self, read: Callable[[str, int], bytes], signature: str | None = None) -> None:
        """`read` gives a file's content, up to a size. `signature`: the name of the folder, where there is one."""
        self._read, self._signature = read, signature

    @classmethod
    def of(cls, folder: Path, signature: str) -> "StageFiles":
        """The files in a folder."""
        return cls(lambda name, limit: read(folder / name, limit), signature)

    @cached_property
    def sums(self) -> dict[str, str]:
        """File → SHA-256, when the stage was published."""
        return _named(SUMS, lambda: formats.read_sums(self._read(SUMS, 2**16)))

    @cached_property
    def description(self) -> dict[str, Any]:
        """The content of `stage.json`, which gives the stage its signature."""
        return self._checked(DESCRIPTION, 2**20, partial(formats.read_description, signature=self._signature))

    @cached_property
    def result(self) -> Result:
        """The content of `result.json`."""
        return self._checked(RESULT, 2**20, partial(formats.read_result, description=self.description))

    def curves(self) -> list[Record]:
        """The records of all epochs."""
        curves = self._checked(CURVES, self._limit(CURVES), formats.read_curves)
        if len(curves) != self.result["epochs"]:
            raise BadFile(f"{CURVES} has {len(curves)} epochs, not {self.result['epochs']}")
        return curves

    def predictions(self) -> Predictions:
        """The predictions for the test set."""
        reader = partial(formats.read_predictions, description=self.description, result=self.result)
        return self._checked(PREDICTIONS, self._limit(PREDICTIONS), reader)

    def check(self, name: str) -> None:
        """Reads one file."""
        if name == CURVES:
            self.curves()
        elif name == PREDICTIONS:
            self.predictions()
        elif name == VOCABULARY:
            self._checked(name, self._limit(name), partial(formats.check_vocabulary, description=self.description))
        elif name not in (DESCRIPTION, RESULT):  # they are read to know the others' limits
            self._checked(name, self._limit(name), formats.check_weights)

    def check_all(self) -> None:
        """Reads every file."""
        if missing := sorted(formats.expected_files(self.result) - {*self.sums}):
            raise BadFile(f"{SUMS} does not list {', '.join(missing)}")
        for name in self.sums:
            self.check(name)

    def _limit(self, name: str) -> int:
        return formats.size_limit(name, self.description, self.result)

    def _checked(self, name: str, limit: int, reader: Callable[[bytes], Content]) -> Content:
        sums = self.sums

        def content() -> Content:
            if name not in sums:
                raise BadFile(f"is missing, or not listed in {SUMS}")
            found = self._read(name, limit)
            if hashlib.sha256(found).hexdigest() != sums[name]:
                raise BadFile(f"is damaged: it does not match its checksum in {SUMS}")
            return reader(found)

        return _named(name, content)


def _named(name: str, reader: Callable[[], Content]) -> Content:
    try:
        return reader()
    except BadFile as error:
        raise BadFile(f"{name} {error}") from error
