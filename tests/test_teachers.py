"""Networks that teach themselves or each other, against the papers' equations."""

from types import SimpleNamespace

import pytest
import torch
from conftest import Train, digits_of, plan
from torch import nn

from ban import build, losses
from ban.errors import UserError
from ban.interfaces import Batch, Classroom, Output, Progress, Step
from ban.models import SmallConv
from ban.schedules import GaussianRampUp, Linear
from ban.teachers import AverageWeights, EpochAverage, Peers, SecondView


def step(outputs: list[torch.Tensor], *, turn: int = 0, number: int = 0, learners: list | None = None) -> Step:
    count = len(outputs[0])
    batch = Batch((torch.rand(count, 1, 8, 8),) * 2, torch.zeros(count, dtype=torch.long), torch.arange(count))
    learners = learners or [SimpleNamespace(network=None)] * len(outputs)
    return Step(batch, learners, [Output(each, {}) for each in outputs], turn, Progress(0, number, 10, 2))


def classroom(*students: nn.Module, examples: int = 4, classes: int = 3) -> Classroom:
    return Classroom([], students, examples, classes)


class TestEpochAverage:
    said = (torch.randn(4, 3), torch.randn(4, 3))

    def hear(self, memory: EpochAverage, logits: torch.Tensor) -> torch.Tensor:
        spoken = step([logits])
        memory.after_step(spoken)
        memory.after_epoch(spoken.progress)
        target = memory.lesson(spoken).probabilities
        assert target is not None
        return target

    def test_after_one_epoch_the_target_is_what_was_said(self) -> None:
        memory = EpochAverage(classroom(), decay=0.6)
        torch.testing.assert_close(self.hear(memory, self.said[0]), self.said[0].softmax(-1))

    def test_after_two_it_is_the_corrected_average(self) -> None:
        memory = EpochAverage(classroom(), decay=0.6)
        self.hear(memory, self.said[0])
        first, second = (each.softmax(-1) for each in self.said)
        expected = (0.6 * 0.4 * first + 0.4 * second) / (1 - 0.6**2)
        torch.testing.assert_close(self.hear(memory, self.said[1]), expected)

    def test_an_epoch_that_leaves_an_example_out_keeps_what_was_known(self) -> None:
        memory = EpochAverage(classroom(examples=6), decay=0.6)
        known = self.hear(memory, self.said[0])
        memory.after_epoch(Progress(1, 0, 10, 2))
        again = memory.lesson(step([self.said[0]])).probabilities
        torch.testing.assert_close(again, known)
        assert (memory.accumulated[4:] == 0).all()


class TestAverageWeights:
    def test_it_is_a_plain_mean_at_first_and_then_decays(self) -> None:
        student = nn.Linear(1, 1, bias=False)
        teacher = AverageWeights(classroom(student), decay=0.6)
        expected, seen = 0.0, []
        for number, value in enumerate([1.0, 3.0, 5.0, 7.0]):
            student.weight.data.fill_(value)
            teacher.after_step(step([torch.zeros(1, 3)], number=number))
            decay = min(1 - 1 / (number + 1), 0.6)
            expected = decay * expected + (1 - decay) * value
            seen.append(teacher.network.weight.item())  # pyright: ignore
        assert seen[:2] == [1.0, 2.0] and seen[-1] == pytest.approx(expected)

    def test_its_batch_statistics_are_its_own_and_its_weights_nobodys_gradient(self) -> None:
        student = SmallConv(classes=10)
        teacher = AverageWeights(classroom(student), decay=0.9)
        before = student.stage1[1].running_mean.clone()  # pyright: ignore
        lesson = teacher.lesson(step([torch.zeros(4, 10)]))
        assert lesson.logits is not None and not lesson.logits.requires_grad
        assert torch.equal(student.stage1[1].running_mean, before)  # pyright: ignore
        assert not torch.equal(teacher.network.stage1[1].running_mean, before)  # pyright: ignore
        assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_second_view_has_a_gradient() -> None:
    student = SmallConv(classes=10)
    learner = SimpleNamespace(network=student)
    spoken = step([torch.zeros(4, 10)], learners=[lambda inputs: student(inputs), learner][:1])
    logits = SecondView(classroom(student)).lesson(spoken).logits
    assert logits is not None and logits.requires_grad


