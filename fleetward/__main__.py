"""`python -m fleetward`: the same as the `fleetward` command."""

from fleetward.cli import main

main()
