"""The training step of every method on fake tensors, on a CPU and on a GPU that is not there."""

from pathlib import Path

import pytest
import torch
from helpers import plan
from test_train import BRIEF, NEEDS, every_method

from ban.errors import UserError
from ban.interfaces import Batch, Output, TeacherOutput
from ban.terms import ConfidenceWeightedLabel
from ban.training.rehearsal import FakeDevice, fake_tensors, rehearse_anew, run_step
from ban.training.stand_in import Networks


@every_method
def test_every_method_steps_in_every_precision_on_every_device(method: str, kind: str) -> None:
    kinds = (("bf16", "cuda"), ("fp32", "cuda"), ("bf16", "cpu"))  # other tests train the rest
    for precision, device_type in kinds[:1] if method in BRIEF else kinds:
        stages = plan(f"method={method}", f"recipe.precision={precision}", *NEEDS.get(method, ()), kind=kind)
        own = [stage for stage in stages if method == "labels" or stage.method.name != "labels"]  # teachers are alike
        for stage in stages[-1:] if method in BRIEF else own:
            assert run_step(stage, device_type).training_flops > 0


@pytest.mark.parametrize("method", ["ban", "crd", "fitnets", "mean_teacher", "byot", "deep_mutual_learning"])
def test_a_network_that_was_rehearsed_need_not_be_computed_again(method: str) -> None:
    networks = Networks()
    run_step(plan("model=wrn_10_1", "method=labels")[0], "cpu", networks)
    for stage in plan("model=wrn_10_1", f"method={method}"):
        assert run_step(stage, "cpu", networks) == run_step(stage, "cpu")


def test_mistakes_are_found_with_stand_ins_too() -> None:
    networks = Networks()
    run_step(plan("model=wrn_10_1", "method=labels")[0], "cpu", networks)
    stage = plan("model=wrn_10_1", "method=at", "method.terms.layers.layers=[stage9]")[-1]
    for known in (None, networks):
        with pytest.raises(UserError, match="no feature 'stage9'; its features: stem, stage1"):
            rehearse_anew(stage, "cpu", known)


@pytest.mark.parametrize(
    "options",
    [
        ("model=densenet_40_12", "recipe=laine_aila"),
        ("model=wrn_10_1", "recipe=wrn"),
        ("model=torchvision", "model.small_images=true", "recipe=wrn"),
        ("model=timm", "model.architecture=test_resnet", "recipe=wrn"),
    ],
)
def test_other_networks_and_optimizers(options: tuple[str, ...]) -> None:
    for device_type in ("cpu", "cuda"):
        run_step(plan(*options, "method=labels", "recipe.batch_size=32")[0], device_type)


def test_fake_autocast_casts_and_ends() -> None:
    for device_type in ("cpu", "cuda"):
        device = FakeDevice(device_type)
        with fake_tensors():
            matrix = torch.zeros(2, 2, device=device_type)
            with device.precision("bf16"):
                assert (matrix @ matrix).dtype == torch.bfloat16 and matrix.device.type == device_type
            assert (matrix @ matrix).dtype == torch.float32


def test_a_mistake_that_only_a_gpu_shows_is_found_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A term that puts its own tensor on the CPU."""
    forward = ConfidenceWeightedLabel.forward

    def on_the_cpu(self: ConfidenceWeightedLabel, output: Output, teacher: TeacherOutput, batch: Batch) -> torch.Tensor:
        return (forward(self, output, teacher, batch) * torch.ones(2, device="cpu")).mean()

    monkeypatch.setattr(ConfidenceWeightedLabel, "forward", on_the_cpu)
    stage = plan("method=cwtm")[-1]
    run_step(stage, "cpu")
    with pytest.raises(RuntimeError, match="device"):
        run_step(stage, "cuda")


@pytest.mark.parametrize("method", ["cwtm", "ban_l", "dkpp", "labels"])
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_unlabelled_examples(method: str, device_type: str) -> None:
    for stage in plan(f"method={method}", "+method.data.unlabelled=true", "dataset.labelled=100"):
        run_step(stage, device_type)


def test_a_pretraining_ends_at_a_feature_that_is_there() -> None:
    first = plan("method=fitnets", "method.pretrain.until=nosuch")[1]
    assert first.is_pretraining
    with pytest.raises(UserError, match=r"has no feature 'nosuch', where .* ends: choose one of stem,"):
        rehearse_anew(first)


def test_a_term_that_reads_the_label_of_unlabelled_examples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(self: object, output: Output, teacher: TeacherOutput, batch: Batch) -> torch.Tensor:
        return output.logits.log_softmax(-1).gather(-1, batch.targets.unsqueeze(-1)).mean()

    monkeypatch.setattr("ban.terms.labels.Label.forward", reads)
    with pytest.raises(UserError, match="term label cannot be used with unlabelled examples"):
        rehearse_anew(plan("method=labels", "+method.data.unlabelled=true", "dataset.labelled=50")[-1])


@pytest.mark.parametrize(
    "loss", ["output.logits[output.logits > 0].mean()", "output.logits.mean() * batch.targets.max().item()"]
)
def test_a_term_that_needs_values_is_refused_with_what_to_use(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"needs_values_{len(loss)}"
    code = "from ban.interfaces import Term\n\n\nclass Own(Term):\n    def forward(self, output, teacher, batch):\n"
    code += f"        return {loss}\n"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    stage = plan(f"+method.terms.own={{_target_: {module}.Own, weight: 1.0}}")[-1]
    with pytest.raises(UserError, match=r"line 6, in forward: .* needs values, and ban tries a step on shapes alone"):
        rehearse_anew(stage)
