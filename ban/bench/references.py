"""Two plain training loops to compare with: what most scripts do, and the fastest that a short loop does in fp32.

Both train the same network as `ban` on the same examples, with the same optimizer, batch size and loss, in fp32,
eagerly and with contiguous tensors. Neither uses the rest of this program while it trains.

|        | `Script`                                               | `InMemory`                                   |
|--------|--------------------------------------------------------|----------------------------------------------|
| images | in bytes; workers of a torch.utils.data.DataLoader     | normalised floats on the device; one crop of |
|        | augment each by torchvision.transforms; then it is sent | a batch, a flip of each image                |
| rows   | a TensorDataset in the same DataLoader                 | on the device, indexed                       |
| text   | rows of words on the device, cut into windows, as in   | the same                                     |
|        | PyTorch's example of a language model                  |                                              |
| loss   | read by `.item()` in each step                         | summed on the device                         |

A `Script` spends a part of its time in other processes, so its speed depends on free CPUs.
"""

import itertools
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from ban.cpus import cpus
from ban.data.augmentation import Augmentation
from ban.data.images import Images
from ban.interfaces import Data
from ban.plan.stage import Stage
from ban.settings.construct import build
from ban.settings.datasets import ImageDataset
from ban.training.step import START
from ban.training.timing import Timed, wait

WORKERS = 2
"""Processes that load images, unless fewer CPUs are usable."""

Pairs = Iterator[tuple[Tensor, Tensor]]
"""Endless batches of inputs and targets on the device."""


class Weights(NamedTuple):
    """The loss: cross-entropy with the label, and with the teacher's probabilities."""

    label: float
    teacher: float
    temperature: float
    scale: float
    """Of the gradient through the temperature."""


def refusal(stage: Stage) -> str | None:
    """Why there is no reference for a stage; None: there is."""
    dataset, terms = stage.dataset, stage.method.terms.values()
    if len(stage.models) > 1 or len(stage.teachers) > 1 or stage.is_pretraining or stage.inherits:
        return "they train one network, from the start, with at most one teacher"
    if any(term.constructor["_target_"].rpartition(".")[2] not in ("Label", "Probabilities") for term in terms):
        return "they know no loss but cross-entropy with labels and with a teacher's probabilities"
    if any(isinstance(term.weight, Mapping) for term in terms):
        return "they know no schedules of weights"
    if dataset.unlabelled_examples or dataset.views_per_batch > 1:
        return "they see each example once, with its label"
    if isinstance(dataset, ImageDataset) and (
        dataset.whitening or dataset.augmentation["_target_"].rpartition(".")[2] != "Augmentation"
    ):
        return "they know no augmentation but crops and flips"
    return None


def _weights(stage: Stage) -> Weights:
    label, taught = 0.0, (0.0, 1.0, 1.0)
    for term in stage.method.terms.values():
        weight, node = float(cast("float", term.weight)), term.constructor
        if node["_target_"].endswith("Label"):
            label += weight
        else:
            temperature = float(node.get("temperature", 1.0))
            squared = node.get("squared_temperature", True)
            taught = (weight, temperature, temperature**2 if squared else 1.0)
    return Weights(label, *taught)


class Reference:
    """A plain loop. Subclasses say where batches come from, and what happens to the loss."""

    def __init__(self, stage: Stage, network: nn.Module, teacher: nn.Module | None, batches: Pairs) -> None:
        recipe = stage.recipe
        self.network, self.teacher, self.batches = network.train(), teacher, batches
        self.weights, self.clip_norm, self.loss_scale = _weights(stage), recipe.clip_norm, recipe.loss_scale or 1.0
        settings = {key: value for key, value in recipe.optimizer.items() if key not in ("fused", "lr")}
        rate = recipe.learning_rate * build(recipe.schedule)(START)
        self.optimizer: torch.optim.Optimizer = build(settings, network.parameters(), lr=rate)
        self.state: Any = None
        self.device = next(network.parameters()).device
        self.losses: list[float] = []
        """Of each round: the mean loss."""

    def train(self, seconds: float) -> Timed:
        """Trains for about that time, one step at least. Returns the number of examples, and their time."""
        wait(self.device)
        started, examples, steps = time.perf_counter(), 0, 0
        total = self.zero()
        while not steps or time.perf_counter() - started < seconds:
            inputs, targets = next(self.batches)
            total += self.read(self.step(inputs, targets))
            examples, steps = examples + targets.numel(), steps + 1
        wait(self.device)
        passed = time.perf_counter() - started
        self.losses.append(float(total) / steps)
        return Timed(examples, passed)

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of the optimizer. Returns the loss, detached."""
        self.optimizer.zero_grad()
        output = self.network(inputs, self.state)
        self.state = output.state
        logits = output.logits.flatten(0, -2)
        loss = self.weights.label * F.cross_entropy(logits, targets.flatten())
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(inputs).logits.flatten(0, -2)
            temperature = self.weights.temperature
            probabilities = F.softmax(taught / temperature, 1)
            soft = F.cross_entropy(logits / temperature, probabilities)
            loss = loss + self.weights.teacher * self.weights.scale * soft
        (self.loss_scale * loss).backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def zero(self) -> Any:
        """The sum of no losses."""
        return 0.0

    def read(self, loss: Tensor) -> Any:
        """What is summed of a step's loss."""
        return loss


