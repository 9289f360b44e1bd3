"""`model.checkpointing=auto`: activations are recomputed where a training step does not fit, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import DIGITS, host

from ban.errors import UserError
from ban.events import Event, Warned
from ban.plan.lineage import lineage
from ban.plan.stage import Stage
from ban.settings.compose import compose_settings
from ban.settings.schema import Settings
from ban.training import build, memory
from ban.training import run as training
from ban.training.device import Device
from ban.training.memory import Allocations, StepMemory
from ban.training.signals import Signals

SMALL = (
    *("model=densenet_40_12", "model.units=2", "model.growth=4", "method=labels", "recipe.epochs=2"),
    *("recipe.batch_size=8", "recipe.steps_per_epoch=2", "recipe.optimizer.lr=0.01", "dataset.test_size=100"),
)


def settings_of(folder: Path, *words: str) -> tuple[Settings, Stage]:
    settings = compose_settings([*DIGITS, *SMALL, f"machine.outputs={folder}", *words])
    (stage,) = lineage(settings)
    return settings, stage


def trained(folder: Path, *words: str) -> tuple[dict[str, Any], list[str]]:
    """The result, and what was warned of."""
    settings, stage = settings_of(folder, *words)
    events = list[Event]()
    result: Any = training.run(stage, host(settings), events.append, Signals())
    return result, [event.text for event in events if isinstance(event, Warned)]


def test_a_step_that_does_not_fit_into_free_memory_recomputes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, warnings = trained(tmp_path / "stored")
    assert not warnings
    monkeypatch.setattr(memory, "free_memory", lambda device: 0.0)
    recomputed, warnings = trained(tmp_path / "recomputed")
    assert len(warnings) == 1 and "MiB, and 0 MiB are free" in warnings[0]
    assert "model.checkpointing=auto" in warnings[0]
    assert recomputed["signature"] == stored["signature"]
    assert recomputed["test_nll"] == pytest.approx(stored["test_nll"], rel=1e-4)


def test_after_an_out_of_memory_error_it_begins_again_and_recomputes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where nothing is estimated in advance."""
    step, checkpointing = build.training_step, list[object]()

    def fail_at_first(stage: Stage, *arguments: Any) -> Any:
        checkpointing.append(stage.model.checkpointing)
        if stage.model.checkpointing is not True:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(stage, *arguments)

    monkeypatch.setattr(memory, "fitted", lambda stage, device: (stage, ""))
    monkeypatch.setattr(training.build, "training_step", fail_at_first)
    _, warnings = trained(tmp_path)
    assert checkpointing == ["auto", True]
    assert len(warnings) == 1 and "does not fit into the memory of cpu" in warnings[0]
    with pytest.raises(UserError, match="does not fit into the memory of cpu: lower recipe"):
        trained(tmp_path / "stored", "model.checkpointing=false")


def test_nothing_is_estimated_for_a_gpu_or_a_network_without_the_setting(tmp_path: Path) -> None:
    _, dense = settings_of(tmp_path)
    _, small = settings_of(tmp_path, "model.checkpointing=false")
    assert memory.fitted(dense, Device("cuda")) == (dense, "")
    assert memory.fitted(small, Device("cpu")) == (small, "")


def test_the_setting_is_not_signed(tmp_path: Path) -> None:
    stages = [settings_of(tmp_path, f"model.checkpointing={value}")[1] for value in ("auto", "true", "false")]
    assert len({stage.signature for stage in [*stages, memory.decided(stages[0])]}) == 1


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_the_memory_of_a_step_is_that_of_real_tensors(checkpointing: str, tmp_path: Path) -> None:
    _, stage = settings_of(tmp_path, f"model.checkpointing={checkpointing}", "model.growth=12")
    with Allocations() as real:
        step = build.training_step(stage, lambda parent: torch.nn.Module(), Device("cpu"), None)
        batch = build.zero_batch(stage, torch.device("cpu"), stage.recipe.batch_size)
        for _ in range(2):
            step(batch, memory.START)
    assert real.peak <= StepMemory(stage).peak <= 1.1 * real.peak


def test_allocations_are_freed() -> None:
    with Allocations() as seen:
        first = torch.zeros(1000)
        second = first * 2
        del first
        third = second.view(10, 100)
        assert (seen.current, seen.peak) == (4000, 8000)
        del second, third
    assert (seen.current, seen.peak) == (0, 8000)
    assert seen.moved == 4000 + 8000  # written; read and written; a view moves nothing
