"""The size of each kind of training step, as a rehearsal in this or in an earlier command found it.

Torch is imported only where a kind of step is new.
"""

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ban.plan.stage import Stage
from ban.store.remembered import key, memory

if TYPE_CHECKING:
    from ban.training.stand_in import Networks


class StageCost(NamedTuple):
    """The size of a stage's training."""

    parameters: int
    training_flops: float
    """Floating-point operations per training example or word: student forward and backward, its teachers forward."""
    memories: int
    """Bytes of what loss terms and teacher remember, such as a memory of features of all examples."""


def rehearse(stage: Stage, device_type: str = "cpu") -> StageCost:
    """The cost of a training whose step fits together. The first call for a kind of step chooses the device.

    Args:
        stage: what would be trained.
        device_type: where it would be trained, "cpu" or "cuda".

    Raises:
        UserError: the parts do not fit together, for example DKPP and two classes.
    """
    if stage.step_kind not in _REHEARSED:
        _REHEARSED[stage.step_kind] = remembered(stage, device_type) or _run(stage, device_type)
    return _REHEARSED[stage.step_kind]


_REHEARSED: dict[str, StageCost] = {}


def remembered(stage: Stage, device_type: str) -> StageCost | None:
    """What an earlier command found for this kind of step."""
    match memory("steps").found.get(_key(stage, device_type)):
        case [int(parameters), int() | float() as flops, int(memories)]:
            return StageCost(parameters, flops, memories)
        case _:
            return None


def _run(stage: Stage, device_type: str) -> StageCost:
    from ban.training.rehearsal import rehearse_anew

    cost = rehearse_anew(stage, device_type, _networks())
    memory("steps").add({_key(stage, device_type): cost})
    return cost


@cache
def _networks() -> "Networks":
    """Those that this process has rehearsed."""
    from ban.training.stand_in import Networks

    return Networks()


def _key(stage: Stage, device_type: str) -> str:
    return key(stage.step_kind, device_type, bool(stage.dataset.unlabelled_examples))
