"""The `fleetward` command (contract.md section 6): a thin shell over `fleetward.client`, one module a group of commands.

Data goes to standard output, talk to standard error. What tables show derives from the server's description of its kinds, so that a new
kind needs nothing here.
"""

from fleetward.cli.entry import main

__all__ = ["main"]
