"""Why a resource is not as it was asked for: the chain of causes, nearest first, in words for people.

Read from what stands: status, presence, the command under way, the row in the work queue. Nothing is computed anew, so that what it says is
what the managers go by. Called by web for `GET /{kind}/{id}/explain`. Source: design.md section 6, contract.md section 5.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from broker.messages import CommandState
from inventory import facts
from inventory.db import SQL, loads
from inventory.kinds import BY_NAME
from inventory.resource import Resource, time_text
from inventory.view import Reads, View, read_one

Cause = dict[str, Any]
"""{reason, message, since, next_attempt_at}"""

Explanation = dict[str, Any]
"""{summary, causes}"""

TOLD = 50
"""Most host-configs that the explanation of a host or a config goes into."""

SENDS_UNANSWERED = 2
"""Sent more often than that to a device that is online, 10 s apart, a command is not just late."""

AS_WANTED = "as it was asked for"


async def explain(db: View, kind: str, ref: str) -> Explanation:
    """`ref`: an id or a name. Raises NotFound, Unavailable."""
    async with db.acquire() as connection:
        resource = await read_one(connection, BY_NAME[kind], ref)
        match kind:
            case "host":
                return await _host(connection, resource)
            case "host-config":
                return await _host_config(connection, resource)
            case "config":
                return await _config(connection, resource)
            case "command":
                return await _command(connection, resource)
    return _plain(resource)


def cause(reason: str, message: str, since: datetime | str | None = None, next_attempt_at: datetime | None = None) -> Cause:
    return {"reason": reason, "message": message, "since": _text(since), "next_attempt_at": _text(next_attempt_at)}


# --- host-configs ---------------------------------------------------------------------------------------------------------------


async def _host_config(connection: Reads, resource: Resource) -> Explanation:
    row = await connection.fetchrow(SQL["explain_host_configs"], None, None, resource["id"], 1)
    if row is None:
        return _plain(resource)
    shadowing = {each["by"] for each in loads(row["shadowed"])}
    names = {r["id"]: r["name"] for r in await connection.fetch(SQL["shadowing_configs"], sorted(shadowing))}
    causes = host_config_causes(dict(row)) + shadow_causes(loads(row["shadowed"]), names)
    state = f"{row['config_name']} on {row['host_name']} is {row['current_state']}"
    if loads(row["status"])["indicator"] == "idle":
        return {"summary": f"{state}, {AS_WANTED}", "causes": causes}
    return {"summary": f"{state}, wanted {row['desired_state']}: {_first(causes)}", "causes": causes}


def host_config_causes(row: Mapping[str, Any]) -> list[Cause]:
    """What stands between a host-config and what is wanted of it, from a row of `explain_host_configs`. Pure."""
    status = loads(row["status"])
    if status["indicator"] == "idle":
        return []
    causes = []
    if row["host_state"] != "onboarded":
        causes.append(cause("WaitingForApproval", f"{row['host_name']} is {row['host_state']}: set its desired_state to onboarded"))
    elif row["presence"] in ("offline", "never"):
        causes.append(_offline(row["host_name"], row["presence"], row["last_seen"]))
    told = {each["reason"] for each in causes}
    error = _error(row, status)
    if error is not None:
        causes.insert(0, error)
    elif row["command_state"] is None and status["reason"] not in told:
        causes.insert(0, cause(status["reason"], status["message"] or _words(status["reason"]), status["since"], row["due_at"]))
    if row["command_state"] is not None:
        causes.append(_under_way(row, status))
    return causes


def _error(row: Mapping[str, Any], status: Mapping[str, Any]) -> Cause | None:
    """What went wrong: for good, or last time."""
    if status.get("halted"):
        what = f"{status['reason']}: {status['message']}" if status["message"] else status["reason"]
        return cause("Halted", f"{what}. It is not tried again until it is edited or retried", status["since"])
    error = loads(row["last_error"])
    if error is None:
        return None
    tried = f"{error['code']}: {error['message']} (failed {_times(row['attempts'])})"
    return cause("Retrying", tried, status["since"], None if row["command_state"] is not None else row["due_at"])


def _under_way(row: Mapping[str, Any], status: Mapping[str, Any]) -> Cause:
    times = f", sent {_times(row['sends'])}{_unanswered(row)}" if row["sends"] > 1 else ""
    why = f"; {status['message']}" if status["reason"] == "Drifted" and status["message"] else ""
    return cause("Pending", f"the command {row['verb']} is {row['command_state']}{times}{why}", row["commanded_at"])


def _unanswered(row: Mapping[str, Any]) -> str:
    """A device that is there answers a command within a second; one that never does may never get it."""
    silent = row["command_state"] == CommandState.SENT and row["sends"] > SENDS_UNANSWERED and row["presence"] == "online"
    return f", and {row['host_name']} is online and does not answer: the broker may withhold it" if silent else ""


def shadow_causes(shadowed: Sequence[Mapping[str, str]], names: Mapping[str, str]) -> list[Cause]:
    """Paths that another config holds; no error, but why a file is not this config's."""
    return [cause("Shadowed", f"{each['path']} is held by {names.get(each['by'], each['by'])}, which has priority") for each in shadowed]


