"""The public interoperability tests of MQTT 3.1.1 against the embedded broker: `python -m tests.broker.interoperability DIRECTORY`.

DIRECTORY is a checkout of eclipse/paho.mqtt.testing, which is not part of this repository (`FLEETWARD_PAHO_TESTING` may name it instead);
its `interoperability/client_test.py` is run as it is, against a listener without TLS and ACL (`tests.broker.open_broker`) that keeps a few
retained messages. Prints a line a test. Exit status 0: each did what is written here; 1: one did not; 2: there is no such checkout.
"""

import argparse
import importlib
import io
import os
import subprocess
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

PASSES = (
    "testBasic",
    "test_dollar_topics",
    "test_keepalive",
    "test_overlapping_subscriptions",
    "test_retained_messages",
    "test_subscribe_failure",
    "test_unsubscribe",
    "test_zero_length_clientid",
)
RULED_OUT = {
    "test_offline_message_queueing": "a persistent session, whose messages wait for its client",
    "test_redelivery_on_reconnect": "a persistent session, to which is sent again what it did not acknowledge",
    "will_message_test": "the Will itself is sent, but who hears it connects with a persistent session",
}
"""By clean sessions only: such a CONNECT is refused (return code 2), and the test fails on that."""

_REFUSAL = "ReturnCode=2"
"""In what those print that are ruled out: how the script writes a CONNACK."""
_REFUSED = "test/nosubscribe"
_GLOBALS = {
    "topics": ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"),
    "wildtopics": ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#"),
    "nosubscribe_topics": (_REFUSED,),
}
"""What the script sets where it is run by itself."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.broker.interoperability", description="Run the Paho interoperability tests.")
    parser.add_argument("directory", nargs="?", type=Path, default=os.environ.get("FLEETWARD_PAHO_TESTING"), metavar="DIRECTORY")
    parser.add_argument("--port", type=int, help="of another broker on this machine, to compare with")
    options = parser.parse_args(arguments)
    if options.directory is None or not (Path(options.directory) / "interoperability" / "client_test.py").is_file():
        print("interoperability: name a checkout of eclipse/paho.mqtt.testing, or set FLEETWARD_PAHO_TESTING to it", file=sys.stderr)
        return 2
    with _port(options.port) as port:
        results = run(Path(options.directory), port)
    good = True
    for name, failure in results.items():
        as_said = failure is None if name in PASSES else _REFUSAL in (failure or "")
        good = good and as_said
        print(f"{'passes' if failure is None else 'fails '}  {name}{'' if as_said else '   NOT AS EXPECTED'}" + _why(name, failure))
    passed = sum(failure is None for failure in results.values())
    print(f"{passed} of {len(results)} pass; {len(RULED_OUT)} are ruled out by clean sessions only")
    return 0 if good else 1


def run(directory: Path, port: int) -> dict[str, str | None]:
    """What each test said when it failed; None where it passed."""
    sys.path.insert(0, str(directory / "interoperability"))
    module: Any = importlib.import_module("client_test")
    vars(module).update(_GLOBALS, host="127.0.0.1", port=port)
    suite = unittest.TestSuite(module.Test(name) for name in (*PASSES, *RULED_OUT))
    said = io.StringIO()
    result = _Result(said)
    with redirect_stdout(said), redirect_stderr(said):
        suite.run(result)
    failed = {test.id().rpartition(".")[2]: text for test, text in (*result.failures, *result.errors)}
    if set(failed) - set(result.said):
        raise RuntimeError(f"the tests did not begin: {failed}")
    return {name: result.said[name] + failed[name] if name in failed else None for name in (*PASSES, *RULED_OUT)}


class _Result(unittest.TestResult):
    """Keeps what each test printed: the script prints why a test fails before it fails it."""

    def __init__(self, printed: io.StringIO) -> None:
        super().__init__()
        self.said: dict[str, str] = {}
        self._printed, self._from = printed, 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._from = self._printed.tell()

    def stopTest(self, test: unittest.TestCase) -> None:
        self.said[test.id().rpartition(".")[2]] = self._printed.getvalue()[self._from :]
        super().stopTest(test)


def _why(name: str, failure: str | None) -> str:
    if name in RULED_OUT:
        return f" ({RULED_OUT[name]})"
    return f"\n{failure}" if failure else ""


@contextmanager
def _port(given: int | None) -> Iterator[int]:
    if given is not None:
        yield given
        return
    command = [sys.executable, "-m", "tests.broker.open_broker", "--refuse", _REFUSED, "--retain", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as broker:
        assert broker.stdout is not None
        try:
            yield int(broker.stdout.readline().split()[1])
        finally:
            broker.terminate()


if __name__ == "__main__":
    sys.exit(main())
