"""`GET /install.sh`, and the wheels that it installs, for whoever asks: nothing of it is secret.

A device knows no CA yet when it fetches the script, so the command that people copy pins the server's key, and the script the CA.
"""

from urllib.parse import quote

from markupsafe import escape
from quart import Blueprint, Response, request

from inventory.errors import BadRequest, NotFound, Unavailable
from web import params
from web.delivery.script import Server, is_server, render
from web.delivery.wheels import NotPackable, Wheel
from web.services import services

blueprint = Blueprint("delivery", __name__)

INDEX = "/install/wheels/"


@blueprint.get("/install.sh")
async def script() -> Response:
    params.parse(request.query_string, ())
    return Response(render(here(), await wheels()), content_type="text/x-shellscript; charset=utf-8")


@blueprint.get(INDEX)
async def index() -> Response:
    """What `pip --find-links` reads: a link a wheel, with its hash."""
    links = "".join(f'<a href="{quote(each.name)}#sha256={each.sha256}">{escape(each.name)}</a><br>\n' for each in await wheels())
    page = f"<!DOCTYPE html>\n<html lang=en><title>Wheels of the Fleetward agent</title>\n{links}</html>\n"
    return Response(page, content_type="text/html; charset=utf-8")


@blueprint.get(INDEX + "<name>")
async def wheel(name: str) -> Response:
    found = next((each for each in await wheels() if each.name == name), None)
    if found is None:
        raise NotFound(f"there is no wheel {name[:128]!r}; {INDEX} lists them")
    answer = Response(found.content, content_type="application/zip", headers={"ETag": f'"{found.sha256}"'})
    answer.timeout = None  # five megabytes over a cellular modem take their time; a peer that takes nothing is dropped by its socket
    return answer


def here() -> Server:
    """This server as the one who asks reaches it. Raises BadRequest for a Host header that is none."""
    url, authority = request.host_url.rstrip("/"), services().authority
    if not is_server(url):
        raise BadRequest("Host: must be a name or an address, with a port", pointer="Host")
    return Server(url) if authority is None else Server(url, authority.ca_pem, authority.ca_fingerprint)


async def wheels() -> tuple[Wheel, ...]:
    """Raises Unavailable."""
    try:
        return await services().shelf.all()
    except NotPackable as error:
        raise Unavailable(f"the agent can't be handed out: {error}") from None
