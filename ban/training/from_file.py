"""Weights from a user's file, in the network that they are for."""

from torch import nn

from ban.errors import UserError
from ban.plan.stage import Stage
from ban.settings.weights import Shapes, read, sha256_of, shapes_of, without_prefixes

NAMED = 3
"""Tensors of a kind that a refusal names."""


def check_fits(stage: Stage, network: nn.Module, found: Shapes) -> None:
    """Compares the file's tensors with those of the network, by name, shape and kind of number.

    Raises:
        UserError: tensors are missing, or others than those of the network.
    """
    assert stage.weights is not None
    expected = without_prefixes(network.state_dict())
    faults = [
        _some([name for name in expected if name not in found], "is missing", "are missing"),
        _some([name for name in found if name not in expected], "is not the network's", "are not the network's"),
    ]
    differ: list[str] = []
    for name in filter(found.__contains__, expected):
        kind, shape = found[name]
        wanted = tuple(expected[name].shape)
        if shape != wanted:
            differ.append(f"{name} {[*shape]} instead of {[*wanted]}")
        elif ("float" in kind) != expected[name].is_floating_point():
            differ.append(f"{name} {kind} instead of {str(expected[name].dtype).removeprefix('torch.')}")
    faults.append(_some(differ, "has another shape or type", "have another shape or type"))
    if reasons := "; ".join(filter(None, faults)):
        raise UserError(
            f"teacher.weights: {stage.weights.path} does not fit {stage.model.title} with {stage.dataset.classes} "
            f"classes: {reasons}. Choose its network with teacher.model=NAME, or weights for this network and data set."
        )


def _some(names: list[str], one: str, several: str) -> str:
    """How many of the tensors have a fault, and the first of them; empty: none."""
    if not names:
        return ""
    shown = ", ".join([*names[:NAMED], *["…"] * (len(names) > NAMED)])
    return f"1 tensor {one} ({shown})" if len(names) == 1 else f"{len(names)} tensors {several} ({shown})"


def load_weights(network: nn.Module, stage: Stage) -> None:
    """Copies the file's weights into the network.

    Raises:
        UserError: the file has changed since the command planned, or does not fit the network.
    """
    assert stage.weights is not None
    state, _ = read(stage.weights.path)
    if sha256_of(state) != stage.weights.sha256:
        raise UserError(
            f"teacher.weights: {stage.weights.path} has changed since this stage was planned: start the command again."
        )
    check_fits(stage, network, shapes_of(state))
    names = network.state_dict()  # of a network whose only part is called `module`, with that prefix
    network.load_state_dict({name: state[short] for name, short in zip(names, without_prefixes(names), strict=True)})
