"""Text as rows of consecutive words, kept on the device and read window by window."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ban.data import downloads
from ban.data.corpus import END, Corpus, Vocabulary, read, words
from ban.data.corpus import lines as lines_in
from ban.data.coverage import unknown_percent
from ban.data.downloads import Mirror, damaged, locked, refuse_inner_folder
from ban.errors import UserError
from ban.interfaces import Batch

EVALUATION_STEPS = 500
"""Words per evaluation batch. The state is carried between batches, so the number does not affect results."""


@dataclass(frozen=True)
class TextOptions:
    """Settings of every text. Sizes are in words; the first ones of each part are used."""

    checksum: str
    """`Corpus.checksum`."""
    classes: int
    """Size of the vocabulary."""
    characters: int
    """Number of different characters, including the special ones. The plan needs it before the text is read."""
    word_length: int
    """Length of the longest word's spelling, including its start and end."""
    min_count: int
    """Words that are rarer in the training text become `UNKNOWN`."""
    train_size: int
    validation_size: int
    test_size: int
    batch_size: int
    """Number of rows."""
    unroll: int
    """Words per row in a training step, through which the gradient flows."""
    steps_per_epoch: int | None
    """Number of steps, to shorten epochs; None: one step for each full window."""
    device: torch.device


class Text:
    """A text on a device. Batches are `[time, batch]`: each word is predicted from all earlier words of its row.

    The first word of a text is predicted from `END`. Training cuts the text into `batch_size` rows and reads `unroll`
    words of each per step, in the same order in every epoch; words that do not fill a window are left out. Validation
    and test text are evaluated as one row, so their results do not depend on the batch size. The training text is
    evaluated in its rows.

    Raises:
        UserError: the text does not match the configuration, or is too short.
    """

    examples = "words"

    def __init__(self, corpus: Corpus, options: TextOptions) -> None:
        vocabulary = Vocabulary(corpus.train, options.min_count)
        _check(corpus, vocabulary, options)
        self.content = options.checksum
        self.batch_size, self.unroll, self.device = options.batch_size, options.unroll, options.device
        self.examples_per_step = self.batch_size * self.unroll
        self.vocabulary = vocabulary.words
        self.spelling: Int64[Tensor, "words characters"] = torch.from_numpy(vocabulary.spelling)
        used = corpus.first((options.train_size, options.validation_size, options.test_size))
        self.unknown_percent = unknown_percent(used, vocabulary)
        self._streams = {
            name: torch.from_numpy(vocabulary.encode([END, *part])).to(self.device)
            for name, part in used._asdict().items()
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
        """The windows of an epoch from `first_step` on. They are the same for every `key` and `epoch`."""
        stream = self._streams["train"]
        for step in range(first_step, self.steps_per_epoch):
            positions = self._positions + step * self.unroll
            yield Batch((stream[positions],), stream[positions + 1], positions)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All words of a split in one row, or the windows of the training text in its rows."""
        if split == "train":
            yield from self.epoch((), 0)
            return
        stream = self._streams[split]
        for start in range(0, len(stream) - 1, EVALUATION_STEPS):
            window = stream[start : start + EVALUATION_STEPS + 1, None]
            positions = torch.arange(start, start + len(window) - 1, device=self.device)[:, None]
            yield Batch((window[:-1],), window[1:], positions)

    def recorded(
        self, log_probabilities: Float[Tensor, "time batch classes"], targets: Int64[Tensor, "time batch"]
    ) -> Float[Tensor, " words"]:
        """The log-probabilities of the target words, because those of the whole vocabulary are too many to store."""
        return log_probabilities.gather(-1, targets[..., None]).flatten()


def _check(corpus: Corpus, vocabulary: Vocabulary, options: TextOptions) -> None:
    if corpus.checksum != options.checksum:
        raise UserError(
            f"the text has the checksum {corpus.checksum}, not dataset.checksum={options.checksum}: it is a different "
            "text or has changed. Restore the right files, or describe this text in a dataset file of its own."
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


def text(*, path: str | None = None, data_dir: Path, download: bool, **options: Any) -> Text:
    """The text at `path`, or Python's own help; see `ban.data.corpus.read`. `data_dir` and `download` are not used."""
    return Text(read(path), TextOptions(**options))


def ptb(
    *,
    files: Mapping[str, str],
    mirrors: Sequence[str],
    minimum_speed: float = 0.0,
    data_dir: Path,
    download: bool,
    **options: Any,
) -> Text:
    """The Penn Treebank as prepared by Mikolov: 10,000 words, lower case, numbers as N (Mikolov et al. 2010).

    `files` maps the names of the training, validation and test text to their SHA-256 sums.
    """
    fetch_ptb(files=files, mirrors=mirrors, minimum_speed=minimum_speed, data_dir=data_dir, download=download)
    folder = data_dir / "ptb"
    corpus = Corpus(*(words(lines_in(folder / name)) for name in files))
    if corpus.checksum != options["checksum"] and (found := damaged(folder, files)):
        raise UserError(f"the Penn Treebank is damaged: replace {', '.join(found)}.")
    return Text(corpus, TextOptions(**options))


def fetch_ptb(
    *,
    files: Mapping[str, str],
    mirrors: Sequence[str],
    minimum_speed: float = 0.0,
    data_dir: Path,
    download: bool,
    **options: Any,
) -> None:
    """Downloads the files of the Penn Treebank that are not there. The arguments are those of `ptb`.

    Raises:
        UserError: no mirror has them.
    """
    folder = data_dir / "ptb"
    if all((folder / name).exists() for name in files):
        return
    refuse_inner_folder(data_dir, "ptb", next(iter(files)))
    failures: list[str] = [] if download else ["(machine.download is off)"]
    with locked(folder / "download.lock", "Penn Treebank"):
        for name, checksum in files.items():
            if download and not (folder / name).exists():
                accept = partial(_accept, folder / name, checksum)
                sources = [Mirror({name: f"{mirror}/{name}"}, folder, accept) for mirror in mirrors]
                failures += [f"tried {failure}" for failure in downloads.download(name, sources, minimum_speed)]
    if missing := [name for name in files if not (folder / name).exists()]:
        tried = "".join(f"\n  {failure}" for failure in failures)
        raise UserError(
            f"the Penn Treebank is incomplete: put {', '.join(missing)} (from Mikolov's simple-examples.tgz) into "
            f"{folder}, or set machine.data_dir=DIR or BAN_DATA to the folder that contains ptb/.{tried}"
        )


def _accept(path: Path, checksum: str, parts: Sequence[Path]) -> str | None:
    """Gives a downloaded file its name if it is the right one."""
    (part,) = parts
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    if found != checksum:
        return f"invalid hash (its sha256 is {found}, not {checksum})"
    part.replace(path)
    return None
