"""A small fleet to look at: places, thirty hosts with hardware, configs in every state, commands, notifications. Written as managers
and devices would write it, but for the narrow tables, which have SQL of their own.

Names come from a hostile world too: one host calls itself by markup that must never run.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from inventory.actor import Actor
from inventory.db import Database
from inventory.kinds import BY_NAME
from inventory.resource import time_text
from inventory.store import Store
from inventory.writer import Writer

ADMIN = Actor.user("admin", "admin", "192.0.2.10")
SYSTEM = Actor.system()
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

PLACES = (
    ("europe", "Europe", None, {"tier": "production"}),
    ("germany", "Germany", "europe", {"country": "de"}),
    ("france", "France", "europe", {"country": "fr"}),
    ("north-america", "North America", None, {"tier": "production"}),
)
SITES = (
    ("berlin-plant", "Berlin plant", "germany", "Europe/Berlin", "Industriestraße 14, Berlin"),
    ("hamburg-port", "Hamburg port", "germany", "Europe/Berlin", "Kaiser-Wilhelm-Höft, Hamburg"),
    ("lyon-depot", "Lyon depot", "france", "Europe/Paris", "Rue de Gerland, Lyon"),
    ("austin-lab", "Austin lab", "north-america", "America/Chicago", "Burnet Road, Austin"),
)
MACHINES = (
    ("Advantech", "ARK-3532", "Intel(R) Core(TM) i7-10700E CPU @ 2.90GHz", "x86_64", 8, 16, 32, "Debian GNU/Linux", "12", "6.1.0-28-amd64"),
    ("Raspberry Pi", "4 Model B Rev 1.5", "Cortex-A72", "aarch64", 4, 4, 8, "Raspberry Pi OS", "12", "6.6.51+rpt-rpi-v8"),
    ("Dell Inc.", "PowerEdge XR4510c", "Intel(R) Xeon(R) D-2796NT", "x86_64", 20, 40, 128, "Ubuntu", "24.04", "6.8.0-48-generic"),
    ("Supermicro", "SYS-E300-9D", "Intel(R) Xeon(R) D-2123IT", "x86_64", 4, 8, 64, "Ubuntu", "22.04", "5.15.0-124-generic"),
)
ROLES = ("press-line", "camera", "gateway", "kiosk", "crane", "scanner")
PRESENCES = ("online",) * 8 + ("stale", "offline")
GIB = 1024**3


@dataclass(slots=True)
class Seeded:
    """Ids of what was made, by name."""

    regions: dict[str, str]
    sites: dict[str, str]
    hosts: dict[str, str]
    configs: dict[str, str]


class Seeder:
    """Writes in the roles that own the fields: all of the seed in one transaction, single writes each in its own."""

    def __init__(self, db: Database, now: datetime) -> None:
        self.db, self.now, self.store = db, now, Store(db)
        self.made = Seeded({}, {}, {}, {})
        self._open: Writer | None = None

    async def all(self, count: int = 30) -> Seeded:
        async with self.store.transaction() as self._open:
            await self.places()
            for number in range(count):
                await self.host(number)
            await self.hostile()
            await self.configs()
            await self.notes()
        self._open = None
        return self.made

    async def create(self, kind: str, body: dict[str, Any]) -> str:
        if self._open is None:
            return str((await self.store.create(kind, body, ADMIN))["id"])
        return await self._open.create(BY_NAME[kind], body, ADMIN)

    async def make(self, kind: str, values: dict[str, Any], actor: Actor) -> str:
        if self._open is None:
            return str((await self.store.make(kind, values, actor))["id"])
        return await self._open.make(BY_NAME[kind], values, actor)

    async def write(self, kind: str, id: str, values: dict[str, Any], actor: Actor) -> None:
        if self._open is None:
            await self.store.write(kind, id, values, actor)
        else:
            await self._open.write(BY_NAME[kind], id, values, actor)

    async def execute(self, statement: str, *values: Any) -> None:
        assert self._open is not None, "the narrow tables are filled by the seed only"
        await self._open.tx.raw.execute(statement, *values)

    async def places(self) -> None:
        for name, title, parent, labels in PLACES:
            made = await self.create("region", {"name": name, "title": title, "parent": parent, "labels": labels})
            self.made.regions[name] = made
        for name, title, region, zone, address in SITES:
            body = {"name": name, "title": title, "region": region, "timezone": zone, "address": address}
            self.made.sites[name] = await self.create("site", body)

    async def host(self, number: int) -> str:
        role, site = ROLES[number % len(ROLES)], SITES[number % len(SITES)][0]
        name = f"{role}-{number // len(ROLES) + 1}"
        vendor, product, cpu, arch, cores, threads, memory, system, version, kernel = MACHINES[number * 7 % len(MACHINES)]
        waiting = number % 15 == 14
        body = {
            "name": name,
            "title": f"{role.replace('-', ' ').capitalize()} {number // len(ROLES) + 1}" if number % 3 else "",
            "site": site,
            "labels": {"role": role, "line": str(number % 5 + 1)},
            "desired_state": "registered" if waiting else "onboarded",
        }
        made = await self.create("host", body)
        self.made.hosts[name] = made
        facts: dict[str, Any] = {"vendor": vendor, "product": product, "cpu_model": cpu, "arch": arch, "cpu_sockets": 1}
        facts |= {"cpu_cores": cores, "cpu_threads": threads, "memory_bytes": memory * GIB - 412_000_000, "disk_bytes": 512_110_190_592}
        facts |= {"os_name": system, "os_version": version, "kernel": kernel, "hostname": name, "boot_id": f"boot-{number}"}
        facts |= {
            "primary_ip": f"10.{number % 4 + 10}.8.{number + 20}",
            "primary_mac": f"52:54:00:8a:0b:{number:02x}",
            "virtualization": "none",
        }
        facts |= {
            "serial": f"SN{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}",
            "agent_version": "0.1.0" if number % 4 else "0.0.9",
        }
        presence = "never" if number == 29 else PRESENCES[number % len(PRESENCES)]
        if presence != "never":
            await self.write("host", made, facts, Actor.device(made))
        await self.heard(made, presence, number)
        await self.settle("host", made, "host", {"current_state": "registered" if waiting else "onboarded"}, "Reconciled")
        if presence != "never":
            await self.hardware(made, number, memory)
        return made

    async def heard(self, id: str, presence: str, number: int) -> None:
        await self.write("host", id, {"presence": presence}, Actor.inventory())
        if presence == "never":
            return
        ago = {"online": timedelta(seconds=number % 30), "stale": timedelta(seconds=70)}.get(presence, timedelta(hours=3, minutes=number))
        await self.execute("INSERT INTO device_liveness (host, last_seen) VALUES ($1, $2)", id, self.now - ago)
        await self.execute(
            "INSERT INTO device_identity "
            "(host, fingerprint, certificate, certificate_serial, expires_at, incarnation, fence, evidence, created_at) "
            "VALUES ($1, $2, '', '', $3, 1, 0, '{}', $4)",
            id,
            hashlib.sha256(id.encode()).hexdigest(),
            self.now + timedelta(days=20),
            self.now - timedelta(days=10),
        )

    async def settle(self, kind: str, id: str, manager: str, values: dict[str, Any], reason: str, **more: Any) -> None:
        indicator = {"Reconciled": "idle", "Pending": "in_progress", "WaitingForDevice": "in_progress", "Deleting": "in_progress"}.get(
            reason, "error"
        )
        status = {
            "indicator": indicator,
            "reason": reason,
            "message": "",
            "halted": False,
            "since": time_text(self.now - timedelta(minutes=12)),
        }
        await self.write(kind, id, {**values, "status": status | more}, Actor.manager(manager))

    async def hardware(self, host: str, number: int, memory: int) -> None:
        for type_, key, attributes in parts(number, memory):
            await self.component(host, type_, key, attributes)

    async def component(self, host: str, type_: str, key: str, attributes: dict[str, Any], present: bool = True) -> str:
        values = {"host": host, "type": type_, "key": key, "attributes": attributes, "present": present}
        values |= {"first_seen": self.now - timedelta(days=9), "last_seen": self.now - timedelta(hours=2), "told_present": True}
        return await self.make("component", values, Actor.device(host))

    async def hostile(self) -> None:
        """A device that says markup wherever it may say something."""
        made = await self.create("host", {"name": "mallory", "title": HOSTILE, "labels": {"note": HOSTILE}})
        self.made.hosts["mallory"] = made
        said = {"hostname": HOSTILE, "vendor": HOSTILE, "product": HOSTILE, "os_name": HOSTILE, "cpu_model": HOSTILE, "boot_id": "m"}
        policy = {"verbs": [HOSTILE], "roots": [HOSTILE], "on_change": True, "maintenance": HOSTILE}
        await self.write("host", made, {**said, "primary_ip": HOSTILE, "agent_version": HOSTILE, "policy": policy}, Actor.device(made))
        await self.heard(made, "online", 3)
        await self.component(made, "usb", HOSTILE, {"name": HOSTILE, "model": HOSTILE, HOSTILE: HOSTILE})

    async def configs(self) -> None:
        await self.config("motd", "Greeting", 'labels.tier = "production"', "/etc/motd", "Welcome to {{ host.name }}.\n", 10, template=True)
        await self.config("chrony", "Time servers", 'os_name : "Debian" OR os_name : "Ubuntu"', "/etc/chrony/chrony.conf", CHRONY, 0)
        await self.config(
            "camera", "Camera service", 'labels.role = "camera"', "/opt/camera/camera.toml", "fps = 25\nexposure = 'auto'\n", 0
        )
        reasons = {"camera-2": ("PathOutsideRoots", "failed", True), "camera-4": ("Retrying", "drifted", False)}
        for name in ("camera", "chrony", "motd"):
            for host, id in self.made.hosts.items():
                if host == "mallory" or (name == "camera") != host.startswith("camera") or (name == "chrony" and "kiosk" in host):
                    continue
                reason, state, halted = reasons.get(host, ("Reconciled", "present", False))
                await self.placed(name, id, reason, state, halted)

    async def config(self, name: str, title: str, selector: str, path: str, text: str, priority: int, *, template: bool = False) -> None:
        file = {"path": path, "template" if template else "content": text, "mode": "0644"}
        body = {"name": name, "title": title, "selector": selector, "priority": priority, "files": [file]}
        self.made.configs[name] = await self.create("config", body)

    async def placed(self, config: str, host: str, reason: str, state: str, halted: bool) -> None:
        digest = "sha256:" + hashlib.sha256(config.encode()).hexdigest()
        values = {"host": host, "config": self.made.configs[config], "digest": digest, "paths": [], "shadowed": []}
        made = await self.make("host-config", values, Actor.manager("config"))
        told = {"generation": 1, "state": state, "digest": digest, "reason": "", "message": "", "at": time_text(self.now)}
        await self.write("host-config", made, {"reported": told}, Actor.device(host))
        message = {
            "PathOutsideRoots": "/opt/camera/camera.toml is outside the roots that the device's agent.toml allows",
            "Retrying": "ReadOnly: /opt is mounted read-only (attempt 3 of 8)",
        }.get(reason, "")
        await self.settle("host-config", made, "config", {"current_state": state}, reason, halted=halted, message=message)
        await self.command(host, made, "failed" if halted else "succeeded", message)

    async def command(self, host: str, id: str, state: str, message: str) -> None:
        values: dict[str, Any] = {
            "host": host,
            "verb": "config.apply",
            "args": {},
            "resource": {"kind": "host-config", "id": id, "generation": 1},
        }
        values |= {"state": state, "not_after": self.now + timedelta(minutes=5), "started_at": self.now - timedelta(minutes=12)}
        values["finished_at"] = self.now - timedelta(minutes=12)
        error = {"code": "PathOutsideRoots", "message": message, "recoverable": False}
        values["result"] = {"state": state, "progress": 100, "output": "", "error": error if state == "failed" else None}
        await self.make("command", values, Actor.manager("config"))

    async def note(self, severity: str, type_: str, message: str, host: str | None) -> str:
        values = {"severity": severity, "type": type_, "message": message, "host": host, "about": {"kind": "host", "id": host or ""}}
        return await self.make("notification", values, Actor.manager("host"))

    async def notes(self) -> None:
        hosts = self.made.hosts
        await self.note("info", "ComponentFound", "gateway-2 has a new disk: Samsung SSD 980 1TB", hosts["gateway-2"])
        await self.note("warning", "ComponentVanished", "press-line-3: DIMM 2 has vanished", hosts["press-line-3"])
        await self.note("warning", "HostOffline", "kiosk-2 at Berlin plant is offline", hosts["kiosk-2"])
        await self.note(
            "error", "ConfigHalted", "Camera service on camera-2 has halted: the path is outside the device's roots", hosts["camera-2"]
        )


CHRONY = "\n".join([*(f"server ntp{number}.example.net iburst" for number in range(1, 4)), "makestep 1.0 3", "rtcsync", ""])


def parts(number: int, memory: int) -> list[tuple[str, str, dict[str, Any]]]:
    """The hardware of a host: what the probes say of it."""
    cpu = {"name": "CPU 0", "model": MACHINES[number * 7 % len(MACHINES)][2], "cores": 8}
    found: list[tuple[str, str, dict[str, Any]]] = [("cpu", "path:0", cpu)]
    half = memory * GIB // 2
    for slot in (1, 2):
        found.append(("dimm", f"S{number}-{slot}", {"name": f"DIMM {slot}", "size_bytes": half, "type": "DDR4", "speed_mts": 3200}))
    found.append(
        ("disk", f"S5GX{number:04d}", {"name": "nvme0n1", "model": "Samsung SSD 980 500GB", "size_bytes": 512_110_190_592, "bus": "nvme"})
    )
    for port in (0, 1):
        mac = f"52:54:00:8a:{port:02x}:{number:02x}"
        found.append(("nic", mac, {"name": f"enp{port + 1}s0", "driver": "igc", "speed_mbps": 2500, "mac": mac, "carrier": port == 0}))
    found.append(("tpm", "path:tpm0", {"name": "tpm0", "version": "2.0", "vendor": "INTC"}))
    found.append(("usb", f"path:1-{number}", {"name": "Industrial Camera", "vendor_id": "199e", "product_id": "8619"}))
    return found


async def seed(url: str, count: int = 30) -> Seeded:
    """Fill a migrated database."""
    db = await Database.open(url, application="test-seed", pool_size=2)
    try:
        return await Seeder(db, datetime.now(UTC)).all(count)
    finally:
        await db.close()
