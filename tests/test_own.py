"""A user's own loss, method, network and data set, in a folder that has nothing to do with this repository."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import command, environment, plan

from ban.build import rehearse
from ban.errors import UserError

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


TERM = """
from ban.interfaces import Term


class Own(Term):
    def forward(self, output, lesson, batch):
        return {}
"""
NETWORK = """
from torch import nn
from ban.interfaces import Output


class Own(nn.Module):
    def __init__(self, *, classes, **options):
        super().__init__()
        self.head = nn.Linear(64, {})

    def forward(self, inputs, state=None, until=None):
        return {}
"""


@pytest.mark.parametrize(
    ("name", "source", "place", "says"),
    [
        ("raising", TERM.format("output.logit.mean()"), "method.terms.label", "raising.py, line 7, in forward: Attrib"),
        (
            "many",
            TERM.format("output.logits.mean(0)"),
            "method.terms.label",
            r"term label gives .* \[10\]: it must be one",
        ),
        (
            "naked",
            NETWORK.format("classes", "inputs"),
            "model",
            "Own must return a ban.interfaces.Output, not a Tensor",
        ),
        ("narrow", NETWORK.format(3, "Output(self.head(inputs.flatten(1)), {})"), "model", r"\[2, 3\], not \[2, 10\]"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(
    name: str, source: str, place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    stages = plan("method=ban_l", f"{place}._target_={name}.Own")
    with pytest.raises(UserError, match=says):
        [rehearse(stage) for stage in stages]


def test_the_readme_shows_these_very_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert f"PYTHONPATH=. ban {' '.join(ARGUMENTS)}" in text
    for path in OWN.rglob("*.*"):
        assert path.suffix == ".pyc" or path.read_text(encoding="utf-8").strip() in text, path.name
