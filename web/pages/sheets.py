"""Hosts as CSV, for a spreadsheet: all that a view holds, read page by page while it is sent. The hosts page calls it; pure but for the
reads that it is given.

Source: RFC 4180; OWASP, CSV Injection.
"""

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from inventory.resource import Resource
from inventory.store import Page
from web.pages.labels import written_labels

ROWS_AT_ONCE: int = 500
"""Hosts read, and sent, at once."""

OWN = (
    *("id", "name", "title", "presence", "desired_state", "current_state", "site", "primary_ip", "primary_mac", "vendor", "product"),
    *("serial", "arch", "cpu_cores", "memory_bytes", "disk_bytes", "os_name", "os_version", "kernel", "agent_version"),
    *("last_seen", "pending"),
)
"""Columns by the fields they show; effective labels come last."""

Next = Callable[[str], Awaitable[Page]]
"""The page of a token."""
Names = Callable[[list[Resource]], Awaitable[Mapping[str, str]]]
"""The names of the sites of these hosts, by id."""


async def lines(first: Page, more: Next, names: Names) -> AsyncIterator[bytes]:
    """The heading and all hosts. A read that fails ends the answer in the middle, which a browser shows as a failed download."""
    yield _written([[*OWN, "labels"]])
    page = first
    while True:
        sites = await names(page.items)
        yield _written([row(host, sites) for host in page.items])
        if not page.next_page_token:
            return
        page = await more(page.next_page_token)


def row(host: Resource, sites: Mapping[str, str]) -> list[str]:
    members: dict[str, Any] = {**{name: host[name] for name in OWN}, "site": sites.get(host["site"], host["site"])}
    labels = written_labels(host["effective_labels"] or {}).replace("\n", "; ")
    return [harmless("" if value is None else str(value)) for value in (*members.values(), labels)]


_FORMULA = re.compile(r"(^|[;\t\r\n])(?=[ \"']*[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?=[\t\r\n])")
"""Where one begins: at the cell's beginning, and behind what separates cells where the file is opened with other settings. The wide forms
of the signs count too, and blanks that a spreadsheet takes away."""


def harmless(text: str) -> str:
    """Devices choose some of these texts: what a spreadsheet would take for a formula gets an apostrophe in front."""
    return _FORMULA.sub(lambda found: f"{found[0]}'", text)


def _written(rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()
