"""The typed Python client of the REST API: what the CLI is built on, and what other programs may import.

    with Client("http://127.0.0.1:8080", token="...") as fleet:
        for host in fleet.resources("hosts", filter='presence = "online"'):
            print(host["name"])

Resources are the API's JSON objects, unchanged. Anything but success is raised: an answer as `ApiError` (RFC 9457 problem details), no
answer as `Unreachable`. Synchronous; one client serves one thread. It retries nothing by itself, but POSTs carry an Idempotency-Key, so
that the caller may.

Source: contract.md section 5.
"""

import json
import ssl
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from fleetward import __version__

Json = dict[str, Any]
Resource = Json
"""A resource as the API shows it: `id`, `kind`, `name`, `version`, `desired_state`, `status`, … (contract.md section 4)."""

TIMEOUT_SECONDS = 30.0
PAGE_SIZE = 1000
"""What one request of a list asks for: the API's largest."""
MERGE_PATCH = "application/merge-patch+json"


class ClientError(Exception):
    """The request came to nothing; the text is fit for a person."""


class Unreachable(ClientError):
    """No answer: wrong address, server down, certificate not trusted."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong member of a request: a JSON pointer (RFC 6901), and what is wrong with it."""

    pointer: str
    detail: str

    @property
    def text(self) -> str:
        """Both; of a query parameter, whose detail begins with its name, that alone."""
        return self.detail if self.detail.startswith(f"{self.pointer}: ") else f"{self.pointer}: {self.detail}"


class ApiError(ClientError):
    """The server refused. `status` is HTTP's, `title` and `detail` the problem's, `errors` name the members."""

    def __init__(self, status: int, title: str, detail: str, errors: Sequence[FieldError] = (), retry_after: float | None = None) -> None:
        super().__init__("; ".join(one.text for one in errors if one.pointer) or detail or title)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after = retry_after


class NotFound(ApiError):
    """404, or 410: there is no such resource, or no longer."""


class Conflict(ApiError):
    """409 (in use, name taken, transition not allowed) or 412 (changed meanwhile)."""


