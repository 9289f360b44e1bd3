"""MUNGE: synthetic unlabelled examples for model compression (Buciluă, Caruana and Niculescu-Mizil 2006).

Labels are no part of it: a synthetic example has none until a teacher says what it thinks of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

NO_VARIANCE = 1e-6
"""Principal components with less than this part of the first one's variance are rounding errors."""


def munge(
    attributes: Float[np.ndarray, "examples attributes"],
    multiplier: int,
    swap_probability: float,
    local_variance: float,
    generator: np.random.Generator,
) -> Float[np.ndarray, "munged attributes"]:
    """`multiplier` times as many examples with the distribution of the given ones, continuous and scaled to [0, 1].

    Each example e in turn meets its nearest neighbour e′; each attribute, with probability p = `swap_probability`, is
    drawn anew in both: e_a ~ N(e′_a, sd) and e′_a ~ N(e_a, sd) with sd = |e_a − e′_a| / s, both from the old values.
    s = `local_variance` is the paper's name for what is no variance: the larger, the less noise.

    A pass changes the examples in place, so later ones meet changed neighbours. Who is whose neighbour (Euclidean) is
    found once, among the given examples; the paper leaves open whether it changes during a pass. Every pass starts from
    the given examples. Rows [i · examples, (i + 1) · examples) are pass i.

    Raises:
        ValueError: an option is impossible, or there are no two examples.
    """
    from sklearn.neighbors import NearestNeighbors  # half a second that no other data set needs

    check(multiplier, swap_probability, local_variance)
    if len(attributes) < 2:
        raise ValueError("MUNGE needs two examples or more, because it mixes neighbours")
    # Without arguments kneighbors leaves out each example itself, even where another one equals it.
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
    """Refuses what MUNGE cannot do.

    Raises:
        ValueError: an option is impossible.
    """
    if not isinstance(multiplier, int) or multiplier < 1:
        raise ValueError(f"multiplier is {multiplier}; it must be a whole number, 1 or more")
    if not 0 <= swap_probability <= 1:
        raise ValueError(f"swap_probability is {swap_probability}; it must be from 0 to 1")
    if not local_variance > 0:
        raise ValueError(f"local_variance is {local_variance}; it must be above 0 (.inf: no noise)")


@dataclass(frozen=True)
class Munge:
    """How synthetic training examples are made."""

    multiplier: int
    """So many for each training example."""
    swap_probability: float
    local_variance: float
    components: int = 100
    """Of images: principal components, at most. Rows are munged as they are."""

    def __post_init__(self) -> None:
        check(self.multiplier, self.swap_probability, self.local_variance)
        if not isinstance(self.components, int) or self.components < 1:
            raise ValueError(f"components is {self.components}; it must be a whole number, 1 or more")

    def rows(
        self, rows: Float[np.ndarray, "examples features"], generator: np.random.Generator
    ) -> Float[np.ndarray, "munged features"]:
        """MUNGE on features that are scaled to [0, 1]."""
        return munge(rows, self.multiplier, self.swap_probability, self.local_variance, generator)

    def images(
        self, images: UInt8[np.ndarray, "examples height width channels"], generator: np.random.Generator
    ) -> UInt8[np.ndarray, "munged height width channels"]:
        """MUNGE on the principal components of images, our variant: single pixels are no attributes worth swapping.

        Each component is scaled to [0, 1]; what comes back is rounded, and clipped to the values the images have. With
        fewer than all components, what the others hold of an image is lost, as if compressed.
        """
        pixels = images.reshape(len(images), -1).astype(np.float32)
        mean = pixels.mean(0)
        axes = _principal_axes(pixels - mean, self.components)
        scores = (pixels - mean) @ axes.T
        low, span = scores.min(0), np.ptp(scores, 0)
        munged = self.rows((scores - low) / span, generator) * span + low
        found = np.empty((len(munged), *images.shape[1:]), np.uint8)
        for here in _chunks(len(munged)):  # floats of all of them would not fit into memory
            restored = np.rint(munged[here] @ axes + mean).clip(images.min(), images.max())
            found[here] = restored.reshape(-1, *images.shape[1:])
        return found


def _principal_axes(
    centred: Float[np.ndarray, "examples pixels"], components: int
) -> Float[np.ndarray, "components pixels"]:
    """The directions of largest variance, the largest first; at least one, and none without variance.

    Raises:
        ValueError: all examples are the same.
    """
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # ascending
    real = int((variances > NO_VARIANCE * variances[-1]).sum())
    if not real:
        raise ValueError("the training images are all the same: there is nothing to munge")
    return axes.T[::-1][: min(components, real)].astype(np.float32)


def _chunks(count: int, size: int = 10_000) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
