"""Facts to columns and components, as a pure function: what a section tells, what is refused, what a scan changes."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import AGENT_SECTION, SECTIONS, ContractError
from inventory import facts
from inventory.kinds.component import COMPONENT, TYPES
from inventory.kinds.host import HOST

AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def component(id: str, type_: str, key: str, *, present: bool = True, **attributes: Any) -> dict[str, Any]:
    return {"id": id, "type": type_, "key": key, "present": present, "attributes": attributes}


def test_sections_become_columns() -> None:
    """Each column from its section, null where the section says nothing."""
    values = facts.host_values(
        {
            "cpu": {"model": "M", "arch": "x86_64", "sockets": 1, "cores": 4, "threads": 8},
            "memory": {"total_bytes": 2**34},
            "storage": {"total_bytes": 10**12},
            "network": {"hostname": "edge", "primary_ip": "10.0.0.1", "primary_mac": "aa:bb"},
            "firmware": {"vendor": "V", "product": "P", "serial": "S"},
            "os": {"name": "Debian", "version": "13", "kernel": "6.1"},
            "platform": {"virtualization": "kvm", "container": None},
        }
    )
    assert values == {
        "cpu_model": "M", "arch": "x86_64", "cpu_sockets": 1, "cpu_cores": 4, "cpu_threads": 8, "memory_bytes": 2**34,
        "disk_bytes": 10**12, "hostname": "edge", "primary_ip": "10.0.0.1", "primary_mac": "aa:bb", "vendor": "V", "product": "P",
        "serial": "S", "uuid": None, "os_name": "Debian", "os_version": "13", "kernel": "6.1", "virtualization": "kvm",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            {"verbs": ["cancel"], "roots": ["/srv"], "on_change": True, "maintenance": "rewiring"},
            {"verbs": ["cancel"], "roots": ["/srv"], "on_change": True, "maintenance": "rewiring"},
        ),
        (
            {"verbs": ["x" * 300, 5] * 70, "roots": "all", "on_change": 1, "maintenance": "m" * 300, "more": 1},
            {"verbs": ["x" * 256] * 64, "roots": [], "on_change": False, "maintenance": "m" * 256},
        ),
        ({}, {"verbs": [], "roots": [], "on_change": False, "maintenance": None}),
        ("all", None),
        (None, None),
    ],
)
def test_a_policy_has_one_shape_whatever_a_device_says(said: Any, kept: Any) -> None:
    """Pages and managers rely on it; texts and lists are cut."""
    assert facts.host_values({"agent": {"policy": said}}) == {"policy": kept}


def test_every_column_is_a_device_field_and_every_type_has_its_section() -> None:
    """The tables here name fields and types that the kinds have; the rest of a host's device fields come with its presence."""
    told = set(facts.host_values({name: {} for name in (*SECTIONS, AGENT_SECTION)}))
    device_fields = {f.name for f in HOST.own_fields if f.owner == "device" and not f.computed}
    assert told == device_fields - {"boot_id", "agent_version"}
    assert {type_ for _, type_ in facts.COMPONENTS.values()} == set(TYPES)
    assert set(facts.COMPONENTS) <= set(SECTIONS)
    assert COMPONENT.name == "component"


@pytest.mark.parametrize(
    ("section", "data"),
    [
        ("cpu", {"model": 5, "cores": "4", "sockets": True, "threads": -1}),
        ("cpu", {"cores": 2**40, "threads": 1.5}),
        ("memory", {"total_bytes": 2**60}),
        ("os", {"name": ["Debian"], "version": {}, "kernel": ""}),
    ],
)
def test_a_value_of_the_wrong_type_is_no_value(section: str, data: dict[str, Any]) -> None:
    """A device can't put into a column what does not fit there."""
    assert set(facts.host_values({section: data}).values()) == {None}


def test_long_texts_are_cut() -> None:
    """Columns that people see and sort by stay short."""
    assert len(facts.host_values({"os": {"kernel": "k" * 10_000}})["kernel"]) == facts.TEXT_LIMIT


@pytest.mark.parametrize(
    "sections",
    [
        {"cpu": []}, {"cpu": None}, {"Bad Name": {}}, {"x" * 40: {}}, {"storage": {"disks": {}}}, {"storage": {"disks": [1]}},
        {"storage": {"disks": [{}]}}, {"storage": {"disks": [{"key": ""}]}}, {"storage": {"disks": [{"key": "k" * 300}]}},
        {"storage": {"disks": [{"key": "k"}] * 3000}}, {"storage": {"disks": [{"key": 7}]}},
    ],
)  # fmt: skip
def test_a_section_of_another_shape_is_refused(sections: dict[str, Any]) -> None:
    """Before anything is written, naming the place."""
    with pytest.raises(ContractError, match="sections"):
        facts.check(sections)


def test_components_by_type_and_key() -> None:
    """Attributes are the entry without its key; of two with one key the first counts."""
    found = facts.components("storage", {"disks": [{"key": "S1", "name": "sda"}, {"key": "S2"}, {"key": "S1", "name": "sdb"}]})
    assert found == {("disk", "S1"): {"name": "sda"}, ("disk", "S2"): {}}


def test_what_a_scan_changes() -> None:
    """New, changed, vanished and returned; what is as it was is not written, and other types are left alone."""
    known = [
        component("c-same", "disk", "S1", name="sda"),
        component("c-changed", "disk", "S2", name="sdb"),
        component("c-gone", "disk", "S3", name="sdc"),
        component("c-back", "disk", "S4", present=False, name="sdd"),
        component("c-still-gone", "disk", "S5", present=False),
        component("c-other", "nic", "aa:bb"),
    ]
    found = {("disk", "S1"): {"name": "sda"}, ("disk", "S2"): {"name": "sdx"}, ("disk", "S4"): {"name": "sdd"}, ("disk", "S6"): {}}
    compared = facts.compare("host-1", ["disk"], found, known, AT)
    assert compared.writes == {
        "c-changed": {"attributes": {"name": "sdx"}, "present": True, "last_seen": AT},
        "c-gone": {"present": False, "last_seen": AT},
        "c-back": {"attributes": {"name": "sdd"}, "present": True, "last_seen": AT},
    }
    assert [(row["type"], row["key"], row["present"], row["first_seen"]) for row in compared.new] == [("disk", "S6", True, AT)]


def test_what_is_missing_is_what_differs() -> None:
    """By the manifest's hashes against those stored."""
    assert facts.missing({"cpu": "a", "memory": "b", "os": "c"}, {"cpu": "a", "memory": "x"}) == ("memory", "os")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["key", "disks", "nics", "model", "name"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*SECTIONS, "future"]), JSON, max_size=5))
def test_whatever_is_sent_is_refused_or_understood(sections: dict[str, Any]) -> None:
    """No body raises anything but ContractError, and what passes the check goes all the way."""
    try:
        facts.check(sections)
    except ContractError:
        return
    facts.host_values(sections)
    for name, data in sections.items():
        facts.compare("host-1", ["disk", "nic"], facts.components(name, data), [], AT)
