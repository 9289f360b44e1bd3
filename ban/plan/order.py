"""The order in which stages are best trained: first what most other trainings wait for."""

from collections.abc import Callable, Mapping, Sequence

from ban.plan.stage import Stage


def by_longest_path(stages: Sequence[Stage], cost: Callable[[Stage], float]) -> list[Stage]:
    """The stages, longest chain of dependent trainings first."""
    length = longest_paths(stages, cost)
    return sorted(stages, key=lambda stage: -length[stage.signature])


def longest_paths(stages: Sequence[Stage], cost: Callable[[Stage], float]) -> dict[str, float]:
    """Signature → cost of the longest chain that begins with the stage. `stages` holds teachers before students."""
    students: Mapping[str, list[Stage]] = {stage.signature: [] for stage in stages}
    for stage in stages:
        for parent in stage.parents:
            students.get(parent.signature, []).append(stage)
    length: dict[str, float] = {}
    for stage in reversed(stages):
        longest = max((length[student.signature] for student in students[stage.signature]), default=0.0)
        length[stage.signature] = cost(stage) + longest
    return length
