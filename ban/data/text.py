"""Words in rows: contiguous streams, a window at a time, kept on the device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Int64
from torch import Tensor

from ban.data.corpus import END, Corpus, Vocabulary, read, words
from ban.data.corpus import lines as lines_of
from ban.errors import UserError
from ban.interfaces import Batch

EVALUATION_STEPS = 500
"""Words evaluated at a time. Evaluation runs one row with a carried state, so the number changes nothing."""


@dataclass(frozen=True)
class Options:
    """What every text is asked for, wherever its words come from."""

    checksum: str
    classes: int
    """Words of the vocabulary."""
    characters: int
    """Different characters, the special ones included; known to the plan before the text is."""
    word_length: int
    min_count: int
    """Rarer words of the training text are unknown words."""
    train_size: int
    """Words; the first ones are used."""
    validation_size: int
    test_size: int
    batch_size: int
    """Rows."""
    unroll: int
    """Words of a row that a training step sees, and through which the gradient flows."""
    steps_per_epoch: int | None
    """Stop an epoch early; None: all full windows."""
    device: torch.device


class Text:
    """A text on a device. Every word is predicted from all words before it in its row, the first from `END`.

    Training cuts the text into `batch_size` rows and walks through them `unroll` words at a time, in the same order in
    every epoch; what does not fill a window is left out. Validation and test text are evaluated as one row, so their
    results depend on no batch size; the training text, which is no headline, in its rows.
    """

    examples = "words"

    def __init__(self, corpus: Corpus, options: Options) -> None:
        """Numbers the words and moves them to the device.

        Raises:
            UserError: the text is another than the configuration says, or too short.
        """
        vocabulary = Vocabulary(corpus.train, options.min_count)
        _check(corpus, vocabulary, options)
        self.batch_size, self.unroll, self.device = options.batch_size, options.unroll, options.device
        self.examples_per_step = self.batch_size * self.unroll
        self.vocabulary = vocabulary.words
        self.spelling: Int64[Tensor, "words characters"] = torch.from_numpy(vocabulary.spelling)
        sizes = {"train": options.train_size, "validation": options.validation_size, "test": options.test_size}
        self._streams = {
            name: torch.from_numpy(vocabulary.encode([END, *part[: sizes[name]]])).to(self.device)
            for name, part in corpus._asdict().items()
        }
        row = options.train_size // self.batch_size
        self.steps_per_epoch = min(row // self.unroll, options.steps_per_epoch or row)
        if not self.steps_per_epoch:
            raise UserError(
                f"the {options.train_size} training words do not fill one batch of {self.batch_size} rows of "
                f"{self.unroll} words: lower recipe.batch_size or recipe.unroll."
            )
        self.held_out = [name for name in ("test", "validation") if len(self._streams[name]) > 1]
        start = torch.arange(self.batch_size, device=self.device) * row
        self._positions = start + torch.arange(self.unroll, device=self.device)[:, None]

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The windows of an epoch, from `first_step` on. Nothing is random here: `key` and `epoch` do not matter."""
        stream = self._streams["train"]
        for step in range(first_step, self.steps_per_epoch):
            positions = self._positions + step * self.unroll
            yield Batch((stream[positions],), stream[positions + 1], positions)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All words of a split in one row; of the training text those that are trained on, in their rows."""
        if split == "train":
            yield from self.epoch((), 0)
            return
        stream = self._streams[split]
        for start in range(0, len(stream) - 1, EVALUATION_STEPS):
            window = stream[start : start + EVALUATION_STEPS + 1, None]
            positions = torch.arange(start, start + len(window) - 1, device=self.device)[:, None]
            yield Batch((window[:-1],), window[1:], positions)


def _check(corpus: Corpus, vocabulary: Vocabulary, options: Options) -> None:
    if corpus.checksum != options.checksum:
        raise UserError(
            f"the text has the checksum {corpus.checksum}, not {options.checksum} (dataset.checksum): it is another "
            "text, or has changed. Put the right files in place, or name its sizes and checksum in a file of its own."
        )
    spelling = vocabulary.spelling
    found = {"classes": len(vocabulary), "characters": int(spelling.max()) + 1, "word_length": spelling.shape[1]}
    for name, value in found.items():
        if value != getattr(options, name):
            raise UserError(f"dataset.{name} is {getattr(options, name)}, but this text has {value}.")
    wanted = (options.train_size, options.validation_size, options.test_size)
    for name, part, size in zip(Corpus._fields, corpus, wanted, strict=True):
        if size > len(part):
            raise UserError(f"dataset.{name}_size={size}, but there are only {len(part)} words.")


def text(*, path: str | None, data_dir: Path, download: bool, **options: Any) -> Text:
    """Any text, or Python's own help; nothing is looked for in `data_dir` or downloaded. See `ban.data.corpus.read`."""
    return Text(read(path), Options(**options))


def ptb(*, files: Mapping[str, str], mirrors: Sequence[str], data_dir: Path, download: bool, **options: Any) -> Text:
    """The Penn Treebank as Mikolov prepared it: 10,000 words, lower case, numbers as N (Mikolov et al. 2010).

    `files` are the names of the training, validation and test text with their sha256 sums.
    """
    folder = data_dir / "ptb"
    if not all((folder / name).exists() for name in files):
        _fetch(folder, files, mirrors if download else ())
    return Text(Corpus(*(words(lines_of(folder / name)) for name in files)), Options(**options))


def _fetch(folder: Path, files: Mapping[str, str], mirrors: Sequence[str]) -> None:
    """Downloads what is missing from the first mirror that has it."""
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another machine.data_dir.") from error
    with FileLock(folder / "download.lock", fallback_to_soft=False):
        for name, checksum in files.items():
            for mirror in mirrors:
                if (folder / name).exists():
                    break
                try:
                    torch.hub.download_url_to_file(f"{mirror}/{name}", str(folder / name), checksum, progress=False)
                except (OSError, RuntimeError, HTTPException) as error:
                    failures.append(f"{mirror}/{name}: {error}")
    if missing := [name for name in files if not (folder / name).exists()]:
        tried = "".join(f"\n  tried {failure}" for failure in failures) or "\n  (machine.download is off)"
        raise UserError(
            f"the Penn Treebank is not complete: put {', '.join(missing)} (Mikolov's preparation; part of his "
            f"simple-examples.tgz) into {folder} – or name the folder that has ptb/ with machine.data_dir=DIR or "
            f"BAN_DATA.{tried}"
        )
