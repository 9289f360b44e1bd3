"""`ban predict`: the predictions of trained networks for files."""

import csv
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ban.cpus import cpus
from ban.data import corpus
from ban.data.pictures import EXTENSIONS
from ban.data.sources import HIDDEN
from ban.display import console, show_table
from ban.errors import UserError
from ban.inference.inputs import ImageInputs, RowInputs, TextInputs
from ban.inference.trained import TrainedStage, load
from ban.settings.schema import Settings
from ban.store.files import cause
from ban.store.formats import SIGNATURE
from ban.store.store import Store
from ban.training.device import Device
from ban.wording import plural

BATCH = 64
"""Images or rows that are predicted together."""
TOP = 5
"""Classes that are told of each example."""
SHOWN = 50
"""Predictions that a terminal shows."""
NAMED = 10
"""Bad files that a message names."""
USE = "ban predict SIGNATURE [SIGNATURE …] FILE|DIR … [output=FILE.csv|FILE.jsonl]"

Record = dict[str, Any]


class Failure(NamedTuple):
    """A file that cannot be used."""

    reason: str


def predict(words: Sequence[str], output: Path | None, settings: Settings) -> None:
    """Predicts files with one network, or with the average of several networks' probabilities.

    Raises:
        UserError: there is no such stage or file, or some files could not be used; the others are predicted.
    """
    if output is not None and output.suffix not in (".csv", ".jsonl"):
        raise UserError(f"output={output} must end in .csv or .jsonl.")
    store = Store(settings.machine.outputs)
    signatures, places = _split(words, store)
    device = Device.of(settings.machine)
    device.prepare()
    stages = [load(store, signature, device=device.name) for signature in signatures]
    records = _records(stages, [Path(place).expanduser() for place in places])
    shown, failures, count = list[Record](), list[str](), 0
    with _written(output) as write:
        for record in records:
            if isinstance(record, Failure):
                failures.append(record.reason)
                continue
            count += 1
            write(record)
            if count <= SHOWN:
                shown.append(record)
    if output is None:
        _show(shown, count)
    elif count:
        console.print(f"{plural(count, 'prediction')} in {output}")
    if failures:
        named = "".join(f"\n  {each}" for each in failures[:NAMED])
        more = f"\n  … and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        raise UserError(f"{plural(len(failures), 'file')} could not be used:{named}{more}")


def _show(records: Sequence[Record], count: int) -> None:
    if records:
        show_table([*map(_cells, records)])
    if count > len(records):
        console.print(f"{count - len(records)} more: output=FILE.csv writes them all.")


def _split(words: Sequence[str], store: Store) -> tuple[list[str], list[str]]:
    """The signatures at the beginning, and the files and folders."""
    more = takewhile(lambda word: SIGNATURE.fullmatch(f"{word:0<16}") and not os.path.lexists(word), words[1:])
    count = 1 + len([*more])
    if len(words) <= count:
        raise UserError(f"use: {USE}.")
    return [store.by_prefix(word) for word in words[:count]], [*words[count:]]


def _records(stages: Sequence[TrainedStage], places: Sequence[Path]) -> Iterator[Record | Failure]:
    """What the stages predict, in the order of the files."""
    first = stages[0]
    for stage in stages:
        if stage.result["prepares"]:
            raise UserError(f"{stage.signature} is only the pre-training of another stage: choose its student.")
        if [*stage.classes] != [*first.classes] or type(stage.transform) is not type(first.transform):
            raise UserError(f"{first.signature} and {stage.signature} cannot be averaged: their classes differ.")
    if isinstance(first.transform, ImageInputs):
        return _images(stages, _found(places, EXTENSIONS))
    if isinstance(first.transform, RowInputs):
        return _rows(stages, _found(places, {".csv", ".tsv", ".parquet"}))
    return _texts(stages, _found(places, {".txt"}))


def _found(places: Sequence[Path], extensions: Iterable[str]) -> list[Path]:
    """The files, and those in folders and their folders that have one of the extensions.

    Raises:
        UserError: there is no such file or folder, or a folder has no such file.
    """
    files = list[Path]()
    for place in places:
        if not place.exists():
            raise UserError(f"there is no file or folder {place}.")
        if not place.is_dir():
            files.append(place)
            continue
        within = [
            Path(folder, name)
            for folder, folders, names in os.walk(place, onerror=_refuse)
            if _sort(folders)
            for name in sorted(names)
            if Path(name).suffix.lower() in extensions and not name.startswith(HIDDEN)
        ]
        if not within:
            raise UserError(f"{place} has no files that end in {', '.join(sorted(extensions))}.")
        files += within
    return files


def _sort(folders: list[str]) -> bool:
    """Lets `os.walk` visit folders in the order of their names, without the hidden ones."""
    folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
    return True


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}.")


# Kinds of data


def _images(stages: Sequence[TrainedStage], files: Sequence[Path]) -> Iterator[Record | Failure]:
    for batch in _batches(_decoded(stages, files)):
        usable = [pixels for _, pixels in batch if not isinstance(pixels, Failure)]
        found = iter(_averaged(stages, list(zip(*usable, strict=True))) if usable else ())
        for file, pixels in batch:
            yield pixels if isinstance(pixels, Failure) else {"file": f"{file}"} | _top(next(found), stages[0].classes)


