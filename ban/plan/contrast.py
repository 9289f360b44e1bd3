"""The settings in which stages differ that are shown together, so that every result carries the setting that made it.

Only parts of one name are compared: the names of two recipes already say that they differ.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import compress, takewhile
from typing import Any, cast

from ban.plan.identity import Identity, identity_of
from ban.plan.signature import VERSIONS, signed_content
from ban.plan.stage import Stage
from ban.settings.types import Node

Line = Sequence[Node]
"""The settings of a stage and of its first teachers, the nearest first, as `stage.json` holds them."""
PARTS = ("dataset", "recipe", "models", "method", "weights")
TITLED = (
    "train_size",
    "validation_size",
    "test_size",
    "epochs",
    "steps_per_epoch",
    "batch_size",
    "unroll",
    "precision",
)
"""Settings that the title of a regime names."""
VAGUE = ("class", "weight", "rate")
"""Last parts of keys that say nothing without the part before."""


def line_of(stage: Stage) -> Line:
    """A stage's settings and its teachers'."""
    return [stage.settings, *(line_of(stage.taught_by[0].stage) if stage.taught_by else ())]


def differences(lines: Sequence[Line], parts: Collection[str] = PARTS) -> list[dict[str, str]]:
    """Dotted key → value of the settings in which the lines differ; one that has its default value is left out.

    A teacher's setting is named (`teacher.recipe.optimizer.lr`) where it is not its student's.
    """
    found: list[dict[str, str]] = [{} for _ in lines]
    for depth in range(max(map(len, lines), default=0)):
        reached = [index for index, line in enumerate(lines) if len(line) > depth]
        for part in parts if depth == 0 else PARTS:
            named = {index: _named(part, lines[index][depth], teaches=depth > 0) for index in reached}
            for name in dict.fromkeys(name for name, _ in named.values()):
                alike = {index: settings for index, (other, settings) in named.items() if other == name}
                for index, different in zip(alike, _differing([*alike.values()]), strict=True):
                    inherited = _named(part, lines[index][depth - 1])[1] if depth else {}
                    own = {key: value for key, value in different.items() if inherited.get(key) != value}
                    found[index] |= {"teacher." * depth + key: value for key, value in own.items()}
    return found


def _differing(settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    keys = dict.fromkeys(key for each in settings for key in each)
    differing = [key for key in keys if len({each.get(key) for each in settings}) > 1]
    return [{key: each[key] for key in differing if key in each} for each in settings]


def _named(part: str, settings: Node, teaches: bool = False) -> tuple[Any, dict[str, str]]:
    """A part's name, and its signed settings without seeds. What a method changes in the data belongs to the method.

    Weights from a file are told from a training among the generations 0 that teach: elsewhere labels do that.
    """
    content, method = signed_content(settings), settings["method"]
    if part == "weights":
        file = settings.get(part)
        shown = {part: f"{file['file']} ({file['sha256'][:6]})"} if file else {}
        return settings["generation"] == 0 and (teaches or bool(file)), shown
    changed = {f"dataset.{key}" for key in _flat("", method.get("data") or {})}
    flat = _flat("model" if part == "models" else part, content.get(part, {})) | (
        _flat("dataset", content["dataset"]) if part == "method" else {}
    )
    if "recipe.precision" in flat:
        precision = settings["recipe"]["precision"]
        flat["recipe.precision"] = _of_version(precision, settings.get("versions", {}).get(precision, 1))
    own = {
        key: value for key, value in flat.items() if (key in changed or key.startswith("method.")) == (part == "method")
    }
    nodes = settings[part] if part == "models" else [settings[part]]
    name = (*(node.get("name") for node in nodes), bool(method.get("until")))
    return name, {key: value for key, value in own.items() if not key.endswith("seed")}


def _of_version(name: str, version: int) -> str:
    """What this version of `ban` computes by its name alone."""
    return name if version == VERSIONS.get(name, 1) else f"{name} of another version of ban"


def _flat(prefix: str, value: Any) -> dict[str, str]:
    """Dotted keys → values as text."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        node = {**cast("Mapping[str, Any]", value)}
        if "class" in node:
            node["class"] = _of_version(node["class"], node.pop("version"))
        items = node.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in cast("list[Any]", value)):
        items = [(index or "", item) for index, item in enumerate(cast("list[Any]", value))]
    else:
        text = f"{value}".lower() if isinstance(value, bool) else f"{value}"
        return {prefix: f"{value:.12g}" if isinstance(value, float) else text}  # 0.05 × 0.2 is 0.010000000000000002
    nested = (_flat(f"{prefix}.{key}".strip("."), item) for key, item in items)
    return {key: text for each in nested for key, text in each.items()}