# --- hosts ----------------------------------------------------------------------------------------------------------------------


async def _host(connection: Reads, resource: Resource) -> Explanation:
    row = await connection.fetchrow(SQL["explain_host"], resource["id"])
    assert row is not None, "it was read a moment ago"
    causes = host_causes(dict(row))
    own = {each["reason"] for each in causes}
    waiting = 0
    for each in await connection.fetch(SQL["explain_host_configs"], resource["id"], None, None, TOLD):
        found = host_config_causes(dict(each))
        waiting += any(c["reason"] in own for c in found)
        causes += [_about(each["config_name"], c) for c in found if c["reason"] not in own]
    if waiting:
        causes.append(cause("Pending", f"{_count(waiting, 'config')} can't be brought to it until then"))
    state = f"{row['name']} is {row['current_state']} and {_presence(row['presence'])}"
    return {"summary": state + (f": {_first(causes)}" if causes else f", {AS_WANTED}"), "causes": causes}


def host_causes(row: Mapping[str, Any]) -> list[Cause]:
    """What stands between a host and what is wanted of it, from the row of `explain_host`. Pure."""
    causes = []
    status = loads(row["status"])
    if row["desired_state"] != row["current_state"] and status is not None and status["indicator"] != "idle":
        causes.append(cause(status["reason"], status["message"] or _words(status["reason"]), status["since"], row["due_at"]))
    told = {each["reason"] for each in causes}
    if row["current_state"] in ("discovered", "registered") and row["desired_state"] != "onboarded" and "WaitingForApproval" not in told:
        causes.append(cause("WaitingForApproval", "it gets no configs or commands until its desired_state is onboarded"))
    if row["presence"] in ("offline", "never") and row["enrolled"]:
        causes.append(_offline(row["name"], row["presence"], row["last_seen"]))
    if locked := (loads(row["policy"]) or {}).get("maintenance"):
        causes.append(cause("PolicyRefused", f"{row['name']} is locked for maintenance by its owner: {locked}"))
    if withheld := _withheld(row["name"], loads(row["agent"])):
        causes.append(withheld)
    return causes


def _withheld(name: str, agent: Any) -> Cause | None:
    """What the device says that it lacks. It knows from a checkpoint, which a broker can't forge."""
    missing, since = facts.missing_commands(agent)
    if not missing:
        return None
    what = "a command" if len(missing) == 1 else f"{len(missing)} commands"
    message = (
        f"{name} says that {what} sent to it ({', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}) did not reach it, while other"
    )
    return cause("CommandsWithheld", f"{message} messages do: look at the broker between them", since)


def _offline(name: str, presence: str, last_seen: datetime | None) -> Cause:
    if presence == "never" or last_seen is None:
        return cause("WaitingForDevice", f"{name} has never been connected")
    return cause("WaitingForDevice", f"{name} is offline since {time_text(last_seen)}", last_seen)


