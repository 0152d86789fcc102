"""`fleetward up` with stand-ins for the services: run as `python run_up.py SETTINGS-AS-JSON` by the tests."""

import json
import os
import sys
from pathlib import Path

from fleetward.settings import Up
from fleetward.up import up


def stand_ins(name: str) -> tuple[str, ...]:
    return (sys.executable, str(Path(__file__).with_name("stand_in.py")), name)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["data_dir"] = Path(given["data_dir"])
    sys.exit(up(Up(**given), os.environ, stand_ins))
