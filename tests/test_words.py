"""Words of the command line mean the same everywhere, and choosing an alternative replaces what was there."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from helpers import DIGITS, Say, with_bases

from ban.commands.table import planned_jobs
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import CONF, compose_settings
from ban.settings.schema import Settings
from ban.settings.sweeps import jobs_of
from ban.settings.types import merged, plain
from ban.settings.words import read

WORDS = {
    "nothing": [],
    "a method": ["method=dkpp", "generations=2", "replica=1"],
    "the teacher's recipe": ["teacher.recipe=smoke_images", "recipe.epochs=3"],
    "its epochs": ["teacher.recipe.epochs=5", "recipe.optimizer.lr=0.2"],
    "its network": ["teacher=wrn_10_1", "teacher.model.width=2", "teacher.seed=3"],
    "a cohort": ["method=deep_mutual_learning", "+model@peers.a=wrn_10_1"],
    "another component": ["recipe.schedule={_target_: ban.schedules.Steps, milestones: [2], factor: 0.1}"],
    "the same component with fewer arguments": ["recipe.optimizer={_target_: torch.optim.SGD, lr: 0.05}"],
    "places of their own": ["method=deep_mutual_learning", "peers.a=wrn_10_1", "teacher.method=tolerant_teacher"],
    "a word that a later one changes": ["+method.data.unlabelled=false", "++method.data.unlabelled=true"],
    "a word that a later one replaces": ["recipe.epochs=3", "recipe.epochs=4", "recipe=tabular"],
    "a key that is left out": ["method=kd", "~method.terms.label"],
    "an interpolation": ["teacher.seed=${replica}", "replica=2"],
    "a term": ["method=kd", "method.terms.teacher.temperature=7.5"],
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_run_a_sweep_an_experiment_and_a_table_read_the_same_words(words: list[str], tmp_path: Path) -> None:
    given = [*DIGITS, *words]
    expected = signatures([compose_settings(given)])
    assert signatures(jobs_of(given)) == expected  # doctor, a sweep of one
    for jobs in jobs_of_experiment(given, tmp_path / "own"):
        assert signatures(jobs) == expected


@pytest.mark.parametrize("name", ["a word that a later one changes", "places of their own", "another component"])
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_the_command_reads_them_like_that_too(name: str, sweep: list[str], say: Say) -> None:
    printed = say(*sweep, *DIGITS, *WORDS[name], "dry_run=true")
    assert all(signature in printed for signature in signatures([compose_settings([*DIGITS, *WORDS[name]])]))


def jobs_of_experiment(given: Sequence[str], folder: Path) -> Iterator[list[Settings]]:
    """The jobs of an experiment's file with these words in a sweep, where a mapping can hold them, and of its table."""
    places = [word.partition("=")[0] for word in given]
    if len({place.lstrip("+") for place in places}) < len(places) or not all("=" in word for word in given):
        return
    product = dict(word.split("=", 1) for word in given)
    text = yaml.safe_dump({"hydra": {"mode": "MULTIRUN", "sweeper": {"sweeps": {"one": product}}}})
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    yield jobs_of(["experiment=mine"], folder)
    yield planned_jobs("mine", [], folder)


CHOICES = {
    "recipe": ["digits", "tabular", "demo_noise"],
    "method": ["ban", "ban_l", "kd"],
    "teacher.recipe": ["digits", "tabular", "mean_teacher"],
    "teacher.model": ["wrn_10_1", "small_conv"],
    "teacher.method": ["labels", "tolerant_teacher"],
}
"""Place → names of files that it may hold."""
VALUES = {
    "seed": [0, 3],
    "generations": [1, 2],
    "recipe.epochs": [4, 5],
    "recipe.schedule": [{"_target_": "ban.schedules.Constant"}, {"_target_": "ban.schedules.OneCycle", "warmup": 0.5}],
    "recipe.optimizer": [{"lr": 0.3}, {"_target_": "torch.optim.Adam", "lr": 1e-05, "betas": [0.5, 0.9]}],
    "teacher.recipe.epochs": [6, 7],
    "teacher.recipe.schedule": [{"_target_": "ban.schedules.Constant"}],
    "teacher.seed": [5],
    "dataset.label_noise": [0.1],
    "dataset.augmentation.flip": [True],
    "method.terms.teacher.weight": [0.5, {"_target_": "ban.schedules.Linear", "start": 4.0, "end": 1.0}],
}
"""Place → values that it may hold, as YAML has them."""


