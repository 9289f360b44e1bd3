"""Exact decomposition of the gradient that a student gets from a teacher (Furlanello et al. 2018, section 3.2).

The gradient of H(p, q) with respect to the logits is g = q − p. Its coordinates sum to zero for every example, so the
two signed sums of the paper's eq. 7 are always equal and opposite, and carry no information. The identity

    q − p = p_y (q − e_y) + (1 − p_y) (q − p̂),        p̂ = the teacher without the true class, normalised again,

separates the gradient of the label, scaled by the teacher's confidence in it, from the dark knowledge.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ban.losses import (
    Logits,
    PerExample,
    dark_divergence,
    probabilities,
    target_divergence,
    true_and_rest,
    without_target,
)

Gradients = Float[Tensor, "*batch classes"]

COUNTS = "omega_counts"
"""The histogram of log(1 − ω) among the sums of an epoch."""
BINS_PER_UNIT, LARGEST = 100, 30
"""Of the histogram: 1 − ω is known to half a percent between e⁻³⁰ and e³⁰."""
QUANTILES = {"omega_5_percent": 0.05, "omega_median": 0.5, "omega_95_percent": 0.95}


def gradients(
    student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]
) -> tuple[Gradients, Gradients, Gradients]:
    """g, its label part and its dark part for each example; g is their sum."""
    q, p = probabilities(student), probabilities(teacher)
    labels = torch.zeros_like(q).scatter(-1, targets.unsqueeze(-1), 1.0)
    confidence = p.gather(-1, targets.unsqueeze(-1))
    label = confidence * (q - labels)
    return q - p, label, (1 - confidence) * (q - without_target(teacher, targets).exp())


def _log_rest_ratio(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """log(1 − ω) = log(1 − p_y) − log(1 − q_y), finite for finite logits.

    ω = (p_y − q_y) / (1 − q_y) is the teacher's gradient at the true class relative to the label's (Tang et al. 2020).
    It is negative where the student is more confident than its teacher. It has no mean: a single confident example
    gives any negative number.
    """
    return true_and_rest(teacher, targets)[1] - true_and_rest(student, targets)[1]


def _histogram(ratios: PerExample) -> Integer[Tensor, " bins"]:
    """The number of examples in each bin of log(1 − ω), on the device and without waiting for it.

    Bins of equal width in the logarithm keep the relative error of quantiles constant (Masson et al. 2019).
    """
    bins = 2 * LARGEST * BINS_PER_UNIT + 1
    index = ((ratios.flatten() + LARGEST) * BINS_PER_UNIT).round().long().clamp(0, bins - 1)
    return torch.zeros(bins, dtype=torch.int64, device=ratios.device).index_add_(0, index, torch.ones_like(index))


def quantiles(counts: Integer[Tensor, " bins"]) -> dict[str, float]:
    """Median, 5 % and 95 % quantile of ω, from the sum of histograms. Waits for the device."""
    share = counts.cumsum(0).cpu() / counts.sum().cpu()
    found: dict[str, float] = {}
    for name, quantile in QUANTILES.items():
        index = int(torch.searchsorted(share, 1 - quantile))  # ω falls while 1 − ω rises
        found[name] = -math.expm1(index / BINS_PER_UNIT - LARGEST)
    return found


def summary(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """The diagnostics of an epoch from the sums of `report` over its diagnosed steps. Waits for the device."""
    scalars = {name: value for name, value in sums.items() if name != COUNTS}
    values = dict(zip(scalars, torch.stack([*scalars.values()]).tolist(), strict=True)) if scalars else {}
    steps = values.pop("steps", 1.0)
    means = {name: total / steps for name, total in values.items()}
    return means | (quantiles(sums[COUNTS]) if COUNTS in sums else {})


def effective_share(weights: PerExample) -> Float[Tensor, ""]:
    """(Σ w)² / (B Σ w²): the effective fraction of a weighted batch of B examples, 1 for equal weights."""
    return weights.sum().square() / (weights.numel() * weights.square().sum())


def report(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> dict[str, Tensor]:
    """Means over the batch, and the histogram of ω, on the device; `summary` turns their sums into an epoch's values.

    Values are finite for finite logits.
    """
    whole, label, dark = gradients(student, teacher, targets)
    norms = {name: part.norm(dim=-1) for name, part in (("whole", whole), ("label", label), ("dark", dark))}
    p, q = probabilities(teacher), probabilities(student)
    largest, ratios = p.amax(-1), _log_rest_ratio(student, teacher, targets)
    cosine = torch.nn.functional.cosine_similarity
    values = {
        "gradient_norm": norms["whole"],
        "gradient_norm_label": norms["label"],
        "gradient_norm_dark": norms["dark"],
        "gradient_share_dark": norms["dark"] / (norms["label"] + norms["dark"]).clamp(min=1e-12),
        "gradient_cosine_label_dark": cosine(label, dark, dim=-1),
        "gradient_cosine_whole_label": cosine(whole, label, dim=-1),
        "omega_negative_share": (ratios > 0).float(),
        "tckd": target_divergence(student, teacher, targets),
        "nckd": dark_divergence(student, teacher, targets),
        "teacher_confidence": largest,
        "teacher_probability_of_target": p.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
        "teacher_entropy": torch.special.entr(p).sum(-1),
        "teacher_right_share": (teacher.argmax(-1) == targets).float(),
        "agreement": (teacher.argmax(-1) == student.argmax(-1)).float(),
        "student_confidence": q.amax(-1),
    }
    means = {name: value.mean() for name, value in values.items()}
    steps = torch.ones((), device=student.device)
    return means | {"cwtm_effective_share": effective_share(largest), COUNTS: _histogram(ratios), "steps": steps}
