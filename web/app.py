"""The Quart app: which blueprints there are, what every response carries, and what lives as long as the process.

`create_app(settings)` gives an app that opens the database when it starts to serve and closes it when it ends. Pages are blueprints
like any other (`web.pages`); they reach everything by `web.services.services()`, ask `web.identity.require` or `identify` who is there, and
put `csrf_token()` into their forms.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jinja2 import StrictUndefined
from quart import Blueprint, Quart

from broker.topics import Topics
from inventory import idempotency
from inventory.authority import Authority
from inventory.db import Database
from inventory.deposits import Depositor
from inventory.errors import Unavailable
from inventory.parts import Part, keep
from inventory.readmission import Readmission
from inventory.store import Writes
from inventory.telemetry import Publisher, process_name
from inventory.vault import Slot
from web import admission, bodies, headers, operations, pages, problems, provider_sign_in, signin
from web.api import account, api_tokens, audit, certificates, enrollment, events, integrations, meta, resources, sessions, users
from web.delivery import routes as delivery
from web.delivery.shelf import Shelf
from web.gate import Gate
from web.hub import Hub
from web.identity import csrf_token
from web.providers import ProviderClient
from web.scoped_streams import Lenses
from web.services import Services, install
from web.settings import Settings
from web.standing import Standing

log = logging.getLogger(__name__)

BLUEPRINTS: tuple[Blueprint, ...] = (
    operations.blueprint,
    signin.blueprint,
    provider_sign_in.blueprint,
    meta.blueprint,
    enrollment.blueprint,
    delivery.blueprint,
    integrations.blueprint,
    certificates.blueprint,
    users.blueprint,
    api_tokens.blueprint,
    sessions.blueprint,
    account.blueprint,
    events.blueprint,
    audit.blueprint,
    resources.blueprint,
)

TIDY_S: float = 3600.0
"""How often what is no longer needed is deleted, in seconds."""


def create_app(settings: Settings) -> Quart:
    """The app, not yet connected to anything."""
    app = Quart(__name__)
    app.config.update(MAX_CONTENT_LENGTH=bodies.MAX_BODY, BODY_TIMEOUT=30, RESPONSE_TIMEOUT=60, PROPAGATE_EXCEPTIONS=False)
    # Whatever a template's name: text from a device never becomes markup. A name that is not there is a mistake, not an empty string.
    app.jinja_options = {"autoescape": True, "undefined": StrictUndefined}
    app.jinja_env.globals["csrf_token"] = csrf_token
    app.url_map.merge_slashes = False
    operations.count_requests(app)
    bodies.register(app)
    admission.register(app)
    headers.register(app)
    problems.register(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    pages.register(app)

    @app.while_serving
    async def live() -> AsyncGenerator[None, None]:
        async with _living(settings) as services:
            install(app, services)
            yield

    return app


@asynccontextmanager
async def _living(settings: Settings) -> AsyncGenerator[Services, None]:
    db = await Database.open(settings.database, application="fleetward-web", pool_size=settings.pool_size)
    hub = Hub(db, backlog=settings.stream_backlog, heartbeat_s=settings.heartbeat_s)
    authority = None if settings.secrets is None else Authority(settings.secrets)
    key, topics = session_key(settings.secrets), Topics(settings.topic_root)
    store = Writes(db, depositor=None if settings.secrets is None else Depositor(Slot(settings.secrets), key))
    readmission = None if authority is None else Readmission(db, store, authority, topics, settings.grace)
    services = Services(
        *(settings, db, store, hub, authority, readmission, key),
        gate=Gate(waiting_most=settings.requests_waiting),
        lenses=Lenses(db),
        shelf=Shelf(settings.wheels),
        standing=Standing(db, settings.session_idle, hub.wake, settings.stream_recheck_s),
        provider=None if settings.provider is None else ProviderClient(settings.provider),
    )
    numbers = Publisher(db, process_name("web", settings.replica), lambda: operations.look(services))
    parts: dict[str, Part] = {
        "hub": hub.run,
        "tidy": partial(_tidy, services.store),
        "metrics": numbers.run,
        "standing": services.standing.run,
    }
    tasks = [asyncio.create_task(keep(name, part), name=name) for name, part in parts.items()]
    try:
        yield services
    finally:
        hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await db.close()


async def _tidy(store: Writes) -> None:
    while True:
        try:
            await idempotency.forget(store, datetime.now(UTC))
        except Unavailable as error:
            log.warning("old idempotency keys stay for now", extra={"reason": error.detail})
        await asyncio.sleep(TIDY_S)


def session_key(directory: Path | None) -> bytes:
    """The installation's; without one, a key that lasts as long as the process."""
    file = None if directory is None else directory / "session.key"
    return file.read_bytes() if file is not None and file.exists() else secrets.token_bytes(32)
