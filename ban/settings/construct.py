"""From a node of the settings to the object that it describes."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ban.errors import UserError
from ban.settings.hydra_versions import allow
from ban.settings.types import targets_in

MEASURED = ("source_sha256", "content_sha256")
"""Keys that are no arguments: they only make a user's code and data count in signatures."""


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
