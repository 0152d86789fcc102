"""The managers' decisions, pure: tables of what stands and what is to be done."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.messages import Verb
from inventory.applying import CommandView, Config, Host, Outline, Placed, Report, View
from inventory.notices import Asking, Halt, Part, Seen, Told
from inventory.work import Strength
from managers.kinds import config as config_manager
from managers.kinds import host as host_manager
from managers.kinds import notification, placement
from managers.kinds.host_config import PENDING, Broken, Gone, Send, Settled, Step, Wait, plan
from managers.reconcile import Again, Done, Enqueue, Error, Make, Remove, Write
from managers.rendering import Rendered

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
BEFORE, AFTER = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)

VIEW = View(
    id="hcfg-1",
    host="host-1",
    host_name="a",
    host_state="onboarded",
    online=True,
    locked=None,
    config="conf-1",
    config_name="motd",
    desired_state="present",
    current_state="absent",
    generation=3,
    digest="sha256:new",
    paths=("/etc/x",),
    reported=None,
    command=None,
    read_at=NOW,
)


def command(
    state: str, verb: str = "config.apply", generation: int = 3, error: dict[str, Any] | None = None, result: bool = True
) -> CommandView:
    said = {"state": state, "error": error} if result else None
    return CommandView("cmd-1", verb, state, generation, said, NOW)


def report(state: str = "present", digest: str | None = "sha256:new", generation: int = 3, at: datetime = AFTER) -> Report:
    return Report(generation, state, digest, "", "", at)


READ_ONLY = {"code": "ReadOnly", "message": "no", "recoverable": True}
APPLY, REMOVE = Send(Verb.CONFIG_APPLY), Send(Verb.CONFIG_REMOVE)
PUT_RIGHT = Send(Verb.CONFIG_APPLY, "being put right: changed on the device")
UNDER_WAY = PENDING
WANTED = replace(VIEW, current_state="present", reported=report())

HOST_CONFIGS: list[tuple[str, View, Step]] = [
    ("nothing there yet", VIEW, APPLY),
    ("the host is offline", replace(VIEW, online=False), Wait("WaitingForDevice", "a is offline")),
    ("its owner has locked it", replace(VIEW, locked="rewiring"), Wait("PolicyRefused", "a is locked for maintenance: rewiring")),
    ("locked, and as wanted", replace(WANTED, locked="rewiring"), Settled(True)),
    ("the host is not onboarded", replace(VIEW, host_state="registered"), Wait("WaitingForApproval", "a is registered, not onboarded")),
    ("a command is under way", replace(VIEW, command=command("running")), UNDER_WAY),
    ("one for an earlier intent is under way", replace(VIEW, command=command("sent", generation=2)), UNDER_WAY),
    (
        "under way, but the device is away",
        replace(VIEW, online=False, command=command("sent")),
        Wait("WaitingForDevice", "config.apply is under way, but a is offline"),
    ),
    ("the device has it", WANTED, Settled(True)),
    ("it has it, under an earlier generation, and nothing was sent since", replace(WANTED, generation=4), Settled(True)),
    ("it had it, but another content was sent since", replace(WANTED, generation=5, command=command("succeeded", generation=4)), APPLY),
    ("it had it, but the last attempt failed", replace(WANTED, generation=4, current_state="failed"), APPLY),
    ("it has something else", replace(WANTED, reported=report(digest="sha256:old")), APPLY),
    ("the command did it, the report is on its way", replace(VIEW, command=command("succeeded")), Settled(False)),
    (
        "the command did it, the report is older",
        replace(VIEW, command=command("succeeded"), reported=report("drifted", at=BEFORE)),
        Settled(False),
    ),
    ("the command did it, and the report says so", replace(VIEW, command=command("succeeded"), reported=report()), Settled(True)),
    ("it drifted after the command", replace(WANTED, command=command("succeeded"), reported=report("drifted")), PUT_RIGHT),
    ("it drifted", replace(WANTED, reported=report("drifted")), PUT_RIGHT),
    ("it is gone from the device", replace(WANTED, reported=report("absent", None)), APPLY),
    (
        "it drifted, and the device is away",
        replace(WANTED, online=False, reported=report("drifted")),
        Wait("WaitingForDevice", "a is offline"),
    ),
    ("it failed", replace(VIEW, command=command("failed", error=READ_ONLY)), Broken(Error("ReadOnly", "no", True))),
    ("it failed for an earlier intent", replace(VIEW, command=command("failed", generation=2, error=READ_ONLY)), APPLY),
    ("it was never answered", replace(VIEW, command=command("timed_out", result=False)), APPLY),
    ("it was withdrawn", replace(VIEW, command=command("cancelled", result=False)), APPLY),
    (
        "it ran too long",
        replace(VIEW, command=command("timed_out", error={"code": "TimedOut", "message": "60 s", "recoverable": True})),
        Broken(Error("TimedOut", "60 s", True)),
    ),
    (
        "the device does not know",
        replace(VIEW, command=command("unknown")),
        Broken(Error("Internal", "the device does not know how far it came", True)),
    ),
    (
        "refused without a reason",
        replace(VIEW, command=command("rejected")),
        Broken(Error("Internal", "the device said rejected and not why", False)),
    ),
    (
        "it fitted no message",
        replace(VIEW, command=command("rejected", result=False)),
        Broken(Error("Internal", "the command is too large to be sent", False)),
    ),
    ("absent: never sent", replace(VIEW, desired_state="absent"), Gone()),
    ("absent: it is there", replace(WANTED, desired_state="absent", generation=4), REMOVE),
    ("absent: the device is away", replace(WANTED, desired_state="absent", online=False), Wait("WaitingForDevice", "a is offline")),
    ("absent: an apply is under way", replace(VIEW, desired_state="absent", generation=4, command=command("running")), UNDER_WAY),
    ("absent: an apply has just succeeded", replace(VIEW, desired_state="absent", generation=4, command=command("succeeded")), REMOVE),
    ("absent: an apply had failed", replace(VIEW, desired_state="absent", current_state="failed"), REMOVE),
    ("absent: removed", replace(WANTED, desired_state="absent", command=command("succeeded", "config.remove")), Gone()),
    ("absent: reported gone", replace(WANTED, desired_state="absent", reported=report("absent", None)), Gone()),
    (
        "absent: reported gone for an earlier generation",
        replace(WANTED, desired_state="absent", generation=9, reported=report("absent", None)),
        REMOVE,
    ),
    (
        "absent: could not be removed",
        replace(WANTED, desired_state="absent", command=command("failed", "config.remove", error=READ_ONLY)),
        Broken(Error("ReadOnly", "no", True)),
    ),
]


@pytest.mark.parametrize(("what", "view", "step"), HOST_CONFIGS, ids=[row[0] for row in HOST_CONFIGS])
def test_host_configs(what: str, view: View, step: Step) -> None:
    """What is done next for a config on a host."""
    assert plan(view) == step, what


def conf(id: str, *paths: str, priority: int = 0, age: int = 0) -> Config:
    files = tuple({"path": path, "content": id} for path in paths)
    return Config(id, id, 1, 1, "", priority, files, None, NOW - timedelta(days=age), False)


def test_paths_go_to_the_higher_priority_then_to_the_older_config() -> None:
    """Each path to one config; the others say who has it."""
    shares = placement.share_paths([conf("low", "/a", "/b"), conf("high", "/a", priority=5), conf("old", "/b", "/c", age=9)])
    assert [(s.config.id, s.paths, s.shadowed) for s in shares] == [
        ("high", ("/a",), ()),
        ("old", ("/b", "/c"), ()),
        ("low", (), ({"path": "/a", "by": "high"}, {"path": "/b", "by": "old"})),
    ]


ONBOARDED = Host("host-1", "a", True, {}, {})


def placing(
    host: Host, standing: list[Placed], *wanted: Config, digest: str = "sha256:1", unknown: frozenset[str] = frozenset()
) -> list[Any]:
    shares = [(share, Rendered((), digest)) for share in placement.share_paths(wanted)]
    return list(placement.plan(host, shares, standing, unknown, NOW))


def test_placement_makes_what_is_missing() -> None:
    """With the queue that brings it about told in the same breath."""
    make, enqueue = placing(ONBOARDED, [], conf("conf-1", "/a"))
    assert isinstance(make, Make) and isinstance(enqueue, Enqueue)
    assert make.values["config"] == "conf-1" and enqueue.keys == (make.values["id"],)


def test_placement_writes_nothing_where_all_is_as_it_should_be() -> None:
    """A scan of a fleet at rest costs reads only."""
    standing = Placed("hcfg-1", "host-1", "conf-1", "sha256:1", ("/a",), (), "present")
    assert placing(ONBOARDED, [standing], conf("conf-1", "/a")) == []


def test_placement_withdraws_what_no_longer_matches() -> None:
    """Once, and never where the selector could not be read."""
    standing = Placed("hcfg-1", "host-1", "conf-1", "sha256:1", ("/a",), (), "present")
    write, enqueue = placing(ONBOARDED, [standing])
    assert isinstance(write, Write) and write.values["desired_state"] == "absent"
    assert isinstance(enqueue, Enqueue) and enqueue.keys == ("hcfg-1",)
    assert placing(ONBOARDED, [replace(standing, desired_state="absent")]) == []
    assert placing(ONBOARDED, [standing], unknown=frozenset({"conf-1"})) == []


def test_placement_gives_nothing_new_to_a_host_that_is_not_onboarded() -> None:
    """What it has, it keeps."""
    registered = replace(ONBOARDED, onboarded=False)
    assert placing(registered, [], conf("conf-1", "/a")) == []


def test_a_deleted_config_goes_with_its_last_host() -> None:
    """Until then it waits, and its hosts are told."""
    deleted = Outline("conf-1", "", deleted=True)
    assert config_manager.plan(deleted, []) == Done((Remove("config", "conf-1"),))
    waits = config_manager.plan(deleted, ["host-1"])
    assert isinstance(waits, Again) and waits.reason == "Deleting"


def test_a_config_is_handed_on_to_the_hosts_that_it_concerns() -> None:
    """With a fresh start, as the user has stepped in; one that has gone concerns nobody."""
    [enqueue] = config_manager.plan(Outline("conf-1", "", deleted=False), ["host-2", "host-1"]).effects
    assert enqueue == Enqueue("placement", ("host-1", "host-2"), Strength.FRESH)
    doubtful = config_manager.plan(Outline("conf-1", "", deleted=False), ["host-1"], deciding=["host-3", "host-1"]).effects[1]
    assert doubtful == Enqueue("placement", ("host-3",), Strength.CHANGED)
    assert config_manager.plan(None, []) == Done()


@pytest.mark.parametrize(
    ("desired", "enrolled", "current"),
    [
        ("registered", False, "registered"),
        ("registered", True, "registered"),
        ("onboarded", True, "onboarded"),
        ("untrusted", True, "untrusted"),
    ],
)
def test_a_host_is_what_its_owner_says(desired: str, enrolled: bool, current: str) -> None:
    """Desired becomes current, with the generation."""
    life = host_manager.Life("host-1", "a", desired, 4, enrolled)
    assert host_manager.plan(life) == Done((Write("host", "host-1", {"current_state": current, "observed_generation": 4}),))


def test_onboarding_waits_for_a_device() -> None:
    """A host that was made ahead of its device can't be spoken to."""
    waits = host_manager.plan(host_manager.Life("host-1", "a", "onboarded", 4, False))
    assert isinstance(waits, Again) and waits.reason == "WaitingForDevice"


