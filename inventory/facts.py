"""What a device's facts mean: sections in, the host's columns and its components out. Pure; called by `inventory.reports`.

Devices are not trusted: a value of the wrong type is no value, texts are cut, lists are bounded, and a section whose shape is wrong is
refused before anything is written. Unknown members stay in `host_facts` as they came. Shapes: docs/wire.md, contract.md section 4.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from broker.messages import AGENT_SECTION, MAX_AWAITED, ContractError
from inventory.resource import Resource

Values = dict[str, Any]

TEXT_LIMIT = 256
MAX_COMPONENTS = 2000
"""In one section: a server with all its PCI functions has a few hundred."""
MAX_LISTED = 64
"""Verbs, or roots, of a policy."""

SECTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")

_INT = 2**31 - 1
_BIG = 2**53

TEXTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "cpu": (("cpu_model", "model"), ("arch", "arch")),
    "firmware": (("vendor", "vendor"), ("product", "product"), ("serial", "serial"), ("uuid", "uuid")),
    "network": (("hostname", "hostname"), ("primary_ip", "primary_ip"), ("primary_mac", "primary_mac")),
    "os": (("os_name", "name"), ("os_version", "version"), ("kernel", "kernel")),
}
"""Section → (host's field, member of the section), of texts."""

NUMBERS: Mapping[str, tuple[tuple[str, str, int], ...]] = {
    "cpu": (("cpu_sockets", "sockets", _INT), ("cpu_cores", "cores", _INT), ("cpu_threads", "threads", _INT)),
    "memory": (("memory_bytes", "total_bytes", _BIG),),
    "storage": (("disk_bytes", "total_bytes", _BIG),),
}
"""Section → (host's field, member of the section, greatest value), of whole numbers."""

COMPONENTS: Mapping[str, tuple[str, str]] = {
    "cpu": ("packages", "cpu"),
    "memory": ("dimms", "dimm"),
    "storage": ("disks", "disk"),
    "network": ("nics", "nic"),
    "gpu": ("gpus", "gpu"),
    "pci": ("devices", "pci"),
    "usb": ("devices", "usb"),
    "tpm": ("devices", "tpm"),
    "power": ("batteries", "battery"),
    "sensors": ("sensors", "sensor"),
}
"""Section → (the member that lists components, their type)."""

TYPE_OF_SECTION: Mapping[str, str] = {section: type_ for section, (_, type_) in COMPONENTS.items()}

Key = tuple[str, str]
"""A component within its host: type and key."""


def check(sections: Mapping[str, Any]) -> None:
    """Raises ContractError naming what is not as a section is."""
    for name, data in sections.items():
        if not SECTION_NAME.fullmatch(name):
            raise ContractError(f"sections: {name!r} is no name of a section")
        if not isinstance(data, dict):
            raise ContractError(f"sections.{name}.data: must be an object")
        if name in COMPONENTS:
            _check_components(name, data.get(COMPONENTS[name][0], []))


def host_values(sections: Mapping[str, Mapping[str, Any]]) -> Values:
    """The host's fields that these sections tell; null where a section does not say."""
    values: Values = {}
    for name, data in sections.items():
        values |= {field: _text(data.get(member)) for field, member in TEXTS.get(name, ())}
        values |= {field: _number(data.get(member), most) for field, member, most in NUMBERS.get(name, ())}
        if name == AGENT_SECTION:
            values["policy"] = _policy(data.get("policy"))
        if name == "platform":
            values["virtualization"] = _text(data.get("container")) or _text(data.get("virtualization"))
    return values


def components(section: str, data: Mapping[str, Any]) -> dict[Key, Values]:
    """The attributes of each component in a section, by type and key. Of two with one key the first counts."""
    if section not in COMPONENTS:
        return {}
    member, type_ = COMPONENTS[section]
    found: dict[Key, Values] = {}
    for entry in data.get(member, []):
        found.setdefault((type_, entry["key"]), {name: value for name, value in entry.items() if name != "key"})
    return found


@dataclass(frozen=True, slots=True)
class Compared:
    """What a scan changes of a host's components: rows to make, and values to write by id."""

    new: list[Values]
    writes: dict[str, Values]


def compare(host: str, types: Iterable[str], found: Mapping[Key, Values], known: Iterable[Resource], at: datetime) -> Compared:
    """`types`: the types that were looked for. Known ones of these that were not found have vanished; they stay, with `present` false."""
    looked_for = frozenset(types)
    writes: dict[str, Values] = {}
    left = dict(found)
    for component in known:
        if component["type"] not in looked_for:
            continue
        attributes = left.pop((component["type"], component["key"]), None)
        if attributes is None:
            if component["present"]:
                writes[component["id"]] = {"present": False, "last_seen": at}
        elif attributes != component["attributes"] or not component["present"]:
            writes[component["id"]] = {"attributes": attributes, "present": True, "last_seen": at}
    new = [
        {
            "host": host,
            "type": type_,
            "key": key,
            "attributes": attributes,
            "present": True,
            "first_seen": at,
            "last_seen": at,
            "told_present": None,
        }
        for (type_, key), attributes in left.items()
    ]
    return Compared(new, writes)


def missing(manifest: Mapping[str, str], known: Mapping[str, str]) -> tuple[str, ...]:
    """The sections of which the device has something else than what is stored."""
    return tuple(name for name, hash_ in manifest.items() if known.get(name) != hash_ and SECTION_NAME.fullmatch(name))


def _check_components(section: str, listed: Any) -> None:
    member = COMPONENTS[section][0]
    if not isinstance(listed, list) or len(listed) > MAX_COMPONENTS:
        raise ContractError(f"sections.{section}.data.{member}: must be a list of at most {MAX_COMPONENTS}")
    for number, entry in enumerate(listed):
        key = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(key, str) or not 1 <= len(key) <= 253:
            raise ContractError(f"sections.{section}.data.{member}.{number}: must be an object with a key of 1 to 253 characters")


def missing_commands(section: Any) -> tuple[list[str], datetime | None]:
    """Commands that a device says have not reached it, and since when, from its section `agent` as it is stored."""
    listed = section.get("missing") if isinstance(section, dict) else None
    found = [id for id in listed if isinstance(id, str)][:MAX_AWAITED] if isinstance(listed, list) else []
    return found, _moment(section.get("missing_since")) if found else None


def _moment(value: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _policy(value: Any) -> Values | None:
    """What the device's owner allows, in a shape that pages can rely on."""
    if not isinstance(value, dict):
        return None
    return {
        "verbs": _texts(value.get("verbs")),
        "roots": _texts(value.get("roots")),
        "on_change": value.get("on_change") is True,
        "maintenance": _text(value.get("maintenance")),
    }


def _texts(value: Any) -> list[str]:
    return [item[:TEXT_LIMIT] for item in value if isinstance(item, str)][:MAX_LISTED] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return (value[:TEXT_LIMIT] or None) if isinstance(value, str) else None


def _number(value: Any, most: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        return None
    return value
