"""Networks in training that teach each other."""

from typing import Literal

import torch

from ban.interfaces import Step, Teacher, TeacherContext, TeacherOutput
from ban.teachers.frozen import mean_probability


class Peers(Teacher):
    """All other networks of the cohort, detached (deep mutual learning; Zhang et al. 2018).

    The mean of their probabilities is one target for H(p, q), which has the gradient of the published mean of KL(p_l‖q)
    over the peers l. `sequential`, as published: each network learns from what its peers say with their newest weights.
    `synchronous`: from what all of them said before the step.
    """

    def __init__(self, context: TeacherContext, updates: Literal["sequential", "synchronous"] = "sequential") -> None:
        """Looks at the cohort.

        Raises:
            ValueError: there is nobody to learn from, or no such order of updates.
        """
        super().__init__()
        if len(context.students) < 2:
            raise ValueError("deep mutual learning needs two networks or more: set method.cohort")
        if updates not in ("sequential", "synchronous"):
            raise ValueError(f"updates is {updates}; choose sequential or synchronous")
        self.sequential = updates == "sequential"

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """The peers' mean probability."""
        peers = [output.logits.detach().float() for turn, output in enumerate(step.outputs) if turn != step.turn]
        return TeacherOutput(mean_probability(torch.stack(peers)))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Asks the network again that has just learnt, for the peers whose turn is still to come."""
        if self.sequential and step.turn + 1 < len(step.learners):
            spoken = step.learners[step.turn](step.batch.views[0])
            step.outputs[step.turn] = spoken._replace(state=step.outputs[step.turn].state)
