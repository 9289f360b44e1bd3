"""Exact decomposition of the gradient that a student gets from a teacher (Furlanello et al. 2018, section 3.2).

The gradient of H(p, q) with respect to the logits is g = q − p. Its coordinates sum to zero for every example, so the
two signed sums of the paper's eq. 7 are always equal and opposite, and carry no information. The identity

    q − p = p_y (q − e_y) + (1 − p_y) (q − p̂),        p̂ = the teacher without the true class, normalised again,

separates the gradient of the label, scaled by the teacher's confidence in it, from the dark knowledge.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ban.losses import Logits, PerExample, probabilities

Gradients = Float[Tensor, "*batch classes"]


def gradients(
    student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]
) -> tuple[Gradients, Gradients, Gradients]:
    """g, its label part and its dark part for each example; g is their sum."""
    q, p = probabilities(student), probabilities(teacher)
    labels = torch.zeros_like(q).scatter(-1, targets.unsqueeze(-1), 1.0)
    confidence = p.gather(-1, targets.unsqueeze(-1))
    label = confidence * (q - labels)
    return q - p, label, (1 - confidence) * (q - _without_target(teacher, targets).exp())


def _without_target(logits: Logits, targets: Integer[Tensor, "*batch"]) -> Logits:
    """Log-probabilities among the wrong classes; −∞ at the true class."""
    return logits.float().scatter(-1, targets.unsqueeze(-1), -torch.inf).log_softmax(-1)


def target_divergence(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """TCKD: KL of the binary distributions {true class, other classes}. KL(p‖q) = TCKD + (1 − p_y) NCKD.

    Zhao et al. 2022.
    """
    divergence = torch.zeros(targets.shape, device=targets.device)
    for p, q in zip(_true_and_rest(teacher, targets), _true_and_rest(student, targets), strict=True):
        divergence = divergence + torch.where(p > -torch.inf, p.exp() * (p - q), 0.0)
    return divergence


def _true_and_rest(logits: Logits, targets: Integer[Tensor, "*batch"]) -> tuple[PerExample, PerExample]:
    """The logarithms of q_y and 1 − q_y, both accurate where they are close to zero."""
    logits, index = logits.float(), targets.unsqueeze(-1)
    total = logits.logsumexp(-1)
    rest = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    return logits.gather(-1, index).squeeze(-1) - total, rest - total


def dark_divergence(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """NCKD: KL between the distributions over the wrong classes (Zhao et al. 2022)."""
    p, q = _without_target(teacher, targets), _without_target(student, targets)
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1)


def rescaling(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """ω = (p_y − q_y) / (1 − q_y): the teacher's gradient at the true class relative to the label's (Tang et al. 2020).

    It is negative where the student is more confident than its teacher.
    """
    (p, _), (q, rest) = _true_and_rest(teacher, targets), _true_and_rest(student, targets)
    return (p.exp() - q.exp()) / rest.exp()


def effective_share(weights: PerExample) -> Float[Tensor, ""]:
    """(Σ w)² / (B Σ w²): the effective fraction of a weighted batch of B examples, 1 for equal weights."""
    return weights.sum().square() / (weights.numel() * weights.square().sum())


def report(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> dict[str, Float[Tensor, ""]]:
    """Means over the batch, on the device. Each name is a field in `curves.jsonl`."""
    whole, label, dark = gradients(student, teacher, targets)
    norms = {name: part.norm(dim=-1) for name, part in (("whole", whole), ("label", label), ("dark", dark))}
    p, q = probabilities(teacher), probabilities(student)
    largest, omega = p.amax(-1), rescaling(student, teacher, targets)
    cosine = torch.nn.functional.cosine_similarity
    values = {
        "gradient_norm": norms["whole"],
        "gradient_norm_label": norms["label"],
        "gradient_norm_dark": norms["dark"],
        "gradient_share_dark": norms["dark"] / (norms["label"] + norms["dark"]).clamp(min=1e-12),
        "gradient_cosine_label_dark": cosine(label, dark, dim=-1),
        "gradient_cosine_whole_label": cosine(whole, label, dim=-1),
        "omega": omega,
        "omega_negative_share": (omega < 0).float(),
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
    return means | {"cwtm_effective_share": effective_share(largest)}
