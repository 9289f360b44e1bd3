"""Every closed part of the settings refuses an unknown key, wherever it stands, with the nearest valid one."""

from pathlib import Path

import pytest
import yaml
from helpers import DIGITS, Say, files

from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings.compose import CONF, compose_settings
from ban.settings.types import RENAMED
from ban.training.rehearsal import rehearse_anew

MISSPELT = {
    "": "generation",
    "dataset.": "train_sise",
    "recipe.": "epoch",
    "method.": "reported_networks",
    "teacher.": "modle",
    "teacher.recipe.": "epoch",
    "teacher.method.": "cohrot",
    "machine.": "thread",
}
"""Closed part → a key that it does not have."""
NEAREST = {
    "generation": "generations",
    "train_sise": "train_size",
    "epoch": "epochs",
    "reported_networks": "reported_network",
    "modle": "model",
    "cohrot": "cohort",
    "thread": "threads",
}
PRETRAINED = ("method=fitnets", "model=wrn_10_1")


def refusal(*overrides: str, folder: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        compose_settings([*DIGITS, *overrides], folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize("part", MISSPELT)
def test_an_unknown_key_on_the_command_line(part: str, plus: str) -> None:
    key = MISSPELT[part]
    message = refusal(f"{plus}{part}{key}=1")
    assert f"there is no setting '{part}{key}': did you mean '{part}{NEAREST[key]}'?" in message


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_unknown_key_of_a_pre_training(plus: str) -> None:
    message = refusal(*PRETRAINED, f"{plus}method.pretrain.epoch=3")
    assert "there is no setting 'method.pretrain.epoch': did you mean 'method.pretrain.epochs'?" in message


GROUPS = {"dataset": "digits", "recipe": "digits", "method": "ban", "machine": "default"}


@pytest.mark.parametrize("group", GROUPS)
def test_an_unknown_key_in_a_file(group: str, tmp_path: Path) -> None:
    key = MISSPELT[f"{group}."]
    folder = tmp_path / group
    folder.mkdir()
    (folder / "mine.yaml").write_text(f"defaults: [{GROUPS[group]}]\n{key}: 1\n")
    message = refusal(f"{group}=mine", folder=tmp_path)
    assert message == f"there is no setting '{group}.{key}': did you mean '{group}.{NEAREST[key]}'?"


def test_an_unknown_key_of_a_pre_training_in_a_file(tmp_path: Path) -> None:
    method = yaml.safe_load((CONF / "method" / "fitnets.yaml").read_text())
    method["pretrain"]["epoch"] = 3
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(yaml.safe_dump(method))
    message = refusal("method=mine", "model=wrn_10_1", folder=tmp_path)
    assert message == "there is no setting 'method.pretrain.epoch': did you mean 'method.pretrain.epochs'?"


@pytest.mark.parametrize("launcher", ["local", "slurm"])
@pytest.mark.parametrize("plus", ["", "+"])
def test_an_unknown_key_of_a_launcher(plus: str, launcher: str, say: Say, tmp_path: Path) -> None:
    key, nearest = {"local": ("device", "devices"), "slurm": ("minute", "minutes")}[launcher]
    with pytest.raises(
        SystemExit, match=rf"there is no setting 'hydra\.launcher\.{key}': did you mean 'hydra\.launcher\.{nearest}'\?"
    ):
        say("-m", *DIGITS, f"hydra/launcher={launcher}", f"{plus}hydra.launcher.{key}=1")
    assert not files(tmp_path)


@pytest.mark.parametrize("key", ["teachers", "shares", "headline", "begin"])
def test_a_key_of_an_earlier_version_is_answered_with_its_new_name(key: str) -> None:
    assert refusal(f"+method.{key}=1") == f"there is no setting 'method.{key}': did you mean 'method.{RENAMED[key]}'?"
    assert f"method.{RENAMED[key]}'?" in refusal(f"method.{key}=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.teacher_count=two", "method.teacher_count is the text 'two'; it must be an integer."),
        ("+method.reported_network=[a]", 'method.reported_network is ["a"]; it must be a string.'),
        ("machine.threads=few", "machine.threads is the text 'few'; it must be an integer."),
        ("teacher.recipe=wrn", "teacher.recipe.batch_size=128 is larger than the training set of 100 examples"),
        ("recipe=3", "a file of settings is chosen by its name, for example recipe=wrn."),
    ],
)
def test_an_impossible_value_is_one_sentence(override: str, message: str) -> None:
    assert message in refusal(override)


@pytest.mark.parametrize(
    "part", ["model", "method.terms.teacher", "method.teacher", "recipe.optimizer", "recipe.schedule"]
)
def test_an_unknown_argument_of_a_class_is_refused_before_anything_is_trained(part: str) -> None:
    stages = lineage(compose_settings([*DIGITS, f"+{part}.wieght=1"]))
    with pytest.raises(UserError, match="unexpected keyword argument 'wieght'"):
        [rehearse_anew(stage) for stage in stages]


def test_a_null_argument_of_a_class_is_not_its_default() -> None:
    settings = compose_settings([*DIGITS, "model.width=null", "+method.terms.teacher.scale=null"])
    assert settings.model.constructor["width"] is None
    assert settings.method.terms["teacher"].constructor["scale"] is None


def test_an_unknown_key_is_refused_even_if_it_is_null() -> None:
    assert "did you mean 'method.cohort'?" in refusal("+method.cohrot=null")
