"""`python -m broker follow`: beside a Mosquitto that somebody runs on their own, for what only a program can tell it.

It is told by Inventory which certificates are revoked, writes the CRL where the Mosquitto's configuration has it, has it read that
(`--reload`, a command such as `systemctl reload mosquitto`), and cuts the connections (`broker.following`). It writes the rules anew when
the list of integrations changes, where that is on this machine. It starts, ends and configures no broker: that is the owner's, with what
`python -m broker config mosquitto` prints. Called by `broker.__main__`.
"""

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from broker import heap, logs
from broker.acl import BROKER, Acl
from broker.client import Settings
from broker.configuration import DATA
from broker.following import Following
from broker.mosquitto_files import Files
from broker.stamps import Stamps
from broker.topics import DEFAULT_ROOT, TopicError, Topics

log = logging.getLogger(__name__)

_WATCH_S = 1.0
"""How often the files are looked at that Mosquitto's are made of; and how long after a failure it is told again."""
_RELOAD_S = 10.0
"""For the command that has Mosquitto read its files."""


class Beside:
    """`reload`: the command and its arguments."""

    def __init__(self, settings: Settings, acl: Acl, files: Files, reload: Sequence[str]) -> None:
        self._acl, self._files, self._command = acl, files, reload
        self._following = Following(settings, acl.topics, files, self._reload)
        self._seen: Stamps = ()
        self._told = False

    async def prepare(self) -> None:
        """What was known before is Mosquitto's again. Raises OSError or ValueError where its files can't be written, or what they are made
        of can't be read."""
        self._following.restore()
        self._seen = self._files.seen()
        await self._following.read_again(self._write)

    async def run(self) -> None:
        """Until cancelled; after `prepare`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._following.run())
            group.create_task(self._follow())

    def _write(self) -> None:
        self._files.write_rules(self._acl, self._following.revoked.crl)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            now = self._files.seen()
            if now == self._seen and self._told:
                continue
            try:
                await self._following.read_again(self._write)
            except (ValueError, OSError) as error:
                log.error("mosquitto's rules can't be written", extra={"reason": str(error)})
                continue
            if now[-1] != self._seen[-1]:
                log.error("other CAs are trusted, which a mosquitto that runs does not notice: start it again")
            self._seen = now

    async def _reload(self) -> None:
        """Where that fails, the log says why, and it is tried again."""
        self._told = await self._run_command()

    async def _run_command(self) -> bool:
        try:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            log.error("mosquitto can't be told", extra={"command": shlex.join(self._command), "reason": str(error)})
            return False
        try:
            async with asyncio.timeout(_RELOAD_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        if code:
            log.error("mosquitto can't be told", extra={"command": shlex.join(self._command), "reason": f"it ended with {code}"})
        return code == 0


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        beside = _made(options)
        logs.configure(os.environ.get("FLEETWARD_LOG", "INFO"))
        asyncio.run(_until_told(beside))
    except (OSError, ValueError, TopicError) as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetward broker follow", description="Keep a Mosquitto of your own up to date.")
    parser.add_argument("--broker", required=True, metavar="URL", help="where it listens: mqtts://HOST[:PORT]")
    parser.add_argument("--secrets", type=Path, required=True, help=f"holds ca.crt, ca.crl, {BROKER}.crt and {BROKER}.key")
    parser.add_argument("--data", type=Path, default=DATA, help="where the files of its configuration are [%(default)s]")
    parser.add_argument(
        "--reload", default="systemctl reload mosquitto", help="the command that has it read its ACL and CRL again [%(default)s]"
    )
    parser.add_argument("--topic-root", default=DEFAULT_ROOT)
    return parser


def _made(options: argparse.Namespace) -> Beside:
    command = shlex.split(options.reload)
    if not command:
        raise ValueError("--reload is empty: give the command that has Mosquitto read its files again")
    acl = Acl(Topics(options.topic_root))
    settings = Settings.from_url(options.broker, BROKER, options.secrets, acl.topics)
    for name in ("ca.crt", "ca.crl", f"{BROKER}.crt", f"{BROKER}.key"):
        (options.secrets / name).stat()
    return Beside(settings, acl, Files(options.secrets, options.data), command)


async def _until_told(beside: Beside) -> None:
    """By SIGTERM or SIGINT."""
    await beside.prepare()
    loop, task = asyncio.get_running_loop(), asyncio.create_task(beside.run())
    heap.keep(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
