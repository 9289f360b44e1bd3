"""Losses of other authors against golden numbers: values and norms of gradients, from the authors' codes in fp64.

Where a code's loss is a divergence, ours is the cross-entropy: it has the same gradient, and the target's entropy is
subtracted from its value.
"""

from collections.abc import Callable

import pytest
import torch
from helpers import digits_of, plan
from test_teachers import step
from torch import Tensor

from ban.interfaces import Batch, Output, Progress, TeacherContext, TeacherOutput, Term
from ban.schedules import Linear, WarmUp
from ban.teachers import Prior
from ban.terms import (
    Correlations,
    DarkKnowledge,
    DecoupledProbabilities,
    Label,
    Probabilities,
    SmoothedLabel,
    VirtualTeacher,
)
from ban.training import build
from ban.training.step import START

ROW, COLUMN = torch.arange(6, dtype=torch.float64)[:, None], torch.arange(10, dtype=torch.float64)
Z_S, Z_T = 2 * torch.sin(1 + 3 * ROW + 1.7 * COLUMN), 3 * torch.cos(0.5 + 2 * ROW - 1.3 * COLUMN)
Y = 3 * torch.arange(6) % 10
BATCH = Batch((Z_S,), Y, torch.arange(6))


def entropy(targets: Tensor) -> float:
    """Batch mean."""
    return float(-(targets * targets.log()).sum(-1).mean())


def value_and_gradient(
    term: Callable[[Output, TeacherOutput, Batch], Tensor], logits: Tensor = Z_S, batch: Batch = BATCH
) -> tuple[float, Tensor]:
    """Of the loss with respect to the student's logits."""
    logits = logits.clone().requires_grad_()
    loss = term(Output(logits, {}), TeacherOutput(Z_T), batch)
    loss.backward()
    assert logits.grad is not None
    return float(loss.detach()), logits.grad


def check(term: Term, value: float, norm: float, entropy: float = 0.0) -> None:
    found, gradient = value_and_gradient(term)
    assert found - entropy == pytest.approx(value, rel=3e-6)
    assert float(gradient.norm()) == pytest.approx(norm, rel=3e-6)


def peaked(peak: float, classes: int = 10) -> Tensor:
    return torch.full((6, classes), (1 - peak) / (classes - 1)).scatter(1, Y[:, None], peak)


def test_label_smoothing_in_both_conventions() -> None:
    check(SmoothedLabel(0.1), 3.3466527, 0.387963721)
    check(SmoothedLabel(0.1, over="others"), 3.34339147, 0.383955135)


def test_label_smoothing_is_torchs() -> None:
    expected = torch.nn.functional.cross_entropy(Z_S, Y, label_smoothing=0.3)
    assert value_and_gradient(SmoothedLabel(0.3))[0] == pytest.approx(float(expected), rel=1e-6)


def test_the_made_up_teacher_as_in_the_authors_code() -> None:
    check(VirtualTeacher(0.99, 20.0), 0.781501631, 0.141181667, entropy((peaked(0.99) / 20).softmax(-1)))


def test_the_made_up_teacher_as_in_the_paper_is_distillation_from_its_logits() -> None:
    found, gradient = value_and_gradient(VirtualTeacher(0.99, 20.0, form="paper"))
    logits = Z_S.clone().requires_grad_()
    targets = (peaked(0.99).double().log() / 20).softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits / 20, targets)
    expected.backward()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-3, atol=1e-8)


def test_decoupled_distillation() -> None:
    check(DecoupledProbabilities(1.0, 8.0, 4.0), 24.9773327, 2.69665158)


def test_its_weights_join_into_plain_distillation() -> None:
    """KL(p‖q) = TCKD + (1 − p_y) NCKD, here where all p_y are equal."""
    z_t = Z_T.scatter(1, Y[:, None], 0.0)
    z_t = z_t.scatter(1, Y[:, None], z_t.scatter(1, Y[:, None], -torch.inf).logsumexp(1, keepdim=True))  # p_y = 1/2
    given = Output(Z_S, {}), TeacherOutput(z_t), BATCH
    decoupled = DecoupledProbabilities(1.0, 0.5, 1.0)(*given)
    whole = Probabilities()(*given) - entropy(z_t.softmax(-1))
    assert float(decoupled) == pytest.approx(float(whole), rel=1e-5)


def test_correlations() -> None:
    check(Correlations(), 1.99261633, 0.288885269)
    check(Correlations(temperature=4.0), 33.1667054, 3.46525641)
    assert float(Correlations()(Output(Z_T, {}), TeacherOutput(Z_T), BATCH)) == pytest.approx(0, abs=1e-6)


def test_correlations_of_words_are_those_of_their_list() -> None:
    words = Output(Z_S.view(2, 3, 10), {}), TeacherOutput(Z_T.view(2, 3, 10)), BATCH
    assert float(Correlations()(*words)) == pytest.approx(1.99261633, rel=3e-6)


def test_class_wise_distillation() -> None:
    """Between images of one class, here with the teacher's logits in the place of the partners'."""
    check(Probabilities(4.0), 2.94675931, 0.311094799, 16 * entropy((Z_T / 4).softmax(-1)))


