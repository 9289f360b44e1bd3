"""A network that teaches itself: by a second look, by what it said before, or by what it was on average."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ban.interfaces import Progress, Step, Teacher, TeacherContext, TeacherOutput


class SecondView(Teacher):
    """The student's own opinion of a second view of the batch, with gradient (the Π-model; Laine and Aila 2017)."""

    def __init__(self, context: TeacherContext) -> None:
        super().__init__()

    def targets(self, step: Step) -> TeacherOutput:
        """Noise and view are drawn anew; the gradient flows through both sides."""
        output = step.learners[step.turn](step.batch.views[1])
        return TeacherOutput(output.logits, features=output.features)


class EpochAverage(Teacher):
    """What the student said about each example in the epochs before (temporal ensembling; Laine and Aila 2017).

    After epoch t = 1, 2, …: Z ← decay · Z + (1 − decay) · z with z what was said during the epoch, in training mode;
    the target is Z / (1 − decayᵗ). Examples that an epoch left out keep what there was of them.
    """

    accumulated: Tensor
    """Z, [examples, classes]."""
    said: Tensor
    """z; rows of zeros where nothing was said yet in this epoch."""
    epochs: Tensor
    """How often each example was heard, [examples, 1]."""

    def __init__(self, context: TeacherContext, decay: float) -> None:
        """Remembers every example of the training set.

        Raises:
            ValueError: the decay is outside of [0, 1).
        """
        super().__init__()
        _check_decay(decay)
        self.decay = decay
        for name, width in (("accumulated", context.classes), ("said", context.classes), ("epochs", 1)):
            self.register_buffer(name, torch.zeros(context.examples, width))

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """Zeros in the first epoch, whose weight must be zero."""
        heard = self.epochs[step.batch.indices]
        correction = torch.where(heard > 0, 1 - self.decay**heard, 1.0)
        return TeacherOutput(probabilities=self.accumulated[step.batch.indices] / correction)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Notes what was said."""
        self.said[step.batch.indices] = step.outputs[step.turn].logits.detach().float().softmax(-1)

    @torch.no_grad()
    def after_epoch(self, progress: Progress) -> None:
        """Takes the epoch into the average."""
        heard = self.said.sum(-1, keepdim=True) > 0
        averaged = self.decay * self.accumulated + (1 - self.decay) * self.said
        self.accumulated.copy_(torch.where(heard, averaged, self.accumulated))
        self.epochs += heard
        self.said.zero_()


class AverageWeights(Teacher):
    """A network whose weights are the moving average of the student's (mean teacher; Tarvainen and Valpola 2017).

    After optimizer step t = 0, 1, …: θ′ ← a θ′ + (1 − a) θ with a = min(1 − 1/(t + 1), decay), as in the authors' code,
    a plain mean at first. Parameters only: the batch statistics are those of its own forward passes, in training mode.
    """

    def __init__(self, context: TeacherContext, decay: float) -> None:
        """Starts as a copy of the student.

        Raises:
            ValueError: the decay is outside of [0, 1).
        """
        super().__init__()
        _check_decay(decay)
        self.decay = decay
        self.student = (context.students[0],)  # a tuple hides it from state_dict()
        self.network = copy.deepcopy(self.student[0]).requires_grad_(False)
        self.state = self.next_state = None

    def start_epoch(self) -> None:
        """Forgets what was read."""
        self.state = None

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """About the last view: one of its own, if the batch has two. Noise is drawn anew, dropout included."""
        output = self.network.train()(step.batch.views[-1], self.state)
        self.next_state = output.state
        return TeacherOutput(output.logits, features=output.features)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Takes the student's new weights into the average."""
        self.state, progress = self.next_state, step.progress
        steps = progress.epoch * progress.steps_per_epoch + progress.step
        update = get_ema_multi_avg_fn(min(1 - 1 / (steps + 1), self.decay))
        update([*self.network.parameters()], [*self.student[0].parameters()], 0)

    def published(self) -> dict[str, nn.Module]:
        """The average is the better network, and the next one's teacher."""
        return {"average": self.network}

    def get_extra_state(self) -> object:
        """What a recurrent network carries to the next batch."""
        return self.state

    def set_extra_state(self, state: object) -> None:
        """Goes back to a checkpoint."""
        self.state = state


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")
