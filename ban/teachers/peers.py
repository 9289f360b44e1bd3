"""Networks in training that teach each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from ban.interfaces import Step, Teacher, TeacherContext, TeacherOutput
from ban.teachers.frozen import log_mean_probability


@contextmanager
def batch_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Training mode in which layers normalise by the batch, but do not record its statistics."""
    norms: list[Any] = [module for module in network.modules() if hasattr(module, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class Peers(Teacher):
    """The ensemble of all other networks of the cohort, detached (deep mutual learning; Zhang et al. 2018).

    The target is the mean of the peers' probabilities. H(p, q) with it has the same gradient as the published mean of
    KL(p_l‖q) over the peers l. `sequential` updates, as published: each network learns from its peers' newest weights.
    `synchronous` updates: all networks learn from the outputs before the step. The second look at the batch that
    sequential updates need does not count in the batch statistics that batch normalisation keeps for evaluation.

    Raises:
        ValueError: the cohort has fewer than two networks.
    """

    def __init__(self, context: TeacherContext, updates: Literal["sequential", "synchronous"] = "sequential") -> None:
        super().__init__()
        if len(context.students) < 2:
            raise ValueError("deep mutual learning needs two networks or more: set method.cohort")
        self.sequential = updates == "sequential"

    @torch.no_grad()
    def targets(self, step: Step) -> TeacherOutput:
        """The logarithm of the peers' mean probability."""
        peers = [output.logits.detach().float() for turn, output in enumerate(step.outputs) if turn != step.turn]
        return TeacherOutput(log_mean_probability(torch.stack(peers)))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Recompute the updated network's output for the peers that step after it."""
        if self.sequential and step.turn + 1 < len(step.learners):
            learner = step.learners[step.turn]
            with batch_statistics_kept(learner.network):
                updated = learner(step.batch.views[0])
            step.outputs[step.turn] = updated._replace(state=step.outputs[step.turn].state)
