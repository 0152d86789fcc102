"""The front door: the `fleetward` command, `fleetward up`, and the typed Python client of the API that it is built on.

Deliberately without any import of the other packages: it reaches them over HTTP and as child processes, and nothing imports it.
"""

__version__ = "0.1.0"
