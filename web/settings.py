"""What a web process is told at its start, frozen. Only `web/__main__.py` reads the environment; tests make their own."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from inventory.renewal import GRACE
from web.gate import WAITING
from web.providers import Provider
from web.standing import RECHECK_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One web process.

    database: PostgreSQL's URL.
    secrets: the installation's secrets directory; None where there is none (then nobody can enroll).
    mqtt: host and port that devices are told to connect to.
    tls: requests come in over HTTPS, so cookies are marked for it.
    wheels: a directory of the agent's wheels for platforms other than this server's; None where there is none.
    """

    database: str
    secrets: Path | None = None
    mqtt: tuple[str, int] = ("localhost", 8883)
    topic_root: str = "fleet"
    tls: bool = False
    grace: timedelta = GRACE
    """How long after its end a device's certificate still gets another one."""
    wheels: Path | None = None
    replica: int = 1
    """Which of several web processes on this machine this is, for its metrics."""

    provider: Provider | None = None
    """The identity provider that people may sign in by; None: passwords only."""

    pool_size: int = 10
    """Connections to the database. A request holds one for a few milliseconds; 2 cores keep no more busy."""

    session_idle: timedelta = timedelta(hours=12)
    """A session that was not used for so long ends: a working day."""
    session_longest: timedelta = timedelta(days=14)
    """A session ends after so long, used or not."""

    heartbeat_s: float = 15.0
    """A stream says that it is alive so often, in seconds : below the 30 s after which proxies cut idle connections."""
    stream_recheck_s: float = RECHECK_S
    """How often it is asked, in seconds, whether the tokens and sessions of open streams still stand."""
    stream_backlog: int = 2048
    """Changes kept in memory for the streams. A reader further behind than that is cut and resumes from the database. About 4 KiB each."""
    requests_waiting: int = WAITING
    """Requests of one client that wait for their turn; further ones are refused."""
    relay_lag_limit_s: float = 30.0
    """With a committed change waiting for its position longer than that, in seconds, the process says it is not ready."""
