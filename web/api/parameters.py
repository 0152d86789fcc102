"""The query parameters that the API's routes take, by route. The routes parse with them and the OpenAPI document is made from them."""

from typing import get_args

from inventory import account_log, trail
from inventory.kinds import KINDS
from inventory.listing import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from inventory.times import parse_time
from web.params import DRY_RUN, MAX_POSITION, POSITION_SCHEMA, Parameter, boolean, names, one_of, text, whole

MAX_EVENTS = 1000

_LIMIT_SCHEMA = {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS, "default": 100}

PAGE = (
    Parameter(
        "page_size",
        "How many at most.",
        whole(1, MAX_PAGE_SIZE),
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE},
        default=DEFAULT_PAGE_SIZE,
    ),
    Parameter("page_token", "Where the page before ended, as it said.", text, default=""),
)
LIST = (
    Parameter("filter", 'An AIP-160 filter, such as `presence = "online" AND labels.line = "4"`.', text, default=""),
    Parameter("order_by", "Fields with commas between, each with `desc` behind it where wanted.", text, default=""),
    *PAGE,
    Parameter("fields", "The members to show, with commas between; all where absent.", names, default=()),
    Parameter("count", "Also say how many there are in `total`.", boolean, {"type": "boolean"}, default=False),
)
WRITE = (DRY_RUN,)
DELETE = (
    DRY_RUN,
    Parameter("force", "Do not wait for the device; the audit says what may remain there.", boolean, {"type": "boolean"}, default=False),
)
HISTORY = (
    Parameter("before", "Only changes below this position.", whole(0, MAX_POSITION), POSITION_SCHEMA),
    Parameter("limit", "How many at most.", whole(1, MAX_EVENTS), _LIMIT_SCHEMA, default=100),
)
STREAM = (
    Parameter("after", "The position to go on from; absent: from now.", whole(0, MAX_POSITION), POSITION_SCHEMA),
    Parameter("kind", "Only this kind; may be there several times.", text, repeatable=True),
    Parameter("id", "Only the resource of this id; may be there several times.", text, repeatable=True),
)
EVENTS = (
    Parameter("after", "Only changes after this position; absent: the newest ones.", whole(0, MAX_POSITION), POSITION_SCHEMA),
    *STREAM[1:],
    Parameter("limit", "How many at most.", whole(1, MAX_EVENTS), _LIMIT_SCHEMA, default=100),
)

_TYPES = ("people", *trail.PEOPLE, *trail.OTHERS)
_KINDS = (*(kind.name for kind in KINDS), *account_log.ACCOUNT_KINDS)
_OPS = get_args(account_log.Op)
_TIME_SCHEMA = {"type": "string", "format": "date-time"}


def _choice(name: str, doc: str, choices: tuple[str, ...]) -> Parameter:
    schema = {"type": "string", "enum": list(choices)}
    return Parameter(name, f"{doc}; may be there several times.", one_of(*choices), schema, repeatable=True)


_AUDITED = (
    _choice("type", "Only what this type of actor did; `people` stands for users, tokens, integrations, strangers and the system", _TYPES),
    Parameter("actor", "Only what the actor of this name did.", text, default=""),
    Parameter("address", "Only what was asked for from this address.", text, default=""),
    _choice("kind", "Only what was done to this kind", _KINDS),
    _choice("op", "Only this", _OPS),
    Parameter("id", "Only what was done to the resource or account of this id.", text, default=""),
    Parameter("path", "Only where this member changed, such as `role` or `labels.line`.", text, default=""),
    Parameter("since", "Not before this time.", parse_time, _TIME_SCHEMA),
    Parameter("until", "Before this time.", parse_time, _TIME_SCHEMA),
)
AUDIT = (*_AUDITED, *HISTORY)
AUDIT_EXPORT = (
    *_AUDITED,
    Parameter("after", "Only entries after this position.", whole(0, MAX_POSITION), POSITION_SCHEMA, default=0),
)
_CLASSES = ("device", "service", "integration", "integration-scoped")
CERTIFICATES = (Parameter("class", "Only those of this class.", one_of(*_CLASSES), {"type": "string", "enum": list(_CLASSES)}), *PAGE)
SESSIONS = (Parameter("user", "Only those of this user, by id or name.", text), *PAGE)
