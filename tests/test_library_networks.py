"""Networks of torchvision and timm: the libraries' own weights, sizes and outputs, as networks of this package."""

import copy
import sys
from typing import Any

import pytest
import torch
from helpers import Say, Train, files, plan
from torch import nn

from ban.errors import UserError
from ban.interfaces import Output
from ban.models import Timm, Torchvision
from ban.settings.compose import compose_settings
from ban.training.arguments import check_arguments
from ban.training.rehearsal import fake_tensors, rehearse, run_step

TINY = ("recipe.epochs=1", "recipe.steps_per_epoch=2", "recipe.batch_size=8", "dataset.test_size=50")


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_of_resnet_18() -> None:
    with torch.device("meta"):
        assert count(Torchvision("resnet18", classes=1000)) == 11_689_512
        assert count(Torchvision("resnet18", small_images=True, classes=10)) == 11_173_962
        assert count(Torchvision("resnet18", classes=1000, channels=1)) == 11_689_512 - 2 * 7 * 7 * 64


@pytest.mark.parametrize(
    "name", ["alexnet", "densenet121", "googlenet", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"]
)
def test_published_parameter_counts(name: str) -> None:
    from torchvision.models import get_model_weights

    published = next(iter(get_model_weights(name))).meta["num_params"]
    with torch.device("meta"):
        auxiliary = 6_379_984 if name == "googlenet" else 0  # two classifiers, which are counted
        assert count(Torchvision(name, classes=1000)) == published - (0 if published < 7e6 else 0) or auxiliary


def own(library: str, name: str, **options: Any) -> nn.Module:
    """The library's own network."""
    if library == "timm":
        import timm

        return timm.create_model(name, num_classes=7, in_chans=3, **options)
    from torchvision import models

    return models.get_model(name, num_classes=7, **options)


@pytest.mark.parametrize(
    ("library", "name", "side"),
    [
        ("torchvision", "resnet18", 32),
        ("torchvision", "squeezenet1_1", 32),
        ("torchvision", "mobilenet_v3_small", 32),
        ("timm", "test_resnet", 32),
        ("timm", "test_vit", 160),
    ],
)
def test_weights_and_logits_are_the_librarys(library: str, name: str, side: int) -> None:
    torch.manual_seed(0)
    theirs = own(library, name)
    torch.manual_seed(0)
    ours = (Timm if library == "timm" else Torchvision)(name, classes=7)
    expected = {f"network.{key}": value for key, value in theirs.state_dict().items()}
    assert expected.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    images = torch.rand(3, 3, side, side)
    assert torch.equal(ours.eval()(images).logits, theirs.eval()(images))


CHANNELS = {
    "alexnet": [64, 192, 256],
    "convnext_tiny": [96, 192, 384, 768],
    "densenet121": [256, 512, 1024, 1024],
    "efficientnet_b0": [16, 24, 40, 80, 112, 192, 320],
    "googlenet": [480, 832, 1024],
    "mnasnet0_5": [16, 24, 40, 48, 96, 160],
    "mobilenet_v2": [16, 24, 32, 96, 320],
    "mobilenet_v3_small": [16, 24, 48, 96],
    "resnet18": [64, 128, 256, 512],
    "shufflenet_v2_x0_5": [48, 96, 192],
    "squeezenet1_0": [96, 256, 512, 512],
    "swin_t": [96, 192, 384, 768],
    "vgg11": [64, 128, 256, 512, 512],
}
