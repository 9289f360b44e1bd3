"""A user's own loss, method, network and data set, in a folder that has nothing to do with this repository."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import command, environment, plan

from ban.errors import UserError
from ban.plan.signature import digest, signed_network
from ban.settings.compose import compose_settings
from ban.training.rehearsal import rehearse

OWN = Path(__file__).parent / "own"
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
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
    run("2 stages, 0 in the store, 2 to train", "dry_run=true")  # an edited loss is another experiment


TERM = """
from ban.interfaces import Term


class Own(Term):
    def forward(self, output, teacher_output, batch):
        return GIVEN
"""
NETWORK = """
from torch import nn
from ban.interfaces import Output


class Own(nn.Module):
    def __init__(self, *, classes, **options):
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, inputs, state=None, until=None):
        return GIVEN
"""


MISTAKES = {
    "term": {
        "0.5": "the term label returns float, but it must return a scalar tensor",
        "None": "the term label returns NoneType, but it must",
        "output.logits.mean(0)": r"the term label returns a tensor of the shape \[10\], but it must",
        "output.logit.mean()": "own_.*.py, line 7, in forward: AttributeError: 'Output' object has no",
        r"int('a\nb')": r"own_.*.py, line 7, in forward: ValueError: invalid literal .*[^.]\.$",
    },
    "network": {
        "inputs": r"Own must return a ban.interfaces.Output with logits, not a tensor of the shape \[2, 1, 8, 8\]",
        "Output(None, {})": "Own must return a ban.interfaces.Output with logits, not Output",
        "Output(self.head(inputs.flatten(1)), {})": r"logits of the shape \[2, 3\], not \[2, 10\]",
    },
}


@pytest.mark.parametrize(
    ("part", "gives", "says"), [(part, *each) for part, mistakes in MISTAKES.items() for each in mistakes.items()]
)
def test_a_mistake_is_named_before_anything_is_trained(
    part: str, gives: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, place = {"term": (TERM, "method.terms.label"), "network": (NETWORK, "model")}[part]
    module = f"own_{tmp_path.name}"  # imported once and for all
    (tmp_path / f"{module}.py").write_text(source.replace("GIVEN", gives))
    monkeypatch.syspath_prepend(tmp_path)
    stages = plan("method=ban_l", f"{place}._target_={module}.Own")
    with pytest.raises(UserError, match=says):
        [rehearse(stage) for stage in stages]


def test_a_reported_network_that_nobody_publishes_is_named_before_anything_is_trained() -> None:
    stages = plan("method.reported_network=average")
    with pytest.raises(
        UserError, match=r"method\.reported_network is average, but the training gives the networks 0: choose"
    ):
        [rehearse(stage) for stage in stages]


def test_the_documentation_shows_these_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"PYTHONPATH=. ban {' '.join(ARGUMENTS)}" in text
    for path in OWN.rglob("*.*"):
        assert path.suffix == ".pyc" or path.read_text(encoding="utf-8").strip() in text, path.name


def test_an_argument_of_a_users_network_is_signed_whatever_its_name() -> None:
    def signature(begin: int, metric: str) -> str:
        return digest(
            signed_network({"_target_": "mine.N", "begin": begin, "metric": metric, "name": "n", "title": "N"})
        )

    assert len({signature(1, "cos"), signature(2, "cos"), signature(1, "l2")}) == 3


def test_a_users_data_function_with_options_takes_keys_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    own = ("dataset=halves", "model=linear", "method=reverse", "recipe=digits")
    assert compose_settings([*own, "+dataset.brightness=55"], OWN / "conf").dataset.arguments == {"brightness": 55}
