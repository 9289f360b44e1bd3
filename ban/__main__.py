"""`ban` and `python -m ban`. The first word is on the terminal before the modules that take seconds are imported."""

import gc
import sys

from ban.commands import help as help_
from ban.display import busy, ready
from ban.output import tolerate_failures

GARBAGE = 100_000
"""New objects before Python looks for garbage: importing modules and reading settings leaves next to none."""


def main() -> None:
    """The console script.

    Raises:
        SystemExit: see `ban.cli.main`.
    """
    tolerate_failures()
    words = sys.argv[1:]
    try:
        if help_.answers(words):
            return
        gc.set_threshold(GARBAGE)
        if not {"help", "methods", "-h", "--help", "--shell-completion", "-sc"} & {*words}:
            busy("reading the settings")
        from ban.cli import main as run

        run()
    except KeyboardInterrupt:  # while modules were imported
        raise SystemExit(130) from None
    finally:
        ready()


if __name__ == "__main__":
    main()
