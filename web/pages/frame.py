"""What every page shares: who is signed in, the frame around the content, filters of the templates, and errors as pages.

A page is `await page("x.html", "Title", …)` after `await person()`. Strangers are sent to sign in, and come back. `position` is taken
before anything is read, so that the stream that the page opens misses nothing that happened since.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from quart import Quart, Response, redirect, render_template, request
from quart.typing import ResponseReturnValue

from inventory import overview
from inventory.access import Action, allowed
from inventory.errors import InventoryError, Unavailable
from web import json
from web.identity import Identity, identify, require, view
from web.pages import formats, story
from web.pages.assets import asset
from web.problems import Body, PasswordToBeChanged
from web.services import services
from web.signin import CHANGE_PASSWORD

THEMES = ("system", "light", "dark")
DENSITIES = ("compact", "roomy")

SAID = {
    "approved": "Approved. Its configs follow as soon as the device is online.",
    "let-in": "Approved. It gets its identity when it asks the next time, within a minute.",
    "turned-away": "Refused. Its key is refused from now on.",
    "refused": "No longer trusted: it gets no more commands.",
    "moved": "Moved. What depends on the place is looked at again.",
    "labelled": "Labels saved.",
    "renamed": "Saved.",
    "retried": "Trying again.",
    "saved": "Saved.",
    "created": "Created.",
    "deleted": "Deleted.",
    "deleting": "Being deleted: it goes when the devices have confirmed.",
    "read": "Marked as read.",
    "password": "Password changed. Everywhere else you are signed out.",
    "second-factor-removed": "No second factor any more.",
    "signed-out": "Signed out there.",
    "disabled": "Disabled, and signed out.",
    "enabled": "Enabled.",
    "revoked": "Revoked. It is good for nothing now.",
    "taken-back": "Taken back. What is connected with it is cut within five seconds.",
    "certificate-replaced": "Saved. Its certificate was replaced: fleetward integration renew fetches the new one.",
}
"""What a page says after something was done, by the word in its URL. Texts of the URL itself are never shown."""


async def person(action: Action | None = None) -> Identity:
    """Who is looking, with the right to. Raises Unauthenticated, which sends a browser to sign in and come back; Forbidden (403)."""
    return await require(action)


async def page(template: str, title: str, *, status: int = 200, **more: Any) -> Response:
    """A page for somebody who is known."""
    identity = await identify()
    assert identity is not None, "pages call person() first"
    hub = services().hub
    frame = {
        "identity": identity,
        "may_write": allowed(identity.role, Action.WRITE),
        "may_write_all": allowed(identity.role, Action.WRITE) and not identity.account.scope,
        "unread": await overview.unread(view()),
        "position": hub.position if hub.following.is_set() else "",
        "said": SAID.get(request.args.get("said", "")),
    }
    return await bare(template, title, status=status, **(frame | more))


async def bare(template: str, title: str, *, status: int = 200, **more: Any) -> Response:
    """A page without the frame's data, for strangers and for errors."""
    shown = {"title": title, "theme": _preferred("theme", THEMES), "density": _preferred("density", DENSITIES), "path": request.path}
    text = await render_template(template, **(shown | more))
    return Response(text, status, content_type="text/html; charset=utf-8")


def _preferred(name: str, choices: tuple[str, ...]) -> str:
    found = request.cookies.get(name, "")
    return found if found in choices else choices[0]


async def fields() -> dict[str, str]:
    """Of the form that was sent, without its files; of one that came more than once, the first."""
    return {name: str(value) for name, value in (await request.form).items()}


def done(path: str, said: str, **query: str) -> Response:
    """Back to a page that says what was done (post, redirect, get)."""
    return Response(status=303, headers={"Location": f"{path}?{urlencode({**query, 'said': said})}"})


def register(app: Quart) -> None:
    """Give the templates their filters and globals, and the app its error pages."""
    environment = app.jinja_env
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(formats.FILTERS)
    environment.filters.update(story.FILTERS)
    environment.globals.update(asset=asset, now=lambda: datetime.now(UTC), query=query)
    environment.filters["json"] = lambda value: formats.told(json.encode(value).decode())
    app.extensions["fleetward_html_problem"] = problem


def query(**changes: Any) -> str:
    """The current page's query string with some members changed; None takes one away. `said` never stays."""
    members: dict[str, Any] = {name: request.args.getlist(name) for name in request.args if name != "said"}
    members.update(changes)
    pairs = [(name, each) for name, value in members.items() for each in (value if isinstance(value, list) else [value])]
    return "?" + urlencode([(name, str(value)) for name, value in pairs if value not in (None, "")])


def _page_of_form() -> str:
    """Where a form was sent from, as a path of this site; `/` where the browser doesn't say."""
    parts = urlsplit(request.headers.get("Referer", ""))
    return urlunsplit(("", "", parts.path, parts.query, "")) if parts.netloc == request.host and parts.path.startswith("/") else "/"


NEXT = {
    401: "Sign in again.",
    403: "Ask an administrator for a role that may do this, or reload the page if you were signed out in another tab.",
    404: "Look for it in the list, or press Ctrl-K and type a part of its name.",
    409: "Read what stands in the way, change that, and try again.",
    412: "Somebody else saved in between. Reload to see their version.",
    429: "Wait a little, then try again.",
    503: "On the server, “fleetward doctor” says what is wrong; this page works again when the database is back.",
}


async def problem(body: Body) -> ResponseReturnValue:
    """An error as a page, with what to do next. Without the frame: it may be the database that is away."""
    try:
        identity = await identify()
    except InventoryError:
        identity = None
    if body["status"] == 401 or (identity is None and body["status"] not in (404, 503)):
        wanted = request.full_path.rstrip("?") if request.method == "GET" else _page_of_form()
        return redirect("/login?" + urlencode({"next": wanted}), 303)
    if body["title"] == PasswordToBeChanged.title:
        return redirect(f"{CHANGE_PASSWORD}?" + urlencode({"next": _page_of_form() if request.method != "GET" else request.path}), 303)
    more = {"problem": body, "next_step": NEXT.get(body["status"], "The server's log says more."), "identity": identity}
    try:
        unread = await overview.unread(view()) if identity is not None else 0
    except Unavailable:
        unread = 0
    frame = {"may_write": False, "may_write_all": False, "unread": unread, "position": "", "said": None}
    return await bare("problem.html", str(body["title"]), status=body["status"], **more, **frame)