def describe(settings: Mapping[str, str], without: Collection[str] = ()) -> str:
    """Like "lr 0.05, teacher's width 8"."""
    return ", ".join(_words(key, value) for key, value in settings.items() if key.rpartition(".")[2] not in without)


def _words(key: str, value: str) -> str:
    *above, last = key.split(".")
    whose = "teacher's " * len([*takewhile("teacher".__eq__, above)])
    if last in VAGUE:
        last = above[-1] if last == "class" else f"{above[-1]} {last}"
    return f"{whose}{last} {_shortened(value)}"


def _shortened(value: str) -> str:
    """Long values by their beginning and a hash of the whole, so that different ones stay different."""
    return value if len(value) <= 40 else f"{value[:32]}… ({hashlib.sha256(value.encode()).hexdigest()[:4]})"


def named(titles: Sequence[str], lines: Sequence[Line], parts: Collection[str]) -> list[str]:
    """Titles, with the settings in which those parts of them differ."""
    found = [describe(settings, without=TITLED) for settings in differences(lines, parts)]
    return [f"{title}, {settings}" if settings else title for title, settings in zip(titles, found, strict=True)]


def details(stages: Sequence[Identity], line: Callable[[Identity], Line]) -> dict[str, str]:
    """Signature → what a list of stages must say beside label, network and seed, to tell them apart."""
    families = {stage["family"]: stage for stage in stages}
    settings = dict(zip(families, map(describe, differences([*map(line, families.values())])), strict=True))
    several_splits = len({stage["split_seed"] for stage in stages}) > 1
    found: dict[str, str] = {}
    for stage in stages:
        seed, root, split = stage["seed"], stage["root_seed"], stage["split_seed"]
        parts = [f"teacher's seed {root}"] * (root != seed)
        parts += [f"split {split}"] * (several_splits and split not in (None, None if "weights" in stage else seed))
        found[stage["signature"]] = ", ".join([*parts, *filter(None, [settings[stage["family"]]])])
    return found


def details_of(stages: Sequence[Stage]) -> dict[str, str]:
    """The same for stages of a plan."""
    families = {stage.family: stage for stage in stages}
    return details([*map(identity_of, stages)], lambda identity: line_of(families[identity["family"]]))


def family_names(stages: Sequence[Stage]) -> dict[str, str]:
    """Family → the name of its trainings beside those of the other families, without a seed."""
    families = {stage.family: stage for stage in stages}
    settings = map(describe, differences([*map(line_of, families.values())]))
    parts = [(stage.model.title, stage.dataset.title, stage.recipe.name) for stage in families.values()]
    varying = [len({*values}) > 1 for values in zip(*parts, strict=True)]
    return {
        family: ", ".join(filter(None, [stage.label, *compress(own, varying), more]))
        for (family, stage), own, more in zip(families.items(), parts, settings, strict=True)
    }


def names_of(stages: Sequence[Stage]) -> dict[str, str]:
    """Signature → a stage's name in a line of its own, beside those of the other stages."""
    more = details_of(stages)
    return {stage.signature: ", ".join(filter(None, [name_of(stage), more[stage.signature]])) for stage in stages}


def name_of(stage: Stage) -> str:
    """A stage's name without regard to others."""
    return name_in_line(stage.label, stage.model.title, None if stage.weights else stage.seed)


def name_in_line(label: str, network: str, seed: int | None) -> str:
    """A stage's name; `seed` is None if it has none."""
    return ", ".join([label, network, *([] if seed is None else [f"seed {seed}"])])
