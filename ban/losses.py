"""Losses as pure functions of `[*batch, classes]`. They return one value per example; the caller averages.

In the equations z are the student's logits and q its probabilities, v and p the teacher's. The target p comes first in
H(p, q) and KL(p‖q), but second in the arguments. All losses are computed in fp32, whatever the networks ran in.
They do not detach anything: teachers' outputs already come without gradient.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

Logits = Float[Tensor, "*batch classes"]
Probabilities = Float[Tensor, "*batch classes"]
PerExample = Float[Tensor, "*batch"]


def cross_entropy(student: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """−log q_y for the class y in `targets`; 0 for unlabelled examples (target -1)."""
    log_probabilities = student.float().log_softmax(-1)
    of_targets = log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(targets >= 0, -of_targets, 0.0)


def smoothed_cross_entropy(
    student: Logits, targets: Integer[Tensor, "*batch"], *, peak: float, temperature: float = 1.0
) -> PerExample:
    """H(u, q) with q = softmax(z / temperature); 0 for unlabelled examples (target -1).

    u is `peak` at the class in `targets`, and the rest is spread evenly over the other C − 1 classes. Label smoothing
    is of this form, and so is the teacher that Yuan et al. 2020 make up.
    """
    log_probabilities = _softened(student, temperature).log_softmax(-1)
    of_targets = log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    rest = (1 - peak) / (student.shape[-1] - 1)
    return torch.where(targets >= 0, -(peak - rest) * of_targets - rest * log_probabilities.sum(-1), 0.0)


def dark_knowledge(student: Logits, teacher: Probabilities, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """−Σ_{i≠y} p_i log q_i for the class y in `targets`; 0 for unlabelled examples (target -1).

    H(p, q) without the class y. Its gradient is (1 − p_y) (q − p̂), where p̂ is the teacher without y, normalised again.
    """
    others = teacher.float().scatter(-1, targets.clamp(min=0).unsqueeze(-1), 0.0)
    return torch.where(targets >= 0, soft_cross_entropy(student, others), 0.0)


def soft_cross_entropy(student: Logits, teacher: Probabilities, *, temperature: float = 1.0) -> PerExample:
    """H(p, q) = −Σ_i p_i log q_i, with q = softmax(z / temperature).

    Its gradient is (q − p) / temperature. Born-again networks use temperature 1 (Furlanello et al. 2018, eq. 5).
    """
    return -(teacher.float() * _softened(student, temperature).log_softmax(-1)).sum(-1)


def without_target(logits: Logits, targets: Integer[Tensor, "*batch"]) -> Logits:
    """Log-probabilities among the wrong classes; −∞ at the true class."""
    return logits.float().scatter(-1, targets.unsqueeze(-1), -torch.inf).log_softmax(-1)


def target_divergence(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """TCKD: KL of the binary distributions {true class, other classes}. KL(p‖q) = TCKD + (1 − p_y) NCKD.

    Zhao et al. 2022.
    """
    divergence = torch.zeros(targets.shape, device=targets.device)
    for p, q in zip(true_and_rest(teacher, targets), true_and_rest(student, targets), strict=True):
        divergence = divergence + torch.where(p > -torch.inf, p.exp() * (p - q), 0.0)
    return divergence


def true_and_rest(logits: Logits, targets: Integer[Tensor, "*batch"]) -> tuple[PerExample, PerExample]:
    """The logarithms of q_y and 1 − q_y, both accurate where they are close to zero."""
    logits, index = logits.float(), targets.unsqueeze(-1)
    total = logits.logsumexp(-1)
    rest = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    return logits.gather(-1, index).squeeze(-1) - total, rest - total


def dark_divergence(student: Logits, teacher: Logits, targets: Integer[Tensor, "*batch"]) -> PerExample:
    """NCKD: KL between the distributions over the wrong classes (Zhao et al. 2022)."""
    p, q = without_target(teacher, targets), without_target(student, targets)
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1)


def standardised(logits: Logits) -> Logits:
    """(z − mean) / std over the classes, in fp32 (Sun et al. 2024, whose code adds 10⁻⁷ to the unbiased std)."""
    logits = logits.float()
    return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))


def correlation_distance(
    student: Float[Tensor, "rows columns"], teacher: Float[Tensor, "rows columns"]
) -> Float[Tensor, " rows"]:
    """1 − Pearson's correlation of corresponding rows (Huang et al. 2022)."""
    centred = (each - each.mean(-1, keepdim=True) for each in (student, teacher))
    return 1 - nn.functional.cosine_similarity(*centred, dim=-1)


