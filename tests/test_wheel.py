"""The wheel: what it contains, and that it works outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import DIGITS

from ban import __version__

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that sees nothing of this checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HYDRA_", "BAN_"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


def test_a_wheel_has_settings_tables_plugins_and_types(wheel: Path) -> None:
    assert wheel.name == f"born_again-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = [path.relative_to(ROOT) for folder in ("ban", "conf") for path in (ROOT / folder).rglob("*.*")]
    sources = [path for path in sources if path.suffix != ".pyc"]
    places = {"ban/launch/hydra_plugins/": "hydra_plugins/", "conf/": "ban/conf/"}
    expected = {str(path) for path in sources}
    for old, new in places.items():
        expected = {new + name.removeprefix(old) if name.startswith(old) else name for name in expected}
    assert names == expected
    assert {"ban/py.typed", "ban/conf/config.yaml", "hydra_plugins/ban.py", "ban/report/paper_tables.csv"} <= names


@pytest.mark.slow
def test_an_installed_wheel_explains_and_trains(wheel: Path, tmp_path: Path) -> None:
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python, ban = environment / "bin" / "python", environment / "bin" / "ban"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # The dependencies come from this environment. Python reads .pth files of its own site-packages only, so those of an
    # editable ban have no effect.
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    found = run(python, "-c", "import ban, hydra_plugins.ban as b; print(ban.__file__, b.__file__)", cwd=elsewhere)
    assert all(Path(path).is_relative_to(packages) for path in found.split())

    assert "experiment=demo" in run(ban, "--help", cwd=elsewhere)
    assert "BAN-1" in run(ban, "-m", *DIGITS, "recipe.epochs=2", cwd=elsewhere)
    assert len([*elsewhere.glob("outputs/stages/*/result.json")]) == 2
