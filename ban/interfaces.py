"""Interfaces between the parts of a training: data, networks, teachers and loss terms.

Shape legend, used in every annotation of the package:
    `*batch`  any leading axes: `[batch]` for images and rows, `[time, batch]` for text
    `classes` classes, or words of a vocabulary
    `channels height width`  one image; networks take `[batch, channels, height, width]`
    `features` columns of tabular data; networks take `[batch, features]`
    `time`    consecutive words of a text; networks take word indices `[time, batch]`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float, Integer
from torch import Tensor, nn


class Batch(NamedTuple):
    """One training or evaluation batch."""

    views: tuple[Tensor, ...]
    """One input tensor per augmented view of the same examples. The student's forward pass uses the first. With
    `partners`, one more shows other examples of the same classes. With a `distortion`, the last shows the same examples
    without distortion and augmentation."""
    targets: Integer[Tensor, "*batch"]
    """Class indices; -1 for unlabelled examples."""
    indices: Integer[Tensor, "*batch"]
    """Positions in the training set."""


class Output(NamedTuple):
    """The output of a network.

    A network is a module with `forward(inputs, state=None, until=None) -> Output`. It is built with its YAML's keys and
    `classes`, and with `channels` for images or `features` for rows. `state` is the carried state of its previous
    output; `until` names the feature to stop at, for methods that pre-train a part of the network.
    """

    logits: Float[Tensor, "*batch classes"]
    features: Mapping[str, Tensor]
    """Hidden activations by name: `stem`, `stage1.first` (after its first block), `stage1`, `stage2.first`, …,
    `pooled`."""
    state: Any = None
    """The hidden state that a recurrent network carries to the next batch, detached."""


def up_to(features: Mapping[str, Tensor]) -> Output:
    """The output of a forward pass that stopped at a feature. Its logits are `[batch, 0]`."""
    last = [*features.values()][-1]
    return Output(last.new_empty(len(last), 0), features)


class TeacherOutput(NamedTuple):
    """A teacher's targets for one batch, detached unless the method trains through its teacher; None where absent."""

    logits: Float[Tensor, "*batch classes"] | None = None
    """Logits at temperature 1. An ensemble that averages probabilities gives the logarithm of their mean."""
    probabilities: Float[Tensor, "*batch classes"] | None = None
    """Set by a teacher without logits, such as an average over epochs."""
    features: Mapping[str, Tensor] | None = None
    """Hidden activations by name, as in `Output`."""
    deviations: Float[Tensor, " classes"] | None = None
    """Standard deviation of each logit over the training set, divided by the root mean square of all of them. Set for
    methods that measure distances between logits in this unit."""


class Progress(NamedTuple):
    """Position in a training. Epochs and steps count from 0."""

    epoch: int
    step: int
    steps_per_epoch: int
    epochs: int
    history: tuple[float, ...] = ()
    """The validation metric after each finished epoch, lower is better; empty if the recipe does not select by it."""

    @property
    def fraction(self) -> float:
        """The finished fraction of the training, in [0, 1)."""
        return (self.epoch + self.step / self.steps_per_epoch) / max(1, self.epochs)