@pytest.mark.parametrize("seed", range(6))
def test_random_words_mean_the_same_in_any_order_and_in_a_file(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    chosen = {place: random.choice(CHOICES[place]) for place in random.sample([*CHOICES], 3)}
    values = {place: random.choice(VALUES[place]) for place in random.sample([*VALUES], 5)}
    given = [f"{place}={name}" for place, name in chosen.items()]
    given += [
        f"{place}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}" for place, value in values.items()
    ]
    expected = signatures([compose_settings([*DIGITS, *given])])
    random.shuffle(given)
    assert signatures(jobs_of([*DIGITS, *given])) == expected
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{as_file(chosen, values)}")
    rest = [word for word in DIGITS if word.partition("=")[0] not in chosen]
    assert signatures(jobs_of([*rest, "experiment=mine"], tmp_path)) == expected


def signatures(jobs: Sequence[Settings]) -> list[str]:
    return [stage.signature for job in jobs for stage in lineage(job)]


def as_word(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=200).splitlines()[0]


def as_file(chosen: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """The YAML of an experiment that chooses these files and sets these values."""
    groups = {place: place.rpartition(".")[2] + (f"@_global_.{place}" if "." in place else "") for place in chosen}
    content: dict[str, Any] = {"defaults": [{f"override /{groups[place]}": name} for place, name in chosen.items()]}
    for place, value in values.items():
        for key in reversed(place.split(".")):
            value = {key: value}
        content = merged(content, value)
    return yaml.safe_dump(content)


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


ADAM = {"_target_": "torch.optim.Adam", "lr": 0.01}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.02}
LOGITS = {"_target_": "ban.terms.Logits", "weight": 2.0}
RAMP = {"_target_": "ban.schedules.Linear", "start": 2.0, "end": 1.0}
REPLACED = {
    "recipe": ({"defaults": ["digits"], "name": "mine", "optimizer": ADAM}, "recipe.optimizer", ADAM),
    "recipe of the same class": ({"defaults": ["digits"], "name": "mine", "optimizer": SGD}, "recipe.optimizer", SGD),
    "method": ({"defaults": ["kd"], "name": "mine", "terms": {"teacher": LOGITS}}, "method.terms.teacher", LOGITS),
    "experiment": ({"recipe": {"schedule": RAMP}}, "recipe.schedule", RAMP),
    "experiment for the teacher": ({"teacher": {"recipe": {"optimizer": ADAM}}}, "teacher.recipe.optimizer", ADAM),
}
"""Group → a file of the user's that chooses a component, the component's place, and all that must be there."""


@pytest.mark.parametrize("name", REPLACED)
def test_a_component_replaces_what_another_file_has_there(name: str, tmp_path: Path) -> None:
    content, place, expected = REPLACED[name]
    group = name.partition(" ")[0]
    (tmp_path / group).mkdir()
    header = "# @package _global_\n" if group == "experiment" else ""
    (tmp_path / group / "mine.yaml").write_text(header + yaml.safe_dump(content))
    assert value_at(place, [*DIGITS, f"{group}=mine"], tmp_path) == expected
    assert value_at(place, [*DIGITS, "method=kd", f"{place}={as_word(expected)}"]) == expected


def value_at(place: str, words: Sequence[str], folder: Path | None = None) -> Any:
    value = plain(compose_settings(words, folder))
    for key in place.split("."):
        value = value[key]
    return value


def test_options_without_a_class_change_what_is_there() -> None:
    optimizer = compose_settings([*DIGITS, "recipe.optimizer={lr: 0.2}"]).recipe.optimizer
    assert optimizer["lr"] == 0.2 and optimizer["momentum"] == 0.9


@pytest.mark.parametrize(("place", "method"), [("teacher.models.a", "ban"), ("peers.a", "deep_mutual_learning")])
@pytest.mark.parametrize("form", ["{place}=wrn_10_1", "+{place}=wrn_10_1", "+model@{place}=wrn_10_1"])
def test_a_chosen_network_is_there_whole_and_alone(place: str, method: str, form: str, tmp_path: Path) -> None:
    network: Any = {"_target_": "ban.models.MLP", "name": "inline", "title": "Inline", "widths": [3], "dropout": 0.5}
    for key in reversed(place.split(".")):
        network = {key: network}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(network)}")
    alone = plain(compose_settings([*DIGITS, "model=wrn_10_1"]).model)
    for words, folder in (([], None), (["experiment=mine"], tmp_path)):
        given = [*DIGITS, f"method={method}", *words, form.format(place=place)]
        assert value_at(place, given, folder) == alone


@pytest.mark.parametrize("form", ["augmentation=crop", "augmentation@dataset.augmentation=crop"])
def test_an_augmentation_has_one_place(form: str) -> None:
    assert read(["dataset=folder", form]) == ["dataset=folder", "augmentation@dataset.augmentation=crop"]


@pytest.mark.parametrize("form", ["teacher.model=wrn_10_1", "+model@teacher.model=wrn_10_1"])
def test_the_teachers_network_is_replaced_not_merged(form: str) -> None:
    words = [*DIGITS, "teacher=conv_large", form, "teacher.model.width=2"]
    expected = plain(compose_settings([*DIGITS, "model=wrn_10_1", "model.width=2"]).model)
    assert value_at("teacher.model", words) == expected


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("teacher.recipe=nosuch", "there is no recipe 'nosuch'"),
        ("teacher.recipe.epohcs=3", "did you mean 'teacher.recipe.epochs'"),
    ],
)
def test_a_wrong_word_for_the_teacher(word: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compose_settings([*DIGITS, word])


def test_an_empty_mapping_is_refused_wherever_a_mapping_can_stand() -> None:
    settings = plain(compose_settings([*DIGITS, "method=fitnets"]))
    places = [*mappings(settings)]
    assert {"recipe", "recipe.optimizer", "method.terms.label", "dataset.augmentation", "teacher.recipe"} <= {*places}
    for place in places:
        with pytest.raises(UserError, match="would change nothing"):
            compose_settings([*DIGITS, "method=fitnets", f"{place}={{}}"])


def mappings(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield f"{prefix}{key}"
            yield from mappings(value, f"{prefix}{key}.")
