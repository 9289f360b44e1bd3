"""Parameter counts against the paper's, initial weights against the authors' codes, and memory saving."""

import copy
import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import with_bases
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import conv2d, linear
from torchvision.models.resnet import BasicBlock

from ban.models import (
    MLP,
    ConvLarge,
    DenseNet,
    DenseShapedResNet,
    PreActivationResNet,
    Shallow,
    SmallConv,
    WideResNet,
    cifar_resnet,
)
from ban.models.conv_large import MeanOnlyNorm
from ban.plan.lineage import lineage
from ban.report import paper
from ban.settings.compose import CONF, compose_settings
from ban.training import build
from ban.training.device import Device

# Millions. CIFAR-10 and CIFAR-100; the paper prints 6.3, 16.1, 22.4, 50.4 and .38, 1.48, 9.16, 36.
COUNTS = {
    ("densenet_112_33", 10): 6.270851,
    ("densenet_112_33", 100): 6.360761,
    ("densenet_90_60", 10): 16.173010,
    ("densenet_90_60", 100): 16.240600,
    ("densenet_80_80", 10): 22.421610,
    ("densenet_80_80", 100): 22.499100,
    ("densenet_80_120", 10): 50.363410,
    ("densenet_80_120", 100): 50.479600,
    # Of table 4 the paper prints 21.2, 13.7, 12.9, 12.6; its compression variants' 5.1, 10.1 and 80.5 are not reached.
    ("densenet_90_60_depth_half", 100): 21.346120,
    ("densenet_90_60_depth_2", 100): 13.740760,
    ("densenet_90_60_depth_3", 100): 12.954520,
    ("densenet_90_60_depth_4", 100): 12.596680,
    ("densenet_90_60_compression_half", 100): 4.104100,
    ("densenet_90_60_compression_075", 100): 9.167674,
    ("densenet_90_60_compression_15", 100): 36.409600,
    ("pre_resnet_1001", 100): 10.350836,
    ("wrn_28_1", 100): 0.375348,
    ("wrn_28_2", 100): 1.479220,
    ("wrn_28_5", 100): 9.161524,
    ("wrn_28_10", 10): 36.479194,
    ("wrn_28_10", 100): 36.536884,
    ("conv_large", 10): 3.121812,
    ("shallow_1200l_30k", 10): 70.899738,
    # Of the benchmark of Tian et al. 2020, as its code counts them.
    ("resnet8", 100): 0.083892,
    ("resnet14", 100): 0.181108,
    ("resnet20", 100): 0.278324,
    ("resnet32", 100): 0.472756,
    ("resnet44", 100): 0.667188,
    ("resnet56", 100): 0.861620,
    ("resnet110", 100): 1.736564,
    ("resnet8x4", 100): 1.233540,
    ("resnet32x4", 100): 7.433860,
    ("resnet50", 100): 23.705252,
    ("wrn_16_1", 100): 0.180916,
    ("wrn_16_2", 100): 0.703284,
    ("wrn_40_1", 100): 0.569780,
    ("wrn_40_2", 100): 2.255156,
    ("vgg8", 100): 3.965028,
    ("vgg11", 100): 9.277284,
    ("vgg13", 100): 9.462180,
    ("vgg16", 100): 14.774436,
    ("vgg19", 100): 20.086692,
    ("mobilenet_v2", 100): 0.812836,
    ("shufflenet_v1", 100): 0.949258,
    ("shufflenet_v2", 100): 1.355528,
}


@pytest.mark.parametrize(("name", "classes"), COUNTS)
def test_parameter_counts(name: str, classes: int) -> None:
    settings = compose_settings([f"model={name}", f"dataset=cifar{classes}"])
    with torch.device("meta"):
        network = build.network(lineage(settings)[-1])
    assert sum(p.numel() for p in network.parameters()) == round(COUNTS[name, classes] * 1e6)


SHAPES = {
    "resnet20": [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)],
    "resnet8x4": [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256,)],
    "vgg8": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4), (512,)],
    "mobilenet_v2": [(16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2), (1280,)],
    "shufflenet_v1": [(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4), (960,)],
    "shufflenet_v2": [(24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4), (1024,)],
}
"""Of the features of the benchmark's networks: stem, stages, pooled."""


