"""Output that cannot be written, or not in its encoding, ends no work."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import DIGITS, command, environment

from ban.cli import main
from ban.output import tolerant
from ban.report import render
from ban.report.markup import Section

QUICK = (*DIGITS, "method=labels", "recipe.epochs=1")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "-0.50 +- 0.25 (Pi) ? Zo?"),
        ("latin-1", "-0.50 ± 0.25 (Pi) ? Zoë"),
        ("utf-8", "−0.50 ± 0.25 (Π) ? Zoë"),
    ],
)
def test_every_encoding_shows_numbers(encoding: str, shown: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding=encoding) as file:
        stream = tolerant(file)
        print("−0.50 ± 0.25 (Π) \udcff Zoë", file=stream, flush=True)
    text = (tmp_path / "out").read_text(encoding=encoding)
    assert text == f"{shown}\n"


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    ("encoding", "opened"), [("ascii", closed_pipe), ("latin-1", lambda: os.open("/dev/full", os.O_WRONLY))]
)
def test_a_training_ends_with_its_tables_wherever_its_output_goes(
    encoding: str, opened: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ban", *QUICK])
    with os.fdopen(opened(), "wb", buffering=0) as raw:
        stream = io.TextIOWrapper(raw, encoding)
        for name in ("stdout", "__stdout__"):
            monkeypatch.setattr(sys, name, stream)
        main()
        print("of a user's module", flush=True)
        stream.detach()
    assert len(list(Path("outputs/stages").iterdir())) == 1
    assert "Small-Conv" in Path("outputs/tables/last.md").read_text(encoding="utf-8")


def test_a_sweep_without_any_standard_stream(tmp_path: Path) -> None:
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command("-m", *QUICK)]
    assert subprocess.run(words, cwd=tmp_path, env=environment(), check=False).returncode == 0
    assert len(list((tmp_path / "outputs" / "stages").iterdir())) == 1


def test_files_are_written_before_they_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(render, "show_table", interrupt)
    section = Section("caption", [{"": "Teacher", "test": "5.00"}], [])
    with pytest.raises(KeyboardInterrupt):
        render.publish([("title", section)], [{"n": 1}], [section], tmp_path / "tables" / "last")
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".md", ".tex", ".csv"}
