"""Which passwords are taken, and how they are compared."""

import gzip
from datetime import UTC, datetime
from importlib.resources import files

import pytest

from inventory import passwords
from inventory.errors import Invalid
from tests.hashing import CAREFUL

AT = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short words", "at least 12 characters"),
        ("x" * 1025, "at most 1024 characters"),
        ("aaaaaaaaaaaabbbbbbbb", "over and over"),
        ("password2026!!!!", "first that anybody would try"),
        ("P4ssw0rd!!!!!!!!", "first that anybody would try"),
        ("sunshinesunshine", "first that anybody would try"),
        ("1234567890123456", "first that anybody would try"),
        ("Margarethe2026!!", "a name that everybody knows"),
        ("fleetwardfleetward", "a name that everybody knows"),
    ],
)
def test_bad_passwords_are_refused_with_why(password: str, words: str) -> None:
    """Too short, too long, the same characters, a common one with the usual additions, one's own name."""
    with pytest.raises(Invalid) as refused:
        passwords.check_new(password, "margarethe@plant.example", "/new_password")
    assert words in refused.value.detail
    assert refused.value.errors[0].pointer == "/new_password"


@pytest.mark.parametrize(
    "password", ["correct horse battery staple", "twelve-chars", "ein Satz, den nur ich kenne", "пароль из слов", "n7c2-kq3v-w8xp"]
)
def test_good_passwords_need_no_kinds_of_characters(password: str) -> None:
    """Words in small letters, other scripts, what `up` hands out: length is what counts."""
    passwords.check_new(password, "ann")


def test_the_list_is_what_its_licence_says() -> None:
    """As many as are named there, each once, sorted, lower-cased; the licence is shipped beside it."""
    here = files("inventory")
    words = gzip.decompress(here.joinpath("common_passwords.txt.gz").read_bytes()).decode().split("\n")
    assert words == sorted(set(words))
    assert f"{len(words):,} commonest" in here.joinpath("common_passwords.LICENSE").read_text()
    assert {"password", "qwertyuiop", "iloveyou"} <= set(words)


async def test_a_password_is_the_same_however_it_was_typed() -> None:
    """An accent as one character or as two (NFKC); no password at all matches nothing, and takes as long."""
    kept = await passwords.hashed("cafe\u0301 in the morning")
    assert kept.startswith("$argon2id$")
    assert await passwords.matches(kept, "caf\u00e9 in the morning")
    assert not await passwords.matches(kept, "cafe in the morning")
    assert not await passwords.matches("", "") and not await passwords.matches(None, "anything")


async def test_a_hash_is_made_to_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB, three passes, four lanes: the second recommendation of RFC 9106. Other tests hash cheaply."""
    monkeypatch.setattr(passwords, "_hasher", CAREFUL)
    kept = await passwords.hashed("correct horse battery staple")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await passwords.matches(kept, "correct horse battery staple")


def test_one_time_passwords_are_good_and_repeat_only_for_their_claim() -> None:
    """What is handed out passes the rules; derived ones depend on key, claim and time."""
    made = {passwords.random_password() for _ in range(50)}
    assert len(made) == 50
    for each in made:
        passwords.check_new(each, "ann")
    one = passwords.derived_password(b"k" * 32, "claim", AT)
    assert one == passwords.derived_password(b"k" * 32, "claim", AT)
    others = ((b"K" * 32, "claim", AT), (b"k" * 32, "claim2", AT), (b"k" * 32, "claim", AT.replace(year=2027)))
    assert len({one, *(passwords.derived_password(*other) for other in others)}) == 4
