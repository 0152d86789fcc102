"""Why does the agent not work? Looks at everything that it needs, in the order in which it needs it, and says what to do."""

import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent import discovery, identity, journal, settings
from edge_agent.identity import Identity
from edge_agent.policy import Policy
from edge_agent.session import tls_context

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    good: bool
    what: str
    detail: str


def examine(state_dir: Path) -> list[Finding]:
    """All findings; it goes on after a bad one as far as that makes sense."""
    found = [_settings(state_dir), _discovery()]
    try:
        me = identity.load(state_dir)
    except identity.NotEnrolled as error:
        return [*found, Finding(False, "identity", str(error))]
    found.append(Finding(True, "identity", f"{me.device}, enrolled with {me.server or 'an unknown server'}"))
    return [*found, *(_tried(what, check, me) for what, check in _CHECKS)]


def _settings(state_dir: Path) -> Finding:
    path = state_dir / identity.SETTINGS_FILE
    try:
        found = settings.load(path)
    except settings.SettingsError as error:
        return Finding(False, "settings", str(error))
    return Finding(True, "settings", _policy(settings.policy(found)))


def _policy(policy: Policy) -> str:
    """What this device lets its server do; a lock is no fault, but why nothing happens."""
    refused = [verb for verb in settings.VERBS if verb not in policy.verbs]
    said = f"files may be placed below {', '.join(policy.roots) or 'nothing'}"
    said += f"; on_change commands {'may' if policy.on_change else 'may not'} run"
    said += f"; refused: {', '.join(refused)}" if refused else ""
    return said + (f"; LOCKED for maintenance: {policy.maintenance}" if policy.maintenance else "; no maintenance lock")


def _discovery() -> Finding:
    """Not being root is no fault, but worth knowing."""
    scan = discovery.scan()
    if scan.errors:
        return Finding(False, "discovery", "; ".join(f"{section}: {error}" for section, error in sorted(scan.errors.items())))
    hidden = f"; only root could read more of {', '.join(sorted(scan.denied))}" if scan.denied else ""
    return Finding(True, "discovery", f"{len(scan.sections)} sections{hidden}")


def _tried(what: str, check: Callable[[Identity], str], me: Identity) -> Finding:
    try:
        return Finding(True, what, check(me))
    except (OSError, journal.JournalError, journal.JournalCorrupt) as error:
        return Finding(False, what, f"{type(error).__name__}: {error}")


def _key(me: Identity) -> str:
    mode = me.key_file.stat().st_mode & 0o077
    if mode:
        raise PermissionError(f"{me.key_file} can be read by others (chmod 600)")
    tls_context(me)
    # Only this short-lived command and the agent's child ever load X.509 code.
    from edge_agent import certificates

    try:
        good, words = certificates.summary(me.state_dir)
    except certificates.RenewalError as error:
        raise OSError(str(error)) from error
    if not good:
        raise OSError(words)
    return f"key, certificate and CA fit together; {words}"


def _journal(me: Identity) -> str:
    """Without opening it: the agent may be running."""
    path = me.state_dir / identity.JOURNAL_FILE
    if not os.access(me.state_dir, os.W_OK):
        raise PermissionError(f"{me.state_dir} can't be written")
    space = os.statvfs(me.state_dir)
    if space.f_bavail * space.f_frsize < 1024 * 1024:
        raise OSError(f"{me.state_dir} has less than 1 MiB free")
    return f"{path.stat().st_size} bytes" if path.exists() else "not begun yet"


def _broker(me: Identity) -> str:
    """As far as the TLS handshake: a session of ours would throw out the running agent."""
    try:
        connected = socket.create_connection((me.host, me.port), TIMEOUT_S)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{me.host}:{me.port} can't be reached: {why}. The way there has to be open for TCP from here") from error
    with connected as raw:
        context = tls_context(me)
        try:
            with context.wrap_socket(raw, server_hostname=me.host) as secured:
                return f"{me.host}:{me.port} answers, {secured.version()}"
        except ssl.SSLError as error:
            raise OSError(f"{me.host}:{me.port} answers, but TLS fails: {error}") from error


_CHECKS: tuple[tuple[str, Callable[[Identity], str]], ...] = (("certificate", _key), ("journal", _journal), ("broker", _broker))
