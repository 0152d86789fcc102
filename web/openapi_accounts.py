"""The OpenAPI document's part about accounts: users, API tokens, sessions, one's own account. Pure; called by `web.openapi`."""

from typing import Any

from inventory.access import ROLES
from web.api.parameters import SESSIONS, WRITE
from web.openapi_parts import JSON, KEY, REF, Operation, content, given, operation, query
from web.schemas import PAGE_MEMBERS, Schema, reference

_TAG = "accounts"
_WRITE_PROBLEMS = (404, 409, 413, 415, 422)
_ID = {**REF, "name": "id", "description": "Id."}


def account_paths() -> dict[str, dict[str, Operation]]:
    return _users() | _tokens() | _sessions() | _own()


def _collection(name: str, what: str, doc: str) -> dict[str, Operation]:
    """List and make; making shows a secret once."""
    made = {
        "201": given("Made; the secret is shown this once.", reference(f"{name}Issued")),
        "200": given("With dry_run.", reference(name)),
    }
    return {
        "get": operation(f"list{name}s", _TAG, f"All {what}s.", {"200": given("They.", reference(f"{name}Page"))}),
        "post": operation(
            f"create{name}", _TAG, f"Make {doc}", made, 409, 413, 415, 422,
            parameters=[*query(WRITE), KEY], requestBody={"required": True, **content(reference(f"{name}Create"))},
        ),
    }  # fmt: skip


def _one(name: str, what: str) -> dict[str, Any]:
    return {
        "parameters": [REF],
        "get": operation(f"get{name}", _TAG, f"One {what}.", {"200": given("It.", reference(name))}, 404),
        "delete": operation(f"delete{name}", _TAG, f"Delete a {what}.", {"204": _GONE}, 404, 409, parameters=query(WRITE)),
    }


_GONE = {"description": "It is gone."}


def _users() -> dict[str, dict[str, Any]]:
    at = "/api/v1/users"
    changed = {"200": given("As it is then.", reference("User"))}
    body = {type: {"schema": reference("UserPatch")} for type in ("application/merge-patch+json", JSON)}
    patch = operation(
        "patchUser", _TAG, "Change a user (RFC 7396); absent members stay.", changed, *_WRITE_PROBLEMS,
        parameters=query(WRITE), requestBody={"required": True, "content": body},
    )  # fmt: skip
    words = "As it is then, with another one-time password, shown this once; with dry_run, without."
    reset = {"200": given(words, {"anyOf": [reference("UserIssued"), reference("User")]})}
    return {
        at: _collection("User", "user", "a user, with a one-time password to hand on."),
        f"{at}/{{ref}}": _one("User", "user") | {"patch": patch},
        f"{at}/{{ref}}:reset-password": _verb("resetUserPassword", "Another one-time password; all sessions end.", reset, KEY),
        f"{at}/{{ref}}:reset-second-factor": _verb("resetUserSecondFactor", "Take away a second factor that was lost.", changed),
        f"{at}/{{ref}}:sign-out": _verb("signOutUser", "End all sessions of a user.", {"200": given("How many.", reference("Ended"))}),
    }


def _verb(id: str, summary: str, answers: dict[str, Any], *headers: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": [REF],
        "post": operation(id, _TAG, summary, answers, 404, 409, 413, 415, 422, parameters=[*query(WRITE), *headers]),
    }


def _tokens() -> dict[str, dict[str, Any]]:
    at = "/api/v1/api-tokens"
    return {at: _collection("ApiToken", "API token", "an API token."), f"{at}/{{ref}}": _one("ApiToken", "API token")}


def _sessions() -> dict[str, dict[str, Any]]:
    listed = {"200": given("A page of those that stand, the newest first.", reference("SessionPage"))}
    words = "Browsers that have signed in: one's own, for administrators everybody's."
    end = operation("endSession", _TAG, "End a session.", {"204": _GONE}, 404, parameters=query(WRITE))
    return {
        "/api/v1/sessions": {"get": operation("listSessions", _TAG, words, listed, 404, parameters=query(SESSIONS))},
        "/api/v1/sessions/{id}": {"parameters": [_ID], "delete": end},
    }


def _own() -> dict[str, dict[str, Any]]:
    codes = {"200": given("Recovery codes, shown this once.", reference("RecoveryCodes"))}
    secret = {"200": given("For the app; in force once it is confirmed.", reference("SecondFactor"))}
    done = {"200": given("Done; the session goes on under a new cookie and CSRF token.", reference("Identity"))}
    ended = {"200": given("How many.", reference("Ended"))}
    removed = {"204": {"description": "There is none any more."}}
    return {
        "/api/v1/account": {"get": operation("getAccount", _TAG, "One's own account.", {"200": given("It.", reference("Account"))})},
        **_mine("change-password", "changePassword", "Change one's own password; all other sessions end.", done, "ChangePassword"),
        **_mine("begin-second-factor", "beginSecondFactor", "Get a secret for an authenticator app.", secret, "PasswordAgain"),
        **_mine("confirm-second-factor", "confirmSecondFactor", "Put it in force with its first code.", codes, "Code"),
        **_mine("remove-second-factor", "removeSecondFactor", "Do without a second factor.", removed, "PasswordAgain"),
        **_mine("renew-recovery-codes", "renewRecoveryCodes", "Other recovery codes; the earlier ones end.", codes, "PasswordAgain"),
        **_mine("end-other-sessions", "endOtherSessions", "Sign out everywhere else.", ended, None),
    }


