"""Changing the invented fleet while it runs: JSON lines over a Unix socket, one answer a line.

`{"op": "add-disk", "device": 7}`; `device` is an index, a device id, or a list of either. docs/agent.md lists the operations.
"""

import json
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.messages import ErrorCode
from edge_agent.simulated.fleet import Fleet, Member

Json = dict[str, Any]
MAX_LINE = 1024 * 1024


class BadRequest(ValueError):
    """A request can't be carried out; the text says why."""


class Control:
    """Serves one fleet, in the fleet's own loop."""

    def __init__(self, fleet: Fleet, path: Path) -> None:
        """Raises OSError."""
        self._fleet = fleet
        self._path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        os.chmod(path, 0o600)
        self._listener.listen()
        self._listener.setblocking(False)
        fleet.selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(5.0)
        buffer = bytearray()

        def readable() -> None:
            try:
                chunk = connection.recv(65536)
                if chunk and len(buffer) + len(chunk) <= MAX_LINE:
                    buffer.extend(chunk)
                    while b"\n" in buffer:
                        line, _, rest = bytes(buffer).partition(b"\n")
                        buffer[:] = rest
                        connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
                    return
            except OSError:
                pass  # the other side is gone; so are we
            self._fleet.selector.unregister(connection)
            connection.close()

        self._fleet.selector.register(connection, selectors.EVENT_READ, readable)

    def _answer(self, line: bytes) -> Json:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise BadRequest("must be an object")
            return {"ok": True, **self._do(request)}
        except (BadRequest, ValueError) as error:
            return {"ok": False, "error": str(error)}

    def _do(self, request: Json) -> Json:
        op = request.get("op")
        if op == "stats":
            return stats(self._fleet)
        operation = _OPERATIONS.get(str(op))
        if operation is None:
            raise BadRequest(f"op: must be one of stats, {', '.join(_OPERATIONS)}")
        members = self._members(request.get("device"))
        return {"results": [operation(self._fleet, member, request) for member in members]}

    def _members(self, chosen: Any) -> list[Member]:
        if chosen == "all":
            return list(self._fleet.members.values())
        found = []
        for each in chosen if isinstance(chosen, list) else [chosen]:
            member = self._fleet.members.get(each) if isinstance(each, int) else self._fleet.by_device.get(str(each))
            if member is None:
                raise BadRequest(f"device: there is no {each!r}")
            found.append(member)
        return found


def stats(fleet: Fleet) -> Json:
    members = fleet.members.values()
    return {
        "enrolled": len(members),
        "connected": sum(member.state.link.connected for member in members),
        "unacked": sum(member.state.durable.outbox.unacked for member in members),
        "commands": sum(member.files.commands for member in members),
        "configs": sum(len(member.files.configs) for member in members),
    }


def tell(path: Path, request: str) -> str:
    """Send one request to a running simulator; its answer. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        connection.sendall(request.encode() + b"\n")
        with connection.makefile(encoding="utf-8") as lines:
            return lines.readline().rstrip("\n")


def _add_disk(fleet: Fleet, member: Member, request: Json) -> Json:
    disk = member.hardware.add_disk()
    fleet.scan(member, "storage")
    return {"key": disk["key"]}


def _add_nic(fleet: Fleet, member: Member, request: Json) -> Json:
    nic = member.hardware.add_nic()
    fleet.scan(member, "network")
    return {"key": nic["key"]}


def _remove_disk(fleet: Fleet, member: Member, request: Json) -> Json:
    key = member.hardware.remove("disk", request.get("key"))
    fleet.scan(member, "storage")
    return {"key": key}


def _remove_nic(fleet: Fleet, member: Member, request: Json) -> Json:
    key = member.hardware.remove("nic", request.get("key"))
    fleet.scan(member, "network")
    return {"key": key}


def _drift(fleet: Fleet, member: Member, request: Json) -> Json:
    drifted = member.files.drift(request.get("config"))
    fleet.look(member)
    return {"configs": list(drifted)}


def _fail(fleet: Fleet, member: Member, request: Json) -> Json:
    """The next `times` commands of this device fail with `code`."""
    try:
        code = ErrorCode(request.get("code", "ReadOnly"))
    except ValueError:
        raise BadRequest(f"code: must be one of {', '.join(ErrorCode)}") from None
    times = request.get("times", 1)
    if not isinstance(times, int) or not 0 <= times <= 1000:
        raise BadRequest("times: must be a whole number up to 1000")
    member.files.failures[:] = [code] * times
    return {"code": code, "times": times}


def _offline(fleet: Fleet, member: Member, request: Json) -> Json:
    member.offline = True
    fleet.cut(member, "taken offline")
    return {}


def _online(fleet: Fleet, member: Member, request: Json) -> Json:
    member.offline = False
    return {}


def _reboot(fleet: Fleet, member: Member, request: Json) -> Json:
    fleet.reboot(member)
    return {"boots": member.hardware.boots}


def _show(fleet: Fleet, member: Member, request: Json) -> Json:
    hardware = member.hardware
    return {
        "index": hardware.index,
        "device": member.me.device,
        "connected": member.state.link.connected,
        "unacked": member.state.durable.outbox.unacked,
        "disks": [disk["key"] for disk in hardware.disks()],
        "nics": [nic["key"] for nic in hardware.nics()],
        "configs": {id: item.state for id, item in ((item.id, item) for item in member.files.items())},
    }


_OPERATIONS: dict[str, Callable[[Fleet, Member, Json], Json]] = {
    "show": _show,
    "add-disk": _add_disk,
    "remove-disk": _remove_disk,
    "add-nic": _add_nic,
    "remove-nic": _remove_nic,
    "drift": _drift,
    "fail": _fail,
    "offline": _offline,
    "online": _online,
    "reboot": _reboot,
}
OPERATIONS = ("stats", *_OPERATIONS)
