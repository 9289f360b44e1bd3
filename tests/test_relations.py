"""Losses of hidden layers against golden numbers: values and norms of gradients, from the authors' codes in fp64."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import made, plan
from torch import Tensor

from ban import losses
from ban.errors import UserError
from ban.interfaces import Batch, Output, TeacherOutput
from ban.terms import Flow, Relations, Variational
from ban.training.rehearsal import rehearse_anew

F_S, F_T = made(6, 4, 6, 0.7, 0.3), made(6, 8, 6, 0.4, 1.1)
F_T4 = made(6, 4, 6, 0.4, 1.1)
E_S, E_T = made(6, 5, 1, 0.9, 0.2).flatten(1), made(6, 5, 1, 0.3, 1.3).flatten(1)
GOLDEN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, float, float]] = {
    "AT": (losses.attention_distance, F_S, F_T, 0.00637179443, 0.00175568605),
    "FT": (losses.factor_distance, F_S, F_T4, 0.0816943855, 0.0130091259),
    "SP": (losses.similarity_distance, F_S, F_T, 0.1468075, 0.0135717107),
    "NST": (losses.selectivity_distance, F_S, F_T, 1.21135142, 0.0446640994),
    "CC": (losses.correlation_congruence, E_S, E_T, 3.30599197, 1.65658766),
    "RKD distances": (losses.relation_of_distances, E_S, E_T, 0.12446082, 0.0638035801),
    "RKD angles": (losses.relation_of_angles, E_S, E_T, 0.129644537, 0.0936678458),
    "PKT": (losses.probabilistic_transfer, E_S, E_T, 0.194483446, 0.291866041),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_value_and_gradient_are_those_of_the_authors(name: str) -> None:
    distance, student, teacher, value, norm = GOLDEN[name]
    ours = student.clone().requires_grad_()
    loss = distance(ours, teacher).mean()
    loss.backward()
    assert ours.grad is not None
    assert (float(loss.detach()), float(ours.grad.norm())) == pytest.approx((value, norm), rel=3e-5)


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "CC"])
def test_a_layer_is_at_no_distance_from_itself_and_the_gradient_is_finite(name: str) -> None:
    distance, student, *_ = GOLDEN[name]
    ours = student.clone().requires_grad_()
    loss = distance(ours, student).mean()
    loss.backward()
    assert ours.grad is not None and ours.grad.isfinite().all()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", [losses.relation_of_distances, losses.relation_of_angles])
def test_equal_examples_give_a_finite_gradient(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    ours = torch.ones(4, 3, requires_grad=True)
    distance(ours, E_T[:4]).backward()
    assert ours.grad is not None and ours.grad.isfinite().all()


def test_relations_are_the_weighted_sum() -> None:
    batch = Batch((), torch.zeros(6, dtype=torch.long), torch.arange(6))
    output, teacher = Output(torch.zeros(6, 2), {"pooled": E_S}), TeacherOutput(features={"pooled": E_T})
    assert float(Relations(["pooled"])(output, teacher, batch)) == pytest.approx(9.59374734, rel=1e-5)


@pytest.mark.parametrize("distance", [losses.attention_distance, losses.factor_distance, losses.selectivity_distance])
def test_of_two_sizes_the_larger_map_is_pooled(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    larger = F_S.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for pair in ((larger, F_T), (F_T, larger)):
        expected = distance(*(F_S if each is larger else each for each in pair))
        torch.testing.assert_close(distance(*pair), expected, rtol=1e-5, atol=1e-7)
    assert not math.isclose(float(distance(F_S, F_T).mean()), 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method=at",), "the student has no feature 'stage3'; its features: stem, stage1, stage2, pooled"),
        (
            ("method=nst", "method.terms.layers.layers=[pooled]"),
            r"Selectivity compares convolutional layers, .* \[2, 16\]",
        ),
        (("method=pkt", "method.terms.layers.layers=[stage1]"), r"Neighbours compares vectors, .* \[2, 8, 8, 8\]"),
        (("method=vid", "method.terms.layers.layers=[pooled]"), "VID needs convolutional layers"),
        (("method=sp", "method.teacher_count=2"), "the student has no feature 'stage3'"),
        (("method=rkd", "method.teacher_count=2"), "the teacher has no feature 'pooled'; its features: none"),
    ],
)
def test_layers_that_do_not_fit_are_refused_in_the_plan(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rehearse_anew(plan(*words)[-1])


def test_variational_information_is_a_gaussian_likelihood() -> None:
    """With torch's own function; before training, the variance is 5 and the larger layer is average-pooled."""
    term, targets = Variational(["a"]), TeacherOutput(features={"a": F_T.float().repeat_interleave(2, 3)})
    output, batch = Output(torch.zeros(6, 2), {"a": F_S.float()}), Batch((), torch.zeros(6), torch.arange(6))
    term.prepare(output, targets)
    assert [parameter.shape for parameter in term.regressors.parameters()] == [(8, 4, 1, 1), *[(8, 8, 1, 1)] * 2]
    mean = term.regressors[0](F_S.float())
    expected = torch.nn.functional.gaussian_nll_loss(mean, F_T.float(), torch.full((8, 1, 1), 5.0).expand_as(mean))
    torch.testing.assert_close(term(output, targets, batch), expected)


@pytest.mark.parametrize("variance", [1.1e-5, 1e-3, 5.0, 100.0, 1e6])
def test_variational_information_starts_with_the_variance_that_is_given(variance: float) -> None:
    term, features = Variational(["a"], variance), {"a": F_S.float()}
    term.prepare(Output(torch.zeros(6, 2), features), TeacherOutput(features=features))
    started = torch.nn.functional.softplus(term.alphas[0]) + losses.SMALLEST_VARIANCE
    torch.testing.assert_close(started, torch.full_like(started, variance), rtol=1e-3, atol=0)


def test_a_single_example_has_no_neighbour_whose_distance_it_shares() -> None:
    assert losses.correlation_congruence(E_S[:1], E_T[:1]) == 0


def test_fsp_matrices_are_of_convolutional_layers() -> None:
    features = {"maps": F_S.float(), "vectors": torch.zeros(6, 4)}
    with pytest.raises(ValueError, match=r"FSP needs convolutional layers, .* 'vectors' is none"):
        Flow([["maps", "vectors"]]).prepare(Output(torch.zeros(6, 2), features), TeacherOutput(features=features))


def test_words_have_no_maps() -> None:
    with pytest.raises(UserError, match="the student has no feature 'pooled'"):
        rehearse_anew(plan("method=rkd", kind="language")[-1])
