"""The hash of a user's code changes with all that the code reads, and with nothing else."""

import hashlib
import importlib
from pathlib import Path

import pytest

from ban.errors import UserError
from ban.settings.code_hash import source_hash

CODE = {
    "P/__init__.py": '"""Names."""\nfrom .networks import Net\nfrom P.losses import Loss as Own\n__all__ = ["Net"]\n',
    "P/networks.py": "from . import blocks\nfrom P.shared.sizes import WIDTH\nclass Net(blocks.Block): ...\n",
    "P/blocks.py": "class Block:\n    def forward(self):\n        import P.late as late\n",
    "P/late.py": "import importlib\n\nlatest = importlib.import_module('.latest', 'P')\n",
    "P/latest.py": "",
    "P/losses.py": "from P import Net\n\n\nclass Loss: ...\n",
    "P/lazy/__init__.py": "def __getattr__(name):\n    return __import__(name)\n",
    "P/lazy/inner.py": "",
    "P/shared/__init__.py": "SCALE = 2\n",
    "P/shared/sizes.py": "WIDTH = 3\n",
    "P/other.py": "from P import networks\n",
    "P/namespace/net.py": "class Net:\n    def small(): ...\n",
    "P/unused.py": "",
}
NET = {"networks", "blocks", "late", "latest", "shared/__init__", "shared/sizes"}


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("P.Net", NET),
        ("P.networks.Net", NET),
        ("P.Own", NET | {"losses"}),
        ("P.other.networks.Net", NET),
        ("P.shared.sizes.WIDTH", {"shared/__init__", "shared/sizes"}),
        ("P.lazy.Net", {"lazy/__init__", "lazy/inner"}),
        ("P.namespace.net.Net.small", {"namespace/net"}),
        ("P.unused.f", {"unused"}),
    ],
)
def test_the_hash_covers_the_defining_module_and_its_imports(
    target: str, read: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"own_{tmp_path.name}"
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in CODE.items():
        path = tmp_path / name.replace("P", package, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code.replace("P", package))
    importlib.invalidate_caches()
    target = target.replace("P", package)
    before, counted = source_hash(target), set()
    for name in CODE:
        path = tmp_path / name.replace("P", package, 1)
        code = path.read_text()
        path.write_text(f"{code}# edited\n")
        if source_hash(target) != before:
            counted.add(name.removeprefix("P/").removesuffix(".py"))
        path.write_text(code)
    assert counted == read


def test_a_module_alone_has_the_hash_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in earlier versions, so that results stay valid."""
    name = f"alone_{tmp_path.name}"
    path = tmp_path / f"{name}.py"
    path.write_text("import numpy\nfrom ban.terms import Labels\nfrom torch.nn import Linear as Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert source_hash(f"{name}.Net") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_installed_package_counts_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_hash("torchvision.models.resnet18").startswith("torchvision 0.")
    assert source_hash("collections.OrderedDict").startswith("python 3.")
    name = f"exports_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("from torchvision.models import resnet18 as Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert source_hash(f"{name}.Net") == source_hash("torchvision.models.resnet18")


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"_target_: nowhere\.sub\.Net names the module 'nowhere\.sub', which cannot"):
        source_hash("nowhere.sub.Net")
