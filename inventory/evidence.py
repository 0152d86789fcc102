"""The body of `POST /api/v1/enroll`, checked: token, certificate request, and what the machine says of itself. Pure.

All of it is hostile input: bounded, of exact types, and refused with the name of the member, the reason and what would do, before any token
is looked at, so that a mistake burns no use. Evidence is no proof; it is kept for the people who decide. Called by `inventory.enrollment`.

Source: contract.md section 2.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from inventory import certificates
from inventory.errors import Invalid, Problem
from inventory.kind import Text

MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5,19}")
"""EUI-48, EUI-64, or InfiniBand's twenty octets."""
MOST_MACS = 64


def _mac(text: str) -> str:
    if not MAC.fullmatch(text):
        raise ValueError("must be a MAC address, such as 52:54:00:12:34:56")
    return text.lower().replace("-", ":")


def _one_line(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError("must not hold control characters")
    return text.strip()


Word = Annotated[Text, Field(max_length=256), AfterValidator(_one_line)]
Mac = Annotated[Text, Field(max_length=64), AfterValidator(_mac)]


class Evidence(BaseModel):
    """What a machine says it is, null or empty where it does not know."""

    model_config = ConfigDict(extra="ignore", strict=True)

    serial: Word | None = None
    uuid: Word | None = None
    macs: Annotated[list[Mac], Field(max_length=MOST_MACS)] | None = None
    hostname: Word | None = None

    def kept(self) -> dict[str, Any]:
        """Only what it knows."""
        return {name: value for name, value in self.model_dump().items() if value}


class Request(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Annotated[str, Field(min_length=1, max_length=512)]
    csr: Annotated[str, Field(min_length=1, max_length=certificates.MAX_CSR_BYTES)]
    evidence: Annotated[Evidence, BeforeValidator(lambda given: {} if given is None else given)]
    agent_version: Annotated[Word, BeforeValidator(lambda given: "" if given is None else given)] = ""


_MISSING = {
    "evidence": "is required: an object of `serial`, `uuid`, `macs` and `hostname`, each null where the machine does not know it",
    "token": "is required: an enrollment token, as `fleetward token create` prints it",
    "csr": "is required: a PKCS #10 certificate request in PEM",
}


def checked(body: Any) -> Request:
    """Raises Invalid naming every member that is wrong."""
    try:
        return Request.model_validate(body)
    except ValidationError as error:
        problems = tuple(_problem(dict(e)) for e in error.errors(include_url=False, include_input=False, include_context=False))
        raise Invalid("; ".join(f"{p.pointer or 'body'}: {p.detail}" for p in problems), errors=problems) from None


def _problem(error: dict[str, Any]) -> Problem:
    pointer = "".join(f"/{part}" for part in error["loc"])
    match error["type"]:
        case "missing":
            return Problem(pointer, _MISSING[str(error["loc"][0])])
        case "extra_forbidden":
            return Problem(pointer, "there is no such member")
        case "model_type":
            return Problem(pointer, "must be an object")
        case "string_type":
            return Problem(pointer, "must be a text")
    return Problem(pointer, str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ").removeprefix("String "))