def _presence(presence: str) -> str:
    return "has never been connected" if presence == "never" else presence


# --- configs and commands -------------------------------------------------------------------------------------------------------


async def _config(connection: Reads, resource: Resource) -> Explanation:
    groups = await connection.fetch(SQL["explain_config"], resource["id"])
    total = sum(group["n"] for group in groups)
    open_ = [group for group in groups if group["indicator"] != "idle"]
    causes = [cause(g["reason"], f"{_hosts(g['n'])}: {_words(g['reason'])}", g["since"]) for g in open_]
    if await connection.fetchval(SQL["evaluation_ahead"], resource["id"]):
        causes.insert(0, cause("Pending", "the managers are still finding out which hosts it is for"))
    for each in await connection.fetch(SQL["explain_host_configs"], None, resource["id"], None, TOLD):
        causes += [_about(each["host_name"], c) for c in host_config_causes(dict(each))]
    if resource["deleted_at"] is not None:
        return {"summary": f"{resource['name']} is being deleted: {_hosts(total)} still to give it up", "causes": causes}
    if not total:
        return {"summary": f"{resource['name']} is on no host: its selector matches no onboarded one", "causes": causes}
    done = total - sum(group["n"] for group in open_)
    return {"summary": f"{resource['name']} is as it was asked for on {done} of {_hosts(total)}", "causes": causes}


async def _command(connection: Reads, resource: Resource) -> Explanation:
    if resource["finished_at"] is not None:
        error = (resource["result"] or {}).get("error")
        causes = [cause(error["code"], error["message"], resource["finished_at"])] if error else []
        return {"summary": f"{resource['verb']} has ended: {resource['state']}", "causes": causes}
    row = await connection.fetchrow(SQL["explain_host"], resource["host"])
    assert row is not None, "a command goes with its host"
    causes = [_offline(row["name"], row["presence"], row["last_seen"])] if row["presence"] in ("offline", "never") else []
    sent = {"command_state": resource["state"], "sends": resource["sends"], "presence": row["presence"], "host_name": row["name"]}
    missing, since = facts.missing_commands(loads(row["agent"]))
    if resource["id"] in missing:
        causes.append(cause("CommandsWithheld", f"{row['name']} says that it did not reach it: look at the broker between them", since))
    elif unanswered := _unanswered(sent):
        causes.append(cause("Pending", f"sent {_times(resource['sends'])}{unanswered}", resource["sent_at"]))
    causes.append(cause("Pending", f"it must start before {resource['not_after']}", resource["sent_at"] or resource["created_at"]))
    return {"summary": f"{resource['verb']} is {resource['state']}", "causes": causes}


def _plain(resource: Resource) -> Explanation:
    """Kinds for which nothing has to be brought about."""
    status = resource.get("status")
    if status is None or status["indicator"] == "idle":
        return {"summary": f"{resource['name']} is {AS_WANTED}", "causes": []}
    causes = [cause(status["reason"], status["message"] or _words(status["reason"]), status["since"])]
    return {"summary": f"{resource['name']}: {_first(causes)}", "causes": causes}


# --- words ----------------------------------------------------------------------------------------------------------------------

_WORDS = {
    "Pending": "under way",
    "WaitingForDevice": "waiting for the device to come online",
    "WaitingForApproval": "waiting for the host to be onboarded",
    "PolicyRefused": "not allowed on the device by its owner",
    "Retrying": "failed, and being tried again",
    "Drifted": "changed on the device, and being put right",
    "Deleting": "being taken back",
}


def _words(reason: str) -> str:
    return _WORDS.get(reason, reason)


def _about(name: str, found: Cause) -> Cause:
    return found | {"message": f"{name}: {found['message']}"}


def _first(causes: Sequence[Cause]) -> str:
    return str(causes[0]["message"]) if causes else "under way"


def _hosts(number: int) -> str:
    return _count(number, "host")


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _text(at: datetime | str | None) -> str | None:
    return time_text(at) if isinstance(at, datetime) else at
