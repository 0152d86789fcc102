"""Running a config's `on_change` command: a process group of its own, a time limit, and no more than the end of its output kept."""

import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import IO, Any

from broker.messages import ErrorCode
from edge_agent.appliers import Control, Refusal

DEFAULT_TIMEOUT_S = 60
MAX_TIMEOUT_S = 3600
KEPT_OUTPUT = 8 * 1024
HIDDEN = "••••"
"""In the place of a secret."""
TERMINATE_S = 2.0
"""Between SIGTERM and SIGKILL."""
UMASK = 0o022
"""As in a shell: the agent's own keeps others from reading, which is not for what a command makes."""

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}


@dataclass(frozen=True, slots=True)
class OnChange:
    """`command` as it is executed; `timeout_s` at most. `hidden`: secrets of the config, which are kept out of what it says."""

    command: tuple[str, ...]
    timeout_s: int
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def longest(self) -> int:
        """Bytes of the longest secret."""
        return max((len(secret.encode()) for secret in self.hidden), default=0)


def parse(value: Any, hidden: tuple[str, ...] = ()) -> OnChange | None:
    """null, a text for `/bin/sh -c`, or {`command`: a text or list, `timeout_s`}. Raises Refusal (PolicyRefused)."""
    if value is None:
        return None
    body = value if isinstance(value, dict) else {"command": value}
    command, timeout = body.get("command"), body.get("timeout_s", DEFAULT_TIMEOUT_S)
    if isinstance(command, str) and command.strip():
        command = ["/bin/sh", "-c", command]
    if not isinstance(command, list) or not command or not all(isinstance(word, str) and "\0" not in word for word in command):
        raise Refusal(ErrorCode.POLICY_REFUSED, "on_change.command: must be a text, or a list of texts")
    if isinstance(timeout, bool) or not isinstance(timeout, int) or not 1 <= timeout <= MAX_TIMEOUT_S:
        raise Refusal(ErrorCode.POLICY_REFUSED, f"on_change.timeout_s: must be a whole number from 1 to {MAX_TIMEOUT_S}")
    return OnChange(tuple(command), timeout, hidden)


def run(on_change: OnChange, config: str, control: Control) -> str:
    """Its output. Raises Refusal (OnChangeFailed, or TimedOut for its own limit) and StoppedEarly (the command's)."""
    try:
        process = subprocess.Popen(
            on_change.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_ENVIRONMENT | {"FLEETWARD_CONFIG": config},
            start_new_session=True,
            umask=UMASK,
        )
    except OSError as error:
        raise Refusal(ErrorCode.ON_CHANGE_FAILED, f"on_change: {on_change.command[0]}: {error.strerror}") from error
    with process:
        output = _watch(process, on_change, control)
    if process.returncode != 0:
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        raise Refusal(ErrorCode.ON_CHANGE_FAILED, f"on_change ended with {how}{_last_words(output)}")
    return output


def _watch(process: "subprocess.Popen[bytes]", on_change: OnChange, control: Control) -> str:
    """Read until the process ends. A grandchild that keeps the pipe open is not waited for."""
    assert process.stdout is not None
    limit_s, keep = on_change.timeout_s, KEPT_OUTPUT + on_change.longest
    deadline = time.monotonic() + limit_s
    kept = b""
    os.set_blocking(process.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while process.poll() is None:
            if time.monotonic() >= deadline or not control.left():
                _kill(process)
                output = _text(kept + _drain(process.stdout), on_change)
                control.check(output)
                raise Refusal(ErrorCode.TIMED_OUT, f"on_change took longer than {limit_s:g} s{_last_words(output)}")
            if selector.get_map() and selector.select(timeout=0.05):
                kept = (kept + _drain(process.stdout, selector))[-keep:]
            elif not selector.get_map():
                time.sleep(0.02)
    return _text(kept + _drain(process.stdout), on_change)


def _drain(pipe: IO[bytes], selector: selectors.BaseSelector | None = None) -> bytes:
    """What can be read at once; at its end the pipe leaves the selector."""
    try:
        chunk = os.read(pipe.fileno(), 65536)
    except BlockingIOError:
        return b""
    if not chunk and selector is not None:
        selector.unregister(pipe)
    return chunk


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the whole group: politely, then not."""
    for number, patience in ((signal.SIGTERM, TERMINATE_S), (signal.SIGKILL, TERMINATE_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass  # it ended by itself just now
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nobody of the group is left


def _last_words(output: str) -> str:
    said = output[-1000:].strip()
    return f": {said}" if said else ""


def _text(raw: bytes, on_change: OnChange) -> str:
    """The end of the output. Where its beginning is cut off, so much more is, that no part of a secret which was cut with it is left."""
    keep = KEPT_OUTPUT + on_change.longest
    cut = on_change.longest if len(raw) >= keep else 0
    text = raw[-keep:].decode("utf-8", "replace").replace("\0", "")
    for secret in sorted(on_change.hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text[cut:]
