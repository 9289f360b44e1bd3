"""README.md and docs/: every command runs, every link leads somewhere, every named part exists."""

import contextlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from ban.cli import COMMANDS, main
from ban.launch import command, estimate, overview
from ban.plan.lineage import lineage
from ban.settings import datasets, schema
from ban.settings.compose import CONF, compose_settings
from ban.settings.types import keys_of
from ban.store.store import Store
from ban.training import build, measure
from ban.training.costs import StageCost

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN = Path(__file__).parent / "own"
"""The files that docs/extending.md shows."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NOT_RUN = {".": "changes the reader's shell"}
"""First word of a command that is not run → why."""
ABSENT = {"hydra/launcher=joblib": "a plugin of Hydra's that ban does not depend on"}
"""Setting of a command that is not run → why."""
DIGITS = ("model=small_conv", "dataset=digits", "recipe=digits", "machine=single_threaded")
SIGNATURE = "3f8d"
"""The beginning of the signature of the first command's teacher, which some examples use."""
DRY_RUNS = set[tuple[str, ...]]()
"""Arguments of those that were run: sections share commands, and `make` repeats them."""
QUICK = ("recipe.epochs=1", "recipe.steps_per_epoch=1", "machine.device=cpu")


class Example(NamedTuple):
    """Commands that a reader types one after another."""

    place: str
    commands: list[list[str]]


def prose(text: str) -> str:
    """The text with empty lines in the place of code blocks."""
    return FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)


def examples(page: Path) -> Iterator[Example]:
    """The shell blocks of a page, and each `ban …` and `make …` in its sentences."""
    text = page.read_text(encoding="utf-8")
    found = [(match.start(), match[2].replace("\\\n", " ")) for match in FENCE.finditer(text) if match[1] == "sh"]
    found += [
        (match.start(), " ".join(match[1].split())) for match in re.finditer(r"`((?:ban|make) [^`]+)`", prose(text))
    ]
    for start, block in found:
        commands = [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]
        if not re.search(r"…|\b[A-Z]{4,}\b(?!=)|^ban -m$", block) or "\n" in block:  # a pattern, or an option's name
            yield Example(f"{page.name}:{text.count(chr(10), 0, start) + 1}", commands)


EXAMPLES = [example for page in PAGES for example in examples(page)]


def ban(folder: Path, *arguments: str) -> None:
    """The command in this process, which has loaded torch already."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ban", *arguments])
        # Large networks take seconds to build and minutes to time; other tests do both.
        for module in (command, estimate, overview):
            patch.setattr(module, "rehearse", lambda *_: StageCost(0, 0, 0))
        patch.setattr(overview, "estimate", lambda *_: estimate.Estimate(0, 0, 0, 0, 0))
        patch.setattr(measure, "check_learned", lambda *_: None)  # two steps teach less than a guess
        try:
            main()
        except SystemExit as end:
            assert not end.code, f"{shlex.join(sys.argv)}: {end.code}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and its student in its store."""
    folder = tmp_path_factory.mktemp("trained")
    ban(folder, *DIGITS, *QUICK)
    return folder


@pytest.fixture(scope="module")
def ready(trained: Path) -> Path:
    """The same folder with the files that examples read."""
    shutil.copytree(OWN, trained, dirs_exist_ok=True)
    shutil.copy(Path(__file__).parent / "text.txt", trained / "corpus")
    torch.save(build.network(lineage(compose_settings(DIGITS))[0]).state_dict(), trained / "teacher.pt")
    for number in range(120):
        place = trained / "photos" / ["cat", "dog", "bird"][number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)).save(
            place / f"{number}.png"
        )
    flowers = "petal_length,petal_width,colour,site,species\n"
    flowers += "".join(f"{n % 7},{n % 5 / 4},{'blue' if n % 3 else ''},{n},{'ab'[n % 2]}\n" for n in range(200))
    (trained / "flowers.csv").write_text(flowers)
    return trained


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.place)
def test_commands_run(example: Example, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    for words in example.commands:
        run(words, tmp_path)


def test_the_python_example_runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "trained_networks.md").read_text(encoding="utf-8")
    (code,) = (match[2] for match in FENCE.finditer(text) if match[1] == "python")
    monkeypatch.chdir(trained)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(trained / name)
    exec(code.replace(SIGNATURE, teacher_in(trained)), {})


