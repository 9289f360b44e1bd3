"""`ban stages`: lists, checks, removes, exports and imports the stages of a store."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import cast

from rich.filesize import decimal
from rich.progress import track
from rich.prompt import Confirm

from ban.commands.curves import show_curves
from ban.display import console, show_facts, show_table
from ban.errors import DamagedStage, StageError, UserError
from ban.launch.journal import Journal
from ban.plan.contrast import Line, details, name_in_line
from ban.plan.identity import Identity
from ban.settings.schema import Settings
from ban.store.archive import export_stage, import_stage
from ban.store.files import BadFile, read
from ban.store.formats import DESCRIPTION, read_description
from ban.store.result import Result, outcome
from ban.store.store import Store
from ban.wording import close, duration, plural


def stages(words: Sequence[str], settings: Settings) -> None:
    """Runs the action that the words name.

    Raises:
        UserError: the words name no action, or the action failed.
    """
    store = Store(settings.machine.outputs)
    if words and words[0] == "remove":
        _remove(store, words[1:], settings.yes)
        return
    task, rest = (ACTIONS[words[0]], words[1:]) if words and words[0] in ACTIONS else (_list, words)
    task(store, rest)


def _list(store: Store, words: Sequence[str]) -> None:
    whole, unreadable = readable(store)
    found, students = [result for result in whole if matches(result, words)], _students(whole)
    if words and not found and (meant := close(words[0], [*ACTIONS, "remove"])):
        raise UserError(f"no stage matches; did you mean `ban stages {' '.join([meant, *words[1:]])}`?")
    sizes = {result["signature"]: _size(store.folder(result["signature"])) for result in found}
    shortest = _shortened([*(result["signature"] for result in whole), *unreadable])
    settings = details(found, functools.partial(_line, store, {result["signature"]: result for result in whole}))
    rows = [
        {
            "signature": shortest[result["signature"]],
            "stage": result["label"],
            "network": result["model_title"],
            "data": result["dataset"],
            "seed": "" if "weights" in result else f"{result['seed']}",
            "differs in": settings[result["signature"]],
            "result": outcome(result),
            "students": f"{len(students.get(result['signature'], [])) or ''}",
            "size": decimal(sizes[result["signature"]]),
            "finished": f"{_finished(result):%Y-%m-%d %H:%M}",
        }
        for result in sorted(found, key=_order)
    ]
    if rows:
        alike = [name for name in ("data", "network", "differs in") if len({row[name] for row in rows}) == 1]
        show_table(rows, spare=(*alike, "size", "students", "finished", "data"))
    total = decimal(sum(sizes.values()))
    console.print(f"{plural(len(found), 'stage')}{' matching' if words else ''}, {total}, in {store.root}")
    if words and not found:
        console.print("`ban stages --help` lists the actions.")
    if unreadable:
        all_damaged = all(isinstance(error, DamagedStage) for error in unreadable.values())
        kind = "Damaged" if all_damaged else "Damaged or unreadable"
        console.print(f"{kind}: {', '.join(unreadable)}. `ban stages verify` shows the details.")


def _finished(result: Result) -> datetime:
    """In local time."""
    return datetime.fromisoformat(result["finished"]).astimezone()


def _order(result: Result) -> tuple[str, str, int, int, str, int]:
    """Of a list: by data and network, teachers before students, and repetitions together."""
    return (*(result[name] for name in ("dataset", "model", "generation", "replica", "label", "seed")),)  # pyright: ignore


def _shortened(signatures: Sequence[str]) -> dict[str, str]:
    """Signature → on a terminal, its first eight characters, or as many as tell it from the others."""
    if not console.is_terminal:
        return {name: name for name in signatures}
    length = next(n for n in range(8, 65) if len({name[:n] for name in signatures}) == len({*signatures}))
    return {name: name[:length] for name in signatures}


def _line(store: Store, stored: Mapping[str, Result], result: Identity) -> Line:
    """The settings of a stage and of its teachers, as far as they are stored."""
    teachers = [stored[name] for name in result["teachers"][:1] if name in stored]
    return [store.description(result["signature"]), *(each for t in teachers for each in _line(store, stored, t))]


def _show(store: Store, words: Sequence[str]) -> None:
    result = _by_prefix(store, words, "ban stages show SIGNATURE")
    signature = result["signature"]
    description, names = store.description(signature), store.check(signature)
    students = _students(readable(store)[0]).get(signature, [])
    console.print(f"{_name(result)}: {store.folder(signature)}")
    console.print(f"  {result['regime_title']}")
    threads = plural(result["threads"], "thread")
    facts = {
        "teachers": ", ".join(result["teachers"]) or "none",
        "students": ", ".join(students) or "none",
        "parameters": f"{result['parameters']:,}",
        "training time": f"{duration(result['seconds'])} on {result['device_name']}, {threads}",
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "finished": f"{_finished(result):%Y-%m-%d %H:%M:%S %z}",
    }
    if "weights" in result:
        facts["training time"] = "none, its weights are those of a file"
    measured = {name: value for name, value in result.items() if name.endswith((result["metric"], "unknown_percent"))}
    shown = [
        *(
            (name, f"{value:.4g}" if isinstance(value, float) else f"{value}")
            for name, value in (facts | measured).items()
        ),
        *(
            (name, json.dumps(description[name], ensure_ascii=False))
            for name in filter(description.get, ("dataset", "models", "method", "recipe", "weights"))
        ),
        *((name, decimal((store.folder(signature) / name).stat().st_size)) for name in names),
    ]
    show_facts(shown)
    with suppress(StageError):
        show_curves(store.curves(signature), result["metric"])


def _verify(store: Store, words: Sequence[str]) -> None:
    """Checks every file of the stages: name, checksum and content.

    Raises:
        UserError: a stage is damaged.
    """
    whole, unreadable = readable(store)
    chosen = [*unreadable] + [result["signature"] for result in whole if matches(result, words)]
    shown = track(chosen, "verifying", console=console, transient=True, disable=not console.is_terminal)
    errors = [error for signature in shown if (error := _error(store, signature))]
    if errors:
        kind = "damaged" if all(isinstance(error, DamagedStage) for error in errors) else "damaged or unreadable"
        reasons = "".join(f"\n  {error}" for error in errors)
        raise UserError(f"{len(errors)} of {plural(len(chosen), 'stage')} {kind}:{reasons}")
    console.print(f"{plural(len(chosen), 'stage')} checked: every file is there and matches its checksum.")


def _remove(store: Store, words: Sequence[str], yes: bool) -> None:
    """Removes matching stages without students, or the unfinished trainings that no process continues.

    Raises:
        UserError: nobody confirmed.
    """
    if not words:
        raise UserError("use: ban stages remove WORD …, or ban stages remove unfinished.")
    journal = Journal(store)
    if [*words] == ["unfinished"]:
        folders = dict.fromkeys(store.unfinished(), "unfinished, and no process trains it")
        over = [note.signature for note in journal.notes() if note.state in ("stopped", "failed") and not note.job]
    else:
        over = []
        folders = {store.folder(signature): name for signature, name in _removable(store, words).items()}
    if not folders:
        console.print("There is nothing to remove.")
        return
    show_table(
        [{"folder": f"{folder}", "stage": name, "size": decimal(_size(folder))} for folder, name in folders.items()]
    )
    question = f"Remove {plural(len(folders), 'folder')}, {decimal(sum(map(_size, folders)))}?"
    if not yes and not (console.is_terminal and Confirm.ask(question, default=False, console=console)):
        raise UserError(f"nothing was removed. {question} Add yes=true to confirm.")
    for folder in folders:
        store.remove(folder)
        journal.remove(folder.name.partition(".")[0])
    for signature in over:
        journal.remove(signature)
    console.print(f"Removed {plural(len(folders), 'folder')}.")


def _removable(store: Store, words: Sequence[str]) -> dict[str, str]:
    """Signature → name of the matching stages, except teachers of stages that remain.

    Damaged stages are included in any case: commands that need them train them again.
    """
    whole, unreadable = readable(store)
    chosen = {result["signature"]: _name(result) for result in whole if matches(result, words)}
    damaged = {name: f"{chosen[name]}, damaged" for name in chosen if isinstance(_error(store, name), DamagedStage)}
    students = _students([*whole, *_begun(store)])
    while kept := [name for name in chosen if name not in damaged and {*students.get(name, [])} - {*chosen}]:
        for name in kept:
            stay = [student for student in students[name] if student not in chosen]
            console.print(f"{chosen.pop(name)} ({name}) is kept: it taught {', '.join(stay)}.")
    named = {name: "damaged" for name in unreadable if any(name.startswith(word) for word in words)}
    for name in [name for name in named if not isinstance(unreadable[name], DamagedStage)]:
        console.print(f"{name} is kept: {unreadable[name]}")
        del named[name]
    return chosen | damaged | named


def _begun(store: Store) -> Iterator[Result]:
    """The descriptions of trainings that are not finished."""
    for folder in store.works.glob("*.*/"):
        with suppress(OSError, BadFile):  # finished or removed meanwhile, or a training will write it again
            content = read(folder / DESCRIPTION, 2**20)
            yield cast("Result", read_description(content, folder.name.partition(".")[0]))


def _error(store: Store, signature: str) -> StageError | None:
    """What is wrong with a stage's files, if anything is."""
    try:
        store.check(signature)
    except StageError as error:
        return error
    return None


