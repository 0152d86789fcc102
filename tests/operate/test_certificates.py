"""Secrets for replicas: what `fleetward certificate create` issues, and that a replica needs nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from broker import acl
from broker.client import Settings
from broker.topics import Topics
from inventory.authority import NEEDS, SERVICES, Authority, service_certificates
from inventory.secret_files import AuthorityError
from inventory.signing import CommandSigner

PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("FLEETWARD_")}


def test_the_names_are_those_that_brokers_grant() -> None:
    """No broker knows a service that gets no certificate, and the other way round."""
    assert [identity.name for identity in acl._service_certificates()] == list(service_certificates())


def test_a_replica_gets_what_its_role_needs(tmp_path: Path) -> None:
    """Issued by the CA, private, complete for its role and without the keys of others; issuing it again renews nothing that lasts."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    ca = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    for role in SERVICES:
        name, out = f"{role}.2", tmp_path / f"{role}.2"
        files = authority.equip(name, out)
        assert {path.name for path in files} == {f"{name}.crt", f"{name}.key", *NEEDS[role]} == {p.name for p in out.iterdir()}
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
        issued = (out / f"{name}.crt").read_bytes()
        x509.load_pem_x509_certificate(issued).verify_directly_issued_by(ca)
        authority.equip(name, out)
        assert (out / f"{name}.crt").read_bytes() == issued
    CommandSigner(tmp_path / "svc-managers.2")
    assert Authority(tmp_path / "svc-inventory.2").channel_key("host-1", 1) == authority.channel_key("host-1", 1)
    tls = Settings.from_url("mqtts://localhost", "svc-managers.2", tmp_path / "svc-managers.2", Topics()).tls
    assert tls is not None
    tls.context()
    assert not (tmp_path / "svc-managers.2" / "ca.key").exists()


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    """With those that there are; no file is made."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    before = sorted(authority.directory.iterdir())
    for name in ("svc-inventory.9", "svc-inventory.1", "broker", "../x", "svc-web.02"):
        with pytest.raises(AuthorityError, match="svc-inventory, svc-managers, svc-web"):
            authority.equip(name)
    assert sorted(authority.directory.iterdir()) == before


def test_the_command_key_is_rotated_by_a_command(tmp_path: Path) -> None:
    """Where the command root is; elsewhere it says so, exit 2. A process that signs takes it up by itself."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()
    authority.equip("svc-managers.2", tmp_path / "replica")
    signer = CommandSigner(authority.directory)
    before = signer.sign("x").key

    def rotate(secrets: Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "fleetward", "certificate", "rotate-command-key", "--secrets", str(secrets)]
        return subprocess.run(command, env=PLAIN, capture_output=True, text=True, check=False, timeout=60)

    done = rotate(authority.directory)
    assert (done.returncode, done.stdout) == (0, "generation 2\n"), done.stderr
    assert signer.sign("x").key != before and signer.generation == 2
    elsewhere = rotate(tmp_path / "replica")
    assert elsewhere.returncode == 2 and "command-root.key" in elsewhere.stderr


def test_the_command_issues_it(tmp_path: Path) -> None:
    """By the CA of the secrets directory; elsewhere it says where to run it, exit 2; bootstrap keeps the replica's certificate alive."""
    authority = Authority(tmp_path / "secrets")
    authority.bootstrap()

    def create(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "fleetward", "certificate", "create", *arguments]
        return subprocess.run(command, env=PLAIN, capture_output=True, text=True, check=False, timeout=60)

    done = create("svc-managers.3", "--secrets", str(authority.directory), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    lost = create("svc-managers.3", "--secrets", str(tmp_path / "out"))
    assert lost.returncode == 2 and "ca.key" in lost.stderr
    (authority.directory / "svc-managers.3.crt").unlink()
    authority.bootstrap()
    assert (authority.directory / "svc-managers.3.crt").exists()
