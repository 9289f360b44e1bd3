"""Networks of torchvision and timm: the libraries' own sizes, weights and outputs, in the form of this package."""

import copy
import importlib.metadata
import logging
import sys
from pathlib import Path

import pytest
import timm
import torch
from helpers import DIGITS, Say, Train, files, plan
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torchvision import models

from ban.models import Timm, Torchvision
from ban.training import build
from ban.training.rehearsal import fake_tensors, run_step

LIBRARIES = {"torchvision": Torchvision, "timm": Timm}
METHODS = ("ban", "ban_l", "cwtm", "dkpp", "fitnets", "fsp", "mean_teacher", "deep_mutual_learning")
SMALL = ("model=torchvision", "model.small_images=true")
TINY = ("model=timm", "model.architecture=test_resnet", "recipe.epochs=1", "recipe.steps_per_epoch=2")


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_of_resnet_18() -> None:
    with torch.device("meta"):
        assert count(Torchvision("resnet18", classes=1000)) == 11_689_512
        assert count(Torchvision("resnet18", small_images=True, classes=10)) == 11_173_962
        assert count(Torchvision("resnet18", classes=1000, channels=1)) == 11_689_512 - 2 * 64 * 7 * 7


@pytest.mark.parametrize("name", ["alexnet", "efficientnet_b0", "googlenet", "squeezenet1_1", "swin_t", "vit_b_32"])
def test_parameter_counts_that_torchvision_prints(name: str) -> None:
    """GoogLeNet's is without its auxiliary classifiers."""
    printed = next(iter(models.get_model_weights(name))).meta["num_params"]
    with torch.device("meta"):
        assert count(Torchvision(name, classes=1000)) == printed


@pytest.mark.parametrize(
    ("library", "name", "side"),
    [
        ("torchvision", "mobilenet_v3_small", 32),
        ("torchvision", "squeezenet1_1", 32),
        ("torchvision", "resnet18", 32),
        ("timm", "test_efficientnet", 32),
        ("timm", "test_resnet", 32),
        ("timm", "test_vit", 160),
    ],
)
def test_weights_and_logits_are_the_librarys(library: str, name: str, side: int) -> None:
    torch.manual_seed(0)
    theirs = (timm.create_model if library == "timm" else models.get_model)(name, num_classes=7)
    torch.manual_seed(0)
    ours = LIBRARIES[library](name, classes=7)
    expected = {f"network.{key}": value for key, value in theirs.state_dict().items()}
    assert expected.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    images = torch.rand(3, 3, side, side)
    assert torch.equal(ours.eval()(images).logits, theirs.eval()(images))


@pytest.mark.parametrize(
    ("name", "last"),
    [("densenet121", 4), ("mnasnet0_5", 2), ("mobilenet_v2", 2), ("resnet18", 4), ("shufflenet_v2_x0_5", 4)],
)
def test_a_network_for_small_images_keeps_their_size_at_first(name: str, last: int) -> None:
    with torch.device("meta"):
        features = Torchvision(name, True, classes=10, channels=1).eval()(torch.empty(2, 1, 32, 32)).features
    assert features["stem"].shape[2:] == (32, 32)
    assert min(value.shape[2] for value in features.values() if value.ndim == 4) == last


def test_a_constructor_that_reads_values_runs_among_fake_tensors() -> None:
    """A RegNet computes its widths with tensors."""
    with fake_tensors():
        network = Torchvision("regnet_x_400mf", classes=1000)
    assert all(isinstance(tensor, FakeTensor) for tensor in network.state_dict().values())
    assert count(network) == models.RegNet_X_400MF_Weights.DEFAULT.meta["num_params"]


def test_a_new_first_convolution_is_drawn_like_those_of_a_resnet() -> None:
    stem = Torchvision("resnet18", small_images=True, classes=10, channels=1).network.get_submodule("conv1")
    assert stem.weight.shape == (64, 1, 3, 3)  # pyright: ignore[reportAttributeAccessIssue]
    assert stem.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # pyright: ignore


