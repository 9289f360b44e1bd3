"""ZCA whitening: images with uncorrelated pixels."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REGULARISATION = 1e-5
"""ε, added to the eigenvalues for pixels in [0, 1], as in the code of Laine and Aila (2017) and of Salimans and Kingma
(2016)."""
PART = 1000
"""Number of images converted to fp64 at a time."""


class ZCA:
    """x ↦ (x − mean) (Σ + ε)^(−½), with the mean and the covariance Σ of the pixels, divided by 255, over `images`.

    Among the matrices that map Σ to the identity it is the one that changes the images least (Krizhevsky 2009). With
    fewer images than pixels some directions have no variance: new images' components in them are multiplied by ε^(−½),
    about 300.

    Args:
        images: `[examples, height, width, channels]`.
        device: where mean and covariance are computed, in fp64.
    """

    def __init__(self, images: NDArray[np.generic], device: torch.device) -> None:
        self.device = device
        pixels = images[0].size
        total = torch.zeros(pixels, dtype=torch.float64, device=device)
        for part in self._parts(images):
            total += part.sum(0)
        self.mean = total / len(images)
        covariance = torch.zeros(pixels, pixels, dtype=torch.float64, device=device)
        for part in self._parts(images):
            centred = part - self.mean
            covariance.addmm_(centred.T, centred, alpha=1 / len(images))
        values, vectors = torch.linalg.eigh(covariance)
        self.matrix = (vectors / (values.clamp(min=0) + REGULARISATION).sqrt()) @ vectors.T

    def __call__(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """Whitened images of the same shape."""
        white = np.empty((len(images), len(self.mean)), np.float32)
        for number, part in enumerate(self._parts(images)):
            white[number * PART :][:PART] = ((part - self.mean) @ self.matrix).float().cpu().numpy()
        return white.reshape(images.shape)

    def _parts(self, images: NDArray[np.generic]) -> Iterator[Tensor]:
        """Pixels `[images, height · width · channels]` in [0, 1], `PART` images at a time."""
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            yield torch.from_numpy(part.reshape(len(part), -1)).to(self.device).double() / 255
