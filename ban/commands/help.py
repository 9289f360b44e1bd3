"""`ban help`: the command on one screen, and the choices of each setting. Imports neither torch nor hydra."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ban import __version__
from ban.display import console
from ban.errors import UserError
from ban.settings.files import files_of, sentence_of, size_of, title_of
from ban.wording import close

EXAMPLES = {
    "experiment=demo": "four generations, minutes",
    "model=wrn_16_1 method=dkpp dry_run=true": "the plan and its cost",
    "-m model=wrn_28_2 method=ban,kd seed=0,1,2": "a sweep with several seeds",
}
"""Words of a command → what it does."""
GROUPS = {
    "model": ("the network", "wrn_28_10, densenet_80_80, lstm"),
    "dataset": ("the data", "cifar100, digits, ptb, folder, rows"),
    "method": ("how students learn", "ban, ban_l, cwtm, dkpp, kd, labels"),
    "experiment": ("sweeps with a table", "demo, born_again, table1"),
    "recipe": ("how networks are trained", "wrn, lstm, digits, photos"),
    "scale": ("recipe and data size", "paper, budget, digits, smoke"),
    "teacher": ("generation 0", "same, or any model"),
    "machine": ("where it runs", "default, single_threaded"),
    "augmentation": ("how images are changed", "crop, resized_crop, none"),
}
"""Setting that chooses a file → what it is, and typical names."""
COMMANDS = {
    "table [NAME]": "results: all, an experiment's, 1 to 6, methods, diagnostics",
    "status": "what runs, waits, stopped or failed (live: follow=true)",
    "stages, track": "list, show, verify, remove, export, import; to a tracker",
    "report, compare": "a page with figures; two stages or two stores side by side",
    "predict, export": "predictions for files; a folder for use without ban",
    "doctor, bench": "what this machine lacks; how fast it trains",
    "methods, help KEY": "all methods, or one of them; all names of a setting",
}
"""Sub-commands → what they show or do."""


def answers(words: Sequence[str]) -> bool:
    """Answers a command that asks for help in general, for the choices of a setting, or for the version.

    Returns:
        Whether it is such a command.
    """
    match [*words]:
        case [] | ["-h" | "--help" | "help"]:
            screen()
        case ["help", group] if group in GROUPS:
            choices(group)
        case ["methods", *names] if len(names) < 2 and {*names} <= {*files_of("method")}:
            from ban.commands.methods import methods

            methods(names)
        case ["--version"]:
            print(f"ban {__version__}")
        case _:
            return False
    return True


def screen() -> None:
    """Prints what `ban --help` shows: it fits a terminal of 24 lines and 80 columns."""
    console.print("ban – born-again networks: students with their teacher's architecture")
    _print([(f"  ban {words}", about) for words, about in EXAMPLES.items()])
    console.print(Text("Commands (details: ban COMMAND --help)", style="bold"))
    _print([(f"  {name}", about) for name, about in COMMANDS.items()])
    console.print(Text("Settings that choose a file, KEY=NAME (all names: ban help KEY)", style="bold"))
    _print([(f"  {group}", about, f"{names} …") for group, (about, names) in GROUPS.items()])
    console.print("Others, KEY=VALUE (all: ban --cfg job): seed, generations, dry_run …")


def choices(group: str, folder: Path | None = None) -> None:
    """Prints all names of a setting, with titles, sizes and the first sentence of each file.

    Raises:
        UserError: files are chosen for no such setting.
    """
    if group not in GROUPS:
        meant = close(group, GROUPS)
        raise UserError(f"there is no help for '{group}': {f'did you mean {meant}?' if meant else _topics()}")
    files = files_of("model" if group == "teacher" else group, folder)
    if group == "teacher":
        console.print("teacher=same is the student's own network; else the teacher is one of model=NAME:")
    sized = group in ("model", "teacher")
    rows = [(name, title_of(path), size_of(path), sentence_of(path)) for name, path in files.items()]
    if sized and console.width < 120:  # no room for sentences
        rows = [row[:3] for row in rows]
    _print(
        [tuple(cell for cell, column in zip(row, zip(*rows, strict=True), strict=True) if any(column)) for row in rows]
    )
    console.print(f"Choose one with {group}=NAME. `ban {group}=NAME --cfg job` prints its settings.")


def _topics() -> str:
    return f"choose one of {', '.join(GROUPS)}."


def _print(rows: Sequence[Sequence[str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for index in range(max(map(len, rows))):
        table.add_column(no_wrap=not index, overflow="fold", style="" if index else "cyan")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


# Shell completion


def completions(line: str, words: Mapping[str, Sequence[str]]) -> list[str]:
    """The sub-commands and their words that the last word of a command line may become.

    `words`: sub-command → the words that may follow it.
    """
    given = [*line.split(), *[""] * line.endswith(" ")][1:]
    choices = [*words] if len(given) == 1 else words.get(given[0], []) if len(given) == 2 else []
    return [name for name in choices if name.startswith(given[-1])]
