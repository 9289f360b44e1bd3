"""What a perplexity leaves out: the share of unknown words, and markup that is read as words. Does not import torch."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ban.data.corpus import END, UNKNOWN, Corpus, Vocabulary, read

HIGH_PERCENT = 10.0
"""The test text of the Penn Treebank has 5.8 % unknown words."""
FAR_ABOVE = 3.0
"""How many times the training text's share, and points more, is far above it."""
MARKUP = re.compile(
    r"</?(s|unk|unknown|eos|eol|eop|bos|sos|pad|sep|cls|mask)>|\[(unk|pad|sep|cls|mask|bos|eos)\]|<\|\w+\|>",
    re.IGNORECASE,
)
"""Words by which other programs mark unknown words, the ends of sentences, or padding."""


def unknown_percent(corpus: Corpus, vocabulary: Vocabulary) -> dict[str, float]:
    """Split → the share of its words that are `UNKNOWN`, ends of lines included, as in the perplexity."""
    known = {*vocabulary.words} - {UNKNOWN}
    return {
        split: 100.0 * sum(word not in known for word in part) / len(part)
        for split, part in corpus._asdict().items()
        if part
    }


@lru_cache(maxsize=4)
def warnings(path: str | None, checksum: str, min_count: int, sizes: tuple[int, ...]) -> Sequence[str]:
    """One sentence for each reason to doubt the perplexities of a text's first `sizes` words.

    `checksum` keeps the answers for different contents of one file apart.
    """
    corpus = read(path)
    used = corpus.first(sizes)
    percent = unknown_percent(used, Vocabulary(corpus.train, min_count))
    return [*_of_unknown(percent), *_of_markup(word for part in used for word in part)]


def _of_unknown(percent: dict[str, float]) -> list[str]:
    train = percent["train"]
    far = max(percent.values()) > max(FAR_ABOVE * train, train + FAR_ABOVE)
    if max(percent.values()) <= HIGH_PERCENT and not far:
        return []
    shares = ", ".join(f"{split} {value:.1f} %" for split, value in percent.items())
    return [
        f"many words are unknown: {shares}. They count as one word, {UNKNOWN}, so a perplexity gets lower the "
        "more of them there are: compare it only with perplexities of the same vocabulary, lower dataset.min_count, or "
        "add training text."
    ]


def _of_markup(words: Iterable[str]) -> list[str]:
    found = Counter(word for word in words if word not in (UNKNOWN, END) and MARKUP.fullmatch(word))
    if not found:
        return []
    listed = ", ".join(f"{word} ({count} times)" for word, count in found.most_common(5))
    return [
        f"the text has {listed}, which is read as a word like any other: write {UNKNOWN} for unknown words and {END} "
        "for the end of a sentence, and remove other markup."
    ]
