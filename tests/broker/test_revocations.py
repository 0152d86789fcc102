"""The list of revoked certificates as it travels and is kept: in parts, whole or not at all, the newest alone."""

import itertools
import json
from pathlib import Path

import pytest

from broker import revocations
from broker.messages import MAX_BYTES
from broker.revocations import Follower, NotAList, RevocationList, Revoked, parts_of, plain_serial, read_list

LIST = RevocationList(7, (Revoked("a1", "host-a"), Revoked("b2", "erp")), "-----BEGIN X509 CRL-----\n…\n")


class Acts:
    """What a follower handed over, in order."""

    def __init__(self, file: Path) -> None:
        self.lists: list[tuple[RevocationList, RevocationList]] = []
        self.follower = Follower(file, lambda now, before: self.lists.append((now, before)))

    def take(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.follower.take(payload)


@pytest.fixture
def acts(tmp_path: Path) -> Acts:
    return Acts(tmp_path / "data" / "revoked.json")


def test_a_list_survives_its_text() -> None:
    """Number, certificates and CRL."""
    assert read_list(LIST.text()) == LIST
    assert LIST.serials == {"a1", "b2"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"number": 1, "revoked": [["a"]], "crl": ""}', '{"number": "1", "revoked": [], "crl": ""}']
)
def test_what_is_no_list_is_refused(text: str) -> None:
    """With NotAList, never half taken."""
    with pytest.raises(NotAList):
        read_list(text)


def test_a_large_list_travels_in_parts_that_fit(acts: Acts) -> None:
    """20,000 certificates: every message below the wire's bound, even with quotes that double; put together they are the list."""
    large = RevocationList(3, tuple(Revoked(f"{n:040x}", 'host-"-quoted') for n in range(20_000)), "x" * 300_000)
    parts = list(parts_of(large))
    assert len(parts) > 10 and max(len(part) for part in parts) <= MAX_BYTES
    acts.take(*reversed(parts))
    assert acts.lists == [(large, RevocationList())]


def test_parts_that_come_twice_or_of_two_lists_make_no_third(acts: Acts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubled parts change nothing; one of another list begins that one anew; an older list is not gone back to."""
    monkeypatch.setattr(revocations, "PART", 40)
    old, new = list(parts_of(LIST)), list(parts_of(RevocationList(8)))
    acts.take(old[0], *new[:1], *old, *old, *new, *old)
    assert [now.number for now, _ in acts.lists] == [7, 8]


def test_garbage_changes_nothing(acts: Acts) -> None:
    """Nor raises: it comes from the wire."""
    body = {"number": 9, "part": 0, "parts": 1, "text": LIST.text()}
    bad: list[bytes] = [b"", b"{", b"[" * 100_000, b"\xff", json.dumps(body | {"text": "{}"}).encode()]
    bad += [json.dumps(body | change).encode() for change in ({"part": 1}, {"part": -1}, {"parts": 10**9}, {"number": None}, {"text": 1})]
    acts.take(*bad)
    assert acts.lists == []
    acts.take(json.dumps(body).encode())
    assert [now.number for now, _ in acts.lists] == [7]


def test_a_broker_that_starts_again_knows_what_it_knew(acts: Acts, tmp_path: Path) -> None:
    """The last list is kept in a file, and one that is damaged counts as none, and is written anew by the next list."""
    acts.take(*parts_of(LIST))
    file = tmp_path / "data" / "revoked.json"
    again = Acts(file)
    assert again.follower.restore() == LIST
    again.take(*parts_of(LIST))
    assert again.lists == [], "it is known already"
    file.write_text(file.read_text()[:-5])
    damaged = Acts(file)
    assert damaged.follower.restore() == RevocationList()
    damaged.take(*parts_of(LIST))
    assert Acts(file).follower.restore() == LIST


def test_a_directory_that_can_not_be_written_keeps_nobody_in(tmp_path: Path) -> None:
    """The list is acted on all the same; that it is not kept is in the log."""
    (tmp_path / "file").write_text("")
    acts = Acts(tmp_path / "file" / "revoked.json")
    acts.take(*parts_of(LIST))
    assert [now for now, _ in acts.lists] == [LIST]


def test_who_is_new_on_a_list() -> None:
    """By certificate, each owner once: somebody with a second revoked certificate is cut again."""
    now = RevocationList(8, (*LIST.revoked, Revoked("c3", "host-a"), Revoked("d4", "host-c"), Revoked("e5", "host-c")))
    assert now.names_since(LIST) == ["host-a", "host-c"]
    assert LIST.names_since(now) == []


def test_serial_numbers_are_compared_as_numbers() -> None:
    """Python writes them with leading zeros and in capitals, OpenSSL and we don't."""
    assert [plain_serial(text) for text in ("0A1B", "a1b", "000a1b")] == ["a1b"] * 3
    for one, other in itertools.pairwise(["0", "1", "10"]):
        assert plain_serial(one) != plain_serial(other)
