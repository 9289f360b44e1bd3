"""A finished stage as one file, to share with others.

An archive is not trusted. Nothing in it is executed or unpickled, only the files of a stage are extracted, under their
own names, and it cannot grow when it is extracted, because compressed entries are refused.
"""

import shutil
import struct
import zipfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ban.errors import UserError
from ban.store.files import BadFile, cause, opened
from ban.store.formats import FILE, RESULT, SUMS, values_in
from ban.store.stage_files import StageFiles
from ban.store.store import Store
from ban.store.work import NO_LIMIT, Work

NOT_AN_ARCHIVE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
"""What `zipfile` raises."""
DIRECTORY_LIMIT = 2**16
"""The largest list of entries, in bytes: enough for hundreds."""


def export_stage(store: Store, signature: str, target: Path) -> None:
    """Writes a finished stage into one file.

    Raises:
        UserError: one of its files is damaged, or the target exists or cannot be written.
    """
    paths = [store.folder(signature) / name for name in [*store.check(signature), SUMS]]
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
        raise UserError(f"{target} could not be written: {cause(error, target)}.") from error


def import_stage(store: Store, source: Path) -> str | None:
    """Puts an exported stage into the store.

    Returns:
        Its signature, or None if the store has the stage already.

    Raises:
        UserError: the file is not an intact stage, or not the stage that it claims to be.
    """
    with _opened(source) as archive:
        _check_entries(archive)
        files = StageFiles(lambda name, limit: _content(archive, name, limit))
        files.check_all()
        _check_texts(files)
        signature = files.result["signature"]
        try:
            with store.claim(signature) as work:
                if work is None:
                    return None
                _unpack(archive, work)
        except OSError as error:  # not of the archive, which has been read once
            raise UserError(f"{store.root} cannot be written: {cause(error, store.root)}.") from error
    return signature


@contextmanager
def _opened(source: Path) -> Generator[zipfile.ZipFile]:
    try:
        file = opened(source.resolve(), NO_LIMIT)
    except BadFile as error:
        raise UserError(f"{source} {error}.") from error
    except OSError as error:
        raise UserError(f"{source} cannot be read: {cause(error, source)}.") from error
    try:
        with file:
            if _directory_size(file) > DIRECTORY_LIMIT:
                raise BadFile("it has more files than a stage")
            with zipfile.ZipFile(file) as archive:
                yield archive
    except OSError as error:
        raise UserError(f"{source} cannot be read: {cause(error, source)}.") from error
    except NOT_AN_ARCHIVE as error:
        raise UserError(
            f"{source} is not a stage that `ban stages export` wrote, or it is damaged: {error}."
        ) from error


def _directory_size(file: BinaryIO) -> int:
    """The size of an archive's list of entries, from its end: `zipfile` would read the whole list into memory.

    Raises:
        BadFile, struct.error: it does not end like an archive.
    """
    end, locator, end64 = struct.Struct("<4s8xI6x"), struct.Struct("<4s16x"), struct.Struct("<4s36xQ8x")
    whole = file.seek(0, 2)
    file.seek(max(0, whole - end64.size - locator.size - end.size))
    tail = file.read()
    file.seek(0)
    mark, size = end.unpack(tail[-end.size :])
    if mark != b"PK\5\6":
        raise BadFile("it does not end like an archive")
    if tail[-end.size - locator.size :].startswith(b"PK\6\7"):
        _, size = end64.unpack(tail[: end64.size])
    return size


def _check_entries(archive: zipfile.ZipFile) -> None:
    """Checks that the archive holds exactly the files of a stage, uncompressed.

    Raises:
        BadFile: it does not.
    """
    names = archive.namelist()
    for entry in archive.infolist():
        if not FILE.fullmatch(entry.filename) or names.count(entry.filename) > 1:
            raise BadFile(f"{entry.filename[:80]!r} is not a file of a stage, or occurs twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise BadFile(f"{entry.filename} is compressed")
    if {*StageFiles(lambda name, limit: _content(archive, name, limit)).sums, SUMS} != {*names}:
        raise BadFile("its files do not match its list of checksums")


def _content(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if name not in archive.namelist():
        raise BadFile("is missing")
    if archive.getinfo(name).file_size > limit:
        raise BadFile("is larger than it can be")
    return archive.read(name)


def _check_texts(files: StageFiles) -> None:
    """Checks that what lists and tables print cannot control a terminal.

    Raises:
        BadFile: a text contains control characters.
    """
    for content in (files.description, dict(files.result)):
        for text in values_in(content):
            if isinstance(text, str) and not text.isprintable():
                raise BadFile(f"{text[:40]!r} contains control characters")


def _unpack(archive: zipfile.ZipFile, work: Work) -> None:
    """Writes every file completely, the result last; none stays where one cannot be written."""

    def copy(name: str, path: Path) -> None:
        with archive.open(name) as packed, path.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)

    try:
        for name in sorted(archive.namelist(), key=lambda name: name == RESULT):
            work.write(name, lambda path, name=name: copy(name, path))
    except BaseException:
        for name in archive.namelist():
            (work.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # checkpoints are there
            work.folder.rmdir()
        raise
    work.finish()
