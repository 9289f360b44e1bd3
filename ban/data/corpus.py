"""Texts as words: reading, cleaning, splitting, and the vocabulary. Does not import torch.

A text whose configuration gives no sizes (`classes: null`) is read when the configuration is frozen, so that the plan
has its sizes and its checksum.
"""

import hashlib
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ban.errors import UserError

UNKNOWN, END = "<unk>", "<eos>"
"""The words that stand for all words outside the vocabulary, and for the end of a line."""
PARTS = (("train",), ("valid", "validation", "val", "dev"), ("test",))
"""Words in the names of a text's three files."""
SPECIAL_CHARACTERS = 5
"""Padding, start and end of a word, and the single characters that spell `UNKNOWN` and `END`."""
LARGEST_SPELLING = 2**28
"""Entries of the table of spellings: 2 GiB."""


class Corpus(NamedTuple):
    """The three parts of a text, as words."""

    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str]

    def first(self, sizes: Iterable[int | None]) -> "Corpus":
        """The first words of each part; None: all of them."""
        return Corpus(*(part[:size] for part, size in zip(self, sizes, strict=True)))

    @property
    def checksum(self) -> str:
        """A checksum of the words, which does not depend on spaces, empty lines or file names."""
        text = "\n\n".join(" ".join(part) for part in self)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Vocabulary:
    """The words that occur at least `min_count` times, most frequent first; all others are `UNKNOWN`."""

    def __init__(self, words: Iterable[str], min_count: int = 1) -> None:
        counts = Counter(words)
        kept = [word for word, count in counts.items() if (count >= min_count or word == END) and word != UNKNOWN]
        self.words = [UNKNOWN, *sorted(kept, key=lambda word: (-counts[word], word))]
        self.index = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(cls, words: Sequence[str]) -> "Vocabulary":
        """The vocabulary that consists of these words, in this order."""
        vocabulary = cls(())
        vocabulary.words, vocabulary.index = [*words], {word: number for number, word in enumerate(words)}
        return vocabulary

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Sequence[str]) -> NDArray[np.int64]:
        """The words' indices."""
        unknown = self.index[UNKNOWN]
        return np.fromiter((self.index.get(word, unknown) for word in words), np.int64, len(words))

    @cached_property
    def alphabet(self) -> list[str]:
        """The characters of all words but `UNKNOWN` and `END`."""
        return sorted(set("".join(word for word in self.words if word not in (UNKNOWN, END))))

    @property
    def spelling(self) -> NDArray[np.int64]:
        """Character indices of each word between its start and end, padded with 0: `[words, longest word + 2]`.

        `UNKNOWN` and `END` are spelled with one character each, as in the code of Kim et al. 2016.

        Raises:
            UserError: a word is so long that the table would be too large.
        """
        longest = max(self.words, key=len)
        if len(self) * len(longest) > LARGEST_SPELLING:
            raise UserError(
                f"the longest of the text's {len(self)} words has {len(longest)} characters ({longest[:20]}…), which "
                "is too long to spell: put spaces between words, or raise dataset.min_count."
            )
        number = {character: index for index, character in enumerate(self.alphabet, SPECIAL_CHARACTERS)}
        spelled = [[1, *_letters(word, number), 2] for word in self.words]
        table = np.zeros((len(self), max(map(len, spelled))), np.int64)
        for row, letters in zip(table, spelled, strict=True):
            row[: len(letters)] = letters
        return table


def _letters(word: str, number: Mapping[str, int]) -> list[int]:
    special = {UNKNOWN: [3], END: [4]}
    return special.get(word) or [number[character] for character in word]