@pytest.mark.parametrize("name", SHAPES)
def test_features_of_the_benchmarks_networks(name: str) -> None:
    network = build.network(lineage(compose_settings([f"model={name}", "dataset=cifar100"]))[-1])
    features = network(torch.randn(2, 3, 32, 32)).features
    assert [(*value.shape[1:],) for key, value in features.items() if "first" not in key] == SHAPES[name]
    for key in features:
        if key.startswith("stage") and "first" not in key:
            assert [*network(torch.randn(2, 3, 32, 32), until=key).features][-1] == key


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(8, 8, 1), (8, 16, 2)])
def test_a_residual_block_is_torchvisions(inputs: int, outputs: int, stride: int) -> None:
    ours = cifar_resnet.BasicBlock(inputs, outputs, stride)
    projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    theirs = BasicBlock(inputs, outputs, stride, projection if stride == 2 else None)
    theirs.load_state_dict(
        {key.replace("norm", "bn").replace("shortcut", "downsample"): value for key, value in ours.state_dict().items()}
    )
    images = torch.randn(2, inputs, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images))


# Millions without the shared layers. Table 5 prints 7.3, 17.7, 20.9, 43.1, 24.3, 87.3; the bottlenecks do not come out.
SHARING = {
    "ban_pre_resnet_14_half": 5.652173,
    "ban_pre_resnet_14_1": 20.331386,
    "ban_wrn_1_1": 20.990580,
    "ban_wrn_2_1": 43.111140,
    "ban_wrn_4_half": 24.329265,
    "ban_wrn_4_1": 87.352260,
}


@pytest.mark.parametrize("name", SHARING)
def test_students_that_share_the_first_and_the_last_layer(name: str) -> None:
    chosen = [
        f"model={name}",
        "dataset=cifar100",
        "teacher=densenet_90_60",
        "method=ban",
        "+method.frozen_from_teacher=[stem,head]",
    ]
    teacher, student = lineage(compose_settings(chosen))
    with torch.device("meta"):
        step = build.training_step(student, lambda parent: build.network(parent.stage), Device("meta"), None)
        (learner,) = step.learners
        trained = sum(p.numel() for group in learner.optimizer.param_groups for p in group["params"])
        shared = build.network(teacher)
    assert trained == round(SHARING[name] * 1e6)
    assert learner.network.get_submodule("stem").weight.shape == shared.get_submodule("stem").weight.shape
    assert not any(
        p.requires_grad for name in ("stem", "head") for p in learner.network.get_submodule(name).parameters()
    )


def test_the_demo_network_has_1442_parameters() -> None:
    assert sum(p.numel() for p in SmallConv(classes=10).parameters()) == 1442


def test_channels_of_densenet_90_60() -> None:
    with torch.device("meta"):
        network = DenseNet(14, 60, compress_last=True, classes=100)
        features = network(torch.empty(2, 3, 32, 32)).features
    shapes = {name: tuple(feature.shape[1:]) for name, feature in features.items() if "first" not in name}
    expected = {"stem": (120, 32, 32), "stage1": (480, 32, 32), "stage2": (660, 16, 16), "stage3": (750, 8, 8)}
    assert shapes == expected | {"pooled": (750,)}


SMALL: list[Callable[[], nn.Module]] = [
    lambda: SmallConv(classes=10),
    lambda: WideResNet(10, 1, classes=10, channels=1),
    lambda: PreActivationResNet(11, classes=10, channels=1),
    lambda: DenseShapedResNet(1, 0.5, False, 8, [8, 16, 24], classes=10, channels=1),
    lambda: DenseShapedResNet(2, 1.0, True, 8, [8, 16, 24], classes=10, channels=1),
    lambda: Shallow(2, 3, 4, 8, [8, 8], classes=10, channels=1),
    lambda: DenseNet(2, 4, classes=10, channels=1),
    lambda: DenseNet(2, 4, compress_last=True, checkpointing=True, classes=10, channels=1),
]


@pytest.mark.parametrize("make", SMALL)
def test_every_parameter_has_a_gradient(make: Callable[[], nn.Module]) -> None:
    network = make()
    output = network(torch.rand(4, 1, 8, 8))
    output.logits.square().sum().backward()
    assert output.logits.shape == (4, 10)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_an_mlp_has_a_feature_for_each_hidden_layer_and_stops_where_it_is_told() -> None:
    network = MLP(5, 2, classes=3, features=4)
    assert sum(p.numel() for p in network.parameters()) == (4 + 1) * 5 + (5 + 1) * 5 + (5 + 1) * 3
    rows = torch.rand(7, 4)
    output = network(rows)
    assert output.logits.shape == (7, 3) and [*output.features] == ["stage1", "stage2", "pooled"]
    assert torch.equal(output.features["pooled"], output.features["stage2"])
    beginning = network(rows, until="stage1")
    assert [*beginning.features] == ["stage1"] and beginning.logits.shape == (7, 0)
    with pytest.raises(ValueError, match="1 or more"):
        MLP(5, 0, classes=3, features=4)


def test_wide_resnet_depth() -> None:
    with pytest.raises(ValueError, match="6n \\+ 4"):
        WideResNet(27, 1, classes=10)


