"""What a device pays for the agent at rest: `python -m benchmarks.idle_agent [--seconds 150]`.

The real agent of this machine under `fleetward up`, with default settings: memory as PSS, CPU, and the bytes of its TLS connection as the
kernel counts them (TCP payload both ways), made into a month. In metered mode the same messages go every 900 s instead of every 30 s: its
month is computed from the measured cost of an interval. Beside it stands a bare Python that has imported what a TLS connection needs.
"""

import asyncio
import re
import subprocess
import sys
import time
from typing import Any

import psutil

from benchmarks.ground import Failed, Installation, end, installation, until
from benchmarks.meters import cpu_seconds, pss_mib, tree
from benchmarks.report import Row, arguments, say

PSS_MIB, CPU_PERCENT, MONTH_MIB, METERED_MIB = 36.0, 0.2, 30.0, 2.0
SETTLE_S = 45.0
MONTH_S = 30 * 86400
METERED_FACTOR = 900 / 30
BARE = "import json, sqlite3, ssl, time; ssl.create_default_context(); print(flush=True); time.sleep(600)"


def connections(ground: Installation, pid: int) -> list[Any]:
    """Of the agent, to the broker."""
    made = [c for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_ESTABLISHED]
    return [c for c in made if c.raddr[1] == ground.broker_port]


def connection_bytes(ground: Installation, pid: int) -> int:
    """TCP payload of the agent's connection to the broker, both ways."""
    found = [c.laddr.port for c in connections(ground, pid)]
    if len(found) != 1:
        raise Failed(f"the agent has {len(found)} connections to the broker")
    said = subprocess.run(["ss", "-tniH", f"sport = :{found[0]}"], capture_output=True, text=True, check=True).stdout
    counted = {name: int(value) for name, value in re.findall(r"(bytes_sent|bytes_received):(\d+)", said)}
    return counted["bytes_sent"] + counted["bytes_received"]


async def told(ground: Installation) -> int:
    """Durable messages that the agent has sent: at rest it sends none, unless the machine changes under it."""
    connection = await ground.connect()
    try:
        return int(await connection.fetchval("SELECT sum(seq) FROM device_stream"))
    finally:
        await connection.close()


def bare_mib() -> float:
    child = subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        return pss_mib([child.pid])
    finally:
        end(child)


def measure(seconds: float) -> Row:
    with installation("mosquitto", agent=True) as ground:
        pid = ground.pid("agent")
        until(lambda: bool(connections(ground, pid)), 30, "the agent's connection")
        time.sleep(SETTLE_S)  # its first facts are sent, and what they took is let go
        before = asyncio.run(told(ground))
        began, cpu, sent = time.monotonic(), cpu_seconds(tree(pid)), connection_bytes(ground, pid)
        time.sleep(seconds)
        lasted = time.monotonic() - began
        percent = 100 * (cpu_seconds(tree(pid)) - cpu) / lasted
        month = (connection_bytes(ground, pid) - sent) / lasted * MONTH_S / 2**20
        memory = pss_mib(tree(pid))
        if changed := asyncio.run(told(ground)) - before:
            print(f"   the machine was not at rest: the agent told of {changed} changes, whose bytes are counted too", flush=True)
    metered, bare = month / METERED_FACTOR, bare_mib()
    return Row(
        what="agent, idle",
        target=f"{PSS_MIB:.0f} MiB PSS, {CPU_PERCENT} % CPU; {MONTH_MIB:.0f} MiB a month, {METERED_MIB:.0f} MiB metered",
        ours=f"{memory:.1f} MiB PSS, {percent:.2f} % CPU; {month:.1f} MiB a month, {metered:.2f} MiB metered (computed)",
        beside=f"bare Python with ssl, json and sqlite3: {bare:.1f} MiB PSS; EIM's agents: limit 128 MiB each, nine of them; balena about "
        "196 MiB a month (both published)",
        ratio=f"{memory / bare:.2f} of the bare interpreter",
        met=memory <= PSS_MIB and percent <= CPU_PERCENT and month <= MONTH_MIB and metered <= METERED_MIB,
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=150.0, help="of rest that are measured: some multiples of 30")
    say(measure(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
