"""A student as its own teacher: its output for a second view or in the last step, or an average over time."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ban.interfaces import Progress, Step, Teacher, TeacherContext, TeacherOutput
from ban.ranges import Fraction


class SecondView(Teacher):
    """The student's output for the second view of the batch, in training mode.

    With `gradient` through both outputs (the Π-model; Laine and Aila 2017), or through the first alone (CS-KD; Yun et
    al. 2020, where the second view is another image of the class).
    """

    def __init__(self, context: TeacherContext, gradient: bool = True) -> None:
        super().__init__()
        self.gradient = gradient

    def targets(self, step: Step) -> TeacherOutput:
        """Logits and features, with new noise and dropout."""
        with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
            output = step.learners[step.turn](step.batch.views[1])
        return TeacherOutput(output.logits, features=output.features)


class EpochAverage(Teacher):
    """The moving average of the student's predictions over epochs (temporal ensembling; Laine and Aila 2017).

    After epoch t = 1, 2, …: Z ← decay · Z + (1 − decay) · z, with the probabilities z that the student, in training
    mode, predicted during the epoch. The target is Z / (1 − decayᵗ). An example that an epoch left out keeps its Z, and
    its t counts the epochs in which it was seen. The target of one that no epoch has shown is the student's own output,
    from which neither a squared error nor a cross-entropy has a gradient.

    Raises:
        ValueError: `decay` is outside [0, 1), or there are several students.
    """

    accumulated: Tensor
    """Z, `[examples, classes]`."""
    epoch_predictions: Tensor
    """z, `[examples, classes]`; a row is zero until its example is seen in this epoch."""
    epochs: Tensor
    """t, the number of epochs in which each example was seen, `[examples, 1]`."""

    def __init__(self, context: TeacherContext, decay: Fraction) -> None:
        super().__init__()
        _check_single(context, "the average over epochs")
        self.decay = _checked_decay(decay)
        widths = {"accumulated": context.classes, "epoch_predictions": context.classes, "epochs": 1}
        for name, width in widths.items():
            self.register_buffer(name, torch.zeros(context.examples, width))

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """Probabilities."""
        indices = step.batch.indices
        epochs, now = self.epochs[indices], step.outputs[step.turn].logits.float().softmax(-1)
        correction = torch.where(epochs > 0, 1 - self.decay**epochs, 1.0)
        return TeacherOutput(probabilities=torch.where(epochs > 0, self.accumulated[indices] / correction, now))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Store the student's predictions for the batch."""
        predictions = step.outputs[step.turn].logits.detach().float().softmax(-1)
        self.epoch_predictions[step.batch.indices] = predictions

    @torch.no_grad()
    def after_epoch(self, progress: Progress) -> None:
        """Update the moving average."""
        seen = self.epoch_predictions.sum(-1, keepdim=True) > 0
        averaged = self.decay * self.accumulated + (1 - self.decay) * self.epoch_predictions
        self.accumulated.copy_(torch.where(seen, averaged, self.accumulated))
        self.epochs += seen
        self.epoch_predictions.zero_()


class LastBatch(Teacher):
    """The student's logits of the last step for those examples of the batch that were in it (DLB; Shen et al. 2022).

    The targets of the other examples are the student's present logits, from which a cross-entropy has no gradient.

    Raises:
        ValueError: there are several students.
    """

    last_logits: Tensor
    """`[examples, classes]`."""
    recent: Tensor
    """Whether they are those of the last step, `[examples, 1]`."""

    def __init__(self, context: TeacherContext) -> None:
        super().__init__()
        _check_single(context, "the last mini-batch")
        self.register_buffer("last_logits", torch.zeros(context.examples, context.classes))
        self.register_buffer("recent", torch.zeros(context.examples, 1, dtype=torch.bool))

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """Logits."""
        indices, now = step.batch.indices, step.outputs[step.turn].logits.detach().float()
        return TeacherOutput(torch.where(self.recent[indices], self.last_logits[indices], now))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Remember the student's outputs."""
        self.last_logits[step.batch.indices] = step.outputs[step.turn].logits.detach().float()
        self.recent.zero_()
        self.recent[step.batch.indices] = True


class AverageWeights(Teacher):
    """A network whose weights are the moving average of the student's (mean teacher; Tarvainen and Valpola 2017).

    After optimizer step t = 1, 2, …: θ′ ← a θ′ + (1 − a) θ with a = min(1 − 1/(t + 1), decay), as in the authors' code:
    at first a plain mean of all weights so far, the initial ones included, which the average starts from. (The authors'
    average starts from initial weights of its own.) Only parameters are averaged. The network runs in training mode,
    and its batch statistics are those of its own forward passes.

    Raises:
        ValueError: `decay` is outside [0, 1), or there are several students.
    """

    def __init__(self, context: TeacherContext, decay: Fraction) -> None:
        super().__init__()
        _check_single(context, "an average of weights")
        self.decay = _checked_decay(decay)
        self.student = (context.students[0],)  # a tuple hides it from state_dict()
        self.network = copy.deepcopy(self.student[0]).requires_grad_(False)
        self.state = self.next_state = None

    def start_epoch(self) -> None:
        """Reset the carried state."""
        self.state = None

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """Logits and features for the batch's last view, with new noise and dropout."""
        output = self.network.train()(step.batch.views[-1], self.state)
        self.next_state = output.state
        return TeacherOutput(output.logits, features=output.features)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Update the moving average with the student's new weights, and advance the carried state."""
        self.state, progress = self.next_state, step.progress
        steps = progress.epoch * progress.steps_per_epoch + progress.step + 1
        update = get_ema_multi_avg_fn(min(1 - 1 / (steps + 1), self.decay))
        update([*self.network.parameters()], [*self.student[0].parameters()], 0)

    def published(self) -> dict[str, nn.Module]:
        """The averaged network, as `average`: it is the better one."""
        return {"average": self.network}

    def get_extra_state(self) -> object:
        """The carried state, for a checkpoint."""
        return self.state

    def set_extra_state(self, state: object) -> None:
        """Restore the carried state of a checkpoint."""
        self.state = state


def _check_single(context: TeacherContext, name: str) -> None:
    if len(context.students) > 1:
        raise ValueError(f"{name} teaches one network: leave method.cohort out")


def _checked_decay(decay: float) -> float:
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")
    return decay