class Denied(ApiError):
    """401 or 403: no valid token, or one that may not."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; `position` is where a watch goes on from without a hole."""

    items: list[Resource]
    next_page_token: str | None
    position: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """A change as published: `op` is created, updated or deleted; `resource` is as after it (before it, when deleted)."""

    position: int
    kind: str
    id: str
    op: str
    resource: Resource
    body: Json

    @property
    def what(self) -> str:
        """`op`, or how it looks within a scope: `entered` or `left` of what was neither created nor deleted."""
        return str(self.body.get("scope") or self.op)

    @property
    def changed(self) -> list[str]:
        """The paths that changed."""
        return [str(path) for path in self.body.get("changed") or ()]

    @property
    def actor(self) -> str:
        """Who did it, by name; a manager, whose name is its kind's, as one."""
        actor = self.body.get("actor")
        if not isinstance(actor, dict):
            return str(actor or "")
        name = str(actor.get("name", ""))
        return f"{name} manager" if actor.get("type") == "manager" else name


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the server describes it: what tables and names derive from."""

    kind: str
    collection: str
    prefix: str
    nature: str
    doc: str
    columns: tuple[str, ...]
    wide_columns: tuple[str, ...]
    fields: tuple[Json, ...]


class Client:
    """`ca` is a file of certificates to trust instead of the system's, for an installation's own CA."""

    def __init__(self, server: str, token: str | None = None, *, ca: Path | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        headers = {"User-Agent": f"fleetward/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.server = server.rstrip("/")
        # The system's certificates take a while to read: not for plain HTTP, which redirects nowhere either.
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else server.startswith("https:")
        # trust_env: a proxy meant for the internet must not get between this and a server on the local network.
        self._http = httpx.Client(base_url=self.server, headers=headers, timeout=timeout, verify=verify, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- resources ------------------------------------------------------------------------------------------------------------

    def page(self, collection: str, **query: str | int | bool | None) -> Page:
        """One page; `query` is `filter`, `order_by`, `page_size`, `page_token`, `fields`, `count`."""
        body = self._json("GET", f"/api/v1/{collection}", params=_given(query))
        return Page(body["items"], body.get("next_page_token") or None, int(body["position"]), body.get("total"))

    def resources(self, collection: str, *, filter: str | None = None, order_by: str | None = None) -> Iterator[Resource]:
        """All resources that match, fetched page by page as they are asked for."""
        token: str | None = None
        while True:
            page = self.page(collection, filter=filter, order_by=order_by, page_size=PAGE_SIZE, page_token=token)
            yield from page.items
            token = page.next_page_token
            if token is None:
                return

    def items(self, collection: str, **query: str | None) -> list[Resource]:
        """All of a collection that is no kind's (users, API tokens, integrations, certificates, …), page by page where it has pages."""
        found: list[Resource] = []
        token: str | None = None
        while True:
            more = {} if token is None else {"page_token": token}
            body = self._json("GET", f"/api/v1/{collection}", params=_given(query) | more)
            found += body["items"]
            token = body.get("next_page_token") or None
            if token is None:
                return found

    def get(self, collection: str, name: str) -> Resource:
        return self._json("GET", _path(collection, name))

    def create(self, collection: str, body: Json, *, dry_run: bool = False, idempotency_key: str | None = None) -> Resource:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._json("POST", f"/api/v1/{collection}", json=body, params=_dry(dry_run), headers=headers)

    def patch(self, collection: str, name: str, patch: Json, *, version: int | None = None, dry_run: bool = False) -> Resource:
        """RFC 7396. With `version`, only if it is still that one (Conflict otherwise)."""
        headers = {"Content-Type": MERGE_PATCH} | _if_match(version)
        return self._json("PATCH", _path(collection, name), content=json.dumps(patch), params=_dry(dry_run), headers=headers)

    def delete(
        self, collection: str, name: str, *, version: int | None = None, force: bool = False, dry_run: bool = False
    ) -> Resource | None:
        """None when it is gone; the resource, with `deleted_at` set, while its deletion waits for the device."""
        params = _dry(dry_run) | ({"force": "true"} if force else {})
        answer = self._send("DELETE", _path(collection, name), params=params, headers=_if_match(version))
        return _object(answer) if answer.content else None

    def verb(self, collection: str, name: str, verb: str, body: Json | None = None) -> Resource:
        """`POST .../{name}:{verb}`, such as retry."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._json("POST", f"{_path(collection, name)}:{verb}", json=body or {}, headers=headers)

    def preregister(self, sheet: str, *, dry_run: bool = False) -> Json:
        """Hosts for the machines of a CSV sheet: `created`, `known` and `notes`, by line."""
        headers = {"Content-Type": "text/csv; charset=utf-8"}
        return self._json("POST", "/api/v1/hosts:preregister", content=sheet.encode(), params=_dry(dry_run), headers=headers)

    def explain(self, collection: str, name: str) -> Json:
        """`summary`, and the `causes` of why it is not as asked."""
        return self._json("GET", f"{_path(collection, name)}/explain")

    def changes(self, collection: str, name: str) -> list[Event]:
        """The history of one resource, oldest first."""
        return [_event(item) for item in self._json("GET", f"{_path(collection, name)}/changes")["items"]]

    # --- changes --------------------------------------------------------------------------------------------------------------

    def events(self, *, after: int | None = None, kinds: Sequence[str] = (), ids: Sequence[str] = ()) -> tuple[list[Event], int]:
        """What changed after a position, and the position to ask from next. Raises NotFound (410) below the log's floor."""
        body = self._json("GET", "/api/v1/events", params=_watch_query(after, kinds, ids))
        return [_event(item) for item in body["items"]], int(body["next"])

    def stream(self, *, after: int | None = None, kinds: Sequence[str] = (), ids: Sequence[str] = ()) -> Iterator[Event]:
        """Changes as they happen, from now or from after a position; ends when the server ends it. Raises NotFound when the server
        says `gone`: list again then."""
        query = _watch_query(after, kinds, ids)
        quiet = httpx.Timeout(TIMEOUT_SECONDS, read=90.0)
        try:
            with self._http.stream(
                "GET", "/api/v1/events/stream", params=query, timeout=quiet, headers={"Accept": "text/event-stream"}
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise _refusal(answer)
                for name, data in _sse(answer.iter_lines()):
                    if name == "gone":
                        raise NotFound(410, "Gone", "the change log no longer reaches back that far: list again")
                    if name == "change":
                        yield _event(json.loads(data))
        except httpx.HTTPError as error:
            raise Unreachable(f"the stream from {self.server} broke off: {_said(error)}") from error

    # --- audit ----------------------------------------------------------------------------------------------------------------

    def audit_head(self) -> Json:
        """The signed head of the change log. Raises NotFound before the first one."""
        return self._json("GET", "/api/v1/audit/head")

    def lines(self, path: str, query: Sequence[tuple[str, str]]) -> Iterator[str]:
        """The lines of an answer as they come, however many. Raises Unreachable where it breaks off."""
        quiet = httpx.Timeout(TIMEOUT_SECONDS, read=90.0)
        try:
            with self._http.stream("GET", path, params=tuple(query), timeout=quiet) as answer:
                if answer.is_error:
                    answer.read()
                    raise _refusal(answer)
                yield from answer.iter_lines()
        except httpx.HTTPError as error:
            raise Unreachable(f"the answer from {self.server} broke off: {_said(error)}") from error

    # --- the rest -------------------------------------------------------------------------------------------------------------

    def kinds(self) -> list[Kind]:
        body = self._send("GET", "/api/v1/kinds").json()
        return [_kind(one) for one in (body["items"] if isinstance(body, dict) else body)]

    def whoami(self) -> Json:
        return self._json("GET", "/api/v1/whoami")

    def ready(self) -> bool:
        """Whether the server says that it can serve; False also where nothing answers."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def readiness(self) -> tuple[dict[str, str], datetime | None]:
        """What the server says of each of its parts (`ok`, or what is wrong), and what time it is there. Raises Unreachable."""
        try:
            answer = self._http.get("/readyz", timeout=5.0)
            checks = answer.json()["checks"]
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.server} does not answer: {_said(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable(f"{self.server} is no Fleetward: /readyz does not answer as one") from error
        return {str(name): str(words) for name, words in checks.items()}, _date(answer)

    def metrics(self) -> str:
        """The Prometheus text of the whole installation."""
        return self._send("GET", "/metrics").text

    def _json(self, method: str, path: str, **request: Any) -> Json:
        return _object(self._send(method, path, **request))

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.server} does not answer: {_said(error)}") from error
        if answer.is_error:
            raise _refusal(answer)
        return answer


def _date(answer: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return None


def _said(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _path(collection: str, name: str) -> str:
    return f"/api/v1/{collection}/{quote(name, safe='')}"


def _given(query: Mapping[str, str | int | bool | None]) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items() if value is not None}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dry_run": "true"} if dry_run else {}


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _watch_query(after: int | None, kinds: Sequence[str], ids: Sequence[str]) -> tuple[tuple[str, str], ...]:
    position = [] if after is None else [("after", str(after))]
    return (*position, *(("kind", kind) for kind in kinds), *(("id", one) for one in ids))


def _object(answer: httpx.Response) -> Json:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Unreachable(f"{answer.request.url} does not answer like Fleetward's API: is that its address?")
    return body


def _refusal(answer: httpx.Response) -> ApiError:
    """The exception for a problem document, or for whatever else came with an error status."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    problem = body if isinstance(body, dict) else {}
    title = str(problem.get("title") or answer.reason_phrase)
    where = f" (column {column})" if (column := problem.get("column")) else ""
    errors = [FieldError(str(one.get("pointer", "")), f"{one.get('detail', '')}{where}") for one in problem.get("errors") or []]
    after = answer.headers.get("Retry-After", "")
    return _exception_for(answer.status_code)(
        answer.status_code, title, str(problem.get("detail") or title), errors, float(after) if after.isdigit() else None
    )


def _exception_for(status: int) -> type[ApiError]:
    match status:
        case 401 | 403:
            return Denied
        case 404 | 410:
            return NotFound
        case 409 | 412:
            return Conflict
        case _:
            return ApiError


def _event(body: Json) -> Event:
    return Event(int(body["position"]), body["kind"], body["id"], body["op"], body.get("resource") or {}, body)


def _kind(body: Json) -> Kind:
    texts = {name: str(body.get(name) or "") for name in ("kind", "collection", "prefix", "nature", "doc")}
    columns, wide = (tuple(_column_name(one) for one in body.get(name) or ()) for name in ("columns", "wide_columns"))
    return Kind(**texts, columns=columns, wide_columns=wide, fields=tuple(body.get("fields") or ()))


def _column_name(column: Any) -> str:
    return str(column["name"]) if isinstance(column, dict) else str(column)


def _sse(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """(event, data) of each event in a stream (WHATWG HTML, section 9.2.6)."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
