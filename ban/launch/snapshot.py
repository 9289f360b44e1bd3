"""The code that a queued job runs: frozen when it is submitted."""

import hashlib
import importlib
import importlib.machinery
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from ban.plan.stage import Stage
from ban.store.store import Store


def freeze(stages: Iterable[Stage], store: Store) -> Path:
    """A folder with copies of this package and of the user's modules; the same for the same code.

    The user's modules are those that the stages name and all that these have imported, unless they are installed.
    """
    sources = {_ours(): "ban"} | {path: path.name for path in _theirs(stages)}
    digest = hashlib.sha256("".join(digest_of(path) for path in sorted(sources)).encode()).hexdigest()[:16]
    frozen = store.root / "code" / digest
    if not frozen.exists():
        partial = frozen.with_suffix(f".{secrets.token_hex(4)}.part")
        partial.mkdir(parents=True)
        for path, name in sources.items():
            if path.is_dir():
                shutil.copytree(path, partial / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(path, partial / name)
        partial.rename(frozen)
    return frozen


def installed_differs(frozen: Path) -> bool:
    """Whether what an `import ban` would find without the frozen copy is another code by now."""
    paths = [path for path in sys.path if Path(path).resolve() != frozen.resolve()]
    spec = importlib.machinery.PathFinder.find_spec("ban", paths)
    if spec is None or spec.origin is None:
        return True
    return digest_of(Path(spec.origin).parent) != digest_of(frozen / "ban")


def digest_of(path: Path) -> str:
    """Of a module's file, or of all Python files of a package."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _ours() -> Path:
    return Path(__file__).parents[1]


def _theirs(stages: Iterable[Stage]) -> set[Path]:
    """The files and folders of all top-level modules that are neither ours nor installed."""
    for target in {target for stage in stages for target in stage.targets}:
        importlib.import_module(target.rpartition(".")[0])
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")]
    found = set()
    for name in {name.partition(".")[0] for name in [*sys.modules]} - {"ban", "hydra_plugins", "__main__"}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not any(Path(file).resolve().is_relative_to(folder) for folder in installed):
            path = Path(file).resolve()
            found.add(path.parent if path.name == "__init__.py" else path)
    return found