def _export(store: Store, words: Sequence[str]) -> None:
    use = "ban stages export SIGNATURE FILE"
    if len(words) != 2:
        raise UserError(f"use: {use}.")
    result, target = _by_prefix(store, words[:1], use), Path(words[1]).expanduser()
    export_stage(store, result["signature"], target)
    size = decimal(target.stat().st_size)
    console.print(
        f"{_name(result)} is in {target} ({size}): `ban stages import {target.name}` adds it to another store.",
    )


def _import(store: Store, words: Sequence[str]) -> None:
    if len(words) != 1:
        raise UserError("use: ban stages import FILE.")
    signature = import_stage(store, Path(words[0]).expanduser())
    if signature is None:
        console.print("The stage is in the store already; `ban stages verify` checks its files.")
        return
    console.print(f"Imported {_name(store.result(signature))} to {store.folder(signature)}.")


# Selection of stages


def readable(store: Store) -> tuple[list[Result], dict[str, StageError]]:
    """The readable results, and signature → error of stages whose results cannot be read."""
    whole, unreadable = list[Result](), dict[str, StageError]()
    for signature in store.finished():
        try:
            whole.append(store.listed(signature))
        except StageError as error:
            unreadable[signature] = error
    return whole, unreadable


def matches(result: Result, words: Sequence[str]) -> bool:
    """Whether each word is the beginning of the signature, or occurs in the description."""
    text = " ".join(str(result[name]) for name in ("label", "method", "model", "model_title", "dataset", "recipe"))
    return all(result["signature"].startswith(word) or word.lower() in text.lower() for word in words)


def _by_prefix(store: Store, words: Sequence[str], use: str) -> Result:
    """The stage whose signature begins with the only word."""
    if len(words) != 1:
        raise UserError(f"use: {use}.")
    return store.result(store.by_prefix(words[0]))


def _students(results: Sequence[Result]) -> dict[str, list[str]]:
    """Signature → its students."""
    students: dict[str, list[str]] = {}
    for result in results:
        for parent in {*result["parents"]}:
            students.setdefault(parent, []).append(result["signature"])
    return students


def _name(result: Result) -> str:
    return name_in_line(result["label"], result["model_title"], None if "weights" in result else result["seed"])


def _size(folder: Path) -> int:
    with suppress(OSError):  # removed meanwhile, or not readable
        return sum(path.lstat().st_size for path in folder.iterdir())
    return 0


ACTIONS: dict[str, Callable[[Store, Sequence[str]], None]] = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "export": _export,
    "import": _import,
}
