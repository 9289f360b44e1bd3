"""Broken files of the user's, wherever files are read, and files that hide each other."""

import time
from pathlib import Path

import pytest
from helpers import DIGITS, Say, files

from ban.errors import UserError
from ban.settings.compose import CONF, compose_settings

LAYERS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))
BROKEN = {
    "not UTF-8": (b"name: caf\xe9\n", "is not UTF-8 (byte 9): save it as UTF-8"),
    "not YAML": (b"name: [\n", "is not YAML"),
    "control characters": (b"name: \x01\n", "is not YAML"),
    "a key twice": (b"seed: 1\nseed: 2\n", "found duplicate key seed"),
    "a tag that runs code": (b"a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    "an alias bomb": (f"a0: &a0 [1]\n{LAYERS}\n".encode(), "values with its aliases"),
    "an alias within its anchor": (b"a: &a {b: *a}\n", "values with its aliases"),
    "deep nesting": (b"a: " + b"[" * 900 + b"]" * 900, "has over 50 levels"),
    "itself as a default": (b"defaults: [{name}]\n", "leads back to that file"),
    "a circle of defaults": (b"defaults: [other]\n", "leads back to that file"),
    "defaults that are no list": (b"defaults: digits\n", "wrong entry in its defaults list"),
    "a list in defaults": (b"defaults: [[digits]]\n", "wrong entry in its defaults list"),
    "a number in defaults": (b"defaults: [3]\n", "wrong entry in its defaults list"),
    "two groups in one default": (b"defaults: [{recipe: digits, model: x}]\n", "wrong entry in its defaults list"),
    "null as a key": (b"null: 1\n", "has the key null in line 1: put names in quotes"),
    "a switch as a key": (b"optimizer: {yes: 1}\n", "has the key yes in line 1"),
    "a list as a key": (b"? [a]\n: 3\n", "has the key a list or a mapping"),
    "a list": (b"- 1\n", "must consist of lines KEY: VALUE"),
    "a number": (b"3\n", "must consist of lines KEY: VALUE"),
    "too large": (b"# " + b"x" * 2**20 + b"\n", "larger than 1000000 bytes"),
    "an open interpolation": (b"a: ${\n", "is not possible"),
    "an unknown interpolation": (b"seed: ${nowhere}\n", "nowhere"),
    "an interpolation of itself": (b"epochs: ${.epochs}\n", ""),
    "no terms": (b"name: x\ntitle: X\nterms: {}\n", ""),
}
PLACES = {
    "recipe/mine": "recipe=mine",
    "method/mine": "method=mine",
    "model/mine": "teacher=mine",
    "experiment/mine": "experiment=mine",
    "local/default": "seed=0",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_in_one_sentence(kind: str, place: str, tmp_path: Path) -> None:
    content, reason = BROKEN[kind]
    path = tmp_path / f"{place}.yaml"
    path.parent.mkdir()
    path.write_bytes(content.replace(b"{name}", path.stem.encode()))
    (path.parent / "other.yaml").write_text(f"defaults: [{path.stem}]\n")
    start = time.process_time()
    with pytest.raises(UserError) as refusal:
        compose_settings([*DIGITS, PLACES[place]], tmp_path)
    message = str(refusal.value)
    assert reason in message and len(message) > 20 and "\n" not in message
    assert str(path.parent) in message or "interpolation" in kind or not reason
    assert time.process_time() - start < 3


def test_nothing_is_written_after_a_broken_file(say: Say, tmp_path: Path) -> None:
    own = tmp_path / "own" / "recipe"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_bytes(BROKEN["a circle of defaults"][0])
    (own / "other.yaml").write_text("defaults: [mine]\n")
    for words in ([], ["-m"], ["doctor"], ["table"]):
        with pytest.raises(SystemExit, match="leads back to that file"):
            say("--config-dir", str(own.parent), *words, *DIGITS, "recipe=mine")
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("place", ["method/terms", "recipe/optimizer", "dataset/augmentation"])
def test_an_empty_mapping_that_changes_nothing_is_refused(place: str, tmp_path: Path) -> None:
    group, key = place.split("/")
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(
        f"defaults: [{ {'method': 'ban'}.get(group, 'digits') }]\n{key}: {{}}\n"
    )
    with pytest.raises(UserError, match=rf"`{key}: {{}}` in a file would change nothing"):
        compose_settings([*DIGITS, f"{group}=mine"], tmp_path)


GROUPS = sorted({str(path.parent.relative_to(CONF)) for path in CONF.rglob("*/*.yaml")} - {"local"})


@pytest.mark.parametrize("group", [*GROUPS, "teacher of a network"])
def test_a_file_may_not_hide_behind_a_shipped_one(group: str, tmp_path: Path) -> None:
    name = "wrn_10_1" if " " in group else next((CONF / group).glob("*.yaml")).stem
    folder = tmp_path / group.partition(" ")[0]
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match=r"which has the same name: rename or remove one of them\.") as refusal:
        compose_settings(DIGITS, tmp_path)
    assert str(folder / f"{name}.yaml") in str(refusal.value)


def test_files_beside_the_groups_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "config.yaml", tmp_path / "data" / "wrn.yaml"):
        path.write_bytes(BROKEN["not UTF-8"][0])
    assert compose_settings(DIGITS, tmp_path) == compose_settings(DIGITS)