class Script(Reference):
    """What most scripts do."""

    def read(self, loss: Tensor) -> float:
        """See `Reference`: waits for the device."""
        return loss.item()


class InMemory(Reference):
    """A loop whose data are on the device, and that waits for it at the end only."""

    def zero(self) -> Tensor:
        """See `Reference`."""
        return torch.zeros((), device=self.device)


# Batches


def scripts_batches(stage: Stage, data: Data, device: torch.device, workers: int = WORKERS) -> Pairs:
    """The batches of a `Script`."""
    if stage.dataset.is_text:
        return _windows(data, device)
    if isinstance(data, Images):
        examples: Dataset[Any] = _Pictures(data)
    else:
        examples = TensorDataset(*_whole(data))
    return _loaded(examples, stage.recipe.batch_size, min(workers, cpus().count), device)


def memorys_batches(stage: Stage, data: Data, device: torch.device) -> Pairs:
    """The batches of an `InMemory`."""
    if stage.dataset.is_text:
        return _windows(data, device)
    if isinstance(data, Images):
        return _cropped(data, stage.recipe.batch_size, device)
    inputs, targets = (part.to(device) for part in _whole(data))
    return _indexed(inputs, targets, stage.recipe.batch_size)


class _Pictures(Dataset[Any]):
    """Images in bytes, with the transforms that scripts for CIFAR use."""

    def __init__(self, data: Images) -> None:
        self.pixels, self.labels = np.asarray(data.splits.train.inputs), data.splits.train.labels
        augmentation = cast("Augmentation", data.augmentation)
        height, width = self.pixels.shape[1:3]
        steps: list[Any] = [
            transforms.RandomCrop((height, width), augmentation.pad, padding_mode=augmentation.pad_mode)
        ]
        steps += [transforms.RandomHorizontalFlip()] if augmentation.flip else []
        mean, std = ([value / 255 for value in each] for each in _normalisation(data))
        self.transform: Any = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        pixels = self.pixels[place]
        return self.transform(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)), self.labels[
            place
        ]


def _normalisation(data: Images) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel, in units of the stored bytes."""
    assert data.mean and data.std  # of images that are not whitened
    return data.mean, data.std


def _loaded(examples: Dataset[Any], batch_size: int, workers: int, device: torch.device) -> Pairs:
    loader: Any = DataLoader(
        examples,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    while True:
        with warnings.catch_warnings():  # Python 3.12 warns of processes that are forked while threads run
            warnings.simplefilter("ignore", DeprecationWarning)
            epoch = iter(loader)
        for inputs, targets in epoch:
            yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _cropped(data: Images, batch_size: int, device: torch.device) -> Pairs:
    """One random crop for all images of a batch, and a random flip of each."""
    pixels: NDArray[Any] = np.asarray(data.splits.train.inputs)
    augmentation = cast("Augmentation", data.augmentation)
    mean, std = (torch.tensor(each, dtype=torch.float32)[:, None, None] for each in _normalisation(data))
    floats = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std
    pad, (height, width) = augmentation.pad, floats.shape[2:]
    mode: Any = augmentation.pad_mode
    images, labels = (
        F.pad(floats, (pad,) * 4, mode=mode).to(device),
        torch.from_numpy(data.splits.train.labels).to(device),
    )
    for inputs, targets in _indexed(images, labels, batch_size):
        top, left = torch.randint(2 * pad + 1, (2,)).tolist()
        crop = inputs[:, :, top : top + height, left : left + width]
        if augmentation.flip:
            flipped = torch.rand(len(crop), 1, 1, 1, device=device) < 0.5
            crop = torch.where(flipped, crop.flip(3), crop)
        yield crop.contiguous(), targets


def _indexed(inputs: Tensor, targets: Tensor, batch_size: int) -> Pairs:
    """Epochs in random order; the last batch is left out if it is not full."""
    while True:
        order = torch.randperm(len(targets), device=targets.device)
        for chosen in order.split(batch_size)[: len(order) // batch_size]:
            yield inputs[chosen], targets[chosen]


def _whole(data: Data) -> tuple[Tensor, Tensor]:
    """All training examples as they are evaluated."""
    batches = [*data.evaluation("train")]
    return torch.cat([batch.views[0] for batch in batches]).cpu(), torch.cat([batch.targets for batch in batches]).cpu()


def _windows(data: Data, device: torch.device) -> Pairs:
    """Words `[time, rows]` of a text that is cut into rows."""
    batches = [*data.evaluation("train")]
    size = len(batches[0].targets)
    words, following = (
        torch.cat(parts).to(device)
        for parts in ([batch.views[0] for batch in batches], [batch.targets for batch in batches])
    )
    for start in itertools.cycle(range(0, len(words), size)):
        yield words[start : start + size], following[start : start + size]
