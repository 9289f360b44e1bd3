"""`python -m ban` is `ban`."""

from ban.cli import main

main()
