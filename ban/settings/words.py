"""The words of a command line, of a sweep and of `ban table`, read in one way before Hydra sees them."""

import re
from collections.abc import Iterable

from ban.errors import UserError


def read(words: Iterable[str]) -> list[str]:
    """The words as Hydra understands them.

    `teacher.recipe=NAME` chooses a file, and `teacher.recipe.epochs=5` changes one setting of the teacher's recipe,
    which is the student's unless a file was chosen. The same holds for `teacher.model.width=2`.

    Raises:
        UserError: a file is chosen where another setting chooses it.
    """
    return [_read(word) for word in words]


def _read(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if re.fullmatch(r"teacher\.(recipe|model)\.[^@]+", key):
        return f"++{word}"
    if key in ("teacher.recipe", "teacher.model") and re.fullmatch(r"[\w,-]+", value) and value != "null":
        if key == "teacher.model":
            raise UserError(f"the teacher's network is chosen with teacher={value}.")
        return f"+recipe@teacher.recipe={value}"
    return word
