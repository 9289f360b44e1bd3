"""`ban track import`: brings stages that were trained without a tracker into one."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import track

from ban.commands.stages import matches, readable
from ban.display import console
from ban.errors import UserError
from ban.settings.schema import Settings
from ban.store.result import Result
from ban.store.store import Store
from ban.trackers.run import Run
from ban.trackers.tracking import Tracking, check_installed
from ban.wording import plural


def import_stages(words: Sequence[str], settings: Settings) -> None:
    """Adds the finished stages whose description contains all words to the trackers that the settings name.

    Raises:
        UserError: no tracker is named, no stage matches, or a tracker failed.
    """
    machine = settings.machine
    if not machine.trackers:
        raise UserError("ban track import needs the name of a tracker: trackers=tensorboard, mlflow or wandb.")
    check_installed(machine.trackers)
    store = Store(machine.outputs)
    whole, unreadable = readable(store)
    stored = {result["signature"]: result for result in whole}
    chosen = [result for result in whole if matches(result, words)]
    if not chosen:
        raise UserError(f"no finished stage in {store.root} matches: `ban stages` lists them.")
    failures: list[str] = []
    for result in track(chosen, "importing", console=console, transient=True, disable=not console.is_terminal):
        signature = result["signature"]
        run = Run.of({**result, **store.description(signature)}, _origin(result, stored))
        with (
            store.claim(signature),  # its training, or another import, may be at work
            Tracking(machine, run, store.curves(signature), failures.append) as tracking,
        ):
            tracking.finish(store.folder(signature), result)
        if failures:
            raise UserError(f"{result['label']} ({signature}) was not imported: {failures[0]}.")
    names = ", ".join(dict.fromkeys(machine.trackers))
    console.print(f"{plural(len(chosen), 'stage')} of {store.root} {'is' if len(chosen) == 1 else 'are'} in {names}.")
    if unreadable:
        console.print(f"Left out, because they are damaged or unreadable: {', '.join(unreadable)}.")


def _origin(result: Mapping[str, Any], stored: Mapping[str, Result]) -> str:
    """The signature of the generation 0 that a stage descends from, as far as the store has its teachers."""
    if not result["parents"]:
        return result["signature"]
    first = result["parents"][0]
    return _origin(stored[first], stored) if first in stored else first
