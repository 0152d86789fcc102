"""`POST /api/v1/enroll`: a device hands in its token and gets its identity, or is told to wait. No sign-in: the token is what it has.
`POST /api/v1/renew`: one whose connection is refused gets another certificate; what it hands in is authenticated by itself.

Source: contract.md section 2 (anything but loopback must come over HTTPS).
"""

from quart import Blueprint, Response, request

from broker.topics import Topics
from inventory import enrollment, preregistration
from inventory.access import Action
from inventory.enrollment import Admitted, Waiting
from inventory.errors import Forbidden, Unavailable
from inventory.secret_files import AuthorityError
from web import params
from web.api.answers import answer
from web.api.parameters import WRITE
from web.bodies import read_object, read_text
from web.identity import current_actor, is_local, remote_address, require
from web.services import services

blueprint = Blueprint("enrollment", __name__, url_prefix="/api/v1")


@blueprint.post("/enroll")
async def enroll() -> Response:
    params.parse(request.query_string, ())
    here = services()
    if request.scheme != "https" and not is_local():
        raise Forbidden("a device that is not this machine enrolls over HTTPS: its token must not be overheard")
    if here.authority is None:
        raise Unavailable("this web process was given no secrets directory (FLEETWARD_SECRETS), so it can enroll nobody")
    body = await read_object()
    topics = Topics(here.settings.topic_root)
    outcome = await enrollment.redeem(
        here.db, here.store, here.authority, body, broker=here.settings.mqtt, address=remote_address(), topics=topics
    )
    match outcome:
        case Admitted(identity):
            return answer(identity)
        case Waiting(request=host, retry_after=seconds):
            return answer({"request": host, "retry_after": seconds}, 202, {"Retry-After": str(seconds)})


@blueprint.post("/renew")
async def renew() -> Response:
    """Also over plain HTTP: what is said is public, and signed on both sides."""
    params.parse(request.query_string, ())
    readmission = services().readmission
    if readmission is None:
        raise Unavailable("this web process was given no secrets directory (FLEETWARD_SECRETS), so it can make no certificate")
    body = await read_object()
    try:
        return answer(await readmission.answer(body))
    except AuthorityError as error:
        raise Unavailable(str(error)) from None


@blueprint.post("/hosts:preregister")
async def preregister() -> Response:
    """A sheet of machines that are to come (CSV). Handed in again, it changes nothing, so it needs no idempotency key."""
    await require(Action.WRITE)
    dry_run: bool = params.parse(request.query_string, WRITE)["dry_run"]
    lines = preregistration.read(await read_text(("text/csv",)))
    return answer((await preregistration.write(services().store, lines, current_actor(), dry_run=dry_run)).body())
