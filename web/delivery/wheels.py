"""The agent as wheels, made of what is installed here: what runs on the server runs on a device of the same platform.

Each distribution that the agent stands on is zipped up again from its own list of files (RECORD); the agent's own wheel is made of its
sources, without anything of the server. No index is asked and nothing is kept on disk. The same files always make the same bytes, so that
it does not matter which of several web processes answers. Blocking and a second or two of work: call it in a thread, once.

Called by `web.delivery.routes`. Source: PEP 427 (wheels), PEP 376 (RECORD), PEP 425 (tags), PEP 503 (names).
"""

import base64
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import Parser
from functools import cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

NEEDED = ("cffi", "cryptography", "paho-mqtt", "psutil", "pycparser", "pynacl")
"""Distributions that the agent stands on, and those that these stand on. A test compares it with what they say themselves."""
INSTALLER = "pip"
"""Goes along where this server has it: Debian's Python has none without a package of its own."""
AGENT = "fleetward-agent"
_PROJECT = "fleetward"
_SOURCES: Mapping[str, tuple[str, ...]] = {"edge_agent": ("**/*.py",), "broker": ("__init__.py", "topics.py", "messages.py")}
"""Packages, and what of them the agent is made of (design.md section 2)."""
_OF_THE_INSTALLATION = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""Members of `.dist-info` that tell of this machine."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SQUEEZE = 6


class NotPackable(Exception):
    """A distribution can't be made a wheel again; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tag:
    """What a wheel runs on: Python, its binary interface, the platform. Each may name several, with dots between."""

    python: str
    abi: str
    platform: str

    def __str__(self) -> str:
        return f"{self.python}-{self.abi}-{self.platform}"

    @property
    def anywhere(self) -> bool:
        return self.platform == "any"

    @property
    def machine(self) -> str:
        """As `uname -m` says it, such as aarch64; empty where there is none in it."""
        found = re.search(r"linux[0-9_]*_([a-z]\w*)", self.platform)
        return found[1] if found else ""


@dataclass(frozen=True)
class Wheel:
    """A wheel by its file name."""

    name: str
    content: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def tag(self) -> Tag:
        return tag_of(self.name)


def is_wheel(name: str) -> bool:
    """Whether a file has the name of a wheel."""
    return re.fullmatch(r"[A-Za-z0-9_.]+-[A-Za-z0-9_.!+]+(-[0-9][A-Za-z0-9_.]*)?(-[A-Za-z0-9_.]+){3}\.whl", name) is not None


def tag_of(name: str) -> Tag:
    """Of a wheel's file name."""
    return Tag(*name.removesuffix(".whl").split("-")[-3:])


def tags_here() -> tuple[Tag, ...]:
    """What the wheels of this server run on, without making them. Raises NotPackable."""
    return tuple(_tag(_installed(name)) for name in NEEDED)


def pack_all() -> tuple[Wheel, ...]:
    """The agent and all that it needs. Raises NotPackable."""
    agent = _agent()
    wheels = [agent, *(_packed(_installed(name)) for name in NEEDED)]
    try:
        wheels.append(_packed(distribution(INSTALLER)))
    except PackageNotFoundError:
        pass  # a device then needs a pip of its own
    return tuple(wheels)


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise NotPackable(f"{name} is not installed here, and the agent needs it: install Fleetward again") from None


# --- distributions that are installed here ------------------------------------------------------------------------------------------


def _packed(found: Distribution) -> Wheel:
    name = f"{_file_name(found.metadata['Name'])}-{found.version}-{_tag(found)}.whl"
    paths = [path for path in found.files or [] if _belongs(PurePosixPath(str(path)))]
    members = {str(path): Path(str(path.locate())).read_bytes() for path in paths}
    info = next(each.split("/")[0] for each in members if each.split("/")[0].endswith(".dist-info"))
    return _wheel(name, members, info)


def _tag(found: Distribution) -> Tag:
    """Raises NotPackable."""
    tags = Parser().parsestr(found.read_text("WHEEL") or "").get_all("Tag") or []
    if not tags or not found.files:
        raise NotPackable(f"{found.metadata['Name']} was not installed from a wheel, so none can be made of it: install it by pip")
    return _compressed(tags)


def _belongs(path: PurePosixPath) -> bool:
    """Not what an installer made here: compiled modules, scripts outside of the packages, notes of its own."""
    made_here = path.suffix == ".pyc" or path.parts[0] == ".." or path.is_absolute()
    return not made_here and not (path.parts[0].endswith(".dist-info") and path.name in _OF_THE_INSTALLATION)


def _compressed(tags: Iterable[str]) -> Tag:
    """Several tags as one compressed one."""
    pythons, abis, platforms = zip(*(tag.strip().split("-", 2) for tag in tags), strict=True)
    return Tag(*(".".join(dict.fromkeys(part)) for part in (pythons, abis, platforms)))


def _file_name(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


# --- the agent itself ---------------------------------------------------------------------------------------------------------------


def _agent() -> Wheel:
    project = _installed(_PROJECT)
    info = f"{_file_name(AGENT)}-{project.version}.dist-info"
    members = dict(_sources())
    members[f"{info}/METADATA"] = _metadata(project).encode()
    members[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fleetward\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members[f"{info}/entry_points.txt"] = f"[console_scripts]\n{AGENT} = edge_agent.__main__:main\n".encode()
    return _wheel(f"{_file_name(AGENT)}-{project.version}-py3-none-any.whl", members, info)


def _sources() -> Iterator[tuple[str, bytes]]:
    """Read from where they are imported from, so that a changed source is a changed wheel."""
    for package, patterns in _SOURCES.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise NotPackable(f"the sources of {package} are not here: install Fleetward again")
        folder = Path(spec.submodule_search_locations[0])
        for pattern in patterns:
            for file in folder.glob(pattern):
                yield f"{package}/{file.relative_to(folder).as_posix()}", file.read_bytes()


def _metadata(project: Distribution) -> str:
    """The project's, without what only the server needs."""
    needs = [need for need in project.requires or [] if "extra ==" not in need]
    lines = ["Metadata-Version: 2.1", f"Name: {AGENT}", f"Version: {project.version}", "Requires-Python: >=3.11"]
    return "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)]) + "\n"


# --- the archive --------------------------------------------------------------------------------------------------------------------


def _wheel(name: str, members: Mapping[str, bytes], info: str) -> Wheel:
    record = f"{info}/RECORD"
    listed = io.StringIO()
    rows = csv.writer(listed, lineterminator="\n")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=_SQUEEZE) as archive:
        for path in sorted(members):
            rows.writerow([path, f"sha256={_digest(members[path])}", len(members[path])])
            archive.writestr(_entry(path), members[path])
        rows.writerow([record, "", ""])
        archive.writestr(_entry(record), listed.getvalue())
    return Wheel(name, out.getvalue())


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o100644 << 16
    return entry


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
