"""A user's own loss, method, network and data set, in a folder that has nothing to do with this repository."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS, command, environment, plan

from ban.errors import UserError
from ban.plan.lineage import lineage
from ban.plan.signature import digest, signed_network
from ban.plan.stage import Stage
from ban.settings import data_hash
from ban.settings.compose import compose_settings
from ban.training import build
from ban.training.rehearsal import rehearse_anew

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
        [rehearse_anew(stage) for stage in stages]


def test_a_reported_network_that_nobody_publishes_is_named_before_anything_is_trained() -> None:
    stages = plan("method.reported_network=average")
    with pytest.raises(
        UserError, match=r"method\.reported_network is average, but the training gives the networks 0: choose"
    ):
        [rehearse_anew(stage) for stage in stages]


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


DATA = """
from pathlib import Path

import numpy as np
import torch

from ban.data.images import Images, Labelled, Options
from ban.interfaces import Batch

FILE = Path(__file__).with_suffix(".npy")


def read(*, checksum, data_dir, download, shift=0, **options):
    images = np.load(FILE)
    return Images(Labelled(images + np.uint8(shift), np.arange(600) % 3), None, Options(**options))


def drawn(*, split_seed, **options):
    np.save(FILE, np.random.default_rng(split_seed).integers(0, 99, (600, 8, 8, 1), dtype=np.uint8))
    return read(split_seed=split_seed, **options)


def random(**options):
    np.save(FILE, np.random.default_rng().integers(0, 99, (600, 8, 8, 1), dtype=np.uint8))
    return read(**options)


def pairs(**options):
    return [(0, 1)]


class Own:
    examples, examples_per_step, steps_per_epoch, held_out = "images", 1, 1, ["test"]
    epoch = recorded = None

    def __init__(self, value=0.0, target=0, side=8, **options):
        self.batch = Batch((torch.full((5, 1, side, 8), value),), torch.full((5,), target), torch.arange(5))

    def evaluation(self, split):
        yield self.batch


def broken(**options):
    return {}["missing"]
"""


@pytest.fixture
def data_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Stage]]:
    """The plan of a data set that is one of these functions."""
    module = f"data_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(DATA)
    np.save(tmp_path / f"{module}.npy", np.arange(600 * 64, dtype=np.uint8).reshape(600, 8, 8, 1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(OWN)

    def planned(function: str, *overrides: str) -> list[Stage]:
        data_hash._content.cache_clear()
        given = ("dataset=halves", f"dataset._target_={module}.{function}", "model=linear", "recipe=digits")
        return lineage(compose_settings([*given, "method=labels", *overrides], OWN / "conf"))

    return planned


def test_the_signature_covers_the_content_of_a_users_data(data_of: Callable[..., list[Stage]], tmp_path: Path) -> None:
    (first,), (again,), (seed,) = data_of("read"), data_of("read"), data_of("read", "seed=1")
    assert first.signature == again.signature != seed.signature and first.family == seed.family
    (shifted,) = data_of("read", "+dataset.shift=1")  # a function with options takes keys of its own
    assert shifted.family != first.family and shifted.dataset.arguments == {"shift": 1}
    (file,) = tmp_path.glob("*.npy")
    images = np.load(file)
    images[7, 0, 0, 0] += 1
    np.save(file, images)
    assert data_of("read")[0].family != first.family


def test_data_must_be_those_of_the_plan_and_may_depend_on_the_seed(data_of: Callable[..., list[Stage]]) -> None:
    machine, device = compose_settings(DIGITS).machine, torch.device("cpu")
    (zero,), (one,) = data_of("drawn", "seed=0"), data_of("drawn", "seed=1")
    assert zero.family == one.family and zero.signature != one.signature
    assert build.data(zero, machine, device).content != build.data(one, machine, device).content  # pyright: ignore
    with pytest.raises(UserError, match=r"random returned other data than when this stage was planned"):
        build.data(*data_of("random"), machine, device)


def test_the_batches_of_a_users_class_are_looked_at(data_of: Callable[..., list[Stage]]) -> None:
    families = {data_of("Own", *more)[0].family for more in ((), ("+dataset.value=0.0",), ("+dataset.target=1",))}
    assert len(families) == 3  # arguments are signed, whether or not they change the content
    assert data_of("Own")[0].dataset.content_sha256 != data_of("Own", "+dataset.target=1")[0].dataset.content_sha256
    for override, message in {
        "value=nan": r"batch 0 of evaluation\('train'\) has an input that is not finite, of example 0\.",
        "target=3": "has targets from 3 to 3, not from 0 to 2",
        "target=0.5": "has targets of the type torch.float32, not torch.int64",
        "side=7": r"has inputs of the shape \[5, 1, 7, 8\], not \[batch, 1, 8, 8\]",
    }.items():
        with pytest.raises(UserError, match=message):
            data_of("Own", f"+dataset.{override}")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("pairs", r"pairs returns list, which has no examples: it must return a ban\.data\.images\.Images"),
        ("broken", r"broken: .*data_.*\.py, line \d+, in broken: KeyError: 'missing'\.$"),
        ("read", r"read: .*unexpected keyword argument 'brightness'"),
    ],
)
def test_what_is_wrong_with_a_users_data_is_said_before_anything_is_trained(
    function: str, message: str, data_of: Callable[..., list[Stage]]
) -> None:
    with pytest.raises(UserError, match=message):
        data_of(function, "+dataset.brightness=55")
