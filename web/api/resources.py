"""Every kind's routes, made from the registry of kinds: a new kind needs nothing here.

A route reads the request exactly, asks the store, and answers with what it gives. What a body may hold, who owns which field and what
a reference means is the store's business.

Source: contract.md section 5; RFC 7396 (merge patch), RFC 9110 section 13 (preconditions).
"""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from quart import Blueprint, Response, request

from inventory import idempotency
from inventory.errors import BadRequest, Invalid, NotFound, Problem
from inventory.explain import explain
from inventory.filter import FilterError, compile_order
from inventory.idempotency import Answer, Claim
from inventory.kind import NAME, Kind
from inventory.kinds import KINDS
from inventory.listing import ListQuery
from inventory.resource import Resource
from inventory.view import View, read_one
from inventory.writer import Writer
from web import params
from web.api import issued
from web.api.answers import answer
from web.api.parameters import DELETE, HISTORY, LIST, WRITE
from web.bodies import PATCH_TYPES, read_object
from web.identity import current_actor, require, seen, view
from web.services import services

blueprint = Blueprint("resources", __name__, url_prefix="/api/v1")

Act = Callable[[Writer], Awaitable[str]]


@blueprint.before_request
async def _known_and_allowed() -> None:
    await require()


def _resource_answer(kind: Kind, resource: Resource, status: int = 200) -> Response:
    headers = {"ETag": f'"{resource["version"]}"'}
    if status == 201:
        headers["Location"] = f"/api/v1/{kind.collection}/{resource['id']}"
    return answer(resource, status, headers)


def _reference(kind: Kind, ref: str) -> str:
    """What can be no id and no name is not looked for."""
    if not re.fullmatch(NAME, ref):
        raise NotFound(f"there is no {kind.name} {ref[:64]!r}")
    return ref


def _query(taken: tuple[params.Parameter, ...]) -> params.Values:
    return params.parse(request.query_string, taken)


async def list_resources(kind: Kind) -> Response:
    query = ListQuery(**_query(LIST))
    unknown = [name for name in query.fields if name != "kind" and (name not in kind.by_name or kind.by_name[name].hidden)]
    if unknown:
        raise BadRequest(f"fields: a {kind.name} has no {', '.join(unknown)}", pointer="fields")
    try:
        page = await view().list(kind.name, query)
    except FilterError as error:
        raise _placed(kind, query, error) from error
    body = {"items": page.items, "next_page_token": page.next_page_token or None, "position": page.position}
    return answer(body if page.total is None else {**body, "total": page.total})


def _placed(kind: Kind, query: ListQuery, error: FilterError) -> BadRequest:
    """The error with the name of the parameter that it is in."""
    try:
        compile_order(kind, query.order_by)
    except FilterError:
        name = "order_by"
    else:
        name = "filter"
    placed = BadRequest(error.detail, pointer=name)
    placed.column = error.column
    return placed


async def get_resource(kind: Kind, ref: str) -> Response:
    _query(())
    return _resource_answer(kind, await view().get(kind.name, _reference(kind, ref)))


async def create_resource(kind: Kind) -> Response:
    """With an Idempotency-Key, the write and its answer are one; the secret that some kinds issue is never part of what is kept."""
    dry_run: bool = _query(WRITE)["dry_run"]
    key = params.idempotency_key(request.headers.get("Idempotency-Key"))
    body = await read_object()
    here, actor, now = services(), current_actor(), datetime.now(UTC)
    if dry_run:
        made = await here.store.create(kind.name, body, actor, dry_run=True, extra=issued.columns(kind, ""))
        return answer(made, 200, {"ETag": f'"{made["version"]}"'})
    if key is None:
        secret = issued.secret(kind, here.key, None, now)
        made = await here.store.create(kind.name, body, actor, extra=issued.columns(kind, secret))
        return _resource_answer(kind, made | issued.members(kind, secret), 201)
    claim = Claim.of(actor, key, f"POST {request.path}", body, now, secret=here.digest_key)
    extra = issued.columns(kind, issued.secret(kind, here.key, claim, now))
    done = await _once(kind, claim, lambda w: w.create(kind, body, actor, extra), 201)
    secret = issued.secret(kind, here.key, claim, done.at)
    return _resource_answer(kind, done.body | issued.members(kind, secret), done.status)


