"""Golden numbers, computed by hand from the formulas (see each test), and gradients in closed form."""

import math

import pytest
import torch
from torch import Tensor

from ban import losses
from ban.interfaces import Batch, Output, TeacherOutput
from ban.terms import ConfidenceWeightedLabel, Label, Logits, PermutedProbabilities

Z = torch.tensor([[2, 0.5, -1, 0], [0.1, 0.2, 0.3, -0.4]])
V = torch.tensor([[3, 1, 0, -2], [0.5, 2, -0.5, 1]])
Y = torch.tensor([0, 3])
P = V.softmax(-1)
Q = Z.softmax(-1)


def near(found: Tensor, expected: object, tolerance: float = 5e-6) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=tolerance, rtol=0)


def test_cross_entropy() -> None:
    near(losses.cross_entropy(Z, Y), [0.342350, 1.869429])


def test_cross_entropy_of_an_unlabelled_example_is_zero_and_has_no_gradient() -> None:
    logits = Z.clone().requires_grad_()
    loss = losses.cross_entropy(logits, torch.tensor([0, -1]))
    loss.sum().backward()
    assert loss[1] == 0
    assert logits.grad is not None and not logits.grad[1].any() and logits.grad[0].any()


def test_born_again_loss() -> None:
    near(losses.soft_cross_entropy(Z, P), [0.649298, 1.409787])


def test_it_is_the_divergence_plus_the_teachers_entropy() -> None:
    entropy = -(P * P.log()).sum(-1)
    near((losses.soft_cross_entropy(Z, P) - entropy).mean(), 0.222816)


def test_temperature() -> None:
    softened = losses.probabilities(V, temperature=4.0)
    entropy = -(softened * softened.log()).sum(-1)
    divergence = losses.soft_cross_entropy(Z, softened, temperature=4.0) - entropy
    near(16 * divergence.mean(), 0.508479)


def test_the_labels_loss_is_divided_by_the_whole_batch_unlabelled_examples_included() -> None:
    batch = Batch((), torch.tensor([0, -1]), torch.arange(2))
    near(Label()(Output(Z, {}), TeacherOutput(), batch), 0.342350 / 2)


def test_confidence_weighting() -> None:
    near(losses.weighted_mean(losses.cross_entropy(Z, Y), P.amax(-1)), 0.977635)


def rotated() -> Tensor:
    """Noise whose order rotates the entries other than the largest to the left by one class."""
    return torch.tensor([[0.0, 3, 1, 2], [3, 0, 1, 2]])


def test_permuted_dark_knowledge() -> None:
    permuted = losses.permute_dark_knowledge(P, rotated())
    near(permuted, [[0.839025, 0.041773, 0.005653, 0.113550], [0.049062, 0.597695, 0.219880, 0.133364]])
    near(losses.soft_cross_entropy(Z, permuted).mean(), 0.990717)


def test_normalised_logit_regression_is_that_of_students_in_normalised_units() -> None:
    mean, deviation = torch.tensor([1.0, -1, 0, 2]), torch.tensor([2.0, 0.5, 1, 4])
    targets, said = (V - mean) / deviation, torch.tensor([[0.5, 1, 2, -1], [0.0, -1, 3, 1]])
    expected = 0.5 * (said - targets).square().sum(-1)
    near(losses.logit_regression(said * deviation + mean, V, deviations=deviation), expected.tolist())
    teacher_output, batch = TeacherOutput(V, deviations=deviation), Batch((), Y, torch.arange(2))
    near(Logits()(Output(said * deviation + mean, {}), teacher_output, batch), expected.mean().item())


def test_logit_regression() -> None:
    near(losses.logit_regression(Z, V).mean(), 3.0625)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_of_the_soft_loss_is_student_minus_teacher(temperature: float) -> None:
    logits = Z.clone().requires_grad_()
    teacher = losses.probabilities(V, temperature=temperature)
    losses.soft_cross_entropy(logits, teacher, temperature=temperature).sum().backward()
    expected = ((Z / temperature).softmax(-1) - teacher) / temperature
    torch.testing.assert_close(logits.grad, expected)


def test_gradient_of_confidence_weighting() -> None:
    logits = Z.clone().requires_grad_()
    losses.weighted_mean(losses.cross_entropy(logits, Y), P.amax(-1)).backward()
    weight = P.amax(-1, keepdim=True) / P.amax(-1).sum()
    torch.testing.assert_close(logits.grad, weight * (Q - torch.nn.functional.one_hot(Y, 4)))


def test_gradient_of_logit_regression() -> None:
    logits = Z.clone().requires_grad_()
    losses.logit_regression(logits, V).sum().backward()
    torch.testing.assert_close(logits.grad, Z - V)


def test_half_precision_is_computed_in_single() -> None:
    half = losses.soft_cross_entropy(Z.bfloat16(), P)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, losses.soft_cross_entropy(Z.bfloat16().float(), P))


def test_leading_axes_are_free() -> None:
    grid = Z.expand(3, 2, 4)
    assert losses.soft_cross_entropy(grid, P.expand(3, 2, 4)).shape == (3, 2)


