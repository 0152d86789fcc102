"""Every manager there is, one visible list. Its order is the order of locks: a manager may enqueue keys only for later ones.

Nothing is decided here. Called by `managers.service` and by tests.
"""

from dataclasses import dataclass
from datetime import timedelta

from inventory.actor import Actor
from inventory.applying import Configs
from inventory.db import Database
from inventory.store import Store
from inventory.vault import Vault
from managers.driver import Manager, Scan
from managers.kinds import config, host, host_config, notification, placement, places
from managers.rendering import Renderer
from managers.workqueue import Backoff

HOST = Actor.manager("host")
PLACES = Actor.manager("places")
CONFIG = Actor.manager("config")


NEVER_HALTS = Backoff(attempts=1_000_000)
"""For queues that keep no status: nobody would see that a key has halted, and nobody could retry it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the managers are made of."""

    db: Database
    store: Store
    configs: Configs
    renderer: Renderer
    vault: Vault


def managers(parts: Parts) -> tuple[Manager, ...]:
    """Raises ValueError if a queue is there twice."""
    db, configs, renderer = parts.db, parts.configs, parts.renderer
    registered = (
        Manager(
            queue=host.QUEUE,
            actor=HOST,
            reconciler=host.HostReconciler(db),
            interest=host.interest,
            status_of="host",
            scans=(Scan("scan_hosts", timedelta(minutes=1)),),
        ),
        Manager(
            queue=places.QUEUE,
            backoff=NEVER_HALTS,
            actor=PLACES,
            reconciler=places.PlacesReconciler(parts.store, PLACES),
            interest=places.interest,
            scans=(Scan("scan_places", timedelta(minutes=10)),),
            batch=5,  # one key can mean all hosts
            time_limit_s=300.0,
        ),
        Manager(
            queue=config.QUEUE,
            backoff=NEVER_HALTS,
            actor=CONFIG,
            reconciler=config.ConfigReconciler(db),
            interest=config.interest,
            scans=(Scan("scan_configs", timedelta(minutes=1)),),
            batch=10,  # likewise
        ),
        Manager(
            queue=placement.QUEUE,
            backoff=NEVER_HALTS,
            actor=CONFIG,
            reconciler=placement.PlacementReconciler(db, configs, renderer, parts.store.clock),
            interest=placement.interest,
            scans=(Scan("scan_placements", timedelta(minutes=10)),),
        ),
        Manager(
            queue=host_config.QUEUE,
            actor=CONFIG,
            reconciler=host_config.HostConfigReconciler(db, configs, renderer, parts.vault),
            interest=host_config.interest,
            status_of="host-config",
            scans=(Scan("scan_host_configs", timedelta(minutes=1)), Scan("scan_strays", timedelta(minutes=1))),
        ),
        Manager(
            queue=notification.QUEUE,
            backoff=NEVER_HALTS,
            actor=HOST,
            reconciler=notification.NotificationReconciler(db),
            interest=notification.interest,
            scans=(Scan("scan_untold", timedelta(minutes=1)),),
            batch=1000,  # what shares a batch is told as one
            concurrency=1,
            pause_s=notification.PAUSE_S,
        ),
    )
    queues = [manager.queue for manager in registered]
    if len(set(queues)) < len(queues):
        raise ValueError(f"a queue is there twice: {queues}")
    return registered
