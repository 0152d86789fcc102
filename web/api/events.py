"""The change log over HTTP: pages of it (`/events`) and, live, as server-sent events (`/events/stream`).

An event's id is its position. A heartbeat carries the position too, so that a reader whose filter lets nothing through does not fall
below the floor of the log. Positions ahead of the log are as unusable as ones below its floor: both are answered with Gone, and the reader
lists again.

Source: contract.md section 5; WHATWG HTML section 9.2 (server-sent events).
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from itertools import pairwise

from quart import Blueprint, Response, request

from inventory import changes
from inventory.changes import Change, Slice
from inventory.errors import BadRequest, Gone, TooManyRequests, Unavailable
from inventory.kinds.host import HOST
from inventory.seen import Asked
from web import params
from web.api.answers import answer
from web.api.parameters import EVENTS, STREAM
from web.hub import PUBLISHED, Changes, Cut, Entry, Hub, Quiet, Wanted
from web.identity import credential, held, remote_address, require, seen
from web.scoped_streams import Lens
from web.services import services
from web.standing import Held, Standing

blueprint = Blueprint("events", __name__, url_prefix="/api/v1/events")

STREAMS_OF_CLIENT = 1000
"""Open at once of one client: a page has one, and a proxy may serve a whole office."""
STREAMS = 5000
"""Open at once in this process; each costs some 30 KiB and a descriptor."""
RETRY_AFTER_S = 10
RECONNECT_MS = 2000
"""How long a browser waits before it comes back after its stream has ended."""


@blueprint.before_request
async def _known_and_allowed() -> None:
    await require()


def _wanted(query: params.Values) -> Wanted:
    kinds: list[str] = query["kind"]
    for kind in kinds:
        if kind not in PUBLISHED:
            raise BadRequest(f"kind: there are no events of {kind[:64]!r}; there are of {', '.join(sorted(PUBLISHED))}", pointer="kind")
    return Wanted(frozenset(kinds), frozenset(query["id"]))


@blueprint.get("")
async def list_events() -> Response:
    query = params.parse(request.query_string, EVENTS)
    wanted = _wanted(query)
    if query["after"] is None:
        newest = await seen().newest(query["limit"], _asked(wanted))
        found = Slice(newest.changes, newest.position)
    else:
        await _check_position(query["after"])
        found = await seen().read(query["after"], query["limit"], _asked(wanted))
    return answer({"items": [change.body() for change in found.changes], "next": found.next})


def _asked(wanted: Wanted) -> Asked:
    return Asked(wanted.kinds or PUBLISHED, wanted.ids or None)


async def _check_position(after: int) -> None:
    """Raises Gone where nothing can be read from there on."""
    now = await changes.position(services().db)
    if after > now:
        raise Gone(f"position {after} is ahead of {now}, where the change log ends: list again and watch from the list's position")
    await changes.read(services().db, after, limit=1)


@blueprint.get("/stream")
async def stream_events() -> Response:
    query = params.parse(request.query_string, STREAM)
    wanted = _wanted(query)
    last = params.event_id(request.headers.get("Last-Event-ID"))
    # What a browser has seen since it connected counts more than the position in the page's URL.
    after: int | None = query["after"] if last is None else last
    if after is None:
        after = await changes.position(services().db)
    else:
        await _check_position(after)
    here = services()
    client = here.recognised.client(credential(), remote_address())
    if here.following[client] >= STREAMS_OF_CLIENT:
        raise TooManyRequests(f"{STREAMS_OF_CLIENT} streams of yours are open: close some", retry_after=RETRY_AFTER_S)
    if here.following.total() >= STREAMS:
        raise Unavailable("more streams are open than this process serves: come back in a moment")
    stream = counted(here.following, client, standing(here.standing, held(), here.hub, after, wanted, here.lenses.of(held().scope)))
    # HEAD gets the headers and no body, which would never end.
    response = Response(b"" if request.method == "HEAD" else stream, content_type="text/event-stream; charset=utf-8")
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None
    return response


async def counted(open_: Counter[Hashable], client: Hashable, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream, counted for its client as long as it is read."""
    open_[client] += 1
    try:
        async for frame in stream:
            yield frame
    finally:
        open_[client] -= 1
        if not open_[client]:
            del open_[client]


async def standing(all_: Standing, held: Held, hub: Hub, after: int, wanted: Wanted, lens: Lens | None) -> AsyncIterator[bytes]:
    """The stream, for as long as its reader may read."""
    with all_.hold(held) as over:
        async for frame in frames(hub, after, wanted, lens, over):
            yield frame


async def frames(
    hub: Hub, after: int, wanted: Wanted, lens: Lens | None = None, over: Callable[[], bool] = lambda: False
) -> AsyncIterator[bytes]:
    """The stream's bytes, until the reader goes or may no longer read, the process ends, or the reader has to begin anew. lens: the scope
    of the reader; None: everything."""
    yield b": connected\nretry: %d\nid: %d\n\n" % (RECONNECT_MS, after)
    # Within a scope a host's move moves what hangs on it, so that hosts have to be followed whatever is wanted.
    behind = wanted if lens is None else Wanted(wanted.kinds and wanted.kinds | {HOST.name})
    try:
        async for news in hub.follow(after=after, wanted=behind, over=over):
            match news:
                case Changes(entries, _) if lens is not None:
                    told = [change for change in await lens.of([entry.change for entry in entries]) if wanted.takes(change)]
                    if told:
                        yield scoped_frames(told)
                case Changes(entries, _):
                    if entries:
                        yield b"".join(entry.frame for entry in entries)
                case Quiet(position):
                    yield b": heartbeat\nid: %d\n\n" % position
                case Cut():
                    yield b'event: cut\ndata: {"detail": "read too slowly; come back with the last id"}\n\n'
    except Gone:
        yield b'event: gone\ndata: {"detail": "the change log no longer reaches back that far; list again"}\n\n'
    except Unavailable:
        # The stream ends; the reader comes back by itself, with its last id.
        return


def scoped_frames(told: Sequence[Change]) -> bytes:
    """What one change has become for a scope shares its position: only the last of it says so, or a reader who comes back with the id of
    the first would be told no more of the rest."""
    positions = [change.position for change in told]
    return b"".join(
        Entry.of(change).frame if last else Entry.without_id(change)
        for change, last in zip(told, [*(here != after for here, after in pairwise(positions)), True], strict=True)
    )
