"""Sweeps: the jobs of a command. A sweeper joins several products of settings into one batch."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ban.errors import UserError
from ban.settings.checks import check, validated
from ban.settings.compose import compose_config, freeze
from ban.settings.datasets import ImageDataset, TabularDataset
from ban.settings.schema import Settings, SweeperSettings
from ban.settings.types import Node
from ban.settings.words import read

Sweeps = Mapping[str, Mapping[str, Any]]
MOST_JOBS = 100_000


class UnionSweeper(Sweeper):
    """The union of Cartesian products, each job once; settings on the command line win over a sweep's.

    `hydra.sweeper.sweeps: {name: {key: value or "value,value,…"}}`; without it there is one product, the command line.
    `hydra.sweeper.by_scale: {scale: {key: value}}`: what changes in every product at `scale=…`; its key `sweeps` lists
    the products that there are at this scale.
    """

    def __init__(self, **options: Any) -> None:
        checked = _checked(options)
        self.sweeps, self.by_scale = checked.sweeps, checked.by_scale

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher that will run the jobs."""
        from hydra.core.plugins import Plugins

        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launches all jobs as one batch."""
        assert self.launcher is not None  # set up by Hydra
        return self.launcher.launch(expand(self.sweeps, arguments, self.by_scale, self.loader), initial_job_idx=0)


def jobs_of(overrides: Sequence[str], folder: Path | None = None, all_seeds: bool = True) -> list[Settings]:
    """The settings of each job of `ban OVERRIDES`, with the sweeps of its experiment.

    Args:
        overrides: the words of the command line.
        folder: the user's files of settings.
        all_seeds: whether the experiment's sweeps over seeds are included.

    Raises:
        UserError: a setting is unknown or impossible.
    """
    parsed = OverridesParser.create().parse_overrides([*overrides])
    single = [str(word.input_line) for word in parsed if not word.is_sweep_override()]
    sweeper = _checked(compose_config(single, folder).hydra.sweeper)
    left_out = () if all_seeds else ("seed",)
    sweeps = {
        name: {key: value for key, value in product.items() if key not in left_out}
        for name, product in sweeper.sweeps.items()
    }
    return _composed_once(expand(sweeps, overrides, sweeper.by_scale), lambda job: compose_config(job, folder))


def _checked(sweeper: Any) -> SweeperSettings:
    plain: Any = OmegaConf.to_container(OmegaConf.create(sweeper or {}))
    options = {key: value for key, value in plain.items() if key != "_target_"}
    return validated(SweeperSettings, options, "hydra.sweeper")


def settings_of(loader: ConfigLoader, config: DictConfig, jobs: Sequence[Sequence[str]]) -> list[Settings]:
    """The settings of each job of a sweep that Hydra runs.

    Raises:
        UserError: a setting is unknown or impossible.
    """
    return _composed_once(jobs, lambda job: loader.load_sweep_config(config, [*job]))


def _composed_once(jobs: Iterable[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig]) -> list[Settings]:
    """The settings of each job. Jobs that differ only in their seed are composed and checked once: it takes 0.2 s."""
    composed: dict[tuple[str, ...], _Repetitions] = {}
    result: list[Settings] = []
    for job in jobs:
        seeds = [override for override in job if re.fullmatch(r"seed=(0|-?[1-9]\d{0,17})", override)]  # possible ones
        rest = tuple(override for override in job if override not in seeds)
        if rest not in composed:
            composed[rest] = _Repetitions(compose([*rest, *seeds]))
        result.append(composed[rest].settings(int(seeds[-1].partition("=")[2]) if seeds else None))
    return result


SEEDS = ("teacher.seed", "dataset.split_seed")
"""Settings that may follow the seed: `${seed}`."""
SIMPLE = re.compile(r"(?:[^$]|\$\{(?:[\w.]+|oc\.env:[^${}]*)\})*")
"""A text whose references name what they stand for."""


class _Repetitions:
    """The settings of jobs that differ only in their seed."""

    def __init__(self, config: DictConfig) -> None:
        self.config, self.followers = config, _following(config)
        self.first: Settings | None = None  # those of a job that was composed

    def settings(self, seed: int | None) -> Settings:
        """The settings with a seed; None: the configuration's own."""
        if self.first is None or self.followers is None or seed is None or not self._is_copied(self.first):
            own = deepcopy(self.config)
            if seed is not None:
                own.seed = seed
            self.first = freeze(own)
            return self.first
        changes: dict[str, Any] = {}
        if "teacher.seed" in self.followers:
            changes["teacher"] = replace(self.first.teacher, seed=seed)
        if "dataset.split_seed" in self.followers:
            changes["dataset"] = replace(self.first.dataset, split_seed=seed)  # pyright: ignore[reportCallIssue]
        settings = replace(self.first, seed=seed, **changes)
        return settings if "teacher.seed" in self.followers else check(settings)  # which compares these two

    def _is_copied(self, first: Settings) -> bool:
        """Whether another seed changes nothing else. What is measured of a user's files may depend on the split."""
        splits = "dataset.split_seed" in (self.followers or ())
        return not splits or type(first.dataset) in (ImageDataset, TabularDataset)


def _following(config: DictConfig) -> frozenset[str] | None:
    """Which of `SEEDS` follow the seed; None: something else does, or may do so."""
    own = OmegaConf.create({key: value for key, value in config.items_ex(resolve=False) if key != "hydra"})
    try:
        leaves = [*_leaves(OmegaConf.to_container(own), OmegaConf.to_container(own, resolve=True))]
    except OmegaConfBaseException:  # what is measured may be referred to
        return None
    found: set[str] = set()
    for name, text, resolved in leaves:
        if name in SEEDS and text == "${seed}":
            found.add(name)
        elif isinstance(resolved, dict | list) or "seed" in text or not SIMPLE.fullmatch(text):
            return None
    return frozenset(found)