def probabilities(logits: Logits, *, temperature: float = 1.0) -> Probabilities:
    """softmax(v / temperature) in fp32."""
    return _softened(logits, temperature).softmax(-1)


def _softened(logits: Logits, temperature: float) -> Logits:
    """`logits` / temperature, without a copy at temperature 1: for a batch of words that would be about 40 MB."""
    return logits.float() if temperature == 1 else logits.float() / temperature


def weighted_mean(values: PerExample, weights: PerExample) -> Float[Tensor, ""]:
    """Σ_s w_s x_s / Σ_u w_u over the mini-batch (Furlanello et al. 2018, eq. 9 and 10)."""
    return (weights * values).sum() / weights.sum()


def permute_dark_knowledge(teacher: Probabilities, noise: Float[Tensor, "*batch classes"]) -> Probabilities:
    """φ(p): keep the largest probability at its class and permute the others (DKPP; Furlanello et al. 2018, eq. 11).

    The permutation of each example is the sorting order of its `noise`: with independent uniform noise, every
    permutation of the remaining C − 1 classes is equally likely.

    Raises:
        ValueError: there are fewer than three classes.
    """
    if teacher.shape[-1] < 3:
        raise ValueError(f"DKPP permutes all classes but one, and with {teacher.shape[-1]} classes nothing can change")
    largest = teacher.argmax(-1, keepdim=True)
    sources = noise.scatter(-1, largest, -torch.inf).argsort(-1)
    places = torch.arange(teacher.shape[-1], device=teacher.device)
    places = (places - (places <= largest).long()).scatter(-1, torch.zeros_like(largest), largest)  # largest, 0, 1, …
    return torch.empty_like(teacher).scatter(-1, places, teacher.gather(-1, sources))


def spread_dark_knowledge(teacher: Probabilities) -> Probabilities:
    """The mean of φ(p) over all permutations: the largest probability, and the rest spread evenly."""
    largest, index = teacher.max(-1, keepdim=True)
    rest = (1 - largest) / (teacher.shape[-1] - 1)
    return rest.expand(teacher.shape).scatter(-1, index, largest)


def noise_from_index(indices: Integer[Tensor, "*batch"], classes: int) -> Float[Tensor, "*batch classes"]:
    """Uniform noise in [0, 1) that depends on the index alone, on every device (SplitMix64's mixing function)."""
    mixed = indices.unsqueeze(-1) * classes + torch.arange(1, classes + 1, device=indices.device)
    mixed = mixed * -7046029254386353131  # the golden ratio's 64 bits, 0x9E3779B97F4A7C15, as a signed number
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    mixed = mixed ^ ((mixed >> 31) & ((1 << 33) - 1))
    return ((mixed >> 11) & ((1 << 53) - 1)).double() / (1 << 53)


def logit_regression(
    student: Logits, teacher: Logits, *, deviations: Float[Tensor, " classes"] | None = None
) -> PerExample:
    """½ Σ_i ((z_i − v_i) / σ_i)² with the `deviations` σ (Ba and Caruana 2014, Do deep nets really need to be deep?).

    The authors normalise v by its mean μ and standard deviation σ over the training set. For a student whose logits are
    scaled back, z = σ z′ + μ, this is the distance of z′ from the normalised v: the means cancel.
    """
    distances = student.float() - teacher.float()
    return 0.5 * (distances if deviations is None else distances / deviations).square().sum(-1)


def squared_difference(student: Probabilities, teacher: Probabilities) -> PerExample:
    """Consistency: (1/C) Σ_i (q_i − p_i)² (Laine and Aila 2017; Tarvainen and Valpola 2017)."""
    return (student - teacher).square().mean(-1)


