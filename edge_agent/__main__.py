"""The `fleetward-agent` command: enroll, run, facts, doctor, install.

Each subcommand imports what it alone needs: what `run` keeps in memory for years must not hold what `enroll` needs once.
Exit status: 0, 1 failed, 2 usage or environment, 3 waits for approval (`enroll --no-wait`).
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from edge_agent import VERSION
from edge_agent.settings import STATE_DIR, TOKEN_VARIABLE, Settings, SettingsError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except SettingsError as error:
        return _failed(str(error), 2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetward-agent", description="The Fleetward agent: what runs on each device.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    enroll = commands.add_parser("enroll", help="make this machine a device of a fleet")
    enroll.add_argument("--server", required=True, metavar="URL", help="the fleet's server, such as https://fleet.example")
    given = os.environ.get(TOKEN_VARIABLE)
    words = f"an enrollment token (`fleetward token create`); or in {TOKEN_VARIABLE}, where no process list shows it"
    enroll.add_argument("--token", required=not given, default=given, metavar="T", help=words)
    enroll.add_argument("--ca-fingerprint", metavar="F", help="SHA-256 of the fleet's CA certificate, in hex; the server must show that CA")
    enroll.add_argument("--broker", metavar="HOST:PORT", type=_broker, help="the broker, if not where the server says that it is")
    words = "where a person has to approve this machine, say so and exit with 3; the same command later goes on"
    enroll.add_argument("--no-wait", action="store_true", help=words)
    enroll.set_defaults(command=_enroll)
    for name, function, text in (
        ("run", _run, "run the agent until SIGTERM"),
        ("facts", _facts, "print what discovery finds, as JSON"),
        ("doctor", _doctor, "check what the agent needs, and say what to do"),
        ("install", _install, "write the systemd unit"),
    ):
        commands.add_parser(name, help=text).set_defaults(command=function)
    for command in commands.choices.values():
        command.add_argument("--state-dir", type=Path, default=STATE_DIR, metavar="D", help=f"default {STATE_DIR}")
    return parser


def _broker(text: str) -> tuple[str, int]:
    from edge_agent import identity

    try:
        return identity.address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _enroll(options: argparse.Namespace) -> int:
    from edge_agent import enroll

    wait = None if options.no_wait else time.sleep
    try:
        ask = enroll.asker(options.server, options.ca_fingerprint)
        me = enroll.evidence()
        print(enroll.enroll(options.state_dir, ask, options.token, me, options.server, broker=options.broker, wait=wait, say=_say))
    except enroll.WaitsForApproval as error:
        return _failed(str(error), 3)
    except enroll.EnrollFailed as error:
        return _failed(str(error), 1)
    return 0


def _run(options: argparse.Namespace) -> int:
    from edge_agent import identity, logs, runtime

    settings = _settings(options.state_dir)
    logs.start(settings.log, as_json=os.environ.get("FLEETWARD_LOG_FORMAT") == "json")
    try:
        identity.settle(options.state_dir)
        running = runtime.Runtime(identity.load(options.state_dir), settings)
    except (identity.NotEnrolled, runtime.AlreadyRunning, OSError) as error:
        return _failed(str(error), 2)
    running.handle_signals()
    running.run()
    return 0


def _facts(options: argparse.Namespace) -> int:
    from edge_agent import lookout
    from edge_agent.facts import cleaned

    found = lookout.Device().scan(None)
    print(json.dumps({"sections": cleaned(found.sections), "errors": found.errors}, indent=2, ensure_ascii=False))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from edge_agent import doctor

    findings = doctor.examine(options.state_dir)
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'FAIL'} {finding.what}: {finding.detail}")
    return 0 if all(finding.good for finding in findings) else 1


def _install(options: argparse.Namespace) -> int:
    from edge_agent import install

    try:
        print(install.install(options.state_dir.absolute()))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}", 1)
    return 0


def _settings(state_dir: Path) -> Settings:
    from edge_agent import identity, settings

    return settings.load(state_dir / identity.SETTINGS_FILE)


def _say(line: str) -> None:
    """To the person, not to the pipe."""
    print(f"fleetward-agent: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _failed(message: str, status: int) -> int:
    _say(message)
    return status


if __name__ == "__main__":
    sys.exit(main())