def measure_text(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Values from the text's content for those settings that are null.

    Raises:
        UserError: the text does not exist or cannot be read, or `min_count` is not a positive integer.
    """
    path, min_count = dataset["path"], dataset["min_count"]
    if not isinstance(min_count, int) or min_count < 1:
        raise UserError(f"dataset.min_count is {min_count}; it must be an integer, 1 or more.")
    path = None if path is None else str(path)
    measured = _measure(path, min_count, _version(path))
    return {name: value for name, value in measured.items() if dataset.get(name) is None}


@lru_cache(maxsize=4)
def _measure(path: str | None, min_count: int, version: tuple[Any, ...]) -> dict[str, Any]:
    corpus = read(path)
    vocabulary = Vocabulary(corpus.train, min_count)
    return {
        "title": Path(path).stem if path else "Python's help",
        "checksum": corpus.checksum,
        "classes": len(vocabulary),
        "train_size": len(corpus.train),
        "validation_size": len(corpus.validation),
        "test_size": len(corpus.test),
        "characters": len(vocabulary.alphabet) + SPECIAL_CHARACTERS,
        "word_length": vocabulary.spelling.shape[1],
    }


def _version(path: str | None) -> tuple[Any, ...]:
    """Names, sizes and times of the files of a text: a changed file is read again.

    Raises:
        UserError: there can be no such path, or it cannot be read.
    """
    try:
        source = Path(path or "").expanduser()
        files = [] if path is None else sorted(source.iterdir()) if source.is_dir() else [source]
        states = [(file, file.stat()) for file in files if file.is_file()]
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UserError(f"dataset.path={path} cannot be read: {reason}.") from None
    return tuple((str(file), state.st_size, state.st_mtime_ns) for file, state in states)


def read(path: str | None) -> Corpus:
    """A folder with three files, one file that is split 8 : 1 : 1 by lines, or Python's own help if `path` is None.

    Raises:
        UserError: the text does not exist, is not UTF-8, or has a missing or empty part.
    """
    return _read(path, _version(path))


@lru_cache(maxsize=4)
def _read(path: str | None, version: tuple[Any, ...]) -> Corpus:
    if path is None:
        return python_help()
    source = Path(path).expanduser()
    if source.is_dir():
        parts = [lines(_part(source, names)) for names in PARTS]
    elif source.is_file():
        whole = lines(source)
        if len(whole) < 10:
            raise UserError(f"dataset.path={path} must have 10 lines or more to be split by lines, not {len(whole)}.")
        parts = [whole[: len(whole) * 8 // 10], whole[len(whole) * 8 // 10 : len(whole) * 9 // 10]]
        parts.append(whole[len(whole) * 9 // 10 :])
    else:
        raise UserError(f"dataset.path={path} is neither a file nor a folder.")
    corpus = Corpus(*(words(part) for part in parts))
    for name, part in zip(Corpus._fields, corpus, strict=True):
        if len(part) < 2:
            raise UserError(f"dataset.path={path}: the {name} text is empty.")
    return corpus


def _part(folder: Path, names: Sequence[str]) -> Path:
    """The only file whose name contains one of the names as a word, such as ptb.valid.txt.

    Raises:
        UserError: no file or several files have such a name.
    """
    found = []
    for file in sorted(folder.iterdir()):
        marks = {word for part in PARTS for word in part} & set(re.split(r"[^a-z]+", file.name.lower()))
        if file.is_file() and marks and marks <= set(names):
            found.append(file)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{folder} has several files for '{names[0]}': {', '.join(file.name for file in found)}.")
    raise UserError(
        f"{folder} has no file with '{names[0]}' in its name: put three there, such as train.txt, valid.txt and "
        "test.txt."
    )


def lines(file: Path) -> list[str]:
    """The lines of a text file that have words.

    Raises:
        UserError: the file cannot be read, or is not text in UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 (byte {error.start}): convert it, for example with iconv -t utf-8."
        ) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    if "\0" in text:
        raise UserError(f"{file} contains NUL bytes: it is not a text, or in another encoding than UTF-8.")
    return lines_of(text)


def lines_of(text: str) -> list[str]:
    """The lines of a text that have words."""
    return [line for line in text.split("\n") if line.strip() not in ("", END)]


def words(text: Iterable[str]) -> list[str]:
    """The words of all lines, with one `END` after each line, whether or not the file has it there already."""
    found: list[str] = []
    for word in (word for line in text for word in (*line.split(), END)):
        if word != END or (found and found[-1] != END):
            found.append(sys.intern(word))
    return found


# Python's own help


def python_help() -> Corpus:
    """The prose of the language reference that comes with Python (`pydoc_data.topics`), about 45,000 words.

    Punctuation, markup and paragraphs that are mostly code are removed, and numbers become N. Topics that share a
    paragraph are put into the same part, so that no test paragraph is trained on. The text differs between versions of
    Python.
    """
    from pydoc_data.topics import topics

    paragraphs = {name: _english(text) for name, text in topics.items()}
    seen: set[str] = set()
    parts: dict[str, list[str]] = {"test": [], "validation": [], "train": []}
    groups = sorted(_connected(paragraphs), key=lambda group: hashlib.sha256(group[0].encode()).digest())
    distinct = len(set(itertools.chain.from_iterable(paragraphs.values())))
    for group in groups:
        unfilled = next((name for name in ("test", "validation") if len(parts[name]) < distinct / 10), "train")
        large = sum(len(paragraphs[name]) for name in group) > distinct / 10
        part = parts["train" if large else unfilled]
        for paragraph in itertools.chain.from_iterable(paragraphs[name] for name in group):
            if paragraph not in seen:
                seen.add(paragraph)
                part.append(paragraph)
    return Corpus(*(words(parts[name]) for name in Corpus._fields))


def _english(text: str) -> list[str]:
    """The prose paragraphs of a topic: at least eight words, and at least 70 % of them plain."""
    plain = re.compile(r"[\"'(\[*`]*[A-Za-z][a-z]*(?:[-'’][a-z]+)*[\"')\].,;:?!*`]*")
    prose = []
    for paragraph in re.split(r"\n\s*\n", text):
        tokens = paragraph.split()
        code = "::=" in paragraph or ">>>" in paragraph or re.search(r"^\s*[*=~-]{3,}", paragraph, re.MULTILINE)
        if not code and len(tokens) >= 8 and sum(bool(plain.fullmatch(t)) for t in tokens) >= 0.7 * len(tokens):
            prose.append(" ".join(filter(None, map(_word, tokens))))
    return prose


def _word(token: str) -> str:
    bare = token.strip("\"'`*_,.;:()[]{}?!“”‘’").lower()
    return re.sub(r"\d+(\.\d+)*", "N", bare)


def _connected(paragraphs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Groups of topics, so that topics with a common paragraph are in the same group."""
    groups: list[list[str]] = []
    for name in sorted(paragraphs):
        mine = set(paragraphs[name])
        touching = [group for group in groups if any(mine & set(paragraphs[other]) for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([*itertools.chain.from_iterable(touching), name])
    return groups