def test_a_host_whose_device_waits() -> None:
    """Discovered until a person decides; approved, it waits for its device to ask again; refused, it is refused."""

    def planned(desired: str, enrolled: bool = False) -> Any:
        return host_manager.plan(host_manager.Life("host-1", "a", desired, 4, enrolled, waiting=True))

    asks, approved = planned("registered"), planned("onboarded")
    assert (asks.reason, asks.effects) == ("WaitingForApproval", (Write("host", "host-1", {"current_state": "discovered"}),))
    assert (approved.reason, "asks again" in approved.message) == ("WaitingForDevice", True)
    assert planned("untrusted") == Done((Write("host", "host-1", {"current_state": "untrusted", "observed_generation": 4}),))
    assert planned("deleted") == Done((Remove("host", "host-1"),))


# --- notifications ---


def seen(n: int = 1, **values: Any) -> Seen:
    told = Told("online", "boot-1", "0.1")
    return replace(Seen(f"host-{n}", f"h{n}", "", None, None, "online", "boot-1", "0.1", True, told), **values)


def texts(telling: notification.Telling) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in telling.messages]


def part(key: str, present: bool = True, told: bool | None = None, **attributes: Any) -> Part:
    return Part("host-1", "disk", key, attributes, present, told)


def test_a_new_host_is_one_message() -> None:
    """With its components counted, not listed; and not before it has said what it is."""
    parts = {"host-1": [part(str(n)) for n in range(40)]}
    telling = notification.plan([seen(told=None)], parts, {"host-1": 40})
    assert texts(telling) == [("HostFound", "h1 was found, with 40 components")]
    assert len(telling.parts) == 40
    assert notification.plan([seen(told=None, known=False)], {}, {}).messages == []


