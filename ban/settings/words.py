"""The words of a command line as Hydra must get them. Runs, sweeps and sub-commands all read their words here.

Hydra merges mappings; for `ban`, choosing an alternative replaces what was there. So a word that chooses a file, or a
class and its arguments, becomes one or two words with that effect.
"""

import functools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from ban.errors import UserError

PLACES = {
    r"teacher\.(recipe|model|method)": None,
    r"(?:teacher\.models|peers)\.[^.]+": "model",
}
"""Pattern of a place that can hold a file of a group → the group; None: the one that the pattern matches."""
HOMES = {"augmentation": "dataset.augmentation"}
"""Group → the only place for its files, which need not be written."""
FILE_PARTS = ("dataset", "model")
"""Parts of the settings that are one component, so that they cannot be null in between."""
LISTED = r"teacher\.(recipe|model|method)"
"""Places that stand in the defaults of every teacher, so that choosing a file there takes no `+`."""
LIKE_THE_STUDENTS = re.compile(r"teacher\.(recipe|model)\.")
"""Beginnings of settings that a teacher has from the student unless they are set: they may be set though not there."""


def read(words: Sequence[str]) -> list[str]:
    """The words for Hydra, in their order. Reading them again has no further effect.

    - `teacher.recipe=NAME`, `+peers.a=NAME`, `augmentation=NAME` and the like choose a file.
    - `KEY={_target_: …}` forgets the value that KEY had.
    - `teacher.recipe.KEY=VALUE` and `teacher.model.KEY=VALUE` change what the teacher has from the student.

    Raises:
        UserError: a word has an empty mapping, which Hydra would merge without effect.
    """
    return [each for word in words for each in _read(word)]


def group_of(place: str | None) -> str | None:
    """The group whose files can be chosen for a place of its own, such as `teacher.recipe`; None: there is none."""
    for pattern, group in PLACES.items():
        if found := re.fullmatch(pattern, place or ""):
            return group or found[1]
    return None


@functools.lru_cache(4096)  # the products of an experiment sweep over the same seeds
def _read(word: str) -> list[str]:
    parsed = _parse(word)
    if parsed is None or parsed.is_delete():
        return [word]
    value = word.partition("=")[2]
    if parsed.package is None and (home := HOMES.get(parsed.key_or_group)):
        return [f"{'+' * parsed.is_add()}{parsed.key_or_group}@{home}={value}"]
    place = parsed.package or parsed.key_or_group
    group = group_of(place)
    if group and (parsed.package or _names_a_file(parsed)):
        listed = re.fullmatch(LISTED, place)
        plus = "" if listed or not (parsed.is_add() or parsed.package is None) else "+"
        return [f"{plus}{group}@{place}={value}"]
    key = parsed.key_or_group
    if not (parsed.is_sweep_override() or parsed.is_add()) and parsed.value() == {}:
        raise UserError(f"{word} would change nothing: name what to change, as in {key}.KEY=VALUE.")
    plus = "++" if LIKE_THE_STUDENTS.match(key) else _plus(parsed)
    if _is_component(parsed):
        before = f"~{key}" if key in FILE_PARTS else f"{plus and '++'}{key}=null"
        return [before, f"++{key}={value}"]
    return [f"{plus}{word.lstrip('+')}"]


def _parse(word: str) -> Override | None:
    """None: Hydra refuses the word."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _plus(word: Override) -> str:
    return {OverrideType.ADD: "+", OverrideType.FORCE_ADD: "++"}.get(word.type or OverrideType.CHANGE, "")


def _names_a_file(word: Override) -> bool:
    values = [*word.sweep_iterator()] if word.is_sweep_override() else [word.value()]
    return all(isinstance(value, str) for value in values)


def _is_component(word: Override) -> bool:
    """Whether its value is a class or function and its arguments."""
    value = None if word.is_sweep_override() else word.value()
    return isinstance(value, dict) and "_target_" in value