class TestPeers:
    said = tuple(torch.randn(4, 3, requires_grad=True) for _ in range(3))

    def test_two_networks_hear_each_other_detached(self) -> None:
        lesson = Peers(classroom(*[nn.Identity()] * 2)).lesson(step([*self.said[:2]], turn=0))
        assert lesson.logits is not None and not lesson.logits.requires_grad
        torch.testing.assert_close(lesson.logits.softmax(-1), self.said[1].softmax(-1))

    def test_with_three_the_gradient_is_that_of_the_mean_divergence(self) -> None:
        mine, *others = self.said
        lesson = Peers(classroom(*[nn.Identity()] * 3)).lesson(step([*self.said], turn=0))
        assert lesson.logits is not None
        ours = losses.soft_cross_entropy(mine, lesson.logits.softmax(-1)).mean()
        published = sum(
            nn.functional.kl_div(mine.log_softmax(-1), other.detach().softmax(-1), reduction="batchmean")
            for other in others
        )
        gradients = [torch.autograd.grad(loss, mine)[0] for loss in (ours, published / 2)]  # pyright: ignore
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize(("updates", "asked"), [("sequential", [0]), ("synchronous", [])])
    def test_only_sequential_updates_ask_again(self, updates: str, asked: list[int]) -> None:
        heard: list[int] = []

        def learner(number: int):
            return lambda inputs: (heard.append(number), Output(torch.ones(4, 3), {}))[1]

        peers = Peers(classroom(*[nn.Identity()] * 2), updates)  # pyright: ignore[reportArgumentType]
        for turn in (0, 1):
            peers.after_step(step([*self.said[:2]], turn=turn, learners=[learner(0), learner(1)]))
        assert heard == asked

    def test_one_network_has_no_peers(self) -> None:
        with pytest.raises(UserError, match=r"set method\.cohort"):
            build.rehearse(plan("method=deep_mutual_learning", "method.cohort=1")[0])


@pytest.mark.parametrize("decay", [1.0, -0.1])
@pytest.mark.parametrize("method", ["mean_teacher", "temporal_ensembling"])
def test_a_decay_outside_of_its_range_is_refused(method: str, decay: float) -> None:
    with pytest.raises(UserError, match="at least 0 and below 1"):
        build.rehearse(plan(f"method={method}", f"method.teacher.decay={decay}")[0])


def test_ramps() -> None:
    ramp = GaussianRampUp(1.0, length=0.8)
    values = [ramp(Progress(epoch, 0, 1, 5)) for epoch in range(5)]
    assert values[0] == 0 and values[1:] == pytest.approx([0.060055, 0.286505, 0.731616, 1], abs=1e-6)
    by_step = GaussianRampUp(8.0, length=1.0, per_step=True)
    assert by_step(Progress(0, 0, 4, 1)) == pytest.approx(8 * 0.006738, rel=1e-4)
    assert GaussianRampUp(100.0, labelled=4000, examples=50000)(Progress(299, 0, 1, 300)) == pytest.approx(8.0)
    assert [Linear(4.0, 1.0)(Progress(epoch, 0, 1, 4)) for epoch in range(4)] == [4, 3, 2, 1]


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
        with pytest.raises(UserError, match=r"dataset\.labelled=101: choose 1 to"):
            digits_of("method=pi_model", "dataset.labelled=101")

    def test_unlabelled_images_count_in_the_mean_but_not_as_errors(self, train: Train) -> None:
        (result,) = train("method=pi_model", *self.options, "recipe.epochs=30")
        assert result["train_error_percent"] < 60  # of twenty images

    def test_the_two_views_differ_and_are_flipped_together(self) -> None:
        data = digits_of("method=pi_model", *self.options)
        first, second = next(data.epoch((0, 0, 0), 0)).views
        assert first.shape == second.shape and not torch.equal(first, second)


def test_what_cannot_be_compared_is_said_before_anything_is_trained() -> None:
    for options, message in (
        (("method=fsp", "model=wrn_16_1", "teacher=wrn_16_2"), "FSP needs equal channels in 'stage1.first'"),
        (("method=fitnets", "method.begin.terms.hint.hint=stage1"), "is larger than the guided layer"),
        (("method=fitnets", "method.begin.terms.hint.hint=stage9"), "the teacher has no feature 'stage9'"),
        (("method=tolerant", "teacher.method.terms.tolerance.scores=11"), "2 to 10 scores, not 11"),
    ):
        with pytest.raises(UserError, match=message):
            for stage in plan(*options):
                build.rehearse(stage)
