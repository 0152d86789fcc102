"""`python -m edge_agent.simulator`: N agents in one process, deciding as real ones do, over invented hosts.

It enrolls them (a bounded number at once), keeps identities and keys in its state directory so that a restart resumes, and takes orders
over `control.sock` there (`--tell`). Standard output gets one line when all are enrolled.
"""

import argparse
import gc
import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from edge_agent import logs
from edge_agent.enroll import EnrollFailed, asker
from edge_agent.identity import address
from edge_agent.settings import TOKEN_VARIABLE
from edge_agent.simulated.control import Control, tell
from edge_agent.simulated.enrollment import Enroller, Server
from edge_agent.simulated.fleet import Fleet

log = logging.getLogger(__name__)

SOCKET = "control.sock"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.tell is not None:
        return _tell(options.state_dir / SOCKET, options.tell)
    logs.start(options.log, as_json=os.environ.get("FLEETWARD_LOG_FORMAT") == "json")
    try:
        asker(options.server, options.ca_fingerprint)
    except EnrollFailed as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    _raise_limits(options.count)
    options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge_agent.simulator", description="Simulated devices, many in one process.")
    parser.add_argument("--count", type=int, default=10, metavar="N", help="how many devices (default 10)")
    parser.add_argument("--server", default="http://127.0.0.1:8080", metavar="URL")
    parser.add_argument("--broker", type=address, metavar="HOST:PORT", help="the broker, if not where the server says that it is")
    parser.add_argument(
        "--token",
        default=os.environ.get(TOKEN_VARIABLE, ""),
        metavar="T",
        help=f"an enrollment token with at least N uses; or in {TOKEN_VARIABLE}",
    )
    parser.add_argument("--state-dir", type=Path, required=True, metavar="DIR", help="identities are kept here")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="another seed is another fleet (default 1)")
    parser.add_argument("--ca-fingerprint", metavar="F", help="SHA-256 of the fleet's CA certificate, for https")
    parser.add_argument("--keepalive", type=int, default=30, metavar="S")
    parser.add_argument("--heartbeat", type=int, default=30, metavar="S")
    parser.add_argument("--log", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--tell", metavar="JSON", help="send one request to the simulator that runs on this state directory")
    return parser


def _run(options: argparse.Namespace) -> int:
    fleet = Fleet(options.seed, options.keepalive, options.heartbeat)
    control = Control(fleet, options.state_dir / SOCKET)
    server = Server(options.server, options.ca_fingerprint, options.token, options.broker)
    enroller = Enroller(options.state_dir / "devices", server, options.seed, fleet.arrive)

    def stop(number: int, frame: FrameType | None) -> None:
        enroller.stop()
        fleet.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    thread = threading.Thread(target=_enroll, args=(enroller, options.count), name="enrollment", daemon=True)
    thread.start()
    gc.freeze()
    fleet.run()
    control.close()
    return 0


def _enroll(enroller: Enroller, count: int) -> None:
    try:
        enroller.run(count)
    except OSError:
        log.exception("enrollment ended")
        return
    print(f"enrolled: {count - enroller.failed} of {count}", flush=True)


def _raise_limits(count: int) -> None:
    """A descriptor a device, and some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _tell(path: Path, request: str) -> int:
    try:
        answer = tell(path, request)
    except OSError as error:
        print(f"simulator: no simulator answers on {path}: {error.strerror}", file=sys.stderr)
        return 1
    print(answer)
    return 0 if answer.startswith('{"ok": true') else 1


if __name__ == "__main__":
    sys.exit(main())
