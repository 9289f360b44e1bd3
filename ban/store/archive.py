"""A finished stage as one file, to share with others.

An archive is not trusted. Nothing in it is executed or unpickled, only the files of a stage are extracted, under their
own names, and it cannot grow when it is extracted, because compressed entries are refused.
"""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from ban.errors import UserError
from ban.plan.signature import signature_of
from ban.store.result import Result
from ban.store.store import RESULT, SUMS, Store, Work, read_sums

DESCRIPTION = "stage.json"
FILE = re.compile(
    r"stage\.json|result\.json|SHA256SUMS|curves\.jsonl|vocabulary\.txt|(weights(\.[a-z0-9]{1,16}){0,2}|predictions)\.safetensors"
)
"""The files of a stage."""
NOT_A_STAGE = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError),  # from zipfile
    *(ValueError, TypeError, AttributeError, LookupError),  # from missing or unexpected content
)
TEXT_LIMIT = 2**26
"""The largest text, in bytes: texts are read into memory."""


def export_stage(store: Store, signature: str, target: Path) -> None:
    """Writes a finished stage into one file.

    Raises:
        UserError: one of its files is damaged, or the target exists or cannot be written.
    """
    paths = [store.file(signature, name) for name in store.sums(signature)]
    paths.append(store.folder(signature) / SUMS)
    if target.exists():
        raise UserError(f"{target} exists already: choose another name.")
    partial = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for path in paths:
                archive.write(path, path.name)
        partial.rename(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{target} could not be written: {error.strerror}.") from error


def import_stage(store: Store, source: Path) -> str | None:
    """Puts an exported stage into the store.

    Returns:
        Its signature, or None if the store has the stage already.

    Raises:
        UserError: the file is not an intact stage, or not the stage that it claims to be.
    """
    with _opened(source) as archive:
        description = _verified(archive)
        signature = description["signature"]
        with store.claim(signature) as work:
            if work is None:
                return None
            _unpack(archive, work)
    return signature


@contextmanager
def _opened(source: Path) -> Generator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}.") from error
    except NOT_A_STAGE as error:
        raise UserError(
            f"{source} is not a stage that `ban stages export` wrote, or it is damaged: {error}."
        ) from error


def _verified(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The description of an intact stage, which its signature matches.

    Raises:
        ValueError: the stage is damaged, or another one.
    """
    _check_files(archive)
    description, result = (_readable(json.loads(_text(archive, name))) for name in (DESCRIPTION, RESULT))
    if description.get("signature") != signature_of(description):
        reason = "it was changed, or another version of ban wrote it"
        raise ValueError(f"its signature does not match its settings: {reason}")
    plain = {name: value for name, value in description.items() if isinstance(value, str | int)}
    if any(result.get(name) != value for name, value in plain.items() if name != "protocol"):
        raise ValueError("its result belongs to another stage")
    _check_result(result)
    return description


def _check_result(content: dict[str, Any]) -> None:
    """Checks the fields that lists and tables read.

    Raises:
        ValueError: one is missing, or of another type.
    """
    try:
        result = TypeAdapter(Result).validate_python(content, strict=True)
    except ValidationError as error:
        raise ValueError(f"its result has no valid {error.errors()[0]['loc'][0]}") from None
    if not result["prepares"]:
        for name in (f"test_{result['metric']}", f"train_{result['metric']}", "networks"):
            if name not in result:
                raise ValueError(f"its result has no valid {name}")


def _check_files(archive: zipfile.ZipFile) -> None:
    """Checks that the archive holds exactly the files of a stage, uncompressed, with the right checksums.

    Raises:
        ValueError: it does not.
    """
    names = archive.namelist()
    for entry in archive.infolist():
        if not FILE.fullmatch(entry.filename) or names.count(entry.filename) > 1:
            raise ValueError(f"{entry.filename[:80]!r} is not a file of a stage, or occurs twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{entry.filename} is compressed")
    if sum(entry.file_size for entry in archive.infolist()) > Path(archive.filename or "").stat().st_size:
        raise ValueError("its entries are larger than the file")
    sums = read_sums(_text(archive, SUMS))
    if {*sums, SUMS} != {*names}:
        raise ValueError("its files do not match its list of checksums")
    for name, digest in sums.items():
        with archive.open(name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:  # pyright: ignore[reportArgumentType]
                raise ValueError(f"{name} does not match its checksum")


def _text(archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > TEXT_LIMIT:
        raise ValueError(f"{name} is too large")
    return archive.read(name).decode("utf-8")


def _readable(value: Any) -> dict[str, Any]:
    """A JSON object whose texts are safe to print on a terminal.

    Raises:
        ValueError: it is not an object, or a text contains control characters.
    """
    if not isinstance(value, dict):
        raise ValueError("it contains no settings")
    content = cast("dict[str, Any]", value)
    for text in _texts(content):
        if not text.isprintable():
            raise ValueError(f"{text[:40]!r} contains control characters")
    return content


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _texts(item)


def _unpack(archive: zipfile.ZipFile, work: Work) -> None:
    """Writes every file completely or not at all, the result last."""

    def copy(name: str, path: Path) -> None:
        with archive.open(name) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)

    for name in sorted(archive.namelist(), key=lambda name: name == RESULT):
        work.write(name, lambda path, name=name: copy(name, path))
    work.finish()