def _mine(verb: str, id: str, summary: str, answers: dict[str, Any], body: str | None) -> dict[str, dict[str, Operation]]:
    more: dict[str, Any] = {} if body is None else {"requestBody": {"required": True, **content(reference(body))}}
    made = operation(id, _TAG, summary, answers, 409, 413, 415, 422, 429, parameters=query(WRITE), **more)
    return {f"/api/v1/account:{verb}": {"post": made}}


_TEXT: Schema = {"type": "string"}
_SECRET: Schema = {"type": "string", "minLength": 1, "maxLength": 1024, "format": "password"}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_MAYBE: Schema = {"anyOf": [_TIME, {"type": "null"}]}
_ROLE: Schema = {"type": "string", "enum": list(ROLES)}
_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9._@+-]{0,251}[a-z0-9])?$"}
_SCOPE: Schema = {"type": "string", "maxLength": 8192, "description": "The filter of hosts that the role holds for; empty: all."}
_TITLE: Schema = {"type": "string", "maxLength": 256, "pattern": "^[^\\x00-\\x1f]*$"}

_USER: dict[str, Schema] = {
    "id": _TEXT,
    "kind": {"const": "user"},
    "name": _TEXT,
    "title": _TEXT,
    "role": _ROLE,
    "scope": _SCOPE,
    "source": {"type": "string", "description": "`local`, or the issuer that signs them in."},
    "disabled": _FLAG,
    "must_change_password": _FLAG,
    "second_factor": _FLAG,
    "created_at": _TIME,
    "signed_in_at": _MAYBE,
    "password_changed_at": _MAYBE,
    "password_expires_at": _MAYBE,
}
_TOKEN: dict[str, Schema] = {
    "id": _TEXT,
    "kind": {"const": "api-token"},
    "name": _TEXT,
    "role": _ROLE,
    "scope": _SCOPE,
    "created_by": _TEXT,
    "created_at": _TIME,
    "expires_at": _MAYBE,
    "last_used_at": _MAYBE,
}
_SESSION: dict[str, Schema] = {
    "id": _TEXT,
    "kind": {"const": "session"},
    "user": _TEXT,
    "address": _TEXT,
    "agent": {"type": "string", "description": "What the browser calls itself."},
    "created_at": _TIME,
    "seen_at": _TIME,
    "expires_at": _TIME,
    "current": {"type": "boolean", "description": "It is the one that asks."},
}


def _object(doc: str, members: dict[str, Schema], required: list[str] | None = None, *, closed: bool = False) -> Schema:
    made: Schema = {"type": "object", "description": doc, "properties": members}
    if required is None:
        made["required"] = list(members)
    elif required:
        made["required"] = required
    return {**made, "additionalProperties": False} if closed else made


def _page(name: str) -> Schema:
    return _object("All of them.", {"items": {"type": "array", "items": reference(name)}})


def _issued(name: str, member: str) -> Schema:
    return {"allOf": [reference(name), _object("Shown this once.", {member: {"type": "string"}})]}


ACCOUNT_SCHEMAS: dict[str, Schema] = {
    "User": _object("Somebody who may sign in.", _USER),
    "UserPage": _page("User"),
    "UserIssued": _issued("User", "password"),
    "UserCreate": _object("What makes a user.", {"name": _NAME, "role": _ROLE, "title": _TITLE, "scope": _SCOPE}, ["name"], closed=True),
    "UserPatch": _object(
        "What to change of a user.", {"role": _ROLE, "title": _TITLE, "disabled": _FLAG, "scope": _SCOPE}, [], closed=True
    ),
    "Account": _object("Oneself.", {**_USER, "recovery_codes_left": {"type": "integer", "format": "int64"}}),
    "ApiToken": _object("A bearer token, without its secret.", _TOKEN),
    "ApiTokenPage": _page("ApiToken"),
    "ApiTokenIssued": _issued("ApiToken", "token"),
    "ApiTokenCreate": _object(
        "What makes a token. `expires_at` absent: in 90 days; null: it does not end by itself.",
        {
            "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$"},
            "role": _ROLE,
            "scope": _SCOPE,
            "expires_at": _MAYBE,
        },
        ["name"],
        closed=True,
    ),
    "Session": _object("A browser that has signed in.", _SESSION),
    "SessionPage": _object(
        "Sessions.", {"items": {"type": "array", "items": reference("Session")}, "next_page_token": PAGE_MEMBERS["next_page_token"]}
    ),
    "Ended": _object("How many sessions were ended.", {"ended": {"type": "integer", "format": "int64"}}),
    "ChangePassword": _object(
        "The password now, and the one to come.", {"current_password": _SECRET, "new_password": _SECRET}, closed=True
    ),
    "PasswordAgain": _object("The password once more.", {"password": _SECRET}, closed=True),
    "Code": _object("A code that the app shows.", {"code": {"type": "string", "minLength": 1, "maxLength": 1024}}, closed=True),
    "SecondFactor": _object("What an authenticator app is told.", {"secret": _TEXT, "uri": _TEXT}),
    "RecoveryCodes": _object("Each stands in for a code once.", {"recovery_codes": {"type": "array", "items": _TEXT}}),
}