class TestPermutation:
    teacher = (4 * torch.randn(500, 10, generator=torch.Generator().manual_seed(1))).softmax(-1)

    def permuted(self, seed: int = 0) -> Tensor:
        noise = torch.rand(self.teacher.shape, generator=torch.Generator().manual_seed(seed))
        return losses.permute_dark_knowledge(self.teacher, noise)

    def test_keeps_the_largest_at_its_class(self) -> None:
        assert torch.equal(self.permuted().argmax(-1), self.teacher.argmax(-1))
        assert torch.equal(self.permuted().amax(-1), self.teacher.amax(-1))

    def test_only_reorders(self) -> None:
        assert torch.equal(self.permuted().sort(-1).values, self.teacher.sort(-1).values)

    def test_is_drawn_for_each_example_and_does_not_mix_them(self) -> None:
        same = self.teacher[:1].expand(200, 10)
        noise = torch.rand(200, 10, generator=torch.Generator().manual_seed(0))
        assert len(losses.permute_dark_knowledge(same, noise).unique(dim=0)) > 150

    def test_draws_every_order_equally_often(self) -> None:
        same = torch.tensor([[0.7, 0.15, 0.1, 0.05]]).expand(60_000, 4)
        noise = torch.rand(60_000, 4, generator=torch.Generator().manual_seed(0))
        counts = losses.permute_dark_knowledge(same, noise).unique(dim=0, return_counts=True)[1]
        assert len(counts) == math.factorial(3)
        assert (counts - 10_000).abs().max() < 5 * math.sqrt(10_000)

    def test_destroys_the_similarity_of_classes(self) -> None:
        """Given the largest, all pairs of other classes end with the same covariance."""
        teacher = torch.tensor([[0.7, 0.2, 0.08, 0.02]]).repeat(40_000, 1)
        teacher[::2] = torch.tensor([0.7, 0.02, 0.08, 0.2])
        noise = torch.rand(teacher.shape, generator=torch.Generator().manual_seed(0))
        covariance = losses.permute_dark_knowledge(teacher, noise)[:, 1:].T.cov()
        pairs = covariance[~torch.eye(3, dtype=torch.bool)]
        assert teacher[:, 1:].T.cov()[0, 2] < -0.008
        torch.testing.assert_close(pairs, pairs.mean().expand(6), atol=1e-4, rtol=0)

    def test_two_classes_leave_nothing_to_permute(self) -> None:
        with pytest.raises(ValueError, match="2 classes"):
            losses.permute_dark_knowledge(torch.tensor([[0.6, 0.4]]), torch.rand(1, 2))


def test_squared_difference_of_probabilities() -> None:
    near(losses.squared_difference(Q, P).mean(), 0.026807)


def test_top_score_difference() -> None:
    near(losses.top_score_difference(V, scores=3), [0.761363, 0.421073])
    with pytest.raises(ValueError, match="2 to 4 scores, not 5"):
        losses.top_score_difference(V, scores=5)


def test_minimising_the_top_score_difference_lowers_the_top_score() -> None:
    logits = V.clone().requires_grad_()
    losses.top_score_difference(logits, scores=3).sum().backward()
    assert logits.grad is not None
    assert (logits.grad.gather(-1, V.argmax(-1, keepdim=True)) > 0).all()


def test_hint_is_half_the_squared_distance() -> None:
    ours, theirs = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    near(losses.hint_distance(ours, theirs), [0.5 * float((ours[i] - theirs[i]).norm() ** 2) for i in range(2)], 1e-5)


def test_flow_is_the_mean_of_the_outer_products() -> None:
    first, last = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 4, 5)
    expected = sum(first[:, :, None, x, y] * last[:, None, :, x, y] for x in range(4) for y in range(5))
    torch.testing.assert_close(losses.fsp_matrix(first, last), expected / 20)  # pyright: ignore[reportOperatorIssue]


def test_flow_pools_the_larger_map_by_its_maxima() -> None:
    first, last = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)
    pooled = first.unflatten(2, (4, 2)).unflatten(4, (4, 2)).amax((3, 5))
    torch.testing.assert_close(losses.fsp_matrix(first, last), losses.fsp_matrix(pooled, last))


def test_spread_dark_knowledge_is_the_mean_over_permutations() -> None:
    near(losses.spread_dark_knowledge(P)[0, 0], float(P[0, 0]))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(
        [losses.permute_dark_knowledge(P, torch.rand(P.shape, generator=generator)) for _ in range(4000)]
    )
    near(drawn.mean(0) - losses.spread_dark_knowledge(P), [[0.0] * 4] * 2, 0.005)


def test_the_noise_of_an_index_is_its_own_and_uniform() -> None:
    noise = losses.noise_from_index(torch.arange(2000), 50)
    assert torch.equal(noise[7:9], losses.noise_from_index(torch.tensor([7, 8]), 50))
    assert len(noise.unique()) == noise.numel()
    counts = torch.histc(noise.float(), bins=20, min=0, max=1)
    assert (counts / noise.numel() - 0.05).abs().max() < 0.003
    correlation = torch.corrcoef(noise.T)
    assert (correlation - torch.eye(50)).abs().max() < 0.1
    orders = noise.argsort(-1)[:, 0].bincount(minlength=50)
    assert orders.min() > 15 and orders.max() < 75  # 40 expected


@pytest.mark.parametrize("drawn", ["step", "example", "mean"])
def test_permutations_drawn_in_three_ways(drawn: str) -> None:
    term = PermutedProbabilities(drawn)  # pyright: ignore[reportArgumentType]
    batch, teacher_output = Batch((Z,), Y, torch.arange(2)), TeacherOutput(V)
    values = {float(term(Output(Z, {}), teacher_output, batch)) for _ in range(20)}
    assert (len(values) > 1) == (drawn == "step")


def test_confidence_in_the_true_class() -> None:
    teacher_output, batch = TeacherOutput(V), Batch((Z,), Y, torch.arange(2))
    ce, weights = torch.tensor([0.342350, 1.869429]), P.gather(-1, Y[:, None])[:, 0]
    found = ConfidenceWeightedLabel("target")(Output(Z, {}), teacher_output, batch)
    near(found, float((weights * ce).sum() / weights.sum()))