def _decoded(
    stages: Sequence[TrainedStage], files: Sequence[Path]
) -> Iterator[tuple[Path, list[NDArray[Any]] | Failure]]:
    """The pixels of each file for each stage, decoded ahead by several threads, with a progress bar."""

    def decode(file: Path) -> list[NDArray[Any]] | Failure:
        try:
            return [stage.inputs.pixels(file) for stage in stages if isinstance(stage.inputs, ImageInputs)]
        except UserError as error:
            return Failure(f"{error}".rstrip("."))

    waiting, left = deque[tuple[Path, Future[list[NDArray[Any]] | Failure]]](), iter(files)
    with _progress(len(files)) as advance, ThreadPoolExecutor(cpus().count) as pool:
        while True:
            waiting += [(file, pool.submit(decode, file)) for file in islice(left, 2 * BATCH - len(waiting))]
            if not waiting:
                return
            file, future = waiting.popleft()
            yield file, future.result()
            advance()


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(items)
    while batch := [*islice(left, BATCH)]:
        yield batch


def _averaged(stages: Sequence[TrainedStage], inputs: Sequence[Any]) -> NDArray[Any]:
    """The mean of the stages' probabilities for a batch; `inputs` has one for each stage."""
    each = [
        np.exp(stage.log_probabilities(stage.inputs.batch(given)))
        for stage, given in zip(stages, inputs, strict=True)
        if isinstance(stage.inputs, ImageInputs | RowInputs)
    ]
    return np.mean(each, axis=0)


def _rows(stages: Sequence[TrainedStage], files: Sequence[Path]) -> Iterator[Record | Failure]:
    for file in files:
        try:
            each = [stage.inputs.read(file) for stage in stages if isinstance(stage.inputs, RowInputs)]
            parts = zip(*(np.split(rows, range(BATCH, len(rows), BATCH)) for rows in each), strict=True)
            found = [_averaged(stages, part) for part in parts]
        except UserError as error:
            yield Failure(f"{file}: {error}".rstrip("."))
            continue
        for number, probabilities in enumerate(np.concatenate(found), 1):
            yield {"file": f"{file}", "row": number} | _top(probabilities, stages[0].classes)


def _texts(stages: Sequence[TrainedStage], files: Sequence[Path]) -> Iterator[Record | Failure]:
    with _progress(len(files)) as advance:
        for file in files:
            try:
                yield {"file": f"{file}"} | _text("\n".join(corpus.lines(file)), stages)
            except UserError as error:
                yield Failure(f"{file}: {error}".rstrip("."))
            advance()


def _text(text: str, stages: Sequence[TrainedStage]) -> Record:
    inputs = stages[0].inputs
    assert isinstance(inputs, TextInputs)
    words = inputs(text)
    each = np.stack([stage.word_log_probabilities(words) for stage in stages])
    mean = np.logaddexp.reduce(each, axis=0) - np.log(len(stages))
    return {
        "perplexity": float(np.exp(-mean.mean(dtype=np.float64))),
        "words": len(words) - 1,
        "unknown words": f"{inputs.unknown_percent(words):.1f} %",
    }


def _top(probabilities: NDArray[Any], classes: Sequence[str]) -> Record:
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return {"classes": [{"class": classes[number], "probability": float(probabilities[number])} for number in order]}


# Output


def _flat(record: Mapping[str, Any]) -> Record:
    """A record without nesting: the columns `class`, `probability`, `class 2`, `probability 2` and so on."""
    flat: Record = {name: value for name, value in record.items() if name != "classes"}
    for rank, found in enumerate(record.get("classes", ()), 1):
        flat |= {name if rank == 1 else f"{name} {rank}": value for name, value in found.items()}
    return flat


def _cells(record: Record) -> dict[str, str]:
    """A row of the table that a terminal shows."""
    cells = {name: f"{value:.2f}" if isinstance(value, float) else f"{value}" for name, value in record.items()}
    if "classes" not in record:
        return cells
    first, *others = [f"{found['class']} ({100 * found['probability']:.1f} %)" for found in record["classes"]]
    return cells | {"classes": ""} | {"class": first, "others": ", ".join(others)}


@contextmanager
def _written(output: Path | None) -> Iterator[Callable[[Record], object]]:
    """Writes records to a file, which is there only when all are written.

    Raises:
        UserError: it cannot be written.
    """
    if output is None:
        yield lambda record: None
        return
    partial = output.with_name(f".{output.name}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield _writer(output.suffix, file)
        partial.rename(output)
    except OSError as error:
        raise UserError(f"{output} could not be written: {cause(error, output)}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _writer(suffix: str, file: TextIO) -> Callable[[Record], object]:
    if suffix == ".jsonl":
        return lambda record: file.write(json.dumps(record, ensure_ascii=False) + "\n")
    headings = list[str]()
    table = csv.writer(file)

    def write(record: Record) -> None:
        flat = _flat(record)
        if not headings:
            headings.extend(flat)
            table.writerow(headings)
        table.writerow(flat.values())

    return write


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
