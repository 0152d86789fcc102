"""What a web process works with, made once at its start and reached from every route by `services()`."""

import asyncio
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import cast

from quart import Quart, current_app

from inventory.authority import Authority
from inventory.db import Database
from inventory.readmission import Readmission
from inventory.store import Writes
from web.delivery.shelf import Shelf
from web.gate import Gate, Recognised
from web.hub import Hub
from web.providers import ProviderClient
from web.scoped_streams import Lenses
from web.settings import Settings
from web.standing import Standing
from web.throttle import Throttle

_KEY = "fleetward"


@dataclass(frozen=True, slots=True)
class Services:
    """`db` for inventory's own functions, `store` for writes of resources, `hub` for what changes. What somebody reads comes by
    `web.identity.view`, which knows their scope. No SQL is written in `web`."""

    settings: Settings
    db: Database
    store: Writes
    hub: Hub
    authority: Authority | None
    """For enrollment; None where the process has no secrets directory."""
    readmission: Readmission | None
    """Likewise, for devices that the broker refuses."""
    key: bytes
    """The installation's session key, from which secrets that must be the same again are derived."""
    gate: Gate
    standing: Standing
    """Ends the streams of those who may no longer read."""
    provider: ProviderClient | None
    """Speaks with the identity provider, where there is one."""
    lenses: Lenses
    """What is told within a scope."""
    shelf: Shelf
    """The agent's wheels."""
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    """For requests that hold two connections."""
    throttle: Throttle = field(default_factory=Throttle)
    recognised: Recognised = field(default_factory=Recognised)
    following: Counter[Hashable] = field(default_factory=Counter)
    """Open event streams by client."""

    @property
    def digest_key(self) -> bytes:
        """For digests of requests, the same in every process; nothing where they share no key."""
        return self.key if self.settings.secrets is not None else b""


def install(app: Quart, services: Services) -> None:
    app.extensions[_KEY] = services


def of(app: Quart) -> Services:
    """Those of an app that is being served."""
    return cast(Services, app.extensions[_KEY])


def services() -> Services:
    """Those of the app that serves the current request."""
    return cast(Services, current_app.extensions[_KEY])
