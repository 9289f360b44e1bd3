"""What the parts say to each other.

Shape legend, used in every annotation of the package:
    `*batch`  any leading axes: `[batch]` for images and rows, `[time, batch]` for text
    `classes` classes, or words of a vocabulary
    `channels height width`  one image; networks see `[batch, channels, height, width]`
    `features` columns of a table; networks see `[batch, features]`
    `time`    words of a row; networks see word numbers `[time, batch]`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float, Integer
from torch import Tensor, nn


class Batch(NamedTuple):
    """One training or evaluation batch."""

    views: tuple[Tensor, ...]
    """Inputs; one tensor per augmented view of the same images. The first is the student's."""
    targets: Integer[Tensor, "*batch"]
    """Class indices; -1 where there is no label."""
    indices: Integer[Tensor, "*batch"]
    """Positions in the training set."""


class Output(NamedTuple):
    """What a network says about a batch."""

    logits: Float[Tensor, "*batch classes"]
    features: Mapping[str, Tensor]
    """Hidden activations by name: `stem`, `stage1.first` (its first block), `stage1`, `stage2.first`, …, `pooled`."""
    state: Any = None
    """What a recurrent network carries to the next batch, without gradient."""


def up_to(features: Mapping[str, Tensor]) -> Output:
    """The output of a forward pass that ended at a feature: no classes."""
    last = [*features.values()][-1]
    return Output(last.new_empty(len(last), 0), features)


class TeacherOutput(NamedTuple):
    """What a teacher says about a batch. Everything is detached unless the method learns through its teacher."""

    logits: Float[Tensor, "*batch classes"] | None = None
    """Ready to be softened; an ensemble of probabilities gives the logarithm of their mean."""
    probabilities: Float[Tensor, "*batch classes"] | None = None
    """Where there are no logits: an average over epochs."""
    features: Mapping[str, Tensor] | None = None
    deviations: Float[Tensor, " classes"] | None = None
    """The standard deviation of each logit over the training set, relative to their root mean square, where a method
    measures distances in it."""


class Progress(NamedTuple):
    """Where a training stands. Epochs and steps count from 0."""

    epoch: int
    step: int
    steps_per_epoch: int
    epochs: int
    history: tuple[float, ...] = ()
    """What the validation set gave after each finished epoch, less is better; empty where nobody looks at it."""

    @property
    def fraction(self) -> float:
        """The part of the whole training that is behind us, in [0, 1)."""
        return (self.epoch + self.step / self.steps_per_epoch) / self.epochs


class Data(Protocol):
    """A data set on a device."""

    examples: str
    """What it consists of: images, rows or words."""
    examples_per_step: int
    steps_per_epoch: int
    held_out: list[str]
    """The splits that are not trained on: `test`, perhaps `validation`."""
    vocabulary: Sequence[str]
    """The words of a text by their numbers; empty for images and rows."""
    spelling: Integer[Tensor, "words characters"] | None
    """The characters of each word of a text."""

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on, the same for the same key."""
        ...

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All examples of a split as they are, in a fixed order."""
        ...


class Learner(Protocol):
    """A network in training, as a teacher may see it."""

    network: nn.Module

    def __call__(self, inputs: Tensor) -> Output:
        """The network's output, with its carried state."""
        ...


class TeacherContext(NamedTuple):
    """What a teacher may be made of."""

    networks: Sequence[nn.Module]
    """Trained ones, from other stages."""
    students: Sequence[nn.Module]
    examples: int
    """In the training set."""
    classes: int
    data: Data | None = None
    """None where a training is only imagined."""


class Step(NamedTuple):
    """What a teacher may look at: one learner's turn in one step."""

    batch: Batch
    learners: Sequence[Learner]
    outputs: list[Output]
    turn: int
    progress: Progress


class Teacher(nn.Module):
    """Who teaches. This one teaches nothing: the neutral answer to every question.

    State that must survive a resume belongs into buffers or `get_extra_state`; networks that come from another stage
    do not, because they are read from the store again.
    """

    def start_epoch(self) -> None:
        """Called before the first step of an epoch; not when one is resumed in the middle."""

    def targets(self, step: Step) -> TeacherOutput:
        """What this teacher says to learner `step.turn`."""
        return TeacherOutput()

    def after_step(self, step: Step) -> None:
        """Called after the optimizer step of learner `step.turn`."""

    def after_epoch(self, progress: Progress) -> None:
        """Called after the last step of an epoch."""

    def published(self) -> Mapping[str, nn.Module]:
        """Networks of its own, by name, that are results of the training; a method's `headline` may be one."""
        return {}


class Term(nn.Module):
    """What is matched: one named, weighted part of a method's loss, as a mean over the batch."""

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Makes the parameters whose sizes depend on the networks; called before the optimizer is built.

        Raises:
            ValueError: what is to be matched does not fit.
        """

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """The scalar loss of this term."""
        raise NotImplementedError


def feature(features: Mapping[str, Tensor] | None, name: str, whose: str) -> Tensor:
    """A hidden activation.

    Raises:
        ValueError: there is none of that name.
    """
    if not features or name not in features:
        raise ValueError(f"{whose} has no feature '{name}': there are {', '.join(features or {}) or 'none'}")
    return features[name]


def probabilities_of(teacher: TeacherOutput) -> Tensor:
    """The teacher's probabilities, from its logits if need be.

    Raises:
        ValueError: the method has no teacher that gives any.
    """
    return logits_of(teacher).float().softmax(-1) if teacher.probabilities is None else teacher.probabilities


def logits_of(teacher: TeacherOutput) -> Tensor:
    """The teacher's logits.

    Raises:
        ValueError: the method has no teacher that gives any.
    """
    if teacher.logits is None:
        raise ValueError("this term needs a teacher that gives logits, and the method has none")
    return teacher.logits
