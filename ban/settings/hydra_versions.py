"""What Hydra 1.3 and Hydra 1.4 expect to be called with."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import hydra
from hydra.utils import get_object

_IS_1_3 = hydra.__version__.startswith("1.3.")
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if _IS_1_3 else {}
"""For `hydra.main` and `initialize_config_dir`. Hydra 1.4 has only this behaviour, and deprecates the argument."""


def allow(targets: Iterable[str]) -> dict[str, Any]:
    """The arguments of `instantiate` that allow these classes and functions.

    Hydra 1.4 needs both the name in the configuration and the module that defines the object. Both versions refuse what
    can run arbitrary commands.
    """
    if _IS_1_3:
        return {}
    names = {*targets}
    for target in targets:
        with suppress(Exception):  # `instantiate` reports it
            found = get_object(target)
            names.add(f"{found.__module__}.{found.__qualname__}")
    return {"_execution_whitelist_": sorted(names)}
