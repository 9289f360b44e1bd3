"""`ban methods`: all methods by group, or one with its terms and settings, which are on its page in docs/methods/ too.

Reads YAML files and docstrings, and imports neither torch nor the code that a file names.
"""

import ast
import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ban.display import console, show_facts
from ban.errors import UserError
from ban.settings.files import comment_of, content_of, files_of, sentence_of, title_of
from ban.wording import close, plural

GROUPS = (
    "Training on the labels",
    "Born-again networks",
    "Distillation into another network",
    "Matching hidden layers",
    "Learning from few labels",
    "Self-distillation without a teacher",
    "Networks that teach each other",
    "Tolerant teachers",
)
"""In the order in which they are listed; a user's own groups follow."""
OTHERS = "Other methods"
"""The heading of those whose file names no group."""
LAYER = re.compile(r"stem|pooled|stage\d+(\.first)?")
STAGED = {"ban.terms.ShallowClassifiers": "networks with two or more convolutional stages"}
"""Terms that name no layer, but need some → what they need."""
REFERENCE = re.compile(r"\$\{(\.+)(\w[\w.]*)\}")
Node = Mapping[str, Any]


def methods(words: Sequence[str], folder: Path | None = None) -> None:
    """Lists the methods of this package and of the user's folder, or shows the one that is named.

    Raises:
        UserError: there is no such method.
    """
    files = files_of("method", folder)
    if not words:
        show_all(files)
    elif words[0] in files:
        show_one(files[words[0]], folder)
    else:
        meant = close(words[0], files)
        advice = f"did you mean `ban methods {meant}`?" if meant else "`ban methods` lists all."
        raise UserError(f"there is no method '{words[0]}': {advice}")


