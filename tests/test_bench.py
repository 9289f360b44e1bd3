"""`ban bench`: what it measures is finite and adds up, and its references do what they are compared for."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import DIGITS, Say, plan
from torch import nn

from ban.bench import references
from ban.bench.gpu import TINY, Check, all_methods, is_failed, words_of
from ban.bench.measure import Measured, Product, describe
from ban.bench.references import InMemory, Reference, Script
from ban.bench.synthetic import without_download
from ban.commands.bench import DEFAULT
from ban.data.images import Images
from ban.interfaces import Output, TeacherOutput
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.training import build
from ban.training.costs import rehearse
from ban.training.device import Device
from ban.training.rehearsal import run_step
from ban.training.step import START

CPU = torch.device("cpu")
ALONE = (*DIGITS, "method=labels")


def data_of(*words: str) -> tuple[Any, Any]:
    settings = without_download(compose_settings(words))
    stage = lineage(settings)[-1]
    return stage, build.data(stage, settings.machine, CPU)


def reference(kind: type[Reference], *words: str) -> Reference:
    stage, data = data_of(*words)
    torch.manual_seed(0)
    network = build.network(stage, 0)
    teacher = build.network(stage.teachers[0].stage).eval() if stage.teachers else None
    batches = {
        Script: lambda: references.scripts_batches(stage, data, CPU, workers=0),
        InMemory: lambda: references.memorys_batches(stage, data, CPU),
    }
    return kind(stage, network, teacher, batches[kind]())


def test_a_setting_gives_finite_numbers_under_the_documented_keys(say: Say, tmp_path: Path) -> None:
    shown = say("bench", *ALONE, "rounds=2", "seconds=0", "json=bench.json")
    assert "Small-Conv, 8×8" in shown and "Written to bench.json" in shown
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {"device", "threads", "torch", "date", "load", "load_after", "rounds", "seconds"} < found.keys()
    (measured,) = found["settings"]
    assert measured.keys() == Measured.__annotations__.keys()
    rates = [value for value in measured.values() if isinstance(value, dict) and "rounds" in value]
    assert len(rates) == 12
    for rate in rates:
        assert len(rate["rounds"]) == 2
        assert 0 < rate["low"] <= rate["median"] <= rate["high"] < math.inf
    assert min(measured["memory_mib"].values()) > 0 and measured["memory_mib"].keys() == {"ban", "script", "in_memory"}
    rounds = zip(*(measured[name]["rounds"] for name in ("times_script", "ban", "script")), strict=True)
    assert all(times == pytest.approx(ban / script) for times, ban, script in rounds)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("rounds=0", "rounds is 0; it must be a whole number from 1 to 1000."),
        ("rounds=two", "rounds is two; it must be a whole number"),
        ("seconds=-1", "seconds is -1; it must be a number from 0 to 3600."),
        ("seconds=nan", "seconds is nan; it must be a number"),
        ("startup=yes", "startup is yes; it must be true or false."),
        ("json=", "json is empty; it must be the name of a file."),
        ("json=nowhere/a.json", "there is no folder nowhere."),
        ("round=3", "there is no option round: did you mean rounds?"),
        ("model=wrn_16_9", "did you mean"),
        ("fast", "use: ban bench"),
    ],
)
def test_bad_words_are_refused(word: str, sentence: str, say: Say, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=sentence.replace("?", r"\?")):
        say("bench", word)
    assert not [*tmp_path.iterdir()]


def test_the_common_settings_need_no_download() -> None:
    stages = [lineage(without_download(compose_settings(words)))[-1] for words in DEFAULT]
    assert all(stage.dataset.mirrors is None and references.refusal(stage) is None for stage in stages)
    assert len({describe(stage) for stage in stages}) == len(DEFAULT)


class Convolution(nn.Module):
    """One 3×3, a mean over the image, and a linear layer."""

    def __init__(self, width: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(channels, width, 3, padding=1), nn.Linear(width, classes)

    def forward(self, inputs: torch.Tensor, state: Any = None, until: str | None = None) -> Output:
        return Output(self.linear(self.conv(inputs).mean((2, 3))), {})


def test_the_operations_are_those_of_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ban.models.SmallConv", Convolution)
    convolution, linear = 8 * 8 * 9 * 1 * 8, 8 * 10  # pixels × kernel × channels in × channels out
    (alone,), taught = plan("method=labels"), plan("method=kd")[-1]
    assert run_step(alone, "cpu").training_flops == 3 * 2 * (convolution + linear)  # the backward pass counts twice
    assert run_step(taught, "cpu").training_flops == 4 * 2 * (convolution + linear)


@pytest.mark.parametrize("kind", [Script, InMemory])
def test_a_reference_learns(kind: type[Reference]) -> None:
    loop = reference(kind, *ALONE)
    counts = [loop.train(0).amount for _ in range(90)]
    assert set(counts) == {32}
    first, last = sum(loop.losses[:9]), sum(loop.losses[-9:])
    assert first / 9 == pytest.approx(math.log(10), rel=0.2)
    assert last < 0.8 * first


def test_a_references_loss_is_the_products() -> None:
    stage, data = data_of(*DIGITS, "method=kd", "dataset.augmentation.pad=0")
    loop = reference(InMemory, *DIGITS, "method=kd", "dataset.augmentation.pad=0")
    batch = next(data.epoch(stage.stream_key, 0))
    objective = build.objective(stage)
    loop.network.eval()
    with torch.no_grad():
        taught = loop.teacher(batch.views[0]).logits
        terms = objective(loop.network(batch.views[0]), TeacherOutput(logits=taught), batch, START)
    assert loop.step(batch.views[0], batch.targets).item() == pytest.approx(sum(terms.values()).item(), rel=1e-5)


def test_all_see_each_training_image_once_in_an_epoch() -> None:
    words = (*ALONE, "dataset.train_size=96", "dataset.augmentation.pad=0")
    stage, data = data_of(*words)
    assert isinstance(data, Images)
    whole = sorted(pixels(image) for batch in data.evaluation("train") for image in batch.views[0])
    sources = (
        references.scripts_batches(stage, data, CPU, workers=0),
        references.memorys_batches(stage, data, CPU),
        ((batch.views[0], batch.targets) for batch in data.epoch(stage.stream_key, 0)),
    )
    for source in sources:
        epoch = [next(source) for _ in range(3)]
        assert [len(targets) for _, targets in epoch] == [32, 32, 32]
        assert sorted(pixels(image) for inputs, _ in epoch for image in inputs) == whole


def pixels(image: torch.Tensor) -> list[int]:
    """Of a digit, in the 17 grey values that it is stored in."""
    return (16 * image).round().int().flatten().tolist()


def test_a_round_of_the_product_goes_on_where_the_last_one_ended() -> None:
    settings = compose_settings(ALONE)
    stage, data = lineage(settings)[-1], data_of(*ALONE)[1]
    product = Product(stage, settings.machine, Device.of(settings.machine), data)
    assert [product.train(0).amount for _ in range(5)] == [32] * 5
    assert product.training.state.steps == 5
    assert product.training.state.progress.epoch == 1  # three steps are an epoch


@pytest.mark.long
def test_the_check_of_a_gpu_can_train_every_method_on_images() -> None:
    """None is refused there, such as one that compares layers which the network does not have."""
    for name in all_methods():
        for stage in lineage(compose_settings(words_of(name, "images"))):
            rehearse(stage)


def test_the_check_of_a_gpu_runs_at_tiny_sizes_without_one(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ban.commands.bench.TINY", (tiny := replace(TINY, stages_per_device=())))
    monkeypatch.setattr("ban.bench.gpu.TINY", tiny)
    assert "the same code runs at tiny sizes" in say("bench", "gpu", "machine.device=cpu", "machine.threads=1")
    found = json.loads((tmp_path / "gpu-check.json").read_text())["parts"]
    assert [name for name, part in found.items() if is_failed(part)] == []
    assert found["methods"]["rows"] == [{"method": "kd", "kind": "images", "outcome": "trained", "why": ""}]
    (exact,) = found["exactness"]["rows"]
    assert exact["repeated: same bits"] and exact["resumed: same bits"]
    stored, recomputed = (float(row["expected MiB"]) for row in found["memory"]["rows"])
    assert recomputed < stored
    assert [row["stage"].partition(",")[0] for row in found["lineage"]["rows"]] == ["Teacher", "BAN-1"]
    page = (tmp_path / "gpu-check.md").read_text()
    assert all(f"## {name.capitalize()} (" in page for name in found)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("rounds=3", "takes folder=DIR and settings of the machine, not rounds=3"),
        ("folder=no", "there is no folder no"),
    ],
)
def test_bad_words_of_the_check_are_refused(word: str, sentence: str, say: Say) -> None:
    with pytest.raises(SystemExit, match=sentence):
        say("bench", "gpu", word)


def test_a_part_of_the_check_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(check: Check) -> None:
        raise RuntimeError("no such kernel")

    names = ("methods", "exactness", "tests", "speed", "memory", "compilation", "stages_per_device", "lineage")
    for name in names:
        monkeypatch.setattr(Check, name, fail)
    found = Check(compose_settings(["machine.device=cpu"]).machine, TINY, lambda _: None).run()["parts"]
    assert len(found) == len(names)
    assert all(part["failed_with"] == "RuntimeError: no such kernel" and is_failed(part) for part in found.values())
