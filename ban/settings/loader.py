"""How files of settings are merged: as by Hydra, but choosing an alternative replaces what was there."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import hydra._internal.hydra as internal
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from omegaconf import DictConfig, OmegaConf, flag_override

from ban.errors import UserError
from ban.settings.words import group_of
from ban.settings.yaml_files import Files

SAME_AS = "_same_as_"
"""The key of a mapping that stands for another part of the settings, with the changes beside it."""


class Loader(ConfigLoaderImpl):
    """Hydra's loader with two rules of its own.

    A mapping with a `_target_` replaces what another file has in that place, as Adam and its arguments replace SGD and
    its; one without changes the keys that it names. And a file that is chosen for a place such as `teacher.recipe` is
    there alone, with the files that it extends.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path=config_search_path)
        self.repository = Files(config_search_path)

    def _load_configuration_impl(self, *arguments: Any, **options: Any) -> DictConfig:
        try:
            return super()._load_configuration_impl(*arguments, **options)
        except RecursionError:
            raise UserError(f"the defaults list of {Files.newest} leads back to that file.") from None

    def _compose_config_from_defaults_list(
        self, defaults: Sequence[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        whole, chosen = OmegaConf.create(), set[str | None]()
        for default in defaults:
            part = super()._compose_config_from_defaults_list(defaults=[default], repo=repo)
            if group_of(default.package) and default.package not in chosen:
                OmegaConf.update(whole, str(default.package), None, force_add=True)
            chosen.add(default.package)
            with flag_override(whole, "no_deepcopy_set_nodes", True):
                _merge(whole, part, extended=default.package or "")
        return whole


setattr(internal, ConfigLoaderImpl.__name__, Loader)  # Hydra has no hook for how files are merged


def _merge(whole: DictConfig, part: DictConfig, extended: str = "") -> None:
    """Merges `part` into `whole`. `extended` is the place of a file that may extend another one."""
    _forget_replaced(whole, part, extended.split("."))
    whole.merge_with(part)


def _forget_replaced(whole: DictConfig, part: DictConfig, extended: Sequence[str]) -> None:
    for name, new in part.items_ex(resolve=False):
        key = str(name)
        if key == "hydra" or not OmegaConf.is_dict(new) or new._is_none() or OmegaConf.is_interpolation(part, key):
            continue
        if key not in whole or OmegaConf.is_interpolation(whole, key) or not OmegaConf.is_dict(whole[key]):
            continue
        if not new and whole[key]:
            raise UserError(
                f"`{key}: {{}}` in a file would change nothing: name what to change, or write `{key}: null`."
            )
        if "_target_" in new and [*extended] != [key]:
            whole[key] = None
        else:
            _forget_replaced(whole[key], new, extended[1:] if extended[:1] == [key] else ())


def follow(config: DictConfig) -> None:
    """Gives the teacher the student's network and recipe, with the teacher's changes, where no file was chosen."""
    for name in ("model", "recipe"):
        changes = config.teacher[name]
        if OmegaConf.is_dict(changes) and SAME_AS in changes:
            copy = deepcopy(config[changes.pop(SAME_AS)])
            _merge(copy, changes)
            config.teacher[name] = copy
