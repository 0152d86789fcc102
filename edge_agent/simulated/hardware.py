"""Invented hardware: everything follows from a seed and a number, so that a device is the same after a restart and costs no memory.

The sections have the members of docs/facts.md. What was plugged in or pulled out since is kept as a difference.
"""

import random
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_MAKES = (
    ("Northwind", "EdgeBox 200", "x86_64", "Intel(R) Core(TM) i3-N305", 1, 8, 8),
    ("Northwind", "EdgeBox 400", "x86_64", "Intel(R) Xeon(R) D-1736NT", 1, 8, 16),
    ("Halden", "Gateway H7", "aarch64", "Cortex-A72", 1, 4, 4),
    ("Halden", "Gateway H9", "aarch64", "Cortex-A78", 1, 8, 8),
    ("Kestrel", "R620 Server", "x86_64", "AMD EPYC 3251 8-Core Processor", 1, 8, 16),
    ("Kestrel", "R840 Server", "x86_64", "Intel(R) Xeon(R) Silver 4410Y", 2, 24, 48),
)
_SYSTEMS = (
    ("debian", "Debian GNU/Linux", "12", "6.1.0-28", "Debian GNU/Linux 12 (bookworm)"),
    ("debian", "Debian GNU/Linux", "13", "6.12.48", "Debian GNU/Linux 13 (trixie)"),
    ("ubuntu", "Ubuntu", "24.04", "6.8.0-45", "Ubuntu 24.04.1 LTS"),
    ("ubuntu", "Ubuntu", "22.04", "5.15.0-122", "Ubuntu 22.04.5 LTS"),
    ("rocky", "Rocky Linux", "9.4", "5.14.0-427", "Rocky Linux 9.4 (Blue Onyx)"),
)
_DISKS = (("NVMe 512G", 512), ("NVMe 1T", 1000), ("SSD 240G", 240), ("SSD 960G", 960), ("HDD 4T", 4000))
_ZONES = ("Europe/Berlin", "Europe/Madrid", "America/Chicago", "America/Sao_Paulo", "Asia/Tokyo", "Asia/Kolkata")


