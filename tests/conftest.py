import gc
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from helpers import KINDS, Say, Train, host, quiet

from ban.cli import main
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.training.run import run
from ban.training.signals import Signals


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SLURM's tests first, by one worker: they wait for minutes, while the others compute."""
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)
    gc.collect()
    gc.freeze()  # each training ends with a collection, which need not look through all modules and tests


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test's commands remember of the code, which tests change, is nothing to the others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{uuid4().hex}"))


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains a lineage in this process, in a store of the test's own, and gives the results."""

    def trained(*overrides: str, kind: str = "images") -> list[dict[str, Any]]:
        settings = compose_settings([*KINDS[kind], f"machine.outputs={tmp_path}", *overrides])
        return [run(stage, host(settings), quiet, Signals()) for stage in lineage(settings)]

    return trained


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