def top_score_difference(student: Logits, *, scores: int) -> PerExample:
    """q₍₁₎ − (1/(K − 1)) Σ_{k=2..K} q₍ₖ₎ over the K = `scores` largest probabilities (Yang et al. 2019).

    The largest belongs to the predicted class, whatever the label. Minimising it makes a teacher more tolerant.

    Raises:
        ValueError: `scores` is less than 2 or more than the number of classes.
    """
    if not 2 <= scores <= student.shape[-1]:
        raise ValueError(f"the top-score difference needs 2 to {student.shape[-1]} scores, not {scores}")
    largest = probabilities(student).topk(scores, -1).values
    return largest[..., 0] - largest[..., 1:].mean(-1)


def hint_distance(
    student: Float[Tensor, " batch *feature"], teacher: Float[Tensor, " batch *feature"]
) -> Float[Tensor, " batch"]:
    """½ ‖u − r(v)‖² over all activations of a layer (Romero et al. 2015, eq. 3).

    `teacher` is the teacher's layer u; `student` is r(v), the output of a regressor on the student's layer v.
    """
    return 0.5 * (student.float() - teacher.float()).square().flatten(1).sum(1)


def fsp_matrix(first: Float[Tensor, "batch m _ _"], last: Float[Tensor, "batch n _ _"]) -> Float[Tensor, "batch m n"]:
    """G_ij = (1/hw) Σ_xy F¹_ixy F²_jxy: the flow of solution procedure between two layers (Yim et al. 2017, eq. 1).

    If the layers differ in size, the larger one is max-pooled. In fp32, because differences of such sums are small.
    """
    size = min(first.shape[-2:], last.shape[-2:])
    first, last = (nn.functional.adaptive_max_pool2d(each.float(), size) for each in (first, last))
    return torch.einsum("bihw,bjhw->bij", first, last) / (size[0] * size[1])


# Losses of hidden layers. Those that compare the examples of a batch with each other return a scalar.

Maps = Float[Tensor, "batch _ _ _"]
Embeddings = Float[Tensor, "batch _"]


def attention_distance(student: Maps, teacher: Maps) -> PerExample:
    """Mean over positions of (Q_s − Q_t)², Q being the mean of F² over channels, normalised.

    Zagoruyko and Komodakis 2017. Of two sizes, the larger map is average-pooled before it is squared.
    """
    ours, theirs = _energies(student, teacher)
    return (ours - theirs).square().mean(1)


def factor_distance(student: Maps, teacher: Maps) -> PerExample:
    """Mean over positions of |Q_s − Q_t|, Q as in `attention_distance` (FT with p₁ = 2, p₂ = 1; Kim et al. 2018)."""
    ours, theirs = _energies(student, teacher)
    return (ours - theirs).abs().mean(1)


def _energies(*maps: Maps) -> list[Tensor]:
    """The mean of F² over channels, normalised over all positions, `[batch, positions]`."""
    return [nn.functional.normalize(each.square().mean(1).flatten(1)) for each in _of_equal_size(*maps)]


def _of_equal_size(*maps: Maps) -> list[Maps]:
    """In fp32, the larger ones average-pooled."""
    height, width = (min(each.shape[side] for each in maps) for side in (-2, -1))
    return [nn.functional.adaptive_avg_pool2d(each.float(), (height, width)) for each in maps]


def similarity_distance(student: Float[Tensor, " batch *_"], teacher: Float[Tensor, " batch *_"]) -> Float[Tensor, ""]:
    """Σ (G_t − G_s)² / B², G being F Fᵀ with normalised rows (Tung and Mori 2019)."""
    layers = (each.float().flatten(1) for each in (student, teacher))
    ours, theirs = (nn.functional.normalize(each @ each.T) for each in layers)
    return (theirs - ours).square().mean()


def correlation_congruence(student: Embeddings, teacher: Embeddings) -> Float[Tensor, ""]:
    """Mean over consecutive examples of Σ δ_i δ_{i+1}, δ = |e_s − e_t| (Peng et al. 2019, as in the authors' code)."""
    distances = (student.float() - teacher.float()).abs()
    products = (distances[:-1] * distances[1:]).sum(-1)
    return products.sum() / max(1, len(products))  # 0 for a single example


