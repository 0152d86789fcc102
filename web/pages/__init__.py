"""The dashboard's pages, rendered on the server. Blueprints by screen; `register` gives the app what all of them share.

Pages ask the store and the inventory's reads in this process; none calls the HTTP API. Whatever a person sees is in the URL, so that it
can be sent on, reloaded, and fetched again by `static/js/live.js` when a change comes in.
"""

from quart import Blueprint, Quart

from web.pages import (
    access,
    account,
    assets,
    audit,
    configs,
    enroll,
    entry,
    events,
    find,
    frame,
    host,
    hosts,
    inbox,
    overview,
    places,
    programs,
    tables,
)

PAGES: tuple[Blueprint, ...] = (
    assets.blueprint,
    entry.blueprint,
    overview.blueprint,
    hosts.blueprint,
    host.blueprint,
    configs.blueprint,
    places.blueprint,
    events.blueprint,
    audit.blueprint,
    inbox.blueprint,
    enroll.blueprint,
    access.blueprint,
    programs.blueprint,
    account.blueprint,
    find.blueprint,
    tables.blueprint,
)


def register(app: Quart) -> None:
    """Add the pages to the app, and errors as pages for those who ask for one."""
    frame.register(app)
    for blueprint in PAGES:
        app.register_blueprint(blueprint)
