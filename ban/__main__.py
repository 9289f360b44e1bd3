"""`ban` and `python -m ban`. The first word is on the terminal before the modules that take seconds are imported."""

import sys

from ban.display import busy, ready
from ban.output import tolerate_failures


def main() -> None:
    """The console script.

    Raises:
        SystemExit: see `ban.cli.main`.
    """
    tolerate_failures()
    if len(sys.argv) > 1 and not {"help", "-h", "--help", "--version", "--shell-completion", "-sc"} & {*sys.argv}:
        busy("reading the settings")
    try:
        from ban.cli import main as run

        run()
    except KeyboardInterrupt:  # while modules were imported
        raise SystemExit(130) from None
    finally:
        ready()


if __name__ == "__main__":
    main()
