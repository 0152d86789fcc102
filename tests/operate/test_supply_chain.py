"""What Fleetward is made of: locks with hashes, a bill of materials that says the same, a wheel that anybody can rebuild."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
MADE = (".git", ".venv*", "dist", "build", "out", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "tests")


def pinned(lock: str) -> dict[tuple[str, str], set[str]]:
    """The hashes of what a lock pins, by name and version."""
    found: dict[tuple[str, str], set[str]] = {}
    for entry in re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]:
        head = re.match(r"(\S+?)(?:\[[^]]*])?==([^\s;]+)", entry)
        assert head, entry
        found[head[1], head[2]] = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_whatever_is_installed_is_known_by_its_hash(lock: str) -> None:
    """Each entry of a lock has one, none says where from; `make install` has pip insist on them."""
    assert all(pinned(lock).values())
    assert not re.search(r"https?://|--(extra-)?index-url", (ROOT / lock).read_text())
    installs = re.findall(r"^\t@\$\(PIP\) install (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"--require-hashes --no-deps -r {lock}" in installs
    assert [line for line in installs if "--require-hashes" not in line] == ["--no-build-isolation --no-deps -e ."]


def test_the_bill_of_materials_says_what_the_lock_says(tmp_path: Path) -> None:
    """Every pinned package with its hashes and nothing else, valid by CycloneDX's own schema; made again, it has the same bytes."""
    made = []
    for name in ("one.json", "two.json"):
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run([ROOT / ".ci" / "sbom", sys.executable, tmp_path / name], env=environment, check=True, capture_output=True)
        made.append((tmp_path / name).read_text())
    assert made[0] == made[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made[0]) is None
    bill = json.loads(made[0])
    assert bill["metadata"]["component"]["name"] == "fleetward"
    assert bill["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    told = {
        (part["name"], part["version"]): {each["content"] for source in part["externalReferences"] for each in source["hashes"]}
        for part in bill["components"]
    }
    assert told == pinned("requirements.lock")


def build(source: Path, umask: int) -> str:
    """The digest of the wheel that is built there."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, umask=umask)
    [wheel] = (source / "dist").glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_wheel_built_elsewhere_has_the_same_bytes(tmp_path: Path) -> None:
    """From another directory, with other times and modes of its files, and another umask."""
    one, two = tmp_path / "one", tmp_path / "some" / "where" / "else"
    for place in (one, two):
        shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(*MADE))
    for path in sorted(two.rglob("*"), reverse=True):
        if path.is_file():
            path.chmod(0o700 if os.access(path, os.X_OK) else 0o600)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    assert build(one, 0o022) == build(two, 0o077)


def test_missing_advisories_are_said_and_not_taken_for_safety(tmp_path: Path) -> None:
    """Where the data can't be had, nothing is said to be safe: exit 2 and a line. pip-audit passes by a package that it can't look up, and
    says that all is well, unless it is told to be strict."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\ncase \"$*\" in *--strict*) echo 'ERROR: could not be audited' >&2; exit 1;; esac\nexit 0\n")
    fake.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "audit-dependencies", fake], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.count("nothing was checked") == len(LOCKS)
    fake.write_text("#!/bin/sh\necho 'Found 2 known vulnerabilities in 1 package' >&2\nexit 1\n")
    assert subprocess.run([ROOT / ".ci" / "audit-dependencies", fake], capture_output=True, check=False).returncode == 1
