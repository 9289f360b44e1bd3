"""A user's own loss, method, network and data set, in a folder that has nothing to do with this repository."""

import json
import shutil
import subprocess
from pathlib import Path

from conftest import command, environment

OWN = Path(__file__).parent / "own"
README = Path(__file__).parents[1] / "README.md"
ARGUMENTS = ("--config-dir", "conf", "method=reverse", "model=linear", "dataset=halves", "recipe=digits")


def test_a_users_own_parts_run_without_touching_the_project(tmp_path: Path) -> None:
    shutil.copytree(OWN, tmp_path, dirs_exist_ok=True)

    def run(expect: str, *more: str) -> None:
        quick = ("recipe.epochs=30", "machine.device=cpu", "machine.threads=1", *more)
        done = subprocess.run(
            command(*ARGUMENTS, *quick),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment(PYTHONPATH=str(tmp_path)),
            check=False,
        )
        assert done.returncode == 0 and expect in done.stdout, done.stdout + done.stderr

    run("2 stages, 0 in the store, 2 to train")
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/stages/*/result.json")]
    assert sorted(result["label"] for result in results) == ["Reverse-1", "Teacher"]
    assert all(result["test_error_percent"] < 20 for result in results)  # of three classes
    source = tmp_path / "mine.py"
    source.write_text(source.read_text().replace("q.exp() *", "2 * q.exp() *"))
    run("2 stages, 0 in the store, 2 to be trained", "dry_run=true")  # an edited loss is another experiment


def test_the_readme_shows_these_very_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert f"PYTHONPATH=. ban {' '.join(ARGUMENTS)}" in text
    for path in OWN.rglob("*.*"):
        assert path.suffix == ".pyc" or path.read_text(encoding="utf-8").strip() in text, path.name
