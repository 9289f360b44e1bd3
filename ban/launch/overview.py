"""Shows a plan and its cost, and asks before a costly one."""

from collections.abc import Sequence
from contextlib import suppress

from rich.filesize import decimal
from rich.progress import track
from rich.prompt import Confirm
from rich.tree import Tree

from ban.display import console, is_live, show_table
from ban.errors import StageError, UserError
from ban.launch.estimate import Estimate, estimate, free_disk, operations
from ban.plan.contrast import describe, details_of, differences, line_of, named, names_of
from ban.plan.lineage import union
from ban.plan.stage import Stage
from ban.report.results import Results
from ban.report.tables import Table
from ban.settings.datasets import CLASS_COUNTS
from ban.settings.weights import content
from ban.store.result import doubt, outcome
from ban.store.store import Store
from ban.training.costs import rehearse
from ban.training.place import Place
from ban.wording import duration, plural

COSTLY_HOURS = 2.0
"""A plan that takes longer than this on a CPU must be confirmed."""


def show(lineages: Sequence[Sequence[Stage]], store: Store, place: Place) -> None:
    """Prints the stages of all jobs, which of them they share, who teaches whom, and the cost of the missing ones."""
    stages = union(lineages)
    settings = details_of(stages)
    rows = [_row(stage, settings[stage.signature], store, place.kind) for stage in stages]
    show_table(rows, spare=("signature", "gen.", "parameters"))
    if len(lineages) > 1:
        console.print(_families(stages, store))
        asked = sum(len(each) for each in lineages)
        saved = f"; shared ones run once, which saves {asked - len(stages)}" if asked > len(stages) else ""
        console.print(f"{plural(len(lineages), 'job')} need {plural(asked, 'training')}{saved}.")
    missing = [stage for stage in stages if not store.has(stage.signature)]
    console.print(f"{counts(stages, missing, store)}.")
    regimes(stages)
    tell_weights(stages, store)
    if missing:
        _show_cost(missing, store, place)


def _row(stage: Stage, settings: str, store: Store, device_type: str) -> dict[str, str]:
    count = rehearse(stage, device_type).parameters
    return {
        "stage": stage.label,
        "signature": stage.signature,
        "gen.": f"{stage.generation}",
        "seed": "" if stage.weights else f"{stage.seed}",
        "network": stage.model.title,
        "differs in": settings,
        "parameters": f"{count / 1e6:.2f} M" if count > 1e5 else f"{count:,}",
        "store": "stored" if store.has(stage.signature) else "to train" if stage.epochs else "to test",
    }


def _families(stages: Sequence[Stage], store: Store) -> Tree:
    """Who teaches whom: a branch for each family, with the number of its stages."""
    branches: dict[tuple[str, ...], Tree] = {(): Tree("Teachers and students")}
    members: dict[tuple[str, ...], list[Stage]] = {}
    for stage in stages:
        members.setdefault(_line(stage), []).append(stage)
    different = differences([line_of(first) for first, *_ in members.values()])
    for (line, repetitions), settings in zip(members.items(), different, strict=True):
        first, done = repetitions[0], sum(store.has(stage.signature) for stage in repetitions)
        several = f" × {len(repetitions)}" if len(repetitions) > 1 else ""
        there = f"{done} in the store" if done else ""
        taught = f" by {len(first.teachers)} teachers" if len(first.teachers) > 1 else ""
        name = f"{first.label}, {first.model.title}{taught}{several}"
        branches[line] = branches[line[:-1]].add(", ".join(filter(None, [name, describe(settings), there])))
    return branches[()]


def _line(stage: Stage) -> tuple[str, ...]:
    """The families from generation 0 to the stage, along first parents."""
    return (*(_line(stage.parents[0]) if stage.parents else ()), stage.family)