CHANNELS = {
    "alexnet": [64, 192, 256],
    "convnext_tiny": [96, 192, 384, 768],
    "densenet121": [256, 512, 1024, 1024],
    "efficientnet_v2_s": [24, 48, 64, 128, 160, 256],
    "googlenet": [480, 832, 1024],
    "inception_v3": [288, 768, 2048],
    "maxvit_t": [64, 128, 256, 512],
    "mnasnet0_5": [16, 24, 40, 48, 96, 160],
    "mobilenet_v2": [16, 24, 32, 96, 320],
    "mobilenet_v3_small": [16, 24, 48, 96],
    "resnet18": [64, 128, 256, 512],
    "shufflenet_v2_x0_5": [48, 96, 192],
    "squeezenet1_0": [96, 256, 512, 512],
    "swin_t": [96, 192, 384, 768],
    "vgg11": [64, 128, 256, 512, 512],
    "vit_b_32": [],
}


@pytest.mark.parametrize("name", CHANNELS)
def test_stages_of_torchvisions_networks(name: str) -> None:
    """Channels in front also where the network has them last; the first block of a stage has the stage's size."""
    with torch.device("meta"):
        features = Torchvision(name, classes=5).eval()(torch.empty(1, 3, 224, 224)).features
    stages = {key: value for key, value in features.items() if key.startswith("stage") and "first" not in key}
    assert [*stages] == [f"stage{number}" for number in range(1, len(stages) + 1)]
    assert [value.shape[1] for value in stages.values()] == CHANNELS[name]
    sides = [value.shape[2] for value in stages.values()]
    assert sides == sorted(sides, reverse=True) and all(value.shape[2] == value.shape[3] for value in stages.values())
    firsts = {key.removesuffix(".first"): value.shape[2:] for key, value in features.items() if "first" in key}
    assert firsts == {key: stages[key].shape[2:] for key in firsts}
    assert "pooled" in features or name == "squeezenet1_0"  # whose last layer is a convolution


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet18", 4), ("test_convnext", 4), ("test_efficientnet", 5), ("swin_tiny_patch4_window7_224", 4)],
)
def test_stages_of_timms_networks(name: str, stages: int) -> None:
    with fake_tensors():
        network = Timm(name, classes=5)
        features = network(torch.empty(1, 3, 224, 224)).features
    names = [key for key in features if key.startswith("stage") and "first" not in key]
    assert names == [f"stage{number}" for number in range(1, stages + 1)]
    info = network.network.feature_info[-stages:]  # pyright: ignore[reportIndexIssue]
    assert [features[key].shape[1] for key in names] == [entry["num_chs"] for entry in info]
    assert [features[key].shape[2] for key in names] == [224 // entry["reduction"] for entry in info]


@pytest.mark.parametrize("network", [Torchvision("mobilenet_v2", True, classes=5), Timm("test_resnet", classes=5)])
def test_a_forward_pass_can_end_at_a_stage(network: nn.Module) -> None:
    images = torch.rand(2, 3, 32, 32)
    whole, short = network.eval()(images).features, network(images, until="stage2").features
    assert all(torch.equal(short[key], whole[key]) for key in short)
    before = copy.deepcopy(network.state_dict())
    part = network.train()(images, until="stage2")
    changed = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
    assert [*part.features] == ["stem", "stage1.first", "stage1", "stage2.first", "stage2"]
    assert part.logits.shape == (2, 0)
    later = ("features.18", "features.4") if isinstance(network, Torchvision) else ("layer3", "layer4")
    assert changed and not any(layer in key for key in changed for layer in later)  # their batch statistics


def test_a_copy_keeps_its_own_features() -> None:
    network = Timm("test_resnet", classes=5).eval()
    other, images = copy.deepcopy(network), torch.rand(2, 3, 32, 32)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert network(images).features["stage2"].any() and not other(images).features["stage2"].any()
    assert network(images).features["pooled"].any() and not other(images).features["pooled"].any()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_steps(method: str) -> None:
    """In bf16 on a GPU that is not there; fp32 and a CPU: below, and in other tests."""
    for stage in plan(*SMALL, f"method={method}", "recipe.precision=bf16")[-2:]:
        if stage.generation or method in ("mean_teacher", "deep_mutual_learning"):
            assert run_step(stage, "cuda").parameters >= 11_172_810


@pytest.mark.parametrize("method", ["ban", "fitnets", "fsp"])
def test_it_trains_and_the_result_names_the_library(method: str, train: Train, tmp_path: Path) -> None:
    *_, student = train(*TINY, f"method={method}", "method.pretrain.epochs=1" if method != "ban" else "seed=0")
    assert student["model"] == "timm" and student["model_title"] == "test_resnet" and student["generation"] == 1
    assert (
        student["versions"]["timm"] == importlib.metadata.version("timm") and "torchvision" not in student["versions"]
    )
    weights = load_file(tmp_path / "stages" / student["signature"] / "weights.safetensors")
    theirs = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    theirs.load_state_dict({key.removeprefix("network."): value for key, value in weights.items()})


def test_architecture_and_its_options_are_signed() -> None:
    signatures = [
        plan("model=torchvision", *options, "method=labels")[0].signature
        for options in ((), ("model.architecture=resnet34",), ("model.small_images=true",), ("+model.groups=1",))
    ]
    assert len({*signatures}) == 4


def test_an_option_reaches_the_architecture() -> None:
    stage = plan("model=torchvision", "model.architecture=squeezenet1_1", "+model.dropout=0.25", "method=labels")[0]
    with fake_tensors():
        assert [each.p for each in build.network(stage).modules() if isinstance(each, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (
            ["model.architecture=resnet17"],
            "model.architecture is resnet17; it must be a classifier of torchvision, such as",
        ),
        (["model.architecture=fasterrcnn_resnet50_fpn"], "must be a classifier of torchvision"),
        (["model.architecture=vgg11", "model.small_images=true"], "small_images is for ConvNeXt, DenseNet, "),
        (["model.architecture=alexnet"], "alexnet cannot be computed for images of 8×8 pixels (Given input size"),
        (["model.architecture=vit_b_32"], "images of 8×8 pixels (Wrong image height! Expected 224 but got 8!): choose"),
        (
            ["recipe.batch_size=1"],
            "cannot be computed for a single image of 8×8 pixels (Expected more than 1 value per",
        ),
        (["+model.dropot=0.1"], "resnet18 cannot be made with dropot=0.1: ResNet.__init__() got an unexpected keyword"),
        (["+model.weights=DEFAULT"], "weights cannot be set: initial weights are random"),
        (["+model.checkpointing=true"], "resnet18 cannot be made with checkpointing=True"),
        (["model=timm", "model.architecture=resnet18.a1_in1k"], "must be a classifier of timm, such as resnet18 or"),
        (["model=timm", "model.architecture=hf-hub:timm/resnet18"], "must be a classifier of timm, such as"),
        (["model=timm", "+model.pretrained=true"], "pretrained cannot be set"),
        (
            ["model=timm", "model.architecture=test_vit", "+model.img_size=8", "+model.patch_size=4", "method=fitnets"],
            "hints need convolutional layers",
        ),
    ],
)
def test_refusals_are_one_sentence(
    options: list[str],
    answer: str,
    say: Say,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("torch._subclasses.fake_tensor"), "handlers", [caplog.handler])
    with pytest.raises(SystemExit) as stopped:
        say(*DIGITS, "model=torchvision", *options)
    message = str(stopped.value)
    assert message.startswith("ban: ") and answer in message and message.isprintable()
    assert not caplog.records  # of torch, with a traceback
    assert not files(tmp_path)


def test_without_timm_it_says_what_to_install(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SystemExit, match=r"model=timm needs the package timm: pip install 'born-again\[timm\]'\."):
        say(*DIGITS, "model=timm", "model.architecture=resnet34")
