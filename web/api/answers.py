"""How a successful answer of the API looks: compact JSON."""

from typing import Any

from quart import Response

from web import json


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.encode(body), status, headers=headers, content_type="application/json")
