"""Networks that teach themselves or each other, against the papers' equations."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from helpers import LANGUAGE, Train, digits_of, plan
from torch import nn

from ban import losses
from ban.errors import UserError
from ban.interfaces import Batch, Output, Progress, Step, TeacherContext, TeacherOutput
from ban.models import ConvLarge, SmallConv
from ban.schedules import GaussianRampDown, GaussianRamps, GaussianRampUp, Linear
from ban.settings.compose import compose_settings
from ban.teachers import AverageWeights, EpochAverage, Frozen, LastBatch, Peers, SecondView
from ban.teachers.peers import batch_statistics_kept
from ban.terms import Consistency, Probabilities
from ban.training import build
from ban.training.device import Device
from ban.training.rehearsal import rehearse_anew
from ban.training.step import START, Learner, Objective, Student


def step(outputs: list[torch.Tensor], *, turn: int = 0, number: int = 0, learners: list | None = None) -> Step:
    count = len(outputs[0])
    batch = Batch((torch.rand(count, 1, 8, 8),) * 2, torch.zeros(count, dtype=torch.long), torch.arange(count))
    learners = learners or [SimpleNamespace(network=None)] * len(outputs)
    return Step(batch, learners, [Output(each, {}) for each in outputs], turn, Progress(0, number, 10, 2))


def context(*students: nn.Module, examples: int = 4, classes: int = 3) -> TeacherContext:
    return TeacherContext([], students, examples, classes)


def test_the_last_batch_is_remembered_for_one_step() -> None:
    """About examples that were not in it, the teacher says what the student says: no gradient for the student."""
    memory, said = LastBatch(context(examples=6)), torch.randn(3, 3, 3)

    def shown(logits: torch.Tensor, *indices: int) -> Step:
        current = step([logits.clone().requires_grad_()])
        return current._replace(batch=current.batch._replace(indices=torch.tensor(indices)))

    first, second, third = shown(said[0], 0, 1, 2), shown(said[1], 2, 1, 3), shown(said[2], 0, 3, 2)
    for current, expected in (
        (first, said[0]),
        (second, torch.stack([said[0][2], said[0][1], said[1][2]])),
        (third, torch.stack([said[2][0], said[1][2], said[1][0]])),
    ):
        for _ in range(2):  # asking does not change it
            given = memory.targets(current)
            assert given.logits is not None and given.logits.equal(expected)
        memory.after_step(current)
    output = first.outputs[0]
    Probabilities(temperature=3.0)(output, TeacherOutput(output.logits.detach()), first.batch).backward()
    torch.testing.assert_close(output.logits.grad, torch.zeros(3, 3), atol=1e-6, rtol=0)


class TestEpochAverage:
    said = (torch.randn(4, 3), torch.randn(4, 3))

    def hear(self, memory: EpochAverage, logits: torch.Tensor) -> torch.Tensor:
        current = step([logits])
        memory.after_step(current)
        memory.after_epoch(current.progress)
        target = memory.targets(current).probabilities
        assert target is not None
        return target

    def test_after_one_epoch_the_target_is_what_was_said(self) -> None:
        memory = EpochAverage(context(), decay=0.6)
        torch.testing.assert_close(self.hear(memory, self.said[0]), self.said[0].softmax(-1))

    def test_after_two_it_is_the_corrected_average(self) -> None:
        memory = EpochAverage(context(), decay=0.6)
        self.hear(memory, self.said[0])
        first, second = (each.softmax(-1) for each in self.said)
        expected = (0.6 * 0.4 * first + 0.4 * second) / (1 - 0.6**2)
        torch.testing.assert_close(self.hear(memory, self.said[1]), expected)

    def test_an_epoch_that_leaves_an_example_out_keeps_what_was_known(self) -> None:
        memory = EpochAverage(context(examples=6), decay=0.6)
        known = self.hear(memory, self.said[0])
        memory.after_epoch(Progress(1, 0, 10, 2))
        again = memory.targets(step([self.said[0]])).probabilities
        torch.testing.assert_close(again, known)
        assert (memory.accumulated[4:] == 0).all()

    def test_an_example_that_no_epoch_has_shown_has_no_gradient(self) -> None:
        memory = EpochAverage(context(examples=6), decay=0.6)
        self.hear(memory, self.said[0])
        logits = self.said[1].clone().requires_grad_()
        current = step([logits])
        current = current._replace(batch=current.batch._replace(indices=torch.tensor([4, 0, 5, 1])))
        Consistency()(current.outputs[0], memory.targets(current), current.batch).backward()
        assert logits.grad is not None and (logits.grad.abs().amax(-1) > 0).tolist() == [False, True, False, True]

    def test_without_decay_it_is_what_was_said_in_the_last_epoch(self) -> None:
        memory = EpochAverage(context(), decay=0.0)
        self.hear(memory, self.said[0])
        torch.testing.assert_close(self.hear(memory, self.said[1]), self.said[1].softmax(-1))

    def test_it_teaches_by_cross_entropy_what_it_has_no_logits_for(self) -> None:
        memory = EpochAverage(context(), decay=0.0)
        self.hear(memory, self.said[0])
        current = step([self.said[1]])
        loss = Probabilities()(current.outputs[0], memory.targets(current), current.batch)
        torch.testing.assert_close(loss, nn.functional.cross_entropy(self.said[1], self.said[0].softmax(-1)))
        with pytest.raises(ValueError, match="needs a teacher that provides logits"):
            Probabilities(temperature=2.0)(current.outputs[0], memory.targets(current), current.batch)


class TestAverageWeights:
    def test_it_is_a_plain_mean_at_first_and_then_decays(self) -> None:
        """The authors count the steps from 1, so the first average is half of the initial weights."""
        student = nn.Linear(1, 1, bias=False)
        student.weight.data.fill_(5.0)
        teacher = AverageWeights(context(student), decay=0.7)
        expected, seen = 5.0, []
        for number, value in enumerate([1.0, 3.0, 5.0, 7.0]):
            student.weight.data.fill_(value)
            teacher.after_step(step([torch.zeros(1, 3)], number=number))
            decay = min(1 - 1 / (number + 2), 0.7)
            expected = decay * expected + (1 - decay) * value
            seen.append(teacher.network.weight.item())  # pyright: ignore
        assert seen[:2] == pytest.approx([3.0, 3.0]) and seen[-1] == pytest.approx(expected)

    def test_its_batch_statistics_are_its_own_and_its_weights_nobodys_gradient(self) -> None:
        student = SmallConv(classes=10)
        teacher = AverageWeights(context(student), decay=0.9)
        before = student.stage1[1].running_mean.clone()  # pyright: ignore
        teacher_output = teacher.targets(step([torch.zeros(4, 10)]))
        assert teacher_output.logits is not None and not teacher_output.logits.requires_grad
        assert torch.equal(student.stage1[1].running_mean, before)  # pyright: ignore
        assert not torch.equal(teacher.network.stage1[1].running_mean, before)  # pyright: ignore
        assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_second_view_has_a_gradient() -> None:
    student = SmallConv(classes=10)
    learner = SimpleNamespace(network=student)
    one_step = step([torch.zeros(4, 10)], learners=[lambda inputs: student(inputs), learner][:1])
    logits = SecondView(context(student)).targets(one_step).logits
    assert logits is not None and logits.requires_grad


class TestPeers:
    said = tuple(torch.randn(4, 3, requires_grad=True) for _ in range(3))

    def test_two_networks_hear_each_other_detached(self) -> None:
        teacher_output = Peers(context(*[nn.Identity()] * 2)).targets(step([*self.said[:2]], turn=0))
        assert teacher_output.logits is not None and not teacher_output.logits.requires_grad
        torch.testing.assert_close(teacher_output.logits.softmax(-1), self.said[1].softmax(-1))

    def test_with_three_the_gradient_is_that_of_the_mean_divergence(self) -> None:
        mine, *others = self.said
        teacher_output = Peers(context(*[nn.Identity()] * 3)).targets(step([*self.said], turn=0))
        assert teacher_output.logits is not None
        ours = losses.soft_cross_entropy(mine, teacher_output.logits.softmax(-1)).mean()
        published = sum(
            nn.functional.kl_div(mine.log_softmax(-1), other.detach().softmax(-1), reduction="batchmean")
            for other in others
        )
        gradients = [torch.autograd.grad(loss, mine)[0] for loss in (ours, published / 2)]  # pyright: ignore
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize(("updates", "asked"), [("sequential", [0]), ("synchronous", [])])
    def test_only_sequential_updates_ask_again(self, updates: str, asked: list[int]) -> None:
        heard: list[int] = []

        def learner(number: int) -> Student:
            return Student(network=Hears(number))

        class Hears(nn.Module):
            def __init__(self, number: int) -> None:
                super().__init__()
                self.number = number

            def forward(self, inputs: torch.Tensor, state: object) -> Output:
                heard.append(self.number)
                return Output(torch.ones(4, 3), {})

        peers = Peers(context(*[nn.Identity()] * 2), updates)  # pyright: ignore[reportArgumentType]
        for turn in (0, 1):
            peers.after_step(step([*self.said[:2]], turn=turn, learners=[learner(0), learner(1)]))
        assert heard == asked

    @pytest.mark.parametrize("norm", ["batch", "weight"])
    def test_a_second_look_leaves_the_statistics_of_every_kind_of_norm(self, norm: Literal["batch", "weight"]) -> None:
        network = ConvLarge(norm=norm, classes=10, channels=1).train()
        means = [name for name, _ in network.named_buffers() if name.endswith("running_mean")]
        assert means
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        with batch_statistics_kept(network):
            network(torch.rand(4, 1, 32, 32))
        found = dict(network.named_buffers())
        assert all(torch.equal(before[name], found[name]) for name in means)
        network(torch.rand(4, 1, 32, 32))
        assert not any(torch.equal(before[name], found[name]) for name in means)

    def test_a_second_look_leaves_the_batch_statistics(self) -> None:
        network = SmallConv(classes=10).train()
        before = {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}
        learners = [Student(network=network)] * 2
        outputs = [torch.zeros(4, 10), torch.zeros(4, 10)]
        taken = step(outputs, turn=0, learners=learners)
        Peers(context(network, network)).after_step(taken)
        assert taken.outputs[0].logits.any()
        assert all(torch.equal(before[name], dict(network.named_buffers())[name]) for name in before)
        network(taken.batch.views[0])
        assert not torch.equal(before["stage1.1.running_mean"], network.stage1[1].running_mean)  # pyright: ignore

    def test_the_training_error_is_that_of_the_outputs_before_the_step(self) -> None:
        stage = plan("method=deep_mutual_learning", "recipe.optimizer.lr=10")[0]
        step_of_both = build.training_step(stage, lambda parent: nn.Identity(), Device("cpu"), None)
        batch = build.zero_batch(stage, torch.device("cpu"), 8)
        batch = batch._replace(views=tuple(torch.rand_like(view) for view in batch.views))
        wrong = [
            float((learner.network.train()(batch.views[0]).logits.argmax(-1) != batch.targets).sum())
            for learner in step_of_both.learners
        ]
        measured = step_of_both(batch, START)
        assert [float(each.errors["wrong"]) for each in measured] == wrong

    def test_a_term_may_make_its_parameters_beside_peers(self) -> None:
        shallow = "+method.terms.shallow={_target_: ban.terms.ShallowClassifiers, weight: 1.0}"
        rehearse_anew(plan("method=deep_mutual_learning", shallow)[0])

    def test_one_network_has_no_peers(self) -> None:
        with pytest.raises(UserError, match=r"set method\.cohort"):
            rehearse_anew(plan("method=deep_mutual_learning", "method.cohort=1")[0])


@pytest.mark.parametrize("method", ["dlb", "ema", "mean_teacher", "ps_kd", "temporal_ensembling"])
def test_a_teacher_that_remembers_one_network_refuses_a_cohort(method: str) -> None:
    with pytest.raises(UserError, match=r"teaches one network: leave method\.cohort out"):
        rehearse_anew(plan(f"method={method}", "+method.cohort=2")[-1])


def test_terms_that_make_their_parameters_leave_the_averages_batch_statistics_alone() -> None:
    shallow = "+method.terms.shallow={_target_: ban.terms.ShallowClassifiers, weight: 1.0}"
    (stage,) = plan("method=ema", shallow)
    made = build.training_step(stage, lambda parent: nn.Identity(), Device("cpu"), None)
    counts = [value for name, value in made.teacher.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts and not any(counts)


def test_the_words_of_a_batch_have_places_of_their_own() -> None:
    rehearse_anew(plan("method=dkpp", "+method.terms.teacher.drawn=example", kind="language")[-1])


@pytest.mark.parametrize("decay", [1.0, -0.1])
@pytest.mark.parametrize("method", ["mean_teacher", "temporal_ensembling"])
def test_a_decay_outside_of_its_range_is_refused(method: str, decay: float) -> None:
    with pytest.raises(UserError, match="at least 0 and below 1"):
        rehearse_anew(plan(f"method={method}", f"method.teacher.decay={decay}")[0])


def test_ramps() -> None:
    ramp = GaussianRampUp(1.0, length=0.8)
    values = [ramp(Progress(epoch, 0, 1, 5)) for epoch in range(5)]
    assert values[0] == 0 and values[1:] == pytest.approx([0.060055, 0.286505, 0.731616, 1], abs=1e-6)
    by_step = GaussianRampUp(8.0, length=1.0, per_step=True)
    assert by_step(Progress(0, 0, 4, 1)) == pytest.approx(8 * 0.006738, rel=1e-4)
    assert GaussianRampUp(100.0, labelled=4000, examples=50000)(Progress(299, 0, 1, 300)) == pytest.approx(8.0)
    assert [Linear(4.0, 1.0)(Progress(epoch, 0, 1, 4)) for epoch in range(4)] == [4, 3, 2, 1]


def test_published_learning_rates_and_momenta() -> None:
    """Laine and Aila's code: epochs from 0, exp(−5 (1 − e/80)²) and exp(−(e − 250)² / 200) for the last 50."""
    rate, beta1 = GaussianRamps(), GaussianRampDown(0.9, 0.5)
    for epoch in (0, 1, 40, 79, 80, 200, 250, 251, 275, 299):
        up = math.exp(-5 * (1 - epoch / 80) ** 2) if epoch < 80 else 1.0
        down = math.exp(-(((epoch - 250) / 2) ** 2) / 50) if epoch >= 250 else 1.0
        for step in (0, 499):  # nothing changes within an epoch
            progress = Progress(epoch, step, 500, 300)
            assert rate(progress) == pytest.approx(up * down, rel=1e-9)
            assert beta1(progress) == pytest.approx(0.9 * down + 0.5 * (1 - down), rel=1e-9)


