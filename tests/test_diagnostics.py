"""The decomposition of the gradient: golden numbers, and identities to 1e-6."""

import math
from typing import Any

import pytest
import torch

from ban import losses
from ban.errors import UserError
from ban.interfaces import Progress
from ban.training import diagnostics
from ban.training.loop import TrainingState
from ban.training.step import Measured

STUDENT = torch.tensor([[2, 0.5, -1, 0], [0.1, 0.2, 0.3, -0.4]])
TEACHER = torch.tensor([[3, 1, 0, -2], [0.5, 2, -0.5, 1]])
TARGETS = torch.tensor([0, 3])


def many(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(7, 50, 10, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(10, (7, 50), generator=generator)


def test_golden_norms() -> None:
    parts = diagnostics.gradients(STUDENT, TEACHER, TARGETS)
    norms = torch.stack([part.norm(dim=-1) for part in parts], dim=-1)
    golden = [[0.163888, 0.290201, 0.149052], [0.433128, 0.214920, 0.446402]]
    torch.testing.assert_close(norms, torch.tensor(golden), atol=2e-6, rtol=0)


def omegas(student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """ω of each example, as an epoch with no other would report it: 1 − ω is known to half a percent."""
    examples = zip(student[:, None], teacher[:, None], targets[:, None], strict=True)
    return [diagnostics.summary(diagnostics.report(*each))["omega_median"] for each in examples]


def near(omega: float) -> Any:
    return pytest.approx(omega, abs=0.0051 * (1 - omega))


def test_golden_divergences_and_rescaling() -> None:
    given = (STUDENT, TEACHER, TARGETS)
    close = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(diagnostics.target_divergence(*given), torch.tensor([0.045279, 0.014953]), **close)
    torch.testing.assert_close(diagnostics.dark_divergence(*given), torch.tensor([0.297069, 0.432727]), **close)
    assert omegas(*given) == [near(0.444721), near(0.077641)]


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_identities(scale: float) -> None:
    student, teacher, targets = many(scale)
    whole, label, dark = diagnostics.gradients(student, teacher, targets)
    torch.testing.assert_close(label + dark, whole, atol=1e-6, rtol=0)
    for part in (whole, label, dark):
        torch.testing.assert_close(part.sum(-1), torch.zeros_like(part[..., 0]), atol=1e-6, rtol=0)
    p = losses.probabilities(teacher)
    divergence = losses.soft_cross_entropy(student, p) - torch.special.entr(p).sum(-1)
    confidence = p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    parts = diagnostics.target_divergence(student, teacher, targets)
    parts = parts + (1 - confidence) * diagnostics.dark_divergence(student, teacher, targets)
    torch.testing.assert_close(parts, divergence, atol=1e-5 * max(1, scale), rtol=1e-6)


def test_the_gradient_is_what_backpropagation_gives() -> None:
    student, teacher, targets = many(1.0)
    student.requires_grad_()
    losses.soft_cross_entropy(student, losses.probabilities(teacher)).sum().backward()
    torch.testing.assert_close(student.grad, diagnostics.gradients(student.detach(), teacher, targets)[0])


def test_the_rescaling_holds_for_the_wrong_classes_too() -> None:
    """Summed over the wrong classes, the ratio to the label's gradient is the same omega."""
    student, teacher, targets = (each[0] for each in many(1.0))
    q, p = losses.probabilities(student), losses.probabilities(teacher)
    wrong = torch.ones_like(q).scatter(-1, targets.unsqueeze(-1), 0.0)
    ratio = ((q - p) * wrong).sum(-1) / (q * wrong).sum(-1)
    assert omegas(student, teacher, targets) == [*map(near, ratio.tolist())]


def test_effective_share() -> None:
    assert diagnostics.effective_share(torch.ones(8)).item() == 1
    assert diagnostics.effective_share(torch.tensor([1.0, 0, 0, 0])).item() == 0.25


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_quantiles_of_omega_come_from_sums_of_histograms(scale: float) -> None:
    student, teacher, targets = many(scale)
    parts = [diagnostics.report(*each) for each in zip(student, teacher, targets, strict=True)]
    sums = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
    index = targets.unsqueeze(-1)
    q, p = (
        each.double().softmax(-1).scatter(-1, index, 0.0).sum(-1) for each in (student, teacher)
    )  # 1 − q_y, 1 − p_y
    found, exact = diagnostics.summary(sums), (q - p) / q
    low, high = (
        (exact < sign * 1e-6).double().mean().item() for sign in (-1, 1)
    )  # single precision has no more digits
    assert low - 1e-6 <= found["omega_negative_share"] <= high + 1e-6
    for name, quantile in diagnostics.QUANTILES.items():
        low, high = (exact.quantile(quantile + sign / exact.numel()).item() for sign in (-1, 1))
        assert low - 0.0051 * (1 - low) <= found[name] <= high + 0.0051 * (1 - high), name


@pytest.mark.parametrize("sign", [1e4, -1e4, 18.0])
@pytest.mark.parametrize("confident", ["teacher", "student"])
def test_a_certain_network_gives_finite_numbers_and_ends_no_training(confident: str, sign: float) -> None:
    """One confident example makes the mean of ω any number, and its float infinite; the quantiles do not change."""
    targets, other = torch.arange(10), torch.zeros(10, 10)
    certain = torch.zeros(10, 10)
    certain[0, 0] = sign
    teacher, student = (certain, other) if confident == "teacher" else (other, certain)
    sums = diagnostics.report(student, teacher, targets)
    found = diagnostics.summary(sums)
    assert all(map(math.isfinite, found.values())) and found["omega_median"] == 0.0
    broken = {**sums, "tckd": torch.tensor(math.nan)}
    TrainingState(Progress(0, 0, 1, 1), [Measured({}, {}, broken)]).check_finite()
    with pytest.raises(UserError, match="the loss"):
        TrainingState(Progress(0, 0, 1, 1), [Measured({"label": torch.tensor(math.nan)}, {}, {})]).check_finite()
