"""A hash of the code behind a `_target_` that is not ours, without importing it.

The code is the module that defines the class or function, wherever a package's `__init__` re-exports it from, and all
modules of the user's that this module imports, directly or not. Of an installed package it is the version.
"""

import ast
import functools
import hashlib
import importlib.util
import pkgutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from pathlib import Path

from ban.errors import UserError

SHIPPED = ("ban", "torch")
"""Packages whose components have a version of their own (`ban.plan.signature.VERSIONS`), or are taken to be stable."""


def source_hash(target: str) -> str:
    """The hash. Of a module that imports no other of the user's, it is the SHA-256 of its file.

    Raises:
        UserError: no module can be found for the target.
    """
    module, name = _module_in(target)
    origin = _origin(module, name)
    if _is_shipped(origin):
        origin = module
    if _is_installed(origin):
        return _version(origin)
    modules: dict[str, bytes] = {}
    _collect(origin, modules)
    if len(modules) == 1:
        return hashlib.sha256(*modules.values()).hexdigest()
    digests = (f"{name} {hashlib.sha256(source).hexdigest()}\n" for name, source in sorted(modules.items()))
    return hashlib.sha256("".join(digests).encode()).hexdigest()


# Modules


def _module_in(target: str) -> tuple[ModuleSpec, str]:
    """The module that a target names, and the name of what it looks up there."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        spec = _find(".".join(parts[:end]))
        if spec is not None:
            return spec, parts[end]
    module = target.rpartition(".")[0]
    raise UserError(
        f"_target_: {target} names the module '{module}', which cannot be imported from here: is it in PYTHONPATH?"
    )


def _find(name: str) -> ModuleSpec | None:
    """Like `importlib.util.find_spec`, but does not import the packages that the module is in."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _find_in(spec.submodule_search_locations, f"{spec.name}.{part}")
    return spec


def _find_in(folders: Iterable[str], name: str) -> ModuleSpec | None:
    """A module of a package. A folder without `__init__` counts only if there is nothing else of this name."""
    finders = filter(None, map(pkgutil.get_importer, folders))
    found = [spec for finder in finders if (spec := finder.find_spec(name)) is not None]
    return min(found, key=lambda spec: spec.loader is None, default=None)


def _is_shipped(spec: ModuleSpec) -> bool:
    return spec.name.partition(".")[0] in SHIPPED


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module is part of Python or of an installed package. An editable installation is the user's."""
    if not spec.has_location:
        return spec.submodule_search_locations is None  # built in; a namespace package has no file either
    path = Path(spec.origin or "").resolve()
    python = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    folders = {"site-packages", "dist-packages"}
    return not folders.isdisjoint(path.parts) or any(map(path.is_relative_to, python))


def _version(spec: ModuleSpec) -> str:
    """The versions of what is installed, for example "torchvision 0.21.0"."""
    top = spec.name.partition(".")[0]
    names = sorted({*_distributions().get(top, ())})
    if not names and (top in sys.stdlib_module_names or not spec.has_location):
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    if not names:  # copied there by hand
        return hashlib.sha256(_source(spec)).hexdigest()
    return ", ".join(f"{name} {version(name)}" for name in names)


_distributions = functools.cache(packages_distributions)


def _source(spec: ModuleSpec) -> bytes:
    return Path(spec.origin).read_bytes() if spec.has_location and spec.origin else b""


@functools.lru_cache(maxsize=256)
def _parsed(source: bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):  # an extension module, or an error that the import will report
        return ast.Module([], [])


# What a module imports


def _collect(spec: ModuleSpec, modules: dict[str, bytes]) -> None:
    """Adds the source of a module of the user's, and of all that it imports."""
    if spec.name in modules or not spec.has_location or _is_shipped(spec) or _is_installed(spec):
        return
    modules[spec.name] = _source(spec)
    for package in _packages_of(spec):
        if not _only_imports(_parsed(_source(package))):
            _collect(package, modules)
    for imported in _imports(spec):
        _collect(imported, modules)


def _packages_of(spec: ModuleSpec) -> Iterator[ModuleSpec]:
    """The packages that a module is in; their `__init__` runs before it."""
    parts = spec.name.split(".")
    for end in range(1, len(parts)):
        if package := _find(".".join(parts[:end])):
            yield package


def _only_imports(tree: ast.Module) -> bool:
    """Whether a package's `__init__` has nothing but imports, a docstring, and names such as `__all__`."""
    return all(_imports_or_names(node) for node in tree.body)


def _imports_or_names(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(each, ast.Name) and each.id.startswith("__") for each in node.targets)
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, ast.Import | ast.ImportFrom)


def _imports(spec: ModuleSpec) -> Iterator[ModuleSpec]:
    """The modules that a module imports anywhere in its code: of a re-exported name, the one that defines it.

    A package that makes its names at run time may import each of its modules.
    """
    tree = _parsed(_source(spec))
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        names = (each.name for each in pkgutil.iter_modules(spec.submodule_search_locations))
        yield from filter(None, (_find(f"{spec.name}.{name}") for name in names))
    for node in ast.walk(tree):
        found: list[ModuleSpec | None] = []
        if isinstance(node, ast.Import):
            found = [_find(name) for alias in node.names for name in _bound(alias)]
        elif isinstance(node, ast.ImportFrom):
            found = [_imported(spec, node, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
            texts = (each.value for each in node.args[:1] if isinstance(each, ast.Constant))
            found = [_find(_absolute(spec, text)) for text in texts if isinstance(text, str)]
        yield from filter(None, found)


def _bound(alias: ast.alias) -> list[str]:
    """`import a.b` makes names of a and of a.b usable, `import a.b as c` only the latter."""
    parts = alias.name.split(".")
    ends = [len(parts)] if alias.asname else range(1, len(parts) + 1)
    return [".".join(parts[:end]) for end in ends]


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _absolute(spec: ModuleSpec, name: str) -> str:
    """A module's name as written in another one: with dots in front it is relative."""
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    package = spec.name.split(".") if spec.submodule_search_locations is not None else spec.name.split(".")[:-1]
    return ".".join(filter(None, [*package[: len(package) - level + 1], name[level:]]))


def _imported(spec: ModuleSpec, node: ast.ImportFrom, name: str) -> ModuleSpec | None:
    """What `from … import NAME` runs: a submodule, or the module that defines the name."""
    base = _absolute(spec, "." * node.level + (node.module or ""))
    module = _find(base)
    if module is None or _is_shipped(module) or _is_installed(module):
        return module
    return _find(f"{base}.{name}") or _origin(module, name)


def _origin(module: ModuleSpec, name: str, seen: frozenset[str] = frozenset()) -> ModuleSpec:
    """The module that defines what another module calls `name`; that module itself unless it only re-exports it."""
    if module.name in seen or _is_shipped(module) or _is_installed(module):
        return module
    tree = _parsed(_source(module))
    sources = [
        (node, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (alias.asname or alias.name) == name
    ]
    stored = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    if len(sources) != 1 or name in (*stored, *defined):
        return module
    (node, original) = sources[0]
    base = _find(_absolute(module, "." * node.level + (node.module or "")))
    if base is None:
        return module
    return _find(f"{base.name}.{original}") or _origin(base, original, seen | {module.name})
