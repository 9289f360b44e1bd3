"""How two mappings of settings become one: key by key, as OmegaConf merges them, but a component replaces another.

OmegaConf alone would give Adam the momentum of the SGD that an extended file names, and `recipe.schedule={…}` the
milestones of the schedule before.
"""

# pyright: reportPrivateUsage=false
# OmegaConf has no hook for this.

from typing import Any

from omegaconf import DictConfig, open_dict
from omegaconf.basecontainer import BaseContainer

_merge_by_key = BaseContainer._map_merge


def _merge(dest: Any, src: Any, *rest: Any) -> None:
    if not _is_another_component(dest, src):
        _merge_by_key(dest, src, *rest)
        return
    dest._set_value({})
    with open_dict(dest):
        _merge_by_key(dest, src, *rest)


def _is_another_component(dest: Any, src: Any) -> bool:
    """Whether both are components, of different classes. A file with a `name` extends another on purpose."""
    ours, theirs = _target(dest), _target(src)
    return None not in (ours, theirs) and ours != theirs and "name" not in dest


def _target(node: Any) -> Any:
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return None
    target = node._get_node("_target_", validate_access=False)
    return None if target is None else target._value()


def install() -> None:
    """Makes this the way in which this process merges settings."""
    BaseContainer._map_merge = staticmethod(_merge)