def test_published_learning_rates_by_step() -> None:
    """Tarvainen and Valpola's code: up over 40,000 of 150,000 steps, down over the last 25,000."""
    rate, beta1 = GaussianRamps(per_step=True), GaussianRampDown(per_step=True)
    for step in (0, 1, 20_000, 39_999, 40_000, 125_000, 125_001, 140_000, 149_999):
        up = math.exp(-5 * (1 - step / 40_000) ** 2) if step < 40_000 else 1.0
        down = math.exp(-12.5 * (1 - (150_000 - step) / 25_000) ** 2) if step > 125_000 else 1.0
        progress = Progress(step // 500, step % 500, 500, 300)
        assert rate(progress) == pytest.approx(up * down, rel=1e-9)
        assert beta1(progress) == pytest.approx(0.9 * down + 0.5 * (1 - down), rel=1e-9)


def test_adams_first_beta_follows_its_schedule() -> None:
    """Three steps against Adam's equations, with bias correction by the current β₁, as in Laine and Aila's code."""
    network = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    learner = Learner(network=network, objective=Objective({}, {}), optimizer=optimizer, peak_rate=0.1)
    weight, mean, square = network.weight.item(), 0.0, 0.0
    for count, (gradient, beta1) in enumerate([(1.0, 0.9), (-2.0, 0.7), (0.5, 0.5)], start=1):
        learner.update(gradient * network.weight.sum(), 0.5, beta1)
        mean, square = beta1 * mean + (1 - beta1) * gradient, 0.999 * square + 0.001 * gradient**2
        weight -= 0.05 * (mean / (1 - beta1**count)) / (math.sqrt(square / (1 - 0.999**count)) + 1e-8)
        assert network.weight.item() == pytest.approx(weight, rel=1e-5)


class TestNormalisedLogits:
    def test_the_deviations_are_those_over_the_training_images(self) -> None:
        data = digits_of("method=labels")
        networks = [SmallConv(classes=10) for _ in range(3)]
        teacher = Frozen(TeacherContext(networks, [], 100, 10, data), average="logits", normalised=True)
        (batch,) = data.evaluation("train")
        logits = torch.stack([network.eval()(batch.views[0]).logits for network in networks]).mean(0)
        assert len(logits) == 100
        deviations = logits.std(0, correction=0)
        expected = deviations / deviations.square().mean().sqrt()
        teacher_output = teacher.targets(step([logits])._replace(batch=batch))
        torch.testing.assert_close(teacher_output.deviations, expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(teacher_output.logits, logits)
        assert "deviations" in teacher.state_dict()

    def test_other_methods_checkpoints_have_none(self) -> None:
        assert [*Frozen(TeacherContext([SmallConv(classes=10)], [], 100, 10)).state_dict()] == ["_extra_state"]

    def test_a_recurrent_teacher_reads_the_text_with_its_state_and_begins_anew(self) -> None:
        (stage,) = plan("method=labels", kind="language")
        data = build.data(stage, compose_settings([*LANGUAGE]).machine, torch.device("cpu"))
        network = build.network(stage).eval()
        teacher = Frozen(TeacherContext([network], [], 100, stage.dataset.classes, data), normalised=True)
        logits_so_far, state = [], None
        for batch in data.evaluation("train"):
            output = network(batch.views[0], state)
            state = output.state
            logits_so_far.append(output.logits.detach().flatten(0, 1))
        deviations = torch.cat(logits_so_far).std(0, correction=0)
        expected = deviations / deviations.square().mean().sqrt()
        torch.testing.assert_close(teacher.deviations, expected, rtol=1e-3, atol=0)
        assert teacher.get_extra_state() == [None]

    def test_a_constant_logit_is_refused(self) -> None:
        network = SmallConv(classes=10)
        nn.init.zeros_(network.head.weight)
        with pytest.raises(ValueError, match="the same for all training examples"):
            Frozen(TeacherContext([network], [], 100, 10, digits_of("method=labels")), normalised=True)

    def test_three_teachers_teach_one_shallow_student(self, train: Train, tmp_path: Path) -> None:
        shallow = ("model=shallow_small", "teacher=small_conv", "recipe.epochs=20", "method.terms.teacher.weight=0.01")
        *teachers, student = train("method=logit_regression", "method.teacher_count=3", *shallow)
        signatures = [teacher["signature"] for teacher in teachers]
        assert student["teachers"] == signatures and len({*signatures}) == 3 and student["parameters"] == 8154
        curves = (tmp_path / "stages" / student["signature"] / "curves.jsonl").read_text().splitlines()
        first, last = (json.loads(curves[index])["teacher"] for index in (0, -1))
        assert last < 0.95 * first


def test_a_cohorts_result_is_the_mean_and_names_every_network(train: Train) -> None:
    (result,) = train("method=deep_mutual_learning", "method.cohort=3", "recipe.epochs=20")
    networks = result["networks"]
    errors = [networks[name]["test_error_percent"] for name in ("0", "1", "2")]
    assert len(set(errors)) > 1 and result["test_error_percent"] == pytest.approx(sum(errors) / 3)
    assert {"0", "1", "2", "ensemble"} == {*networks} and result["parameters"] == 3 * 1442


def test_a_mean_teachers_result_is_the_average_network(train: Train) -> None:
    (result,) = train("method=mean_teacher", "recipe.epochs=20")
    assert result["test_error_percent"] == result["networks"]["average"]["test_error_percent"]
    assert result["networks"]["0"]["test_error_percent"] != result["test_error_percent"]


class TestPartlyLabelled:
    options = ("dataset.labelled=20", "dataset.train_size=100")

    def test_the_labelled_images_are_balanced_and_the_others_hidden(self) -> None:
        labels = digits_of("method=pi_model", *self.options).splits.train.labels
        assert (labels[:20] >= 0).all() and (labels[20:] == -1).all() and len(labels) == 100
        assert [(labels == label).sum() for label in range(10)] == [2] * 10

    def test_other_methods_learn_from_the_labelled_images_alone(self) -> None:
        few = digits_of("method=labels", "recipe.batch_size=10", *self.options)
        assert len(few.splits.train.labels) == 20

    def test_more_labels_than_images_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"dataset\.labelled=101 is more than the 100 training examples"):
            digits_of("method=pi_model", "dataset.labelled=101")

    def test_unlabelled_images_count_in_the_mean_but_not_as_errors(self, train: Train) -> None:
        (result,) = train("method=pi_model", *self.options, "recipe.epochs=30")
        assert result["train_error_percent"] < 60  # of twenty images

    def test_the_two_views_differ_and_are_flipped_together(self) -> None:
        data = digits_of("method=pi_model", *self.options)
        first, second = next(data.epoch((0, 0, 0), 0)).views
        assert first.shape == second.shape and not torch.equal(first, second)


FAR = ("method=fitnets", "model=wrn_10_1", "method.pretrain.until=stage3", "method.pretrain.terms.hint.guided=stage3")
"""The guided layer is a quarter as high and wide as the first stage."""


def test_what_cannot_be_compared_is_said_before_anything_is_trained() -> None:
    for options, message in (
        (("method=fsp", "model=wrn_16_1", "teacher=wrn_16_2"), "the same number of channels in 'stage1.first'"),
        ((*FAR, "method.pretrain.terms.hint.hint=stage1"), "is larger than the guided layer"),
        (("method=fitnets", "method.pretrain.terms.hint.hint=stage9"), "the teacher has no feature 'stage9'"),
        (("method=tolerant", "teacher.method.terms.tolerance.scores=11"), "2 to 10 scores, not 11"),
    ):
        with pytest.raises(UserError, match=message):
            for stage in plan(*options):
                rehearse_anew(stage)
