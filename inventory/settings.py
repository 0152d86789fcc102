"""What an Inventory process is told at its start, frozen. Only `inventory/__main__.py` reads the environment; tests make their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from broker.topics import DEFAULT_ROOT, Topics
from inventory.renewal import GRACE, grace_of
from inventory.replica import replica_number
from inventory.retention import Retention

DEFAULT_BROKER = "mqtts://localhost:8883"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One Inventory process.

    database: PostgreSQL's URL. broker: `mqtts://host:port`. secrets: the installation's secrets directory.
    """

    database: str
    secrets: Path
    broker: str = DEFAULT_BROKER
    topics: Topics = field(default_factory=Topics)
    replica: int = 1
    """Which of several Inventory processes this is: 2 connects with the certificate `svc-inventory.2`."""

    pool_size: int = 8
    """Connections to the database: ingest, relay, publisher, presence and intents, one each, and a few for what overlaps."""

    batch_messages: int = 500
    """Messages of devices in one transaction at most: beyond it the rows locked at once, not the round trips, are what costs."""
    batch_wait_s: float = 0.01
    """How long a first message waits for others, in seconds: a commit costs about that much, and a person does not see it."""

    idle_wait_s: float = 0.03
    """Likewise after nothing but heartbeats: a fleet at rest is not worth a hundred looks a second."""

    sweep_s: float = 2.0
    """How often silent devices are looked for, in seconds; presence is late by that much at most."""
    lease_s: float = 8.0
    """For how long a shard is held without renewal, in seconds: a killed replica's shards move after it, so in about 10 s."""

    keep: Retention = field(default_factory=Retention)
    """How long what is kept."""

    grace: timedelta = GRACE
    """How long after its end a device's certificate still gets another one."""

    @classmethod
    def read(
        cls, environment: Mapping[str, str], *, database: str | None = None, secrets: Path | None = None, broker: str | None = None
    ) -> "Settings":
        """Raises ValueError naming the variable that is missing or wrong."""
        url = database or environment.get("FLEETWARD_DATABASE", "")
        if not url:
            raise ValueError(
                "say where the database is: --database or FLEETWARD_DATABASE, such as postgresql://fleetward@localhost/fleetward"
            )
        found = secrets or Path(environment.get("FLEETWARD_SECRETS", "secrets"))
        return cls(
            database=url,
            secrets=found,
            broker=broker or environment.get("FLEETWARD_BROKER", DEFAULT_BROKER),
            topics=Topics(environment.get("FLEETWARD_TOPIC_ROOT", DEFAULT_ROOT)),
            replica=replica_number(environment),
            keep=Retention.read(environment),
            grace=grace_of(environment),
        )