def _leaves(value: Any, resolved: Any, name: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted name, text and value of everything that refers to something else."""
    if isinstance(value, str) and "$" in value:
        yield name, value, resolved
    elif isinstance(value, dict | list):
        items = cast("Node", value).items() if isinstance(value, dict) else enumerate(cast("list[Any]", value))
        for key, item in items:
            yield from _leaves(item, resolved[key], f"{name}.{key}" if name else str(key))


def expand(
    sweeps: Sweeps, arguments: Sequence[str], by_scale: Sweeps | None = None, loader: ConfigLoader | None = None
) -> list[list[str]]:
    """One list of overrides for each job.

    Raises:
        UserError: several experiments at once, of which Hydra would use the sweeps of none, or one that has no stand-in
            on digits, or that names a product which it does not have.
    """
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(read(arguments))
    chosen = {_place(word): word for word in given}
    if (experiment := chosen.get(("experiment", None))) and experiment.is_sweep_override():
        raise UserError("experiment takes one name: run the experiments one after another, they share their stages.")
    named = chosen.get(("scale", None))
    scale = named.get_value_element_as_str() if named else "paper"
    if experiment and scale == "digits" and "digits" not in (by_scale or {}):
        name = experiment.get_value_element_as_str()
        raise UserError(f"experiment={name} has no stand-in on digits: choose scale=paper, budget or smoke.")
    changes = {**((by_scale or {}).get(scale) or {})}
    products = _chosen(sweeps, changes.pop("sweeps", None), scale)
    jobs: dict[tuple[str, ...], list[str]] = {}
    for product in products or [{}]:
        plain: Any = OmegaConf.to_container(OmegaConf.create({**product, **changes}))
        own = [f"{key}={value if isinstance(value, str) else _literal(value)}" for key, value in plain.items()]
        for job in _product(_joined(parser.parse_overrides(read(own)), given)):
            jobs.setdefault(tuple(sorted(job)), job)
    if not jobs:
        raise UserError("the sweep is empty: one of its settings has no values.")
    return list(jobs.values())


def _chosen(sweeps: Sweeps, names: Any, scale: str) -> list[Mapping[str, Any]]:
    """The products that there are at a scale; without names, all."""
    key = f"hydra.sweeper.by_scale.{scale}.sweeps"
    listed: list[Any] = [*names] if isinstance(names, Sequence) and not isinstance(names, str) else []
    if names is not None and (not listed or not all(isinstance(name, str) for name in listed)):
        example = names if isinstance(names, str) and names in sweeps else next(iter(sweeps), "NAME")
        raise UserError(f"{key} is {_literal(names)}, but it must be a list of names, for example [{example}].")
    if unknown := [name for name in listed if name not in sweeps]:
        raise UserError(f"{key}: there is no sweep '{unknown[0]}'.")
    return [product for name, product in sweeps.items() if names is None or name in listed]


def _place(word: Override) -> tuple[str, str | None]:
    """Group and package: `model=A` and `+model@peers.a=B` set two different things."""
    return word.key_or_group, word.package


def _literal(value: Any) -> str:
    """A value of a YAML file as Hydra's words have it."""
    if isinstance(value, dict):
        items = cast("Node", value).items()
        return f"{{{','.join(f'{key}:{_literal(item)}' for key, item in items)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_literal, cast('list[Any]', value)))}]"
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)


def _joined(own: Sequence[Override], given: Sequence[Override]) -> list[Override]:
    """The words of an experiment, then those of the command line, which win, without those that change nothing."""
    added = {_place(word) for word in own if word.is_add() or word.is_force_add()}
    given = [_adding(word) if _place(word) in added else word for word in given]
    words = [*(word for word in own if _place(word) not in {*map(_place, given)}), *given]
    last = {_place(word): index for index, word in enumerate(words) if _sets(word)}
    return [word for index, word in enumerate(words) if not _sets(word) or index >= last[_place(word)]]


def _adding(word: Override) -> Override:
    """The same word, whether or not its key is there already."""
    plain = word.type is OverrideType.CHANGE and word.package is None
    return OverridesParser.create().parse_override(f"++{word.input_line}") if plain else word


def _sets(word: Override) -> bool:
    """Whether the value before it does not matter: it neither adds nor deletes, and it is not merged."""
    return word.type is OverrideType.CHANGE and (word.is_sweep_override() or not isinstance(word.value(), dict))


def _product(words: Sequence[Override]) -> list[list[str]]:
    jobs: list[list[str]] = [[]]
    for word in words:
        values = _choices(word.get_key_element(), word)
        if len(jobs) * len(values) > MOST_JOBS:
            raise UserError(f"the sweep has more than {MOST_JOBS} jobs.")
        choices = [read([value]) for value in values]
        jobs = [[*job, *choice] for job in jobs for choice in choices]
    return jobs


def _choices(key: str, override: Override) -> list[str]:
    """The settings that a word of the command line stands for."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    try:
        values = [*itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1)]
    except (HydraException, ValueError):
        word = override.input_line or key
        raise UserError(f"{word} names no values to sweep over: use {key}=A,B,C or {key}=range(START,STOP).") from None
    return [f"{key}={value}" for value in values]
