import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ban.cli import main
from ban.data.images import Images
from ban.events import Event
from ban.interfaces import TeacherContext
from ban.plan.lineage import lineage
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.store.store import Store
from ban.teachers import Frozen
from ban.training import build
from ban.training.device import Device
from ban.training.signals import Signals
from ban.training.stage import Host, run

DIGITS = ("dataset=digits", "model=small_conv", "recipe=digits", "machine.threads=1", "machine.device=cpu")
"""A training of about a second."""
TEXT = Path(__file__).parent / "text.txt"
"""4,000 words of a made-up language: 60 words, each followed by one of three most of the time."""
LANGUAGE = (
    *("dataset=text", f"dataset.path={TEXT}", "model=lstm_small", "model.units=32", "recipe=budget_language"),
    *("recipe.batch_size=5", "machine.threads=1", "machine.device=cpu"),
)
"""The same for words."""
ROWS = (
    *("dataset=digits_features", "dataset.train_size=100", "model=mlp_16"),
    *("machine.threads=1", "machine.device=cpu"),
)
"""The same for rows of features."""
KINDS = {"images": DIGITS, "language": LANGUAGE, "tabular": ROWS}

Train = Callable[..., list[dict[str, Any]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SLURM's tests first, by one worker: they wait for minutes, while the others compute."""
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def plan(*overrides: str, kind: str = "images") -> list[Stage]:
    return lineage(compose_settings([*KINDS[kind], *overrides]))


def host(settings: Settings) -> Host:
    """This process, with the settings' machine and store."""
    return Host(settings.machine, Device.of(settings.machine), Store(settings.machine.outputs))


def digits_of(*overrides: str) -> Images:
    """The data of a plan's last stage."""
    settings = compose_settings([*DIGITS, *overrides])
    return build.data(lineage(settings)[-1], settings.machine, torch.device("cpu"))  # pyright: ignore


def frozen(*networks: nn.Module, **options: Any) -> Frozen:
    """Trained networks as a teacher."""
    return Frozen(TeacherContext(networks, [], 0, 0), **options)


def quiet(event: Event) -> None:
    """A report that nobody reads."""


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains a lineage in this process, in a store of the test's own, and gives the results."""

    def trained(*overrides: str, kind: str = "images") -> list[dict[str, Any]]:
        settings = compose_settings([*KINDS[kind], f"machine.outputs={tmp_path}", *overrides])
        return [run(stage, host(settings), quiet, Signals()) for stage in lineage(settings)]

    return trained


Say = Callable[..., str]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """What `ban` prints, in the test's folder and in this process, which has loaded torch already."""

    def said(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ban", *arguments])
        capsys.readouterr()  # what a refused command printed before
        main()
        return capsys.readouterr().out

    return said


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ban", *arguments]


def ban(*arguments: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The real command in a real process."""
    done = subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("HYDRA_", "BAN_"))} | more


def weights(outputs: Path, signature: str) -> bytes:
    return (outputs / "stages" / signature / "weights.safetensors").read_bytes()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, like a terminal's."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    words = command(*arguments)
    return subprocess.Popen(words, cwd=folder, text=True, env=environment(), process_group=0, **pipes)


def wait_for(folder: Path, pattern: str, lines: int = 0) -> None:
    """Until there is such a file, with so many lines."""
    deadline = time.monotonic() + 120
    while not any(_lines(path) >= lines for path in folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear in {folder}"
        time.sleep(0.005)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:  # renamed or published meanwhile
        return -1
