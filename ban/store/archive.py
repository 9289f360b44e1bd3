"""A finished stage as one file, to be handed to somebody else.

An archive may come from anybody. Nothing in it is executed or unpickled, only the files of a stage are taken from it,
under their own names, and it cannot grow when it is opened, because nothing in it is compressed.
"""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ban.errors import UserError
from ban.plan.signature import signature_of
from ban.store.store import RESULT, SUMS, Store, Work, read_sums

DESCRIPTION = "stage.json"
FILE = re.compile(
    r"stage\.json|result\.json|SHA256SUMS|curves\.jsonl|vocabulary\.txt|(weights(\.[a-z0-9]{1,16}){0,2}|predictions)\.safetensors"
)
"""What a stage consists of."""
NOT_A_STAGE = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError),  # what zipfile raises
    *(ValueError, TypeError, AttributeError, LookupError),  # and what is not there, or something else
)
TEXT_LIMIT = 2**26
"""Bytes: texts are read into memory."""


def export_stage(store: Store, signature: str, target: Path) -> None:
    """Writes a finished stage into one file.

    Raises:
        UserError: a file of it is damaged, or the target exists or cannot be written.
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
    """Puts an exported stage into the store; its signature, or None if it was there already.

    Raises:
        UserError: the file is not a whole stage, or not the one that it says it is.
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
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
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
    """The description of a stage that is whole and what it says it is.

    Raises:
        ValueError: it is not.
    """
    _check_files(archive)
    description, result = (_readable(json.loads(_text(archive, name))) for name in (DESCRIPTION, RESULT))
    if description.get("signature") != signature_of(description):
        raise ValueError("its settings do not give its signature: another version of ban wrote it, or it was changed")
    plain = {name: value for name, value in description.items() if isinstance(value, str | int)}
    if any(result.get(name) != value for name, value in plain.items() if name != "protocol"):
        raise ValueError("its result is another stage's")
    _check_result(result)
    return description


def _check_result(result: dict[str, Any]) -> None:
    """What lists and tables rely on.

    Raises:
        ValueError: it is not there.
    """
    number = int | float
    wanted = {"parameters": number, "seconds": number, "threads": number, "device_name": str, "finished": str}
    wanted |= {"versions": dict, "parents": list, "teachers": list}
    if not result["prepares"]:
        wanted |= {f"{split}_{result['metric']}": number for split in ("test", "train")} | {"networks": dict}
    for name, kind in wanted.items():
        if not isinstance(result.get(name), kind):
            raise ValueError(f"its result has no {name}")


def _check_files(archive: zipfile.ZipFile) -> None:
    """Exactly the files of a stage, plain, with the checksums that stand beside them.

    Raises:
        ValueError: they are not.
    """
    names = archive.namelist()
    for entry in archive.infolist():
        if not FILE.fullmatch(entry.filename) or names.count(entry.filename) > 1:
            raise ValueError(f"{entry.filename[:80]!r} is no file of a stage, or is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{entry.filename} is compressed")
    if sum(entry.file_size for entry in archive.infolist()) > Path(archive.filename or "").stat().st_size:
        raise ValueError("it would grow")
    sums = read_sums(_text(archive, SUMS))
    if {*sums, SUMS} != {*names}:
        raise ValueError("its files are not those of its list of checksums")
    for name, digest in sums.items():
        with archive.open(name) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:  # pyright: ignore[reportArgumentType]
                raise ValueError(f"the checksum of {name} is another")


def _text(archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > TEXT_LIMIT:
        raise ValueError(f"{name} is too large")
    return archive.read(name).decode("utf-8")


def _readable(value: Any) -> dict[str, Any]:
    """JSON that can be shown on a terminal.

    Raises:
        ValueError: it is no dictionary, or a text in it holds control characters.
    """
    if not isinstance(value, dict):
        raise ValueError("it holds no settings")
    for text in _texts(value):
        if not text.isprintable():
            raise ValueError(f"{text[:40]!r} holds control characters")
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _unpack(archive: zipfile.ZipFile, work: Work) -> None:
    """Every file whole or not at all, the result last."""

    def copy(name: str, path: Path) -> None:
        with archive.open(name) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)

    for name in sorted(archive.namelist(), key=lambda name: name == RESULT):
        work.write(name, lambda path, name=name: copy(name, path))
    work.finish()