class TestStandardisedLogits:
    def test_distillation(self) -> None:
        z = (Z_T - Z_T.mean(1, keepdim=True)) / Z_T.std(1, keepdim=True)
        check(Probabilities(2.0, standardised=True), 0.859651312, 0.0770766885, 4 * entropy((z / 2).softmax(-1)))

    @pytest.mark.parametrize("term", [Probabilities, DecoupledProbabilities, Correlations])
    def test_shift_and_scale_of_both_networks_do_not_matter(self, term: type[Term]) -> None:
        for standardised in (True, False):
            loss = term(temperature=2.0, standardised=standardised)  # pyright: ignore[reportCallIssue]
            here = loss(Output(Z_S, {}), TeacherOutput(Z_T), BATCH)
            there = loss(Output(3 * Z_S + 5, {}), TeacherOutput(0.5 * Z_T - 7), BATCH)
            assert (float(here) == pytest.approx(float(there), rel=1e-5)) == standardised


@pytest.mark.parametrize("term", [SmoothedLabel(0.1), VirtualTeacher(), DarkKnowledge(), DecoupledProbabilities()])
def test_an_unlabelled_example_has_no_loss_and_no_gradient(term: Term) -> None:
    hidden = BATCH._replace(targets=torch.where(torch.arange(6) < 2, Y, -1))
    found, gradient = value_and_gradient(term, batch=hidden)
    of_two = Batch((Z_S[:2],), Y[:2], torch.arange(2))
    labelled = term(Output(Z_S[:2], {}), TeacherOutput(Z_T[:2]), of_two)
    assert found == pytest.approx(float(labelled) * 2 / 6, rel=1e-6)
    assert gradient[:2].any() and not gradient[2:].any()


def test_dark_knowledge_is_the_born_again_loss_without_the_true_class() -> None:
    """Its gradient is (1 − p_y) (q − p̂), the second part of the identity in docs/methods.md."""
    found, gradient = value_and_gradient(DarkKnowledge())
    p, q, others = Z_T.softmax(-1), Z_S.softmax(-1), torch.arange(10) != Y[:, None]
    assert found == pytest.approx(float(-(p * q.log() * others).sum(-1).mean()), rel=1e-6)
    rest = (p * others).sum(-1, keepdim=True)
    torch.testing.assert_close(gradient, rest * (q - p * others / rest) / 6, atol=1e-7, rtol=1e-5)


class TestPrior:
    said = step([torch.zeros(4, 10)])

    def test_uniform_with_the_label_is_label_smoothing(self) -> None:
        logits = Prior(TeacherContext([], [], 100, 10), distribution="uniform").targets(self.said).logits
        assert logits is not None
        teacher, batch = TeacherOutput(logits[:1].expand(6, 10)), Batch((), Y, torch.arange(6))
        label, prior = (term(Output(Z_S, {}), teacher, batch) for term in (Label(), Probabilities()))
        assert float(0.9 * label + 0.1 * prior) == pytest.approx(3.3466527, rel=1e-6)

    def test_marginal_gives_the_shares_of_the_training_labels(self) -> None:
        data = digits_of("method=labels", "dataset.label_noise=0.5")
        logits = Prior(TeacherContext([], [], 100, 10, data)).targets(self.said).logits
        assert logits is not None and logits.shape == (4, 10)
        labels = torch.from_numpy(data.splits.train.labels)
        shares = torch.stack([(labels == label).float().mean() for label in range(10)])
        assert len(shares.unique()) > 1
        torch.testing.assert_close(logits.softmax(-1), shares.expand(4, 10))

    def test_a_class_without_examples_gets_no_probability_and_a_finite_logit(self) -> None:
        data = digits_of("method=labels", "dataset.train_size=32", "dataset.label_noise=0.9")
        absent = {*range(12)} - {*data.splits.train.labels.tolist()}
        logits = Prior(TeacherContext([], [], 32, 12, data)).targets(self.said).logits
        assert logits is not None and {10, 11} <= absent and logits.isfinite().all()
        assert float(logits.softmax(-1)[:, [*absent]].sum()) < 1e-30


def test_a_weight_above_one_and_one_below_zero_extrapolate_from_the_label_through_the_teacher() -> None:
    """Das and Sanghavi 2023: the gradient is q − (ξ p + (1 − ξ) e_y)."""
    stage = plan("method=ban_l", "method.terms.teacher.weight=1.5", "method.terms.label.weight=-0.5")[-1]
    objective = build.objective(stage)
    gradient = value_and_gradient(
        lambda *given: torch.stack([*objective(*given, START).values()]).sum(),  # pyright: ignore
    )[1]
    mixed = 1.5 * Z_T.softmax(-1) - 0.5 * torch.nn.functional.one_hot(Y, 10)
    torch.testing.assert_close(gradient, (Z_S.softmax(-1) - mixed) / 6, atol=1e-7, rtol=1e-5)


def test_a_warm_up_reaches_its_value_and_keeps_it() -> None:
    weights = [WarmUp(2.0, 0.5)(Progress(epoch, 0, 3, 8)) for epoch in range(8)]
    assert weights == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_annealing_ends_with_the_label_alone() -> None:
    terms = plan("method=annealed", "recipe.epochs=5")[-1].method.terms
    weights = {name: Linear(term.weight["start"], term.weight["end"]) for name, term in terms.items()}  # pyright: ignore
    at = [[weight(Progress(epoch, 0, 3, 5)) for epoch in (0, 2, 4)] for weight in weights.values()]
    assert at == [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]
