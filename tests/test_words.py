"""Words of the command line mean the same everywhere, and choosing an alternative replaces what was there."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from helpers import DIGITS, Say, with_bases

from ban.commands.table import planned_jobs
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import CONF, compose_settings
from ban.settings.sweeps import jobs_of
from ban.settings.types import plain

WORDS = {
    "nothing": [],
    "a method": ["method=dkpp", "generations=2", "replica=1"],
    "the teacher's recipe": ["teacher.recipe=smoke_images", "recipe.epochs=3"],
    "its epochs": ["teacher.recipe.epochs=5", "recipe.optimizer.lr=0.2"],
    "its network": ["teacher=wrn_10_1", "teacher.model.width=2", "teacher.seed=3"],
    "a cohort": ["method=deep_mutual_learning", "+model@peers.a=wrn_10_1"],
    "another component": ["recipe.schedule={_target_: ban.schedules.Steps, milestones: [2], factor: 0.1}"],
    "a term": ["method=kd", "method.terms.teacher.temperature=7.5"],
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_run_a_sweep_an_experiment_and_a_table_read_the_same_words(
    words: list[str], say: Say, tmp_path: Path
) -> None:
    given = [*DIGITS, *words]
    expected = [stage.signature for stage in lineage(compose_settings(given))]
    assert [stage.signature for job in jobs_of(given) for stage in lineage(job)] == expected  # doctor, a sweep of one
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    product = dict(word.split("=", 1) for word in given)
    text = yaml.safe_dump({"hydra": {"mode": "MULTIRUN", "sweeper": {"sweeps": {"one": product}}}})
    (folder / "mine.yaml").write_text(f"# @package _global_\n{text}")
    for jobs in (jobs_of(["experiment=mine"], folder.parent), planned_jobs("mine", [], folder.parent)):
        assert [stage.signature for job in jobs for stage in lineage(job)] == expected
    for printed in (say(*given, "dry_run=true"), say("-m", *given, "dry_run=true")):
        assert all(signature in printed for signature in expected)


def test_a_teacher_has_the_chosen_recipe_whole_and_nothing_else() -> None:
    common = [*DIGITS, "recipe.batch_size=5", "teacher.recipe.batch_size=5"]
    recipes = [path.stem for path in sorted((CONF / "recipe").glob("*.yaml")) if is_for_images(path)]
    settings = [
        compose_settings([*common, f"recipe={first}", f"teacher.recipe={second}"])
        for first, second in pairwise([*recipes, recipes[0]])
    ]
    students = {each.recipe.name: each.recipe for each in settings}
    assert [*students] == recipes and len(recipes) > 5
    assert all(each.teacher.recipe == students[each.teacher.recipe.name] for each in settings)
    assert [each.teacher.recipe.name for each in settings] == [*recipes[1:], recipes[0]]


def is_for_images(recipe: Path) -> bool:
    """Without the cuts of a text, and not for rows only."""
    return "unroll" not in with_bases(recipe) and "tabular" not in recipe.stem


def test_the_teachers_recipe_is_the_students_with_changes() -> None:
    settings = compose_settings([*DIGITS, "recipe.epochs=7", "teacher.recipe.batch_size=5"])
    assert plain(settings.teacher.recipe) == plain(settings.recipe) | {"batch_size": 5}
    assert settings.recipe.epochs == 7


def test_a_component_replaces_another_and_changes_its_own_kind(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    adam = {"defaults": ["digits"], "name": "mine", "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01}}
    (tmp_path / "recipe" / "mine.yaml").write_text(yaml.safe_dump(adam))
    recipe = compose_settings([*DIGITS, "recipe=mine"], tmp_path).recipe
    assert recipe.optimizer == adam["optimizer"] and recipe.epochs == 300
    schedule = "{_target_: ban.schedules.Steps, milestones: [2], factor: 0.5}"
    settings = compose_settings([*DIGITS, f"recipe.schedule={schedule}"])
    assert settings.recipe.schedule == yaml.safe_load(schedule)
    settings = compose_settings([*DIGITS, "recipe.optimizer={lr: 0.2}"])
    assert settings.recipe.optimizer["lr"] == 0.2 and settings.recipe.optimizer["momentum"] == 0.9


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("teacher.recipe=nosuch", "there is no recipe 'nosuch'"),
        ("teacher.recipe.epohcs=3", "did you mean 'epochs'"),
    ],
)
def test_a_wrong_word_for_the_teacher(word: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compose_settings([*DIGITS, word])


LAYERS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))
FILES = {
    "not UTF-8": (b"name: caf\xe9\n", "not UTF-8"),
    "not YAML": (b"name: [\n", "is not YAML"),
    "an alias bomb": (f"a0: &a0 [1]\n{LAYERS}\n".encode(), "aliases"),
    "deep nesting": (b"a: " + b"[" * 5000 + b"]" * 5000, "maximum nesting depth|within each other"),
    "extends itself": (b"defaults: [mine]\nname: mine\n", "leads back to that file"),
    "extends in a circle": (b"defaults: [other]\nname: mine\n", "leads back to that file"),
    "defaults are no list": (b"defaults: digits\n", "defaults list that is not one"),
    "an odd default": (b"defaults: [[digits]]\n", "defaults list that is not one"),
    "null as a key": (b"null: 1\n", "the key null"),
    "a switch as a key": (b"optimizer: {yes: 1}\n", "the key yes"),
    "a list": (b"- 1\n", "KEY: VALUE"),
    "a number": (b"3\n", "KEY: VALUE"),
    "too large": (b"# " + b"x" * 2**20 + b"\n", "larger than 1000000 bytes"),
}


@pytest.mark.parametrize("group", ["recipe", "experiment"])
@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
def test_a_bad_file_is_named_before_anything_is_read(content: bytes, reason: str, group: str, tmp_path: Path) -> None:
    folder = tmp_path / group
    folder.mkdir()
    (folder / "mine.yaml").write_bytes(content)
    (folder / "other.yaml").write_bytes(b"defaults: [mine]\nname: other\n")
    with pytest.raises(UserError, match=reason) as refusal:
        compose_settings([*DIGITS, f"{group}=mine"], tmp_path)
    assert re.search("(mine|other).yaml", str(refusal.value)) and "\n" not in str(refusal.value)


def test_a_file_may_not_hide_behind_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "kd.yaml").write_text("defaults: [ban]\nname: kd\n")
    with pytest.raises(UserError, match="has the same name"):
        compose_settings(DIGITS, tmp_path)