def by_group(files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Heading → name → file."""
    found = {name: _text(content_of(path), "group") or OTHERS for name, path in files.items()}
    headings = dict.fromkeys([*GROUPS, *sorted({*found.values()} - {OTHERS}), OTHERS])
    groups = {heading: {name: files[name] for name in files if found[name] == heading} for heading in headings}
    return {heading: members for heading, members in groups.items() if members}


def show_all(files: Mapping[str, Path]) -> None:
    """Prints a name and a sentence for each method."""
    for heading, members in by_group(files).items():
        console.print(f"{heading}:")
        show_facts([(name, f"{sentence_of(path)}.") for name, path in members.items()])
    console.print("One of them with its settings: ban methods NAME. Train with it: ban method=NAME.")


def show_one(path: Path, folder: Path | None) -> None:
    """Prints what a method of this package or of the user's `folder` is, what it needs, and what it matches."""
    own = f"--config-dir {shlex.quote(str(folder))} " if folder and path.is_relative_to(folder) else ""
    console.print(f"{title_of(path)}: method={path.stem}")
    shown = [("what it is", comment_of(path)), *facts(path), ("command", f"ban {own}method={path.stem} dry_run=true")]
    show_facts([(name, text.replace("`", "")) for name, text in shown])


def facts(path: Path) -> list[tuple[str, str]]:
    """What the file and the docstrings of its parts say: name → text.

    Raises:
        UserError: a part of the file is no mapping, or its group or reference no text.
    """
    node = _resolved(content_of(path))
    _check(node)
    first = node.get("pretrain") or {}
    found = [("group", _text(node, "group") or OTHERS), ("source", _text(node, "reference")), ("needs", needs(node))]
    found += [(f"first stage: {name}", text) for name, text in _parts(first)]
    found += [("second stage: " * bool(first) + name, text) for name, text in _parts(node)]
    return [(name, text) for name, text in found if text]


def _resolved(value: Any, above: Sequence[Any] = ()) -> Any:
    """The value with what its relative references stand for, such as `${..label.weight}`. `above`: nearest first."""
    if isinstance(value, Mapping):
        return {key: _resolved(item, (value, *above)) for key, item in cast("Node", value).items()}
    if isinstance(value, list):
        return [_resolved(item, (value, *above)) for item in cast("list[Any]", value)]
    found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    node = above[len(found[1]) - 1] if found and len(found[1]) <= len(above) else None
    for key in found[2].split(".") if found else ():
        node = node.get(key) if isinstance(node, Mapping) else None
    return value if node is None else node


def _text(node: Node, key: str) -> str:
    value = node.get(key)
    if not isinstance(value, str | None):
        raise UserError(f"method.{key} is {_value(value)}, but it must be text.")
    return value or ""


def _check(node: Node, place: str = "method") -> None:
    """Refuses a part that is no mapping. Other values are checked before a training."""
    parts = {f"{place}.{key}": node.get(key) for key in ("data", "teacher", "terms", "pretrain")}
    if isinstance(node.get("data"), Mapping):
        parts |= {f"{place}.data.{key}": node["data"].get(key) for key in ("munge", "distortion")}
    parts = {name: value for name, value in parts.items() if value is not None}
    if isinstance(node.get("terms"), Mapping):
        parts |= {f"{place}.terms.{name}": term for name, term in node["terms"].items()}
    for name, value in parts.items():
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is {_value(value)}, but it must be a mapping of settings.")
    if node.get("pretrain"):
        _check(node["pretrain"], f"{place}.pretrain")


def needs(node: Node) -> str:
    """What a method needs beside the labels, in words."""
    data, pretrain = node.get("data") or {}, node.get("pretrain") or {}
    count, cohort = node.get("teacher_count") or 0, node.get("cohort") or 1
    layers = sorted({*_layers(node)})
    staged = [STAGED[term["_target_"]] for term in (node.get("terms") or {}).values() if term.get("_target_") in STAGED]
    shorter = _arguments(pretrain, ("epochs", "rate"))
    found = [
        (count, plural(count, "trained teacher")),
        (cohort != 1, f"{cohort} networks that are trained together"),
        (layers, f"networks with the layers {', '.join(layers)}"),
        (staged, "; ".join(staged)),
        (pretrain, f"a first stage up to {pretrain.get('until')} ({shorter} of the recipe's)"),
        (data.get("unlabelled"), "images without labels (dataset.labelled=N)"),
        (data.get("munge"), f"synthetic examples ({_arguments(data.get('munge') or {})})"),
        (data.get("partners"), "another image of the same class beside each"),
        ((data.get("views") or 1) != 1, f"{data.get('views')} views of each image"),
        (data.get("repeated"), "batches of which half is the last one's again"),
        (data.get("distortion"), f"distorted images ({_arguments(data.get('distortion') or {})})"),
    ]
    return "; ".join(text for needed, text in found if needed) or "the labels alone"


def _layers(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [*cast("Node", value).values()]
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _layers(item)
    elif isinstance(value, str) and LAYER.fullmatch(value):
        yield value


def _parts(node: Node) -> Iterator[tuple[str, str]]:
    """The teacher, and the terms with their weights."""
    if node.get("teacher"):
        yield "teacher", _described(node["teacher"])
    for name, term in (node.get("terms") or {}).items():
        weight = term.get("weight")
        shown = _named(weight) if isinstance(weight, Mapping) else f"{weight}"
        yield f"term {name}", f"weight {shown}; {_described(term)}"


def _described(component: Node) -> str:
    """Like "ban.terms.Hint (guided stage2, hint stage2): Half the squared distance …"."""
    said = docstring(f"{component.get('_target_')}")
    return _named(component) + (f": {said}" if said else "")


def _named(component: Any) -> str:
    arguments = _arguments({key: value for key, value in component.items() if key not in ("_target_", "weight")})
    return f"{component.get('_target_')}" + (f" ({arguments})" if arguments else "")


def _arguments(node: Node, keys: Sequence[str] = ()) -> str:
    return ", ".join(f"{key} {_value(node[key])}" for key in keys or node if key in node)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, cast('list[Any]', value)))}]"
    return "null" if value is None else f"{value}".lower() if isinstance(value, bool) else f"{value}"


def docstring(target: str) -> str:
    """The first sentence of the docstring of what a `_target_` names; empty if it is not found."""
    module, _, name = target.rpartition(".")
    return _first_sentences(module).get(name, "")


@functools.cache
def _first_sentences(module: str) -> dict[str, str]:
    """Class or function of a module → the first sentence of its docstring."""
    found: dict[str, str] = {}
    for file in _sources(module):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
                found.setdefault(node.name, re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0])
    return found


def _sources(module: str) -> list[Path]:
    """The files of a module, or of the modules of a package, which may define what it re-exports."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None or not spec.origin:
        return []
    place = Path(spec.origin).parent.joinpath(*rest)
    return [place.with_suffix(".py"), *sorted(place.glob("*.py"))] if rest else [Path(spec.origin)]
