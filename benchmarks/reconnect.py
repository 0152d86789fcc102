"""Everybody reconnects after a broker's end: `python -m benchmarks.reconnect [--agents 10000] [--broker mosquitto]`.

The broker is killed (SIGKILL); `fleetward up` starts it again, and nobody does anything by hand. Measured until each agent has its
connection and Inventory has committed its new session, with every host online, none taken for offline meanwhile. Beside it stands the same
with the control plane frozen (SIGSTOP): what the agents' TLS handshakes take on these cores alone.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from benchmarks.fleet import Standing, alone
from benchmarks.ground import CONTROL_PLANE, until
from benchmarks.meters import Load
from benchmarks.report import Row

TARGET_S = 60.0
LIMIT_S = 240.0
BACK = "SELECT count(*) FROM device_stream s JOIN host h ON h.id = s.host WHERE s.session_since > $1 AND h.presence = 'online'"
FALSELY_OFFLINE = """
SELECT count(DISTINCT resource_id) FROM changes
WHERE kind = 'host' AND at > $1 AND changed ? 'presence' AND resource->>'presence' = 'offline'
"""


def measure(stand: Standing) -> Row:
    load = Load({name: pid for name, pid in stand.load().roots.items() if name != "broker"})  # that one is killed
    load.begin()
    took, offline = asyncio.run(_with_control_plane(stand))
    print("   CPU seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in load.spent().items()), flush=True)
    with _frozen(stand):
        alone = _alone(stand)
    return Row(
        what=f"{stand.agents:,} agents reconnect after a broker restart ({stand.broker})",
        target=f"{TARGET_S:.0f} s, no manual step",
        ours=f"{took:.1f} s until all sessions are committed; {offline} hosts falsely offline",
        beside=f"handshakes alone, control plane frozen: {alone:.1f} s",
        ratio=f"{took / alone:.2f}",
        met=took <= TARGET_S and not offline,
    )


async def _with_control_plane(stand: Standing) -> tuple[float, int]:
    connection = await stand.ground.connect()
    try:
        began: datetime = await connection.fetchval("SELECT clock_timestamp()")
        at = time.monotonic()
        os.kill(stand.ground.pid("broker"), signal.SIGKILL)
        async with asyncio.timeout(LIMIT_S):
            while await connection.fetchval(BACK, began) < stand.agents:  # noqa: ASYNC110 -- another process writes them
                await asyncio.sleep(0.5)
        took = time.monotonic() - at
        return took, await connection.fetchval(FALSELY_OFFLINE, began)
    finally:
        await connection.close()


def _alone(stand: Standing) -> float:
    """The broker's end again, until the agents are connected."""
    began = time.monotonic()
    os.kill(stand.ground.pid("broker"), signal.SIGKILL)
    until(lambda: stand.simulator.connected() < stand.agents // 2, 30, "the agents notice")
    until(lambda: stand.simulator.connected() == stand.agents, LIMIT_S, "the agents reconnect")
    return time.monotonic() - began


@contextmanager
def _frozen(stand: Standing) -> Iterator[None]:
    pids = [stand.ground.pid(name) for name in CONTROL_PLANE]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def main() -> None:
    alone(__doc__, measure)


if __name__ == "__main__":
    main()