@pytest.mark.parametrize(
    ("network", "deviation"),
    [
        (WideResNet(16, 4, classes=10), lambda conv: math.sqrt(2 / (9 * conv.in_channels))),
        (DenseNet(3, 32, classes=10), lambda conv: math.sqrt(2 / (9 * conv.out_channels))),
    ],
)
def test_initial_weights(network: nn.Module, deviation: Callable[[nn.Conv2d], float]) -> None:
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) > 5
    for convolution in convolutions:
        assert convolution.bias is None
        assert convolution.weight.std().item() == pytest.approx(deviation(convolution), rel=0.1)


def test_the_scale_of_batch_normalisation_is_drawn_on_request() -> None:
    def weights(norm_scale: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return dict(WideResNet(10, 1, norm_scale=norm_scale, classes=10).named_parameters())  # pyright: ignore

    ones, uniform = weights("ones"), weights("uniform")
    different = {name for name in ones if not torch.equal(ones[name], uniform[name])}
    assert different == {name for name in ones if "norm" in name and name.endswith("weight")}
    drawn = torch.cat([uniform[name].detach().flatten() for name in different])
    assert drawn.min() >= 0 and drawn.max() <= 1 and drawn.mean().item() == pytest.approx(0.5, abs=0.05)


def test_wide_resnet_shortcut_sees_the_activated_input() -> None:
    block = WideResNet(10, 2, classes=10).stages[1][0]
    seen = {}
    block.shortcut.register_forward_hook(lambda _, inputs, __: seen.update(least=inputs[0].min().item()))
    block(torch.randn(2, 32, 8, 8))
    assert seen["least"] == 0


def test_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    torch.manual_seed(0)
    plain = DenseNet(3, 4, classes=5)
    saving = DenseNet(3, 4, checkpointing=True, classes=5)
    saving.load_state_dict(copy.deepcopy(plain.state_dict()))
    images = torch.rand(4, 3, 8, 8)
    for network in (plain, saving):
        network(images).logits.square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for (name, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_checkpointing_keeps_less() -> None:
    def kept(checkpointing: bool) -> int:
        network, total = DenseNet(6, 8, checkpointing=checkpointing, classes=5), 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.rand(2, 3, 16, 16))
        return total

    assert kept(True) < 0.7 * kept(False)


class TestConvLarge:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def test_its_weights_are_3_12_million(self) -> None:
        """Kernels and the last matrix; norms and biases come on top."""
        for norm in ("weight", "batch"):
            with torch.device("meta"):
                network = ConvLarge(norm, classes=10)
            sizes = [p.numel() for name, p in network.named_parameters() if p.ndim > 1 and "original0" not in name]
            threes = 3 * 128 + 2 * 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512
            assert sum(sizes) == 9 * threes + 512 * 256 + 256 * 128 + 128 * 10 == 3_117_696

    def test_shapes(self) -> None:
        with torch.device("meta"):
            features = ConvLarge(classes=10)(torch.empty(2, 3, 32, 32)).features
        assert {name: tuple(feature.shape[1:]) for name, feature in features.items()} == {
            "stem": (128, 32, 32),
            "stage1": (128, 32, 32),
            "stage2": (256, 16, 16),
            "stage3": (128, 6, 6),
            "pooled": (128,),
        }

    @pytest.mark.parametrize("norm", ["weight", "batch"])
    def test_every_parameter_has_a_gradient_and_a_copy_is_its_own(self, norm: str) -> None:
        network = ConvLarge(norm, classes=10)  # pyright: ignore[reportArgumentType]
        other = copy.deepcopy(network)
        network(self.images).logits.square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert all(parameter.grad is None for parameter in other.parameters())
        other.load_state_dict(load(save(network.state_dict())))
        assert torch.equal(other.eval()(self.images).logits, network.eval()(self.images).logits)

    def test_a_layer_is_that_of_the_equations(self) -> None:
        """g · v / ‖v‖ per output, then x − mean + bias (Salimans and Kingma 2016)."""
        network = ConvLarge(classes=10)
        convolution, norm, _ = network.stem
        g, v = convolution.parametrizations.weight.original0, convolution.parametrizations.weight.original1
        assert torch.allclose(g.flatten(), v.flatten(1).norm(dim=1))  # the weights of He et al. at first
        g.data.uniform_(1, 2)
        norm.bias.data.uniform_()
        convolved = conv2d(self.images, v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * g, padding=1)
        centred = convolved - convolved.mean((0, 2, 3), keepdim=True) + norm.bias.view(-1, 1, 1)
        torch.testing.assert_close(network.stem(self.images), nn.functional.leaky_relu(centred, 0.1))
        torch.testing.assert_close(norm.running_mean, 0.001 * convolved.mean((0, 2, 3)))
        plain = convolved - norm.running_mean.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        torch.testing.assert_close(network.eval().stem(self.images), nn.functional.leaky_relu(plain, 0.1))

    def test_initial_weights(self) -> None:
        network = ConvLarge(classes=100)
        for convolution in [each for each in network.modules() if isinstance(each, nn.Conv2d)]:
            inputs = convolution.in_channels * convolution.kernel_size[0] ** 2
            assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.1)
        assert network.head[0].weight.std().item() == pytest.approx(math.sqrt(1 / 128), rel=0.1)  # pyright: ignore

    def test_the_mean_has_a_gradient(self) -> None:
        norm, inputs = MeanOnlyNorm(2, 0.001), torch.randn(5, 2, requires_grad=True)
        norm(inputs)[0].sum().backward()
        expected = torch.full((5, 2), -1 / 5)
        expected[0] += 1
        torch.testing.assert_close(inputs.grad, expected)

    def test_noise_and_dropout_are_in_training_only(self) -> None:
        network = ConvLarge(noise=0.5, dropout=0.0, classes=10)
        first, second = (network(self.images).features["stem"] for _ in range(2))
        assert not torch.equal(first, second)
        silent = network.eval()(self.images).features["stem"]
        assert torch.equal(silent, network(self.images).features["stem"])

    def test_small_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="12×12 pixels or more, not 8×8"):
            ConvLarge(classes=10, channels=1)(torch.rand(2, 1, 8, 8))
        assert ConvLarge(classes=10)(torch.rand(2, 3, 12, 12)).logits.shape == (2, 10)


