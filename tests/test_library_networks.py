"""Networks of torchvision and timm: they are the library's, and every method works with them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers import DIGITS, Train, host, quiet
from torch import nn

from ban.errors import UserError
from ban.inference.program import Program
from ban.inference.trained import load
from ban.models import Timm, Torchvision
from ban.models.head import Head
from ban.plan.lineage import lineage
from ban.settings.compose import compose_settings
from ban.store.store import Store
from ban.training.rehearsal import rehearse
from ban.training.run import run
from ban.training.signals import Signals

SMALL = ["model=torchvision", "model.small_images=true"]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_are_the_published_ones() -> None:
    """He et al. 2016; the small stem as in public code for CIFAR."""
    assert parameters(Torchvision("resnet18", classes=1000)) == 11_689_512
    assert parameters(Torchvision("resnet18", small_images=True, classes=10)) == 11_173_962


@pytest.mark.parametrize(
    "architecture", ["resnet18", "densenet121", "regnet_y_400mf", "mobilenet_v3_small", "squeezenet1_1", "googlenet"]
)
def test_outputs_are_the_librarys(architecture: str) -> None:
    ours = Torchvision(architecture, classes=7).eval()
    options = {"init_weights": True, "aux_logits": False} if architecture == "googlenet" else {}
    theirs = torchvision.models.get_model(architecture, num_classes=7, **options).eval()
    theirs.load_state_dict(ours.network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images))


STAGES = {
    "resnet18": [64, 128, 256, 512],
    "densenet121": [256, 512, 1024, 1024],
    "regnet_y_400mf": [48, 104, 208, 440],
    "mobilenet_v3_small": [16, 16, 24, 48, 576],
}


@pytest.mark.parametrize("architecture", STAGES)
def test_stages_are_features(architecture: str) -> None:
    network = Torchvision(architecture, classes=7).eval()
    features: Any = network(torch.randn(2, 3, 64, 64)).features
    found = [features[f"stage{number}"] for number in range(1, len(STAGES[architecture]) + 1)]
    assert [each.shape[1] for each in found] == STAGES[architecture]
    sides = [each.shape[2] for each in found]
    assert sides == sorted(sides, reverse=True)
    until = network(torch.randn(2, 3, 64, 64), until="stage2")
    assert "stage2" in until.features and "stage3" not in until.features


def test_timm_has_stages_too() -> None:
    network = Timm("resnet10t", classes=7).eval()
    output = network(torch.randn(2, 3, 64, 64))
    assert [output.features[f"stage{k}"].shape[1] for k in (1, 2, 3, 4)] == [64, 128, 256, 512]
    assert output.logits.shape == (2, 7)
    assert Timm("resnet10t", small_images=True, classes=7, channels=1)(torch.randn(2, 1, 16, 16)).logits.shape == (2, 7)


def test_copies_record_their_own_features() -> None:
    network = Torchvision("resnet18", small_images=True, classes=3).eval()
    copied = copy.deepcopy(network)
    nn.init.zeros_(copied.network.layer1[1].bn2.weight)
    images = torch.randn(2, 3, 8, 8)
    ours, theirs = network(images).features, copied(images).features
    assert ours is not None and theirs is not None and not torch.equal(ours["stage1"], theirs["stage1"])


def test_the_last_layer_computes_in_fp32() -> None:
    network = Torchvision("resnet18", small_images=True, classes=3).eval()
    assert isinstance(network.network.fc, Head)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(2, 3, 8, 8)).logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("model.architecture=resnet19", "torchvision has no classifier 'resnet19': did you mean resnet18"),
        ("model.architecture=fcos_resnet50_fpn", "torchvision has no classifier"),
        ("model.architecture=convnext_tiny", "cuts images into patches of 4×4"),
        ("model.architecture=inception_v3", "inception_v3 cannot compute with images of 8×8 pixels"),
        ("+model.options={nosuch: 1}", "nosuch"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        rehearse(lineage(compose_settings([*DIGITS, *SMALL, "method=labels", words.replace("+model", "model")]))[0])
    assert "\n" not in f"{refused.value}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "method", ["ban", "ban_l", "cwtm", "dkpp", "kd", "fitnets", "fsp", "mean_teacher", "deep_mutual_learning"]
)
def test_every_method_runs_a_step(method: str, device: str, precision: str) -> None:
    words = [*DIGITS, *SMALL, f"method={method}", f"recipe.precision={precision}", "dataset.labelled=null"]
    words += ["dataset.labelled=40"] if method == "mean_teacher" else []
    for stage in lineage(compose_settings(words)):
        rehearse(stage, device)


def test_random_depth_resumes_bit_for_bit(tmp_path: Path) -> None:
    """A network with dropout and stochastic depth, stopped in the middle."""
    words = [*DIGITS, "model=torchvision", "model.architecture=mobilenet_v3_small", "model.small_images=true"]
    words += ["method=labels", "recipe.epochs=2", "machine.checkpoint_seconds=0"]
    found = []
    for name, stops in (("whole", 0), ("stopped", 3)):
        settings = compose_settings([*words, f"machine.outputs={tmp_path / name}"])
        (stage,) = lineage(settings)
        signals = Stopping(stops)
        while stops and not Store(tmp_path / name).has(stage.signature):
            try:
                run(stage, host(settings), quiet, signals)
            except Exception as error:
                assert type(error).__name__ == "Interrupted"
                signals = Stopping(0)
        run(stage, host(settings), quiet, Signals())
        found.append((tmp_path / name / "stages" / stage.signature / "weights.safetensors").read_bytes())
    assert found[0] == found[1]


class Stopping(Signals):
    """Stops a training after some checks."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def check(self) -> None:
        from ban.errors import Interrupted

        if self.left:
            self.left -= 1
            if not self.left:
                raise Interrupted(15)


def test_a_born_again_resnet_is_trained_loaded_and_exported(train: Train, tmp_path: Path) -> None:
    results = train("model=torchvision", "model.small_images=true", "method=ban", "recipe.epochs=1")
    stage = load(Store(tmp_path), results[-1]["signature"])
    assert results[-1]["model_title"] == "resnet18" and results[-1]["parameters"] == 11_172_810
    program = Program(stage)
    program.save(tmp_path / "model.pt2")
    (images,) = program.inputs(3)
    exported = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(exported(images), program.module(images))
