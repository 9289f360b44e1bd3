"""`ban help`: on one screen, complete and true; and completion in the shell."""

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from helpers import Say
from rich.console import Console

from ban.cli import COMMANDS, HYDRA_OPTIONS
from ban.commands import help as help_
from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.settings import files
from ban.settings.compose import CONF, compose_settings
from ban.training import build

INTERNAL = {"kind", "dataset_size", "hydra", "local"}
"""Groups whose files follow from other settings."""
DATA = {
    "mlp": ["dataset=breast_cancer"],
    "shallow_1200l_30k": ["dataset=cifar10"],
    "shuffle": [],
    "s": ["dataset=digits", "recipe=digits"],
}
"""Beginning of a network's name → the data on which its file counts the parameters; otherwise those that it chooses."""
ELSEWHERE = {"timm", "torchvision", "lstm_160"}
"""Networks of any size, and one whose file counts on a text that the machine's Python has."""


def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> Console:
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(help_, "console", console)
    return console


def test_the_help_fits_a_terminal_and_names_every_sub_command(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch, 80)
    with console.capture() as shown:
        help_.screen()
    text = shown.get()
    assert len(text.splitlines()) <= 23  # the prompt is a line too
    assert max(map(len, text.splitlines())) <= 80
    assert [name for name in COMMANDS if name not in text] == []


def test_the_names_in_the_help_exist() -> None:
    folders = {folder.name for folder in CONF.iterdir() if folder.is_dir()} - INTERNAL
    assert folders == help_.GROUPS.keys()
    for group, (_, names) in help_.GROUPS.items():
        for name in names.split(", "):
            assert name == "or any model" or (CONF / group / f"{name}.yaml").exists(), (group, name)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("group", help_.GROUPS)
def test_all_choices_are_listed(group: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch, width)
    with console.capture() as shown:
        help_.choices(group)
    text = "".join(shown.get().split())
    assert [name for name in files.files_of("model" if group == "teacher" else group) if name not in text] == []


def test_titles_and_sizes_are_those_of_the_networks() -> None:
    for name, path in files.files_of("model").items():
        if name in ELSEWHERE:
            continue
        words = next((words for start, words in DATA.items() if name.startswith(start)), [])
        stage = lineage(compose_settings([f"model={name}", *words, "method=labels", "generations=0"]))[0]
        meta = torch.device("meta")
        with meta:
            network = build.network(stage, 0, build.zero_spelling(stage, meta))
        count = sum(parameter.numel() for parameter in network.parameters())
        size, millions = files.size_of(path).replace(",", "").removesuffix(" M"), files.size_of(path).endswith("M")
        assert float(size) * (1e6 if millions else 1) == pytest.approx(count, rel=0.05), name
        assert files.title_of(path) == stage.model.title


def test_a_users_network_is_listed_too(say: Say, tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("# Mine: 7 parameters.\nname: mine\ntitle: Mine\n")
    assert "mine" in say("--config-dir", "own", "help", "model")
    assert "use: ban stages" in say("help", "stages")
    with pytest.raises(UserError, match="did you mean dataset"):
        help_.choices("datset")


def test_the_first_word_waits_for_no_large_import() -> None:
    code = "import sys, ban.__main__; print({'hydra', 'pydantic', 'numpy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_option_of_hydra_passes() -> None:
    from hydra._internal.utils import get_args_parser

    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert known - {"-h", "--help"} <= {*HYDRA_OPTIONS}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ban sta", "status stages"),
        ("ban stages sh", "show"),
        ("ban help mo", "model"),
        ("ban table met", "methods"),
        ("ban model=conv_", "model=conv_large"),
        ("ban stages ", "list show verify remove export import"),
        ("ban status ", ""),
    ],
)
def test_the_shell_completes_sub_commands_and_settings(
    line: str, found: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", f"{len(line)}")
    assert say("-sc", "query=bash").split() == found.split()
