"""Images whose pixels are uncorrelated."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REGULARISATION = 1e-5
"""Added to the eigenvalues, of bytes as parts of 255: that of Laine and Aila's code (2017), which is Salimans and
Kingma's (2016)."""
PART = 1000
"""Images that are in fp64 at a time."""


class ZCA:
    """x ↦ (x − mean) (Σ + ε)^(−½), with mean and covariance Σ over images as rows of pixels in parts of 255.

    Of all matrices that make Σ the identity it is the one that changes the images least (Krizhevsky 2009). With fewer
    images than pixels some directions have no variance: a new image's part in them is multiplied by ε^(−½), about 300.
    """

    def __init__(self, images: NDArray[np.generic], device: torch.device) -> None:
        """Learns from images `[examples, height, width, channels]`, in fp64 on the device."""
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
        """The images, of any number, whitened."""
        white = np.empty((len(images), len(self.mean)), np.float32)
        for number, part in enumerate(self._parts(images)):
            white[number * PART :][:PART] = ((part - self.mean) @ self.matrix).float().cpu().numpy()
        return white.reshape(images.shape)

    def _parts(self, images: NDArray[np.generic]) -> Iterator[Tensor]:
        """Rows of pixels, a part of the images at a time."""
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            yield torch.from_numpy(part.reshape(len(part), -1)).to(self.device).double() / 255