def test_a_fleet_that_enrolls_at_once_is_one_message() -> None:
    """Three hundred toasts would be none."""
    new = [seen(n, told=None) for n in range(1, 301)]
    telling = notification.plan(new, {}, {host.id: 8 for host in new})
    assert texts(telling) == [("HostFound", "300 hosts (h1, h2, h3 and 297 more) were found, with 2400 components")]
    assert len(telling.hosts) == 300


def test_nothing_new_is_nothing_told() -> None:
    """Stale is a doubt, no news."""
    assert notification.plan([seen(), seen(2, presence="stale")], {}, {}) == notification.Telling()


def test_restarts_and_agents_are_told() -> None:
    """Level against level: what was told, what is."""
    telling = notification.plan([seen(boot_id="boot-2", agent_version="0.2")], {}, {})
    assert texts(telling) == [("HostRebooted", "h1 has restarted"), ("AgentChanged", "the agent of h1 is now 0.2, and was 0.1")]
    assert telling.hosts == {"host-1": Told("online", "boot-2", "0.2")}


def test_components_are_told_as_found_vanished_and_returned() -> None:
    """One message for each of the three."""
    parts = [part("s1", name="sda", model="Samsung SSD 980"), part("s2", present=False, told=True), part("s3", told=False)]
    assert texts(notification.plan([seen()], {"host-1": parts}, {})) == [
        ("ComponentFound", "disk sda (Samsung SSD 980) was found on h1"),
        ("ComponentReturned", "disk s3 is back on h1"),
        ("ComponentVanished", "disk s2 has vanished from h1"),
    ]
    many = [part(f"s{n}") for n in range(5)]
    assert texts(notification.plan([seen()], {"host-1": many}, {})) == [
        ("ComponentFound", "5 components (disk s0, disk s1, disk s2 and 2 more) were found on h1")
    ]


