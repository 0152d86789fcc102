"""`python -m managers`: the Resource Managers. Settings come from the environment (`managers.settings`); standard output says `ready`, the
log goes to standard error in JSON lines. Exit 2: the environment is wrong, and a line says how."""

import argparse
import asyncio
import logging
import os
import sys

from broker import logs
from inventory.secret_files import AuthorityError
from managers import service
from managers.settings import Settings

ENVIRONMENT_WRONG = 2


def _ready() -> None:
    print("ready", flush=True)


def main() -> int:
    # There are no flags; one that is given is a mistake, and not to be passed over.
    argparse.ArgumentParser(prog="managers", description="The Resource Managers. FLEETWARD_DATABASE and others say where.").parse_args()
    logs.configure(os.environ.get("FLEETWARD_LOG", "INFO"))
    try:
        asyncio.run(service.run(Settings.read(os.environ), _ready))
    except (AuthorityError, ValueError, OSError) as error:
        logging.getLogger("managers").error("can't go on", extra={"error": str(error)})
        print(f"managers: {error}", file=sys.stderr)
        return ENVIRONMENT_WRONG
    return 0


if __name__ == "__main__":
    sys.exit(main())