class Data(Protocol):
    """A data set on a device."""

    examples: str
    """The unit of its sizes: "images", "rows" or "words"."""
    examples_per_step: int
    steps_per_epoch: int
    held_out: list[str]
    """The splits that are not trained on: "test", and "validation" if it has examples."""
    vocabulary: Sequence[str]
    """The words of a text by index; empty for images and rows."""
    spelling: Integer[Tensor, "words characters"] | None
    """Character indices of each word of a text, padded with 0; None for images and rows."""
    unknown_percent: Mapping[str, float]
    """Split → the share of a text's words that are not in the vocabulary; empty for images and rows."""

    def epoch(self, key: tuple[int, ...], epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on. Order and augmentation depend on `key` and `epoch` only."""
        ...

    def evaluation(self, split: str) -> Iterator[Batch]:
        """All labelled examples of "train", "validation" or "test", without augmentation, in a fixed order."""
        ...

    def recorded(
        self, log_probabilities: Float[Tensor, "*batch classes"], targets: Integer[Tensor, "*batch"]
    ) -> Float[Tensor, "..."]:
        """The part of a batch's predictions that is measured and stored.

        Returns:
            `[batch, classes]`, all of them, for images and rows; `[time · batch]`, those of the target words, for text.
        """
        ...


class Learner(Protocol):
    """A network in training, as a teacher sees it."""

    network: nn.Module

    def __call__(self, inputs: Tensor) -> Output:
        """The network's output, computed from its carried state."""
        ...


class TeacherContext(NamedTuple):
    """The first argument of every teacher's constructor."""

    networks: Sequence[nn.Module]
    """The trained networks of the stages that teach this one."""
    students: Sequence[nn.Module]
    """The networks of this training, before the first step."""
    examples: int
    """Size of the training set."""
    classes: int
    data: Data | None = None
    """None in the rehearsal of a plan."""


class Step(NamedTuple):
    """One learner's turn in a training step, as a teacher sees it."""

    batch: Batch
    learners: Sequence[Learner]
    """All learners; `learners[turn]` is the one being taught."""
    outputs: list[Output]
    """The learners' outputs for the batch, with gradient; detached in `after_step` where there is a single learner. A
    teacher may replace those of earlier turns."""
    turn: int
    progress: Progress


class Teacher(nn.Module):
    """Base class of teachers. Its hooks do nothing, and it provides no targets.

    A teacher is built as `YourTeacher(context, **options)` from a `TeacherContext` and the options of the method's
    `teacher` node, and moved to the device. One teacher serves all learners. In every epoch the loop calls

        start_epoch()           before the first step; not when a training resumes in the middle of the epoch
        targets(step)           for each learner in turn, after all forward passes, within autocast
        after_step(step)        for each learner in turn, after its optimizer step, within autocast
        after_epoch(progress)   after the last step and the epoch's evaluation

    `targets` runs with gradients enabled: use `torch.no_grad` or detach. It also runs before training, on zeros and on
    fake tensors, which have no values, so it must not advance any state; do that in `after_step`. Random numbers come
    from torch's global generator, which is reseeded before every step.

    A teacher owns its state. What must survive an interruption belongs in parameters, buffers or `get_extra_state`,
    which checkpoints store. Networks of other stages do not, because they are loaded from the store again: keep them in
    a tuple, which `state_dict` ignores.
    """

    def __init_subclass__(cls) -> None:
        """Refuses teachers that were written for version 0.1.0: their hook would never be called."""
        if hasattr(cls, "lesson"):
            raise TypeError(f"{cls.__name__}.lesson must be renamed to targets, and return a TeacherOutput")

    def start_epoch(self) -> None:
        """Prepare for an epoch, for example reset carried states."""

    def targets(self, step: Step) -> TeacherOutput:
        """Targets for `step.learners[step.turn]`.

        Returns:
            Tensors with the leading axes of `step.batch.targets`.
        """
        return TeacherOutput()

    def after_step(self, step: Step) -> None:
        """Update state after the optimizer step of `step.learners[step.turn]`."""

    def after_epoch(self, progress: Progress) -> None:
        """Update state after an epoch; `progress` holds its number, and step 0."""

    def published(self) -> Mapping[str, nn.Module]:
        """The teacher's own networks that are results of the training, by name, such as an average of the student."""
        return {}


class Term(nn.Module):
    """Base class of loss terms. A method's loss is a weighted sum of terms.

    Each learner has its own instance of every term of the method, built from the term's node without `weight`. The loop
    calls `prepare` once, before the optimizer is built, and `forward` once per step, outside autocast. Both also run on
    fake tensors before training, which have no values, so neither may read a tensor's values into Python.

    Parameters made in the constructor or in `prepare` are trained together with the student. They are stored in
    checkpoints, as buffers are, but not with the trained network. Random numbers come from torch's global generator, as
    in a teacher, so a resumed training draws the same ones.
    """

    examples: int = 0
    """Size of the training set, set before `prepare`: for buffers with a row for each example."""
    pretrained: Sequence[str] = ()
    """Modules whose weights come from the term of the same name in the method's pre-training. They are not trained."""

    def prepare(self, output: Output, teacher: TeacherOutput) -> None:
        """Make the parameters whose shapes depend on the networks, and check that the networks fit together.

        Args:
            output: the student's output for two examples of zeros, in evaluation mode.
            teacher: the teacher's targets for the same examples.

        Raises:
            ValueError: student and teacher cannot be compared. The user sees this message.
        """

    def forward(self, output: Output, teacher: TeacherOutput, batch: Batch) -> Float[Tensor, ""]:
        """The loss of this term as a scalar, before weighting: usually the mean over the batch.

        Args:
            output: the student's output for `batch.views[0]`, with gradient; in half precision under autocast.
            teacher: the teacher's targets for the same batch.
            batch: the labels (-1 for unlabelled examples) and the examples' positions in the training set.
        """
        raise NotImplementedError


def feature(features: Mapping[str, Tensor] | None, name: str, whose: str) -> Tensor:
    """The hidden activations called `name`, in fp32; `whose` names the network in the error message.

    Raises:
        ValueError: the network has no such feature.
    """
    if not features or name not in features:
        raise ValueError(f"{whose} has no feature '{name}'; its features: {', '.join(features or {}) or 'none'}")
    return features[name].float()


def probabilities_of(teacher: TeacherOutput) -> Tensor:
    """The teacher's probabilities, computed from its logits if it gives only those.

    Raises:
        ValueError: the teacher gives neither.
    """
    return logits_of(teacher).float().softmax(-1) if teacher.probabilities is None else teacher.probabilities


def logits_of(teacher: TeacherOutput) -> Tensor:
    """The teacher's logits.

    Raises:
        ValueError: the teacher gives no logits, or the method has no teacher.
    """
    if teacher.logits is None:
        raise ValueError("this term needs a teacher that provides logits, but the method has none")
    return teacher.logits