def _show_cost(missing: Sequence[Stage], store: Store, place: Place) -> None:
    """Prints the time and the disk space that the missing stages would take, and the basis of the estimate."""
    found = _estimate(missing, place)
    chain = f"; the longest chain of teachers and students takes {_hours(found.longest)} on any number of devices"
    shorter = found.longest < 0.9 * found.seconds
    timed = "" if found.earlier == found.kinds else f"{found.earlier} of {plural(found.kinds, 'kind')} "
    old = f"; {timed}timed by an earlier command" * bool(found.earlier)
    console.print(
        f"Time: about {_hours(found.seconds)} on {place} for all stages, one after another{chain * shorter}{old}.\n"
        f"Disk: {decimal(found.kept)} for results, and {decimal(found.temporary)} for the checkpoints of each running "
        f"training; {decimal(free_disk(store))} free.\n"
        f"Basis: the parameters of the networks, and a few timed steps of {plural(found.kinds, 'kind')} of training, "
        "without reading data or compiling."
    )


def _estimate(missing: Sequence[Stage], place: Place) -> Estimate:
    note = "timing a few steps of each kind of training"
    return estimate(
        missing, place, lambda kinds: track(kinds, note, console=console, transient=True, disable=not is_live())
    )


def _hours(seconds: float) -> str:
    if seconds > 2 * 365 * 86400:
        return f"{seconds / 86400 / 365:.0f} years"
    if seconds > 48 * 3600:
        return f"{seconds / 86400:.0f} days"
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"


def counts(stages: Sequence[Stage], missing: Sequence[Stage], store: Store) -> str:
    """How many of the stages are stored, and how many are not."""
    trained = [stage for stage in missing if stage.epochs]
    begun = store.begun() if trained else set[str]()
    count = sum(stage.signature in begun for stage in trained)
    resumed = f" ({count} from a checkpoint)" if count else ""
    tested = f", {len(missing) - len(trained)} to test" if len(trained) < len(missing) else ""
    stored = len(stages) - len(missing)
    return f"{plural(len(stages), 'stage')}, {stored} in the store, {len(trained)} to train{resumed}{tested}"


RECORDED = {"diagnosed_steps": "diagnosed steps", "evaluate_every": "evaluations between epochs"}
"""Settings of a recipe that change what a training records, but not its weights → what they record."""


def tell_unrecorded(stages: Sequence[Stage], store: Store) -> None:
    """Names what the command wants recorded and stored stages lack: they are not trained again for that."""
    lacking: dict[str, list[str]] = {}
    for stage in filter(lambda stage: stage.epochs and store.has(stage.signature), stages):
        wanted = {"evaluate_every": stage.recipe.evaluate_every}
        wanted["diagnosed_steps"] = stage.recipe.diagnosed_steps if stage.compares_teacher_with_labels else 0
        with suppress(StageError):
            stored = store.description(stage.signature)["recipe"]
            for name in (name for name, value in wanted.items() if value and not stored.get(name)):
                lacking.setdefault(f"{RECORDED[name]} (recipe.{name})", []).append(stage.signature)
    for what, signatures in lacking.items():
        console.print(
            f"Stored without {what}: {', '.join(signatures)}. To record them, remove these stages and their students "
            "with `ban stages remove SIGNATURE …`, then repeat the command."
        )


def tell_weights(stages: Sequence[Stage], store: Store) -> None:
    """Says what each teacher from a file is, and how good it is if that is known."""
    names = names_of(stages) if any(stage.weights for stage in stages) else {}
    for stage in stages:
        if stage.weights is None:
            continue
        found = content(stage.weights.path)
        facts = [f"{plural(len(found.shapes), 'tensor')} from {stage.weights.path}"]
        facts += [f"converted from {' and '.join(found.converted)} to float32"] * bool(found.converted)
        with suppress(StageError):
            if store.has(stage.signature):
                result = store.result(stage.signature)
                facts.append(f"stored: {outcome(result)}{doubt(result, stage.dataset.classes)}")
        console.print(f"  {names[stage.signature]}: {', '.join(facts)}")


