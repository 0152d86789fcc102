"""A free port on the loopback, chosen by the system and kept for whom it was chosen for."""

import socket

_KEPT: list[socket.socket] = []


def free_port() -> int:
    """It stays bound, though not listened on, for as long as this process lives: whoever asks the system for a port is given another one,
    and a server that names this one (with SO_REUSEADDR, as servers do) listens on it, however late, and again after a restart."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    _KEPT.append(kept)
    port: int = kept.getsockname()[1]
    return port