async def patch_resource(kind: Kind, ref: str) -> Response:
    dry_run: bool = _query(WRITE)["dry_run"]
    wanted = params.if_match(request.headers.get("If-Match"))
    patch = await read_object(PATCH_TYPES)
    made = await services().store.patch(kind.name, _reference(kind, ref), patch, current_actor(), if_match=wanted, dry_run=dry_run)
    return _resource_answer(kind, made)


async def delete_resource(kind: Kind, ref: str) -> Response:
    query = _query(DELETE)
    wanted = params.if_match(request.headers.get("If-Match"))
    left = await services().store.delete(kind.name, _reference(kind, ref), current_actor(), if_match=wanted, **query)
    return Response(status=204) if left is None else _resource_answer(kind, left, 202)


async def verb_resource(kind: Kind, ref: str, verb: str) -> Response:
    """`retry` is the one that there is; a kind says which it has."""
    dry_run: bool = _query(WRITE)["dry_run"]
    if verb not in kind.verbs:
        told = f"they have {', '.join(kind.verbs)}" if kind.verbs else "they have none"
        raise NotFound(f"{kind.collection} have no verb {verb[:64]!r}: {told}")
    wanted = params.if_match(request.headers.get("If-Match"))
    key = params.idempotency_key(request.headers.get("Idempotency-Key"))
    given = await read_object(may_be_empty=True)
    if given:
        raise Invalid(f"{verb} takes no members", errors=tuple(Problem(f"/{name}", "there is no such member") for name in given))
    reference, actor = _reference(kind, ref), current_actor()
    if key is None or dry_run:
        return _resource_answer(kind, await services().store.retry(kind.name, reference, actor, if_match=wanted, dry_run=dry_run))
    claim = Claim.of(actor, key, f"POST {request.path}", given, datetime.now(UTC))
    done = await _once(kind, claim, lambda w: w.retry(kind, reference, actor, wanted), 200)
    return _resource_answer(kind, done.body, done.status)


async def _once(kind: Kind, claim: Claim, act: Act, status: int) -> Answer:
    async def written(w: Writer) -> tuple[int, Any]:
        return status, await read_one(w.tx.raw, kind, await act(w))

    return await idempotency.once(services().store, claim, written)


async def explain_resource(kind: Kind, ref: str) -> Response:
    _query(())
    return answer(await explain(view(), kind.name, _reference(kind, ref)))


async def history_of_resource(kind: Kind, ref: str) -> Response:
    """Newest first. By its id, also of a resource that is gone."""
    query = _query(HISTORY)
    id = await _id_of(kind, _reference(kind, ref))
    found, older = await seen().history(id, before=query["before"], limit=query["limit"])
    items = [change.body() | {"before": change.before} for change in found if change.kind == kind.name]
    return answer({"items": items, "next": older})


async def _id_of(kind: Kind, ref: str) -> str:
    try:
        return str((await view().get(kind.name, ref))["id"])
    except NotFound:
        if ref.startswith(f"{kind.prefix}-") and await _is_gone(kind, ref) and (await seen().history(ref, limit=1))[0]:
            return ref
        raise


async def _is_gone(kind: Kind, id: str) -> bool:
    """What is there and outside of a scope is not gone."""
    return not await View(services().db).read_many(kind.name, [id])


def _serve(kind: Kind) -> None:
    """The routes of one kind."""

    def add(rule: str, method: str, view: Callable[..., Awaitable[Response]]) -> None:
        async def bound(**arguments: str) -> Response:
            return await view(kind, **arguments)

        name = f"{view.__name__}_{kind.collection}"
        blueprint.add_url_rule(f"/{kind.collection}{rule}", name, bound, methods=[method])

    add("", "GET", list_resources)
    add("", "POST", create_resource)
    add("/<ref>", "GET", get_resource)
    add("/<ref>", "PATCH", patch_resource)
    add("/<ref>", "DELETE", delete_resource)
    add("/<ref>:<verb>", "POST", verb_resource)
    add("/<ref>/explain", "GET", explain_resource)
    add("/<ref>/changes", "GET", history_of_resource)


for _kind in KINDS:
    _serve(_kind)