@dataclass(slots=True)
class Hardware:
    """One invented machine."""

    seed: int
    index: int
    boots: int = 1
    added_disks: list[Json] = field(default_factory=list)
    added_nics: list[Json] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)

    @property
    def serial(self) -> str:
        return f"SIM{self.seed % 10_000:04d}{self.index:07d}"

    @property
    def hostname(self) -> str:
        return f"sim-{self.index:05d}"

    @property
    def uuid(self) -> str:
        raw = self._random("uuid").getrandbits(128)
        text = f"{raw:032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"

    @property
    def boot_id(self) -> str:
        return f"{self._random(f'boot {self.boots}').getrandbits(128):032x}"

    @property
    def macs(self) -> tuple[str, ...]:
        return tuple(str(nic["mac"]) for nic in self.nics())

    def sections(self) -> Json:
        """All facts, as discovery would give them."""
        vendor, product, arch, model, sockets, cores, threads = self._pick("make", _MAKES)
        id, name, version, kernel, title = self._pick("system", _SYSTEMS)
        cpu = {"model": model, "vendor": model.split("(")[0].split(" ")[0], "arch": arch, "sockets": sockets, "cores": cores}
        return {
            "cpu": {
                **cpu,
                "threads": threads,
                "numa_nodes": sockets,
                "features": ["aes", "crc32", "sha2"],
                "packages": self._packages(cpu),
            },
            "memory": self._memory(),
            "storage": self._storage(),
            "network": self._network(),
            "pci": {"count": 12, "devices": []},
            "usb": {"devices": []},
            "gpu": {"gpus": []},
            "tpm": {"devices": [{"key": "path:tpm0", "name": "tpm0", "version": "2.0"}] if arch == "x86_64" else []},
            "power": {"batteries": [], "supplies": []},
            "sensors": {"sensors": [{"key": "path:coretemp", "name": "coretemp", "channels": [{"id": "temp1", "type": "temperature"}]}]},
            "firmware": self._firmware(vendor, product),
            "os": {"id": id, "name": name, "version": version, "title": title, "kernel": kernel, "arch": arch},
            "platform": {"virtualization": "none", "container": None, "boot_id": self.boot_id, "init": "systemd"},
            "software": {"packages": 400 + self._random("packages").randrange(900), "package_manager": "dpkg", "reboot_required": False},
            "time": {"timezone": self._pick("zone", _ZONES), "rtc": "rtc0", "rtc_in_local_time": False},
        }

    def disks(self) -> list[Json]:
        count = self._random("disks").choice((1, 1, 1, 2, 2, 4))
        return [disk for disk in (*(self._disk(n) for n in range(count)), *self.added_disks) if disk["key"] not in self.removed]

    def nics(self) -> list[Json]:
        count = self._random("nics").choice((1, 2, 2, 2, 4))
        return [nic for nic in (*(self._nic(n) for n in range(count)), *self.added_nics) if nic["key"] not in self.removed]

    def add_disk(self) -> Json:
        """Plug in a disk that was never there before."""
        self.added_disks.append(self._disk(10 + len(self.added_disks)))
        return self.added_disks[-1]

    def add_nic(self) -> Json:
        self.added_nics.append(self._nic(10 + len(self.added_nics)))
        return self.added_nics[-1]

    def remove(self, list_name: str, key: str | None) -> str | None:
        """Pull out a disk or NIC: the one with this key, else the last. Its key, or None where there is none."""
        present = [str(each["key"]) for each in (self.disks() if list_name == "disk" else self.nics())]
        chosen = key if key is not None else (present[-1] if present else None)
        if chosen not in present:
            return None
        self.removed.add(chosen)
        return chosen

    def _packages(self, cpu: Json) -> list[Json]:
        sockets = range(int(cpu["sockets"]))
        return [{"key": f"cpu{n}", "name": f"CPU {n}", "model": cpu["model"], "cores": cpu["cores"] // len(sockets)} for n in sockets]

    def _memory(self) -> Json:
        gib = self._random("memory").choice((4, 8, 16, 32, 64))
        size = gib * 2**30 // 2
        dimms = [
            {"key": f"{self.serial}-M{n}", "name": f"DIMM {n}", "size_bytes": size, "type": "DDR4", "serial": f"{self.serial}-M{n}"}
            for n in range(2)
        ]
        return {"total_bytes": gib * 2**30 - 120 * 2**20, "swap_bytes": 0, "installed_bytes": gib * 2**30, "slots": 2, "dimms": dimms}

    def _storage(self) -> Json:
        disks = self.disks()
        return {"total_bytes": sum(int(disk["size_bytes"]) for disk in disks), "disks": disks, "filesystems": []}

    def _network(self) -> Json:
        nics = self.nics()
        first = nics[0] if nics else None
        return {
            "hostname": self.hostname,
            "primary_interface": first["name"] if first else None,
            "primary_ip": str(first["addresses"][0]).split("/")[0] if first and first["addresses"] else None,
            "primary_mac": first["mac"] if first else None,
            "nics": nics,
        }

    def _disk(self, n: int) -> Json:
        model, gigabytes = self._pick(f"disk {n}", _DISKS)
        serial = f"{self.serial}-D{n}"
        return {
            "key": serial,
            "name": f"nvme{n}n1" if model.startswith("NVMe") else f"sd{chr(97 + n)}",
            "model": model,
            "serial": serial,
            "size_bytes": gigabytes * 10**9,
            "rotational": model.startswith("HDD"),
            "removable": False,
            "bus": "nvme" if model.startswith("NVMe") else "ata",
        }

    def _nic(self, n: int) -> Json:
        number = self._random(f"mac {n}").getrandbits(24)
        mac = f"02:51:{self.index >> 8 & 255:02x}:{number >> 16 & 255:02x}:{self.index & 255:02x}:{n:02x}"
        address = f"10.{self.index >> 8 & 255}.{self.index & 255}.{10 + n}/16"
        return {
            "key": mac,
            "name": f"eth{n}",
            "mac": mac,
            "speed_mbps": 1000,
            "driver": "igc",
            "mtu": 1500,
            "addresses": [address] if n == 0 else [],
        }

    def _firmware(self, vendor: str, product: str) -> Json:
        return {
            "source": "dmi",
            "vendor": vendor,
            "product": product,
            "serial": self.serial,
            "uuid": self.uuid,
            "bios_version": "1.4.2",
            "efi": True,
            "secure_boot": None,
        }

    def _pick(self, what: str, choices: tuple[Any, ...]) -> Any:
        return self._random(what).choice(choices)

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self.seed}/{self.index}/{what}")