def relation_of_distances(student: Embeddings, teacher: Embeddings) -> Float[Tensor, ""]:
    """Smooth L1 of the pairwise distances, each divided by their mean over all pairs (RKD; Park et al. 2019)."""
    ours, theirs = (_distances(each.float()) for each in (student, teacher))
    return nn.functional.smooth_l1_loss(ours, theirs)


def _distances(embeddings: Embeddings) -> Float[Tensor, "batch batch"]:
    """Of all pairs, with mean 1. The diagonal is 0, and has no gradient: that of a root would be infinite."""
    squares = (embeddings.unsqueeze(0) - embeddings.unsqueeze(1)).square().sum(-1)
    positive = squares > 0
    distances = torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
    return distances * positive.sum() / distances.sum().clamp(min=1e-12)


def relation_of_angles(student: Embeddings, teacher: Embeddings) -> Float[Tensor, ""]:
    """Smooth L1 of the cosines of the angles of all triples (RKD; Park et al. 2019)."""
    ours, theirs = (_cosines(each.float()) for each in (student, teacher))
    return nn.functional.smooth_l1_loss(ours, theirs)


def _cosines(embeddings: Embeddings) -> Float[Tensor, "batch batch batch"]:
    """Between the differences of two examples to a third."""
    directions = nn.functional.normalize(embeddings.unsqueeze(0) - embeddings.unsqueeze(1), dim=-1)
    return directions @ directions.transpose(1, 2)


def probabilistic_transfer(student: Embeddings, teacher: Embeddings) -> Float[Tensor, ""]:
    """Mean over all pairs of p_t log(p_t / p_s), p being cosine similarities (PKT; Passalis and Tefas 2018).

    Similarities s become (s + 1) / 2, and each row is divided by its sum. 10⁻⁷ keeps the logarithm finite.
    """
    ours, theirs = (_neighbours(each.float()) for each in (student, teacher))
    return (theirs * ((theirs + 1e-7) / (ours + 1e-7)).log()).mean()


def _neighbours(embeddings: Embeddings) -> Float[Tensor, "batch batch"]:
    directions = nn.functional.normalize(embeddings, eps=1e-7)
    similarities = (directions @ directions.T + 1) / 2
    return similarities / similarities.sum(1, keepdim=True)


def selectivity_distance(student: Maps, teacher: Maps) -> PerExample:
    """Squared maximum mean discrepancy of the channels' maps, normalised, with the kernel (xᵀy)² (Huang and Wang 2017).

    Of two sizes, the larger map is average-pooled. Mean k(t, t) + mean k(s, s) − 2 mean k(s, t).
    """
    s, t = (nn.functional.normalize(each.flatten(2), dim=2) for each in _of_equal_size(student, teacher))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.transpose(1, 2)).square().mean((1, 2))

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def noise_contrast(scores: Float[Tensor, "batch _"], *, noise: float) -> PerExample:
    """−log s₀/(s₀ + ν) − Σ_{k≥1} log ν/(s_k + ν): noise-contrastive estimation (CRD; Tian et al. 2020, eq. 18).

    The first of the scores, which estimate probabilities, is that of the true pair. The expected number of times that
    its partner would be drawn as noise is `noise`, ν: the number of other scores, divided by the number of examples.
    """
    return (1 + noise / scores[:, 0]).log() + (1 + scores[:, 1:] / noise).log().sum(-1)


SMALLEST_VARIANCE = 1e-5
"""Added to predicted variances."""


def gaussian_nll(mean: Tensor, value: Tensor, variance: Tensor) -> Tensor:
    """−log N(value; mean, variance + 1e-5) of each element, without the constant log(2π)/2.

    `torch.nn.functional.gaussian_nll_loss` waits for the device to check the variances.
    """
    variance = variance + SMALLEST_VARIANCE
    return 0.5 * ((value - mean).square() / variance + variance.log())
