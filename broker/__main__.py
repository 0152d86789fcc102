"""`python -m broker`: run the MQTT broker of an installation, embedded (amqtt) or Mosquitto, in the foreground.

Prints one line, `listening mqtts://HOST:PORT`, to standard output when clients can connect; everything else goes to standard error. Ends on
SIGTERM or SIGINT within 5 s. Exit status 2, and one line that says what to do, where it can't start. `fleetward up` and `fleetward broker`
start it. `python -m broker config` prints the configuration of a broker of somebody's own (`broker.configuration`), and
`python -m broker follow` keeps such a Mosquitto up to date (`broker.beside`).
"""

import argparse
import asyncio
import asyncio.constants as constants
import asyncio.sslproto as sslproto
import logging
import os
import resource
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker import beside, configuration, heap, logs
from broker.acl import Acl
from broker.embedded import EmbeddedBroker
from broker.guard import Rules, Tls
from broker.mosquitto import Mosquitto, MosquittoMissing
from broker.topics import DEFAULT_ROOT, TopicError, Topics
from broker.vitals import answer_signal

_FOREIGN = ("amqtt", "transitions", "asyncio", "websockets", "passlib")
"""Loggers that talk about each packet or each connection."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    match given[:1]:
        case ["config"]:
            return configuration.main(given[1:])
        case ["follow"]:
            return beside.main(given[1:])
    options = parser().parse_args(given)
    _log_to_stderr(os.environ.get("FLEETWARD_LOG", "INFO"))
    _raise_file_limit()
    try:
        asyncio.run(_run(options))
    except (OSError, ssl.SSLError, TopicError, MosquittoMissing) as error:
        print(f"broker: {_advice(error, options)}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetward broker", description="Run the MQTT broker of an installation.")
    parser.add_argument("--kind", choices=("embedded", "mosquitto"), default="embedded")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8883, help="0: chosen by the system")
    parser.add_argument("--secrets", type=Path, required=True, help="holds broker.crt, broker.key and ca.crt")
    parser.add_argument("--data", type=Path, required=True, help="for what it keeps: revoked certificates, and what Mosquitto needs")
    parser.add_argument("--topic-root", default=DEFAULT_ROOT)
    return parser


async def _run(options: argparse.Namespace) -> None:
    acl = Acl(Topics(options.topic_root))
    broker: EmbeddedBroker | Mosquitto
    if options.kind == "mosquitto":
        broker = Mosquitto(acl, secrets=options.secrets, data=options.data)
    else:
        shrink_tls_buffers()
        tls = Tls(options.secrets / "broker.crt", options.secrets / "broker.key", options.secrets / "ca.crt")
        broker = EmbeddedBroker(Rules.by_certificate(acl, tls), topics=acl.topics, kept=options.data / "revoked.json")
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    answer_signal(asyncio.get_running_loop())
    heap.keep(asyncio.get_running_loop())
    port = await broker.start(options.host, options.port)
    try:
        print(f"listening mqtts://{_shown(options.host)}:{port}", flush=True)
        await _first(ending, broker)
    finally:
        await broker.stop()


async def _first(ending: asyncio.Event, broker: EmbeddedBroker | Mosquitto) -> None:
    """Wait for the signal, or for the end of a broker that is a process of its own, which is an error."""
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(ending.wait())]
    if isinstance(broker, Mosquitto):
        waits.append(asyncio.create_task(broker.ended()))
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _advice(error: Exception, options: argparse.Namespace) -> str:
    match error:
        case FileNotFoundError():
            return f"{error.filename} is missing: make the secrets first (python -m inventory bootstrap)"
        case ssl.SSLError():
            return f"the certificates in {options.secrets} can't be used ({error}): make them again"
        case OSError() if error.errno is not None and error.errno > 0:
            return f"can't listen on {options.host}:{options.port} ({error.strerror}): end what is there, or choose another with --port"
    return str(error)


def _log_to_stderr(level: str) -> None:
    logs.configure(level)
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(logging.ERROR)


def shrink_tls_buffers() -> None:
    """asyncio gives each TLS connection a receive buffer of 256 KiB, which is 0.25 GiB for 1,000 agents, and reads as much ahead where
    nothing is taken; a TLS record has 16 KiB."""
    setattr(sslproto.SSLProtocol, "max_size", 16 * 1024)  # noqa: B010 - an attribute that type stubs don't know
    setattr(constants, "FLOW_CONTROL_HIGH_WATER_SSL_READ", 32)  # noqa: B010 - in KiB; likewise


def _raise_file_limit() -> None:
    """A client each needs a file descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
