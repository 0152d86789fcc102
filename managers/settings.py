"""What a managers process is told at its start, frozen. Only `managers/__main__.py` reads the environment; tests make their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.topics import DEFAULT_ROOT, Topics
from inventory.replica import replica_number

DEFAULT_BROKER = "mqtts://localhost:8883"
SERVICE = "svc-managers"
"""The name in its certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """database: PostgreSQL's URL. broker: `mqtts://host:port`. secrets: the directory with the service's certificate and command key."""

    database: str
    secrets: Path
    broker: str = DEFAULT_BROKER
    topics: Topics = field(default_factory=Topics)
    replica: int = 1
    """Which of several managers processes this is: 2 connects with the certificate `svc-managers.2`."""

    pool_size: int = 10
    """Connections to the database: batches of six managers, dispatch, feed and scans, few of them at the same moment."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises ValueError naming the variable that is missing or wrong."""
        database = environment.get("FLEETWARD_DATABASE", "")
        if not database:
            raise ValueError(
                "say where the database is: FLEETWARD_DATABASE (or fleetward managers --database), such as postgresql://fleetward@localhost/fleetward"
            )
        return cls(
            database=database,
            secrets=Path(environment.get("FLEETWARD_SECRETS", "secrets")),
            broker=environment.get("FLEETWARD_BROKER", DEFAULT_BROKER),
            topics=Topics(environment.get("FLEETWARD_TOPIC_ROOT", DEFAULT_ROOT)),
            replica=replica_number(environment),
        )