def test_a_component_that_came_and_went_untold_is_not_told() -> None:
    """Found and vanished between two looks: nobody has heard of it."""
    assert notification.plan([seen()], {"host-1": [part("s1", present=False)]}, {}).messages == []


def test_a_site_that_goes_dark_is_one_message() -> None:
    """Few hosts are named one by one."""
    away = [seen(n, presence="offline", site="site-1", site_name="Bremen") for n in range(1, 201)]
    [message] = notification.plan(away, {}, {}).messages
    assert message.text == "200 hosts (h1, h2, h3 and 197 more) at Bremen are offline"
    assert (message.severity, message.kind, message.id) == ("warning", "site", "site-1")
    assert [text for _, text in texts(notification.plan(away[:2], {}, {}))] == ["h1 is offline", "h2 is offline"]
    back = notification.plan([seen(told=Told("offline", "boot-1", "0.1"))], {}, {})
    assert texts(back) == [("HostOnline", "h1 is online again")]


def test_devices_that_wait_are_told() -> None:
    """With what a person goes by, few by name; who has been decided about meanwhile is no news."""
    one = Asking("host-1", "press-9", True, "SN1", "192.0.2.7", None)
    other = Asking("host-2", "press-9-2", True, None, None, "press-9")
    decided = Asking("host-3", "c", False, None, None, None)
    messages = notification.plan_asking([one, other, decided])
    assert [message.text for message in messages] == [
        "press-9 waits for approval (serial SN1, from 192.0.2.7)",
        "press-9-2 waits for approval, to replace press-9",
    ]
    assert {(message.severity, message.type) for message in messages} == {("warning", "DeviceWaiting")}
    [many] = notification.plan_asking([replace(one, host=f"host-{n}", name=f"h{n}") for n in range(40)])
    assert many.text == "40 devices (h0, h1, h2 and 37 more) wait for approval"


def test_a_config_that_halts_everywhere_is_one_message() -> None:
    """By reason; the end of a halt is noted and not told."""
    halts = [Halt(f"hcfg-{n}", "conf-1", "motd", f"host-{n}", f"h{n}", "ReadOnly", "no", True) for n in range(50)]
    [message] = notification.plan_halts([*halts, replace(halts[0], id="hcfg-x", halted=False)])
    assert message.text == "motd halted on 50 hosts (h0, h1, h2 and 47 more): ReadOnly: no"
    assert (message.severity, message.kind, message.id) == ("error", "config", "conf-1")
    [single] = notification.plan_halts(halts[:1])
    assert (single.text, single.kind) == ("motd halted on h0: ReadOnly: no", "host-config")