def run(words: list[str], folder: Path) -> None:
    """Runs a command, and the `ban` commands of a `make` target."""
    while re.match(r"\w+=|srun$|-", words[0]):  # variables, and a launcher's own options
        words = words[1:]
    program, *arguments = [word.replace("=/", f"={folder}/") for word in words]
    if program == "make":
        for command in recipe(arguments):
            run(command, folder)
    elif program not in NOT_RUN and not ABSENT.keys() & {*arguments}:
        assert program == "ban", f"{program} is neither ban nor make; if it cannot be tested, add it to NOT_RUN"
        run_ban([teacher_in(folder) if word == SIGNATURE else word for word in arguments], folder)


def run_ban(arguments: list[str], folder: Path) -> None:
    """Runs a command: one that trains a network on bundled data for a few steps, another that trains as a dry run."""
    if arguments[0] == "bench":  # takes minutes, and has tests of its own
        return
    if arguments[0] == "report":  # of an experiment, which is not trained here
        arguments = [word for word in arguments if word != "demo"]
    trains = any("=" in word for word in arguments) and not COMMANDS.keys() & {*arguments}
    if trains and not is_quick(arguments, folder):
        if tuple(arguments) not in DRY_RUNS:
            ban(folder, *arguments, "dry_run=true")
        DRY_RUNS.add(tuple(arguments))
    else:
        answer = ("yes=true",) if "remove" in arguments else ()
        ban(folder, *arguments, *(QUICK if trains else answer))


def teacher_in(folder: Path) -> str:
    """The signature of the stored teacher."""
    return next(result["signature"] for result in Store(folder / "outputs").results() if not result["generation"])


def test_the_signature_in_the_examples_is_real() -> None:
    assert lineage(compose_settings(DIGITS))[0].signature.startswith(SIGNATURE)


def recipe(arguments: list[str]) -> list[list[str]]:
    """The `ban` commands that `make` would run.

    Raises:
        subprocess.CalledProcessError: there is no such target.
    """
    make = ["make", "--dry-run", "BIN=bin", *arguments]
    lines = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    script = "\n".join(line.replace("bin/ban", "echo ban") for line in lines if "bin/ban" in line)
    echoed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return [shlex.split(line) for line in echoed.splitlines()]


def is_quick(arguments: list[str], folder: Path) -> bool:
    """Whether the command is a single job on data that need no download."""
    if "-m" in arguments or "dry_run=true" in arguments or any(word.startswith("experiment=") for word in arguments):
        return False
    own = folder / "conf" if "--config-dir" in arguments else None
    with contextlib.chdir(folder):
        return compose_settings([word for word in arguments if "=" in word], own).dataset.mirrors is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert target.startswith("https://") or file.exists(), target
        assert target.startswith("https://") or not anchor or anchor in anchors(file), target
    for path in re.findall(r"`((?:ban|conf|docs|tests)/[^`\s]*)`", text):
        mine = path.startswith("conf/local/") or "NAME" in path  # files that a user writes
        assert mine or any([*ROOT.glob(path), *OWN.glob(path)]), path


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PARTS = {
    "dataset": [*datasets.KINDS.values(), *datasets.OWN_TYPES.values()],
    "machine": [schema.Machine],
    "method": [schema.Method],
    "recipe": [schema.Recipe],
    "hydra.launcher": [schema.LocalLauncherSettings, schema.SlurmLauncherSettings],
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_classes_and_settings_exist(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for name in re.findall(r"`(ban(?:\.\w+)+)`", text):
        pkgutil.resolve_name(name)
    for part, key in re.findall(rf"`\+?({'|'.join(PARTS)})\.(\w+)", text):
        assert any(key in keys_of(each) for each in PARTS[part]), f"{part}.{key}"


def test_every_experiment_is_named() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    experiments = [path.stem for path in (CONF / "experiment").glob("*.yaml")]
    assert [name for name in experiments if not re.search(rf"experiment={name}\b|`{name}`", text)] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
