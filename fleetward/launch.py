"""Turns itself into another program that cannot outlive the process that started it, and may run as another user.

`through` gives the command line that runs this file as a script; `fleetward.supervisor`, `fleetward.postgres` and the tests' Postgres use
it. The script needs nothing but the standard library. It drops privileges first, because the kernel forgets a parent-death signal when
credentials change, then asks for the signal, then checks that the parent has not died in between, then execs.

Source: prctl(2), PR_SET_PDEATHSIG; credentials(7).
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
ORPHANED = 125
"""Exit code when the parent was gone before the program could start."""
NOT_STARTED = 127
"""Exit code when the program could not be executed."""


def through(program: Sequence[str], *, user: tuple[int, int] | None = None, death: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command that runs `program`, as `user` (uid, gid), with `death` sent to it when the calling process dies."""
    who = ["--uid", str(user[0]), "--gid", str(user[1])] if user else []
    return [sys.executable, "-I", "-S", __file__, "--parent", str(os.getpid()), "--signal", str(int(death)), *who, "--", *program]


def become(uid: int, gid: int) -> None:
    """Give up root for good. `home` and the like stay as they are: no child reads them."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, signum: int) -> None:
    """Have the kernel send `signum` when `parent` dies; leave now if it has died already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(ORPHANED)


def start_afresh() -> None:
    """No blocked and no ignored signals: both would be inherited, the former from the parent, some of the latter from Python."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", type=int, default=signal.SIGKILL)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()
    if options.uid is not None:
        become(options.uid, options.gid)
    die_with(options.parent, options.signal)
    start_afresh()
    try:
        os.execvp(options.program[0], options.program)
    except OSError as error:
        print(f"{options.program[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main()
