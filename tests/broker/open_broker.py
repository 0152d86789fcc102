"""`python -m tests.broker.open_broker [--refuse FILTER] [--retain N]`: the embedded broker without TLS and ACL, on the loopback only.

For what needs a bare MQTT broker: the public interoperability tests, and mutated packets compared with Mosquitto. Nothing in the product
can be told to listen like that. Prints `listening PORT`, logs JSON lines to standard error, and ends on SIGTERM.
"""

import argparse
import asyncio
import logging
import signal

from broker import logs
from broker.embedded import EmbeddedBroker
from broker.limits import Limits
from broker.vitals import answer_signal
from tests.broker.open_rules import open_rules


async def serve(refused: str, retained: int) -> None:
    broker, ending = EmbeddedBroker(open_rules(refused), Limits(retained_messages=retained)), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    answer_signal(loop)
    print(f"listening {await broker.start('127.0.0.1', 0)}", flush=True)
    await ending.wait()
    await broker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="The embedded broker without TLS and ACL, for tests.")
    parser.add_argument("--refuse", default="", metavar="FILTER", help="a filter that nobody may subscribe to")
    parser.add_argument("--retain", type=int, default=0, metavar="N", help="how many retained messages are kept")
    options = parser.parse_args()
    logs.configure("INFO")
    for name in ("amqtt", "transitions", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    asyncio.run(serve(options.refuse, options.retain))


if __name__ == "__main__":
    main()
