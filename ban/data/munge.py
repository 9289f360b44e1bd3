"""MUNGE: synthetic unlabelled examples for model compression (Buciluă, Caruana and Niculescu-Mizil 2006).

Labels are not used. A student learns the teacher's outputs for the synthetic examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

NO_VARIANCE = 1e-6
"""Principal components whose variance is below this fraction of the largest are rounding errors."""


def munge(
    attributes: Float[np.ndarray, "examples attributes"],
    multiplier: int,
    swap_probability: float,
    local_variance: float,
    generator: np.random.Generator,
) -> Float[np.ndarray, "munged attributes"]:
    """Synthetic examples from about the same distribution as the given ones.

    Each example e in turn is paired with its nearest neighbour e′. With probability p = `swap_probability`, each
    attribute a of both is redrawn: e_a ~ N(e′_a, sd) and e′_a ~ N(e_a, sd), sd = |e_a − e′_a| / s, from the old values.
    The paper calls s the local variance, but it is not a variance: the larger s, the smaller the noise.

    A pass changes the examples in place, so later examples are paired with changed neighbours. Nearest neighbours
    (Euclidean) are computed once, from the given examples; the paper does not say whether they change during a pass.

    Args:
        attributes: continuous attributes scaled to [0, 1].
        multiplier: the number of passes. Each starts from the given examples.
        swap_probability: p, in [0, 1].
        local_variance: s, above 0; infinity for no noise.
        generator: source of all random numbers.

    Returns:
        `[multiplier · examples, attributes]`, one pass after the other.

    Raises:
        ValueError: an option is out of range, or there are fewer than two examples.
    """
    from sklearn.neighbors import NearestNeighbors  # takes half a second, and other data sets do not need it

    check(multiplier, swap_probability, local_variance)
    if len(attributes) < 2:
        raise ValueError("MUNGE needs two examples or more, because it mixes neighbours")
    # Without arguments kneighbors excludes each example itself, even if another one equals it.
    nearest = NearestNeighbors(n_neighbors=1).fit(attributes).kneighbors(return_distance=False)[:, 0]
    passes = np.repeat(attributes[None], multiplier, axis=0)
    for example, neighbour in enumerate(nearest):
        ours, theirs = passes[:, example].copy(), passes[:, neighbour].copy()
        deviation = np.abs(ours - theirs) / local_variance
        chosen = generator.random(ours.shape) < swap_probability
        passes[:, example] = np.where(chosen, generator.normal(theirs, deviation), ours)
        passes[:, neighbour] = np.where(chosen, generator.normal(ours, deviation), theirs)
    return passes.reshape(-1, attributes.shape[1])


def check(multiplier: int, swap_probability: float, local_variance: float) -> None:
    """Check the options of `munge`.

    Raises:
        ValueError: an option is out of range.
    """
    if not isinstance(multiplier, int) or multiplier < 1:
        raise ValueError(f"multiplier is {multiplier}; it must be a whole number, 1 or more")
    if not 0 <= swap_probability <= 1:
        raise ValueError(f"swap_probability is {swap_probability}; it must be from 0 to 1")
    if not local_variance > 0:
        raise ValueError(f"local_variance is {local_variance}; it must be above 0 (.inf: no noise)")


@dataclass(frozen=True)
class Munge:
    """Settings of MUNGE, and its application to rows and to images.

    Raises:
        ValueError: an option is out of range.
    """

    multiplier: int
    """Number of synthetic examples per training example."""
    swap_probability: float
    local_variance: float
    components: int = 100
    """Maximum number of principal components of images. Not used for rows."""

    def __post_init__(self) -> None:
        check(self.multiplier, self.swap_probability, self.local_variance)
        if not isinstance(self.components, int) or self.components < 1:
            raise ValueError(f"components is {self.components}; it must be a whole number, 1 or more")

    def rows(
        self, rows: Float[np.ndarray, "examples features"], generator: np.random.Generator
    ) -> Float[np.ndarray, "munged features"]:
        """MUNGE on features scaled to [0, 1]."""
        return munge(rows, self.multiplier, self.swap_probability, self.local_variance, generator)

    def images(
        self, images: UInt8[np.ndarray, "examples height width channels"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "munged height width channels"]:
        """MUNGE on the principal components of images, which is our variant: swapping single pixels makes little sense.

        Each component is scaled to [0, 1]. The results are rounded and clipped to the range of the images' values. With
        fewer than all components, the information in the other ones is lost, as in compression.
        """
        pixels = images.reshape(len(images), -1).astype(np.float32)
        mean = pixels.mean(0)
        axes = _principal_axes(pixels - mean, self.components)
        scores = (pixels - mean) @ axes.T
        low, span = scores.min(0), np.ptp(scores, 0)
        munged = self.rows((scores - low) / span, generator) * span + low
        found = np.empty((len(munged), *images.shape[1:]), np.uint8)
        for here in _chunks(len(munged)):  # all of them as floats would not fit into memory
            restored = np.rint(munged[here] @ axes + mean).clip(images.min(), images.max())
            found[here] = restored.reshape(-1, *images.shape[1:])
        return found


def _principal_axes(
    centred: Float[np.ndarray, "examples pixels"], components: int
) -> Float[np.ndarray, "components pixels"]:
    """The directions of largest variance in descending order, without those that have no variance.

    Raises:
        ValueError: all examples are equal.
    """
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # ascending
    real = int((variances > NO_VARIANCE * variances[-1]).sum())
    if not real:
        raise ValueError("the training images are all the same: there is nothing to munge")
    return axes.T[::-1][: min(components, real)].astype(np.float32)


def _chunks(count: int, size: int = 10_000) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
