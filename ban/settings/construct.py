"""From a node of the settings to the object that it describes."""

import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ban.errors import UserError
from ban.settings.hydra_versions import allow
from ban.settings.types import targets_in

MEASURED = ("source_sha256", "content_sha256")
"""Keys that are no arguments: they only make a user's code and data count in signatures."""


def foreign_target(node: Any, modules: Sequence[str]) -> str | None:
    """The first `_target_` in a stored stage's settings that none of the modules or packages defines; None: all are.

    To build a node runs its code, and anybody may have written the stage. A name such as `ban.models.lstm.torch.load`
    begins like one of `ban.models`, so it is looked where the object is defined.

    Raises:
        UserError: it cannot be imported.
    """

    def inside(name: str) -> bool:
        return any(name == module or name.startswith(f"{module}.") for module in modules)

    for target in sorted(targets_in(node)):
        try:
            if not (inside(target) and inside(f"{pkgutil.resolve_name(target).__module__}")):
                return target
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{target} cannot be imported: {error}.") from None
    return None


def build(node: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
    """The object that a node of the settings describes. Arguments that only the running program has are added to it.

    Raises:
        UserError: the constructor does not accept the arguments.
    """
    kept = {key: value for key, value in node.items() if key not in MEASURED}
    try:
        return instantiate(kept, _partial_=True, _convert_="all", **allow(targets_in(kept)))(*arguments, **options)
    except (InstantiationException, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{node['_target_']}: {' '.join(str(cause).split()).rstrip('.')}.") from error