class TestShallow:
    @pytest.mark.parametrize(("filters", "millions"), [(64, 54), (128, 71)])
    def test_published_sizes(self, filters: int, millions: int) -> None:
        with torch.device("meta"):
            network = Shallow(filters, 5, 1200, 30000, [32, 32], classes=10)
        assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions  # the paper says about 54 and 70

    def test_the_bottleneck_multiplied_out_is_one_matrix(self) -> None:
        network = Shallow(4, 3, 5, 32, [8, 8], classes=10, channels=1)
        output = network(torch.rand(6, 1, 8, 8))
        product = network.hidden.weight @ network.bottleneck.weight
        assert torch.linalg.matrix_rank(product) == 5 and product.shape == (32, 4 * 3 * 3)
        wide = linear(output.features["stage1"].flatten(1), product, network.hidden.bias).relu()
        torch.testing.assert_close(output.features["pooled"], wide, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.logits, network.head(wide), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: ConvLarge(classes=10), lambda: Shallow(4, 3, 5, 32, [16, 16], classes=10)])
def test_a_forward_pass_can_end_at_a_stage(make: Callable[[], nn.Module]) -> None:
    network, images = make().eval(), torch.rand(2, 3, 16, 16)
    whole, part = network(images), network(images, until="stage2")
    assert [*part.features] == ["stem", "stage1", "stage2"] and part.logits.shape == (2, 0)
    assert torch.equal(part.features["stage2"], whole.features["stage2"])


def printed_sizes() -> dict[str, float]:
    """Network → the parameters that the paper prints for it, in millions; not of the language models."""
    sizes: dict[str, float] = {}
    students = compose_settings(["experiment=table4"]).table
    with (Path(paper.__file__).parent / "paper_tables.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            is_student = row["table"] == "4" and row["column"] != "Teacher"  # whose size is a misprint, see its note
            if is_student and students:
                sizes[students.cells[row["column"]][0].model or ""] = float(row["params"].removesuffix("M"))
            elif row["table"] in "1235":
                sizes[row["model"]] = float(row["params"].removesuffix("M"))
    return sizes


def test_the_files_of_networks_say_whether_they_are_the_papers() -> None:
    """Files that extend one of the paper's networks included: a network of another size must not inherit the fact."""
    counts = {name: millions for (name, _), millions in COUNTS.items()} | SHARING
    sizes, names = printed_sizes(), [path.stem for path in (CONF / "model").glob("*.yaml")]
    papers = {name for name in sizes if abs(counts[name] / sizes[name] - 1) < 0.03}
    assert {name for name in names if with_bases(CONF / "model" / f"{name}.yaml").get("as_published")} == papers
    assert {*sizes} - papers >= {"ban_pre_resnet_14_half", "densenet_90_60_compression_15"}


@pytest.mark.parametrize(("group", "papers"), [("recipe", {"wrn"}), ("dataset", {"cifar10", "cifar100", "ptb"})])
def test_the_files_of_recipes_and_data_say_whether_they_are_the_papers(group: str, papers: set[str]) -> None:
    names = [path.stem for path in (CONF / group).glob("*.yaml")]
    assert {name for name in names if with_bases(CONF / group / f"{name}.yaml").get("as_published")} == papers
