"""Probes that fail, hang, or say too much: each costs its own section only."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.messages import Facts, Section, encode, section_hash
from edge_agent import discovery
from edge_agent.discovery.probe import Probe
from edge_agent.discovery.scan import SECTION_BYTES, Scanner, fitting
from edge_agent.discovery.tree import Tree
from tests.waiting import Deadline, Stopwatch

TIMEOUT_S = 1.0
"""Of each probe, the good ones too, which a busy machine does not let run at once."""


def _good(_: Tree) -> dict[str, Any]:
    return {"fine": True}


def _bad(_: Tree) -> dict[str, Any]:
    raise OSError(5, "Input/output error\x00\x1b[31m")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Hanging probes wait for it, and are let go in the end."""
    event = threading.Event()
    yield event
    event.set()
    _wait_until(lambda: _discovery_threads() == 0)


def _discovery_threads() -> int:
    return sum(thread.name == "discovery" for thread in threading.enumerate())


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = Deadline(10)
    while not true():
        assert not deadline.over()
        time.sleep(0.005)


def test_a_failing_probe_costs_its_section_and_says_why() -> None:
    """The others are reported, and the error is text that can be sent."""
    scan = Scanner((Probe("a", _good), Probe("b", _bad), Probe("c", _good))).scan()
    assert scan.sections == {"a": {"fine": True}, "c": {"fine": True}}
    assert scan.errors == {"b": "OSError: [Errno 5] Input/output error [31m"}


def test_a_hanging_probe_costs_its_section_and_its_time_out(gate: threading.Event) -> None:
    """What comes after it runs in another thread."""

    def hang(_: Tree) -> dict[str, Any]:
        gate.wait()
        return {"late": True}

    watch = Stopwatch()
    scan = Scanner((Probe("a", _good), Probe("b", hang), Probe("c", _good))).scan(timeout_s=TIMEOUT_S)
    assert watch.seconds() < 5
    assert scan.sections == {"a": {"fine": True}, "c": {"fine": True}}
    assert scan.errors == {"b": "no answer within 1 s"}


def test_a_probe_that_still_hangs_is_not_started_again(gate: threading.Event) -> None:
    """A dead device costs one thread, however often it is looked for, and is asked again once it has come back."""
    asked = []

    def hang(_: Tree) -> dict[str, Any]:
        asked.append(1)
        gate.wait()
        return {"back": True}

    scanner = Scanner((Probe("a", hang), Probe("b", _good)))
    for _ in range(5):
        scan = scanner.scan(timeout_s=TIMEOUT_S)
        assert scan.sections == {"b": {"fine": True}}
        assert "a" in scan.errors
    assert len(asked) == 1
    assert _discovery_threads() == 1
    gate.set()
    _wait_until(lambda: _discovery_threads() == 0)
    assert scanner.scan(timeout_s=5).sections == {"a": {"back": True}, "b": {"fine": True}}


def test_only_the_sections_asked_for_are_read() -> None:
    """`facts.refresh` names some."""
    scan = Scanner((Probe("a", _good), Probe("b", _bad))).scan(sections=["a", "a"])
    assert (scan.sections, scan.errors) == ({"a": {"fine": True}}, {})


def test_an_unknown_section_is_refused() -> None:
    """With the names that there are."""
    with pytest.raises(ValueError, match=r"no such section: disks; there are cpu, memory"):
        discovery.scan(sections=["disks"])


def test_two_probes_for_one_section_are_refused() -> None:
    """A registry with a duplicate is a mistake that must not wait for its second scan."""
    with pytest.raises(ValueError, match="two probes"):
        Scanner((Probe("a", _good), Probe("a", _bad)))


def test_a_section_that_is_too_large_is_cut_short_and_says_so() -> None:
    """Its longest list loses its end; the rest stays."""
    scan = Scanner((Probe("a", lambda _: {"count": 9999, "devices": [{"name": "x" * 100}] * 9999}),)).scan()
    assert scan.sections["a"]["count"] == 9999
    assert 100 < len(scan.sections["a"]["devices"]) < 9999
    assert scan.errors["a"].startswith("cut short: ")


def test_a_section_that_cannot_be_cut_is_an_error() -> None:
    """Rather than a message that nobody takes."""
    scan = Scanner((Probe("a", lambda _: {f"m{n}": "x" * 200 for n in range(2000)}),)).scan()
    assert scan.sections == {}
    assert "bytes are more than" in scan.errors["a"]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=5))
def test_whatever_a_probe_says_can_be_sent(facts: dict[str, Any]) -> None:
    """NUL, lone surrogates, NaN and numbers beyond JSON's are gone, and cleaning what is clean changes nothing."""
    data, _ = fitting(facts)
    message = Facts(sections={"cpu": Section(hash=section_hash(data), data=data)}, manifest={})
    assert len(encode(message, sent_at="2026-11-22T18:00:00.000Z", epoch="e", seq=1, topic="t", key=b"k" * 32)) < 2 * SECTION_BYTES
    assert fitting(data) == (data, "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["server", "raspberry", "laptop", "vm"])
def test_garbage_in_any_file_hurts_at_most_the_sections_that_need_it(
    machines_once: Callable[[str], Any], name: str, data: st.DataObject
) -> None:
    """Each file of a machine in turn says something else; a scan always ends with sections that can be sent and errors for the rest."""
    machine = machines_once(name)
    files = sorted(path for path in machine.root.rglob("*") if path.is_file() and not path.is_symlink())
    path: Path = data.draw(st.sampled_from(files))
    garbage = (
        st.binary(max_size=300)
        | st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass"))
        | st.just(b"9" * 5000)
        | st.just(b"-1")
    )
    good = path.read_bytes()
    try:
        path.write_bytes(data.draw(garbage))
        scan = discovery.scan(machine.root, calls=machine)
    finally:
        path.write_bytes(good)
    assert set(scan.sections) | set(scan.errors) == {probe.section for probe in discovery.PROBES}
    assert len(scan.errors) <= 2
    for section, facts in scan.sections.items():
        message = Facts(sections={section: Section(hash=section_hash(facts), data=facts)}, manifest={})
        encode(message, sent_at="2026-11-22T18:00:00.000Z", epoch="e", seq=1, topic="t", key=b"k" * 32)


def test_an_empty_file_system_gives_errors_and_no_nonsense(machine: Callable[[str], Any]) -> None:
    """Sections that need /proc or /sys fail by name; those that may be empty are."""
    scan = discovery.scan(machine("").root)
    assert set(scan.errors) == {"cpu", "memory", "storage", "network"}
    assert scan.errors["cpu"] == "LookupError: /proc/cpuinfo can't be read"
    assert scan.sections["pci"] == {"count": 0, "devices": []}
