"""From settings to stages: teacher, generation 1, 2 and so on. No torch, and no access to the disk."""

from collections.abc import Iterable
from dataclasses import replace

from ban.plan.stage import Inheritance, Parent, Stage, Weights
from ban.settings.schema import Generation0, Method, Network, Pretraining, Recipe, Settings


def lineage(settings: Settings) -> list[Stage]:
    """The stages that one job needs, teachers first: generation 0, then generation by generation.

    A method without trained teachers is a single training of generation 0. Several teachers differ in their replica
    and, if `teacher.models` names some, in their network, or in the file of their weights. `replica` belongs to the
    last generation: another draw from the same teacher.
    """
    count = settings.method.teacher_count
    generations = settings.generations if count else 0
    if not generations and not settings.teacher.weights:
        return _phases(settings, settings.teacher if count else settings, 0, settings.replica, ())
    stages = _teachers(settings)
    parents = tuple(_parent(stage) for stage in stages)
    for generation in range(1, generations + 1):
        replica = settings.replica if generation == generations else 0
        stages += _phases(settings, settings, generation, replica, parents)
        parents = (_parent(stages[-1]),)
    return stages


def _teachers(settings: Settings) -> list[Stage]:
    """The trainings of generation 0, or the networks whose weights are in files."""
    teacher = settings.teacher
    models = [*teacher.models.values()] or [teacher.model]
    stages = [
        Stage(0, teacher.seed, index, settings.dataset, (models[index % len(models)],), teacher.method, teacher.recipe)
        for index in range(settings.method.teacher_count)
    ]
    if not teacher.weights:
        return stages
    files = map(Weights, teacher.weights, teacher.weights_sha256)
    return [replace(stage, seed=0, replica=0, weights=file) for stage, file in zip(stages, files, strict=True)]


def _parent(stage: Stage) -> Parent:
    return Parent(stage, stage.reported_networks[0])


def _phases(
    settings: Settings, part: Settings | Generation0, generation: int, replica: int, teachers: tuple[Parent, ...]
) -> list[Stage]:
    """The training of one generation: one stage, or two where the method has a pre-training."""
    method = part.method
    stage = Stage(
        generation=generation,
        seed=part.seed,
        replica=replica,
        dataset=settings.dataset.with_changes(method.data),
        models=_networks(part),
        method=method,
        recipe=part.recipe,
        teachers=teachers,
        inherits=_frozen_modules(method, teachers),
        data_changes=frozenset(method.data),
    )
    if method.pretrain is None:
        return [stage]
    first = replace(
        stage, method=method.pretrain, recipe=_shortened(part.recipe, method.pretrain), data_changes=frozenset()
    )
    start = Inheritance(Parent(first))
    own_teachers = teachers if method.teacher else ()
    return [first, replace(stage, teachers=own_teachers, inherits=(start, *stage.inherits))]


def _networks(part: Settings | Generation0) -> tuple[Network, ...]:
    """The network, a cohort's other networks, and as many more like the first as the cohort needs."""
    others = [*part.peers.values()] if isinstance(part, Settings) else []
    return (part.model, *others, *[part.model] * (part.method.cohort - 1 - len(others)))


def _frozen_modules(method: Method, teachers: tuple[Parent, ...]) -> tuple[Inheritance, ...]:
    modules = tuple(method.frozen_from_teacher)
    return (Inheritance(teachers[0], modules, frozen=True),) if modules else ()


def _shortened(recipe: Recipe, pretrain: Pretraining) -> Recipe:
    """The recipe of a pre-training: its epochs and learning rate are multiples of the main training's."""
    epochs = max(1, round(recipe.epochs * pretrain.epochs))
    optimizer = {**recipe.optimizer, "lr": recipe.learning_rate * pretrain.rate}
    return replace(recipe, epochs=epochs, optimizer=optimizer)


def union(lineages: Iterable[Iterable[Stage]]) -> list[Stage]:
    """Every stage once, teachers before students."""
    stages: dict[str, Stage] = {}
    for stage in (stage for each in lineages for stage in each):
        stages.setdefault(stage.signature, stage)
    return list(stages.values())