def regimes(stages: Sequence[Stage]) -> None:
    """Prints data, sizes and recipe of the stages, and warnings about the data."""
    trained = [stage for stage in stages if stage.epochs] or stages
    firsts = [*{stage.regime: stage for stage in reversed(trained)}.values()][::-1]
    lines = [line_of(stage)[:1] for stage in firsts]
    titles = [
        f"{stage.method.title}: {stage.regime_title}" if stage.is_pretraining else stage.regime_title
        for stage in firsts
    ]
    for title in dict.fromkeys(named(titles, lines, ("dataset", "recipe"))):
        console.print(f"  {title}")
    for note in dict.fromkeys(note for stage in stages for note in stage.dataset.notes):
        console.print(f"  {note}")
    for warning in dict.fromkeys(warning for stage in stages for warning in stage.dataset.warnings):
        console.print(f"  Warning: {warning}")


def confirm(missing: Sequence[Stage], place: Place, yes: bool, parallel: int) -> None:
    """Asks before trainings that would take long without a GPU; `parallel` of them run at a time.

    Raises:
        UserError: nobody confirmed.
    """
    if yes or place.name != "cpu":
        return
    total = sum(operations(stage) for stage in missing)
    if total < 1e9 * 3600 * COSTLY_HOURS:
        return  # every CPU computes a GFLOP/s, so nothing needs to be measured
    found = _estimate(missing, place)
    seconds = max(found.seconds / parallel, found.longest)
    if seconds < 3600 * COSTLY_HOURS:
        return
    reason = f"training {plural(len(missing), 'stage')} would take about {_hours(seconds)} on this CPU"
    cheaper = _cheaper(missing)
    if console.is_terminal and Confirm.ask(f"{reason}; {cheaper}. Train?", default=False, console=console):
        return
    raise UserError(f"{reason}. Add yes=true to train anyway, or choose less: {cheaper}.")


def _cheaper(stages: Sequence[Stage]) -> str:
    """What takes less time than these trainings."""
    scales = {"budget": "scale=budget takes minutes to hours", "smoke": "scale=smoke takes seconds"}
    chosen = {stage.recipe.name.partition("_")[0] for stage in stages}
    if any("" in CLASS_COUNTS.get(stage.dataset.function, ()) for stage in stages):
        del scales["budget"]  # it needs more examples
    found = [text for scale, text in scales.items() if not chosen & {scale, "smoke"}]
    return ", ".join([*found, "fewer seeds or recipe.epochs=N"])


def tell_others(stages: Sequence[Stage], results: Results) -> None:
    """Says which repetitions of earlier commands a command's tables count too."""
    planned = {stage.signature for stage in stages}
    families = {stage.family for stage in stages if not stage.is_pretraining}
    others = [each for name in families for each in results.stored(name) if each["signature"] not in planned]
    if others:
        seeds = ", ".join(str(seed) for seed in sorted({each["seed"] for each in others})[:5])
        more = ", …" if len({each["seed"] for each in others}) > 5 else ""
        console.print(
            f"The tables also count {plural(len(others), 'stage')} of earlier commands with the same settings "
            f"(seed {seeds}{more})."
        )


def end(stages: Sequence[Stage], tables: Sequence[Table], count: int, seconds: float) -> str:
    """What a command says at the end: the time that its `count` stages took, and what to do next."""
    took = f"{plural(count, 'stage')} in {duration(seconds)}."
    intervals = [interval for table in tables for row in table.rows for interval in row.measured.values()]
    if intervals and all(interval.count == 1 for interval in intervals):
        return f"{took} One seed has no interval: `ban -m … seed=0,1,2` repeats the command with others."
    diagnosed = any(stage.recipe.diagnosed_steps and stage.compares_teacher_with_labels for stage in stages)
    gradients = " `ban table diagnostics` (gradients)," if diagnosed else ""
    student = next((stage for stage in stages if stage.teachers and not stage.is_pretraining), None)
    pair = f", `ban compare {student.teachers[0].stage.signature} {student.signature}`" if student else ""
    return f"{took} Next: `ban report` (figures),{gradients} `ban stages`{pair}."
