"""What must hold on Hydra 1.3 and on 1.4: `make test-hydra-next`."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ban, environment
from hydra.utils import instantiate

from ban.settings.hydra_versions import allow


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--help"], "experiment=demo"),
        (["--cfg", "job"], "generations: 1"),
        (["--info"], "Hydra"),
        (["experiment=demo", "scale=smoke", "seed=0", "dry_run=true"], "8 stages"),
        (["-m", "experiment=demo", "scale=smoke", "seed=0", "dry_run=true"], "8 stages"),
    ],
)
def test_the_command_uses_nothing_that_hydra_deprecates(arguments: list[str], answer: str, tmp_path: Path) -> None:
    done = ban(*arguments, cwd=tmp_path)
    assert answer in done.stdout
    assert not done.stderr  # where Python prints warnings


def test_the_shell_completes_experiments(tmp_path: Path) -> None:
    line = "ban experiment=demo_n"
    done = subprocess.run(
        [sys.executable, "-m", "ban", "--shell-completion", "query=bash"],
        cwd=tmp_path,
        env=environment(COMP_LINE=line, COMP_POINT=str(len(line)), COMP_CWORD="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["experiment=demo_noise"]


def test_a_class_may_be_named_where_another_module_exports_it() -> None:
    node = {"_target_": "ban.models.SmallConv"}  # defined in ban.models.small_conv
    assert callable(instantiate(node, _partial_=True, **allow([node["_target_"]])))


def test_what_runs_commands_stays_refused() -> None:
    with pytest.raises(Exception, match=r"os\.system"):
        instantiate({"_target_": "os.system"}, _partial_=True, **allow(["os.system"]))
