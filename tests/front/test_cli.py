"""The command line against the real API: what goes to standard output, what to standard error, and which exit code."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fleetward.client import ApiError, Client, Conflict, Denied, NotFound, Unreachable
from inventory.authority import Authority
from tests.front.conftest import Api
from tests.waiting import until

Fleet = Callable[..., Result]


def ok(result: Result) -> str:
    """Its standard output, provided it succeeded."""
    assert result.exit_code == 0, result.stderr
    return result.stdout


def site(fleet: Fleet, name: str, *more: str) -> str:
    ok(fleet("create", "site", name, *more))
    return name


def test_create_get_label_delete(fleet: Fleet) -> None:
    """A resource's life by single commands, its kind named in the singular or the plural."""
    made = json.loads(
        ok(fleet("create", "site", "life", "--set", "timezone=Europe/Berlin", "--label", "line=4", "--title", "A life", "-o", "json"))
    )
    assert (made["name"], made["timezone"], made["labels"], made["title"]) == ("life", "Europe/Berlin", {"line": "4"}, "A life")
    assert json.loads(ok(fleet("get", "sites", "life", "-o", "json"))) == made
    assert json.loads(ok(fleet("get", "Site", made["id"], "-o", "json"))) == made
    assert ok(fleet("label", "site", "life", "line-", "hall=north")) == "site/life labelled\n"
    assert json.loads(ok(fleet("get", "site/life", "-o", "json")))["labels"] == {"hall": "north"}
    assert ok(fleet("label", "site/life", "hall-")) == "site/life labelled\n"
    assert fleet("label", "site", "life").exit_code == 2
    assert ok(fleet("delete", "site", "life", "--dry-run")) == "site/life would be deleted\n"
    assert ok(fleet("delete", "site", "life")) == "site/life deleted\n"
    assert fleet("get", "site", "life").exit_code == 3


def test_formats(fleet: Fleet) -> None:
    """Each format is what it says: parseable, complete, and alone on standard output."""
    names = [site(fleet, f"format-{n}", "--label", "set=formats") for n in range(3)]
    chosen = ("get", "sites", "--filter", 'labels.set = "formats"', "--sort", "-name")
    listed = json.loads(ok(fleet(*chosen, "-o", "json")))
    assert [item["name"] for item in listed["items"]] == names[::-1]
    assert listed["next_page_token"] is None
    assert listed["position"] >= 0
    assert [json.loads(line) for line in ok(fleet(*chosen, "-o", "jsonl")).splitlines()] == listed["items"]
    assert list(yaml.safe_load_all(ok(fleet(*chosen, "-o", "yaml")))) == [item | {} for item in yaml.safe_load(json.dumps(listed["items"]))]
    assert ok(fleet(*chosen, "-o", "name")).splitlines() == [f"site/{name}" for name in names[::-1]]
    head, *rows = ok(fleet(*chosen)).splitlines()
    assert head.split() == ["NAME", "TITLE", "REGION", "TIMEZONE"]
    assert [row.split()[0] for row in rows] == names[::-1]
    assert "ID" in ok(fleet(*chosen, "-o", "wide")).splitlines()[0].split()


def test_an_empty_list_is_no_error(fleet: Fleet) -> None:
    """Nothing found: a head for people, an empty list for programs, exit 0."""
    nothing = fleet("get", "hosts", "--filter", 'name = "nobody"')
    assert "no hosts" in nothing.stderr
    assert json.loads(ok(fleet("get", "hosts", "--filter", 'name = "nobody"', "-o", "json")))["items"] == []


def test_many_pages_are_one_list(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the API gives in pages comes as one list."""
    names = [site(fleet, f"page-{n}") for n in range(5)]
    monkeypatch.setattr("fleetward.cli.resources.PAGE_SIZE", 2)
    found = ok(fleet("get", "sites", "--filter", 'name = "page-*"', "--sort", "name", "-o", "name"))
    assert found.splitlines() == [f"site/{name}" for name in names]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("get", "spaceships"), 2, "spaceships is no kind; there is region, site, host"),
        (("get", "site", "nowhere"), 3, "nowhere"),
        (("describe", "host", "nobody"), 3, "nobody"),
        (("get", "hosts", "--filter", "presence ="), 2, "filter"),
        (("get", "hosts", "--filter", "nothing = 4"), 2, "(column 1)"),
        (("get", "hosts", "--sort", "nothing"), 2, "nothing"),
        (("get", "hosts", "one", "--filter", 'name = "x"'), 2, "names, or --filter"),
        (("get", "hosts", "-o", "pdf"), 2, "pdf"),
        (("create", "site", "Not A Name"), 1, "/name"),
        (("create", "site", "typo", "--set", "timezon=UTC"), 1, "/timezon"),
        (("create", "site", "typo", "--set", "timezone"), 2, "KEY=VALUE"),
        (("create", "site", "typo", "--set", "latitude=north"), 1, "/latitude"),
        (("create", "component", "typo"), 1, "component"),
        (("label", "site", "nowhere", "a=b"), 3, "nowhere"),
        (("delete", "site"), 2, "which site"),
        (("delete", "site", "nowhere"), 3, "nowhere"),
        (("wait", "site/nowhere", "--for=current"), 3, "nowhere"),
        (("wait", "site/nowhere", "--for=sunshine"), 2, "current, deleted or FIELD=VALUE"),
        (("wait", "site/nowhere", "--for=current", "--timeout", "soon"), 2, "duration"),
        (("token", "create", "--uses", "0"), 2, "uses"),
        (("token", "create", "--site", "nowhere"), 1, "nowhere"),
        (("token", "create", "--ttl", "0s"), 2, "--ttl 0s: must be longer than nothing"),
        (("token", "create", "--ttl", "9999999d"), 2, "ends too far ahead"),
        (("apply", "-f", "/nonexistent.yaml"), 2, "/nonexistent.yaml: No such file"),
        (("--server", "fleet.example", "get", "hosts"), 2, "give a URL"),
        (("up", "--broker", "rabbit"), 2, "rabbit"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_refusals(fleet: Fleet, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Each mistake: its exit code, words that name it, nothing on standard output, no traceback."""
    result = fleet(*arguments, env={} if arguments[0] != "--server" else {"FLEETWARD_SERVER": ""})
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


def test_no_server_and_no_token(fleet: Fleet) -> None:
    """Without a server, with a wrong one, and with a wrong token: exit 2 and what to do."""
    assert "fleetward up" in (none := fleet("get", "hosts", env={"FLEETWARD_SERVER": None})).stderr
    assert none.exit_code == 2
    assert "does not answer" in (away := fleet("get", "hosts", "--server", "http://127.0.0.1:9")).stderr
    assert away.exit_code == 2
    assert "--token" in (denied := fleet("get", "hosts", "--token", "wrong")).stderr
    assert denied.exit_code == 2


def test_conflicts_have_their_own_code(fleet: Fleet) -> None:
    """A name that is taken, and a delete of what is in use: exit 4, naming the user."""
    ok(fleet("create", "region", "used"))
    site(fleet, "user-of-it", "--set", "region=used")
    taken = fleet("create", "region", "used")
    assert (taken.exit_code, taken.stderr) == (4, "fleetward: there is a region named used already\n")
    refused = fleet("delete", "region", "used")
    assert refused.exit_code == 4
    assert "user-of-it" in refused.stderr


def test_describe_and_events_tell_the_story(fleet: Fleet) -> None:
    """A description has fields, labels and the last changes; the event list has the same changes."""
    site(fleet, "story", "--label", "line=9")
    ok(fleet("label", "site", "story", "line=10"))
    identity = json.loads(ok(fleet("get", "site", "story", "-o", "json")))["id"]

    def events() -> list[dict[str, str]]:
        return [json.loads(line) for line in ok(fleet("events", "--kind", "sites", "--id", identity, "-o", "jsonl")).splitlines()]

    until(lambda: len(events()) == 2, 10, "the changes have not been published")
    text = ok(fleet("describe", "site", "story"))
    assert re.search(r"^name: +story$", text, re.MULTILINE)
    assert re.search(r"^  line: 10$", text, re.MULTILINE)
    assert "LAST CHANGES" in text
    seen = events()
    assert [event["op"] for event in seen] == ["created", "updated"]
    assert "site/story" in ok(fleet("events", "--id", identity))
    after = ok(fleet("events", "--id", identity, "--after", str(seen[0]["position"]), "-o", "name"))
    assert after.splitlines() == ["site/story"]


def test_edit_sends_only_what_changed(fleet: Fleet, tmp_path: Path) -> None:
    """The editor sees the user's fields; what it changes is changed, and nothing else; an unchanged file does nothing."""
    site(fleet, "edited", "--set", "timezone=UTC", "--label", "a=1")
    editor = tmp_path / "editor"
    editor.write_text(
        '#!/bin/sh\ncp "$1" ' + str(tmp_path / "seen") + "\nsed -i -e 's/timezone: UTC/timezone: Europe\\/Paris/' -e '/^  a: /d' \"$1\"\n"
    )
    editor.chmod(0o755)
    assert ok(fleet("edit", "site", "edited", env={"EDITOR": str(editor), "VISUAL": ""})) == "site/edited changed\n"
    assert "version" not in (tmp_path / "seen").read_text()
    after = json.loads(ok(fleet("get", "site", "edited", "-o", "json")))
    assert (after["timezone"], after["labels"]) == ("Europe/Paris", {})
    unchanged = fleet("edit", "site", "edited", env={"EDITOR": "true", "VISUAL": ""})
    assert "nothing changed" in unchanged.stderr
    assert json.loads(ok(fleet("get", "site", "edited", "-o", "json")))["version"] == after["version"]
    assert fleet("edit", "site", "edited", env={"EDITOR": "false", "VISUAL": ""}).exit_code == 1


def test_wait(fleet: Fleet) -> None:
    """What is so already is waited for no longer; what does not come in time is exit 5."""
    site(fleet, "waited", "--set", "timezone=UTC")
    ok(fleet("wait", "site/waited", "--for=timezone=UTC"))
    ok(fleet("wait", "site/waited", "--for=current"))
    late = fleet("wait", "site", "waited", "--for=timezone=Mars", "--timeout", "300ms")
    assert late.exit_code == 5
    ok(fleet("delete", "site", "waited"))
    ok(fleet("wait", "site/waited", "--for=deleted"))


def test_waiting_for_a_config_waits_for_its_managers(fleet: Fleet) -> None:
    """Nobody has looked yet for the hosts it is for (no managers run here): so it is not current, whatever its row says."""
    ok(fleet("create", "config", "unseen", "--set", "selector=name = nobody", "--set", "files=[{path: /tmp/x, content: x}]"))
    late = fleet("wait", "config/unseen", "--for=current", "--timeout", "1s")
    assert late.exit_code == 5
    assert "unseen" in late.stderr.partition("after 1s: ")[2], "it says what its explanation says"


def test_references_are_shown_by_name(fleet: Fleet) -> None:
    """In tables for people; programs get the ids."""
    ok(fleet("create", "region", "shown-by-name"))
    site(fleet, "refers", "--set", "region=shown-by-name")
    assert "shown-by-name" in ok(fleet("get", "sites", "refers"))
    assert json.loads(ok(fleet("get", "sites", "refers", "-o", "json")))["region"].startswith("reg-")


def test_token_create_prints_the_token_alone(fleet: Fleet) -> None:
    """Standard output is one line, the token; the rest is talk. What was asked for is what was made."""
    site(fleet, "hall")
    result = fleet("token", "create", "--uses", "3", "--ttl", "2h", "--site", "hall", "--label", "line=4", "--approve")
    assert len(ok(result).split()) == 1
    assert "fleetward-agent enroll" in result.stderr and "/install.sh | sudo sh -s -- --token TOKEN" in result.stderr
    assert result.stdout.strip() not in result.stderr
    [made] = [one for one in json.loads(ok(fleet("get", "enrollment-tokens", "-o", "json")))["items"] if one["uses"] == 3]
    assert (made["approve"], made["given_labels"]) == (True, {"line": "4"})
    assert "token" not in made


def device(api: Api, fleet: Fleet, token: str, **evidence: Any) -> tuple[int, dict[str, Any], Callable[[], int]]:
    """A device asks to be let in: the answer, and a way to ask again."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
    body = {"token": token, "csr": csr, "evidence": evidence, "agent_version": "1"}

    def ask() -> httpx.Response:
        return httpx.post(f"{api.url}/api/v1/enroll", json=body, trust_env=False, timeout=60)

    first = ask()
    return first.status_code, first.json(), lambda: ask().status_code


def test_the_waiting_room(api: Api, fleet: Fleet) -> None:
    """Who waits is shown with what a person goes by; approved, refused, or approved as a host of its own."""
    token = ok(fleet("token", "create", "--uses", "4")).strip()
    macs = ["52:54:00:12:34:56", "52:54:00:12:34:57"]
    status, first, again = device(api, fleet, token, serial="CLI-0001", hostname="cli-waits", macs=macs)
    assert status == 202
    shown = ok(fleet("waiting"))
    assert shown.split()[:4] == ["NAME", "SERIAL", "UUID", "MAC"]
    [line] = [line for line in shown.splitlines() if "cli-waits" in line]
    assert all(words in line for words in ("CLI-0001", macs[0], "127.0.0.1")) and macs[1] not in line
    [found] = [host for host in json.loads(ok(fleet("waiting", "-o", "json")))["items"] if host["name"] == "cli-waits"]
    assert found["enrollment"]["fingerprint"][:16] in line
    assert macs[1] in ok(fleet("waiting", "-o", "wide"))
    assert ok(fleet("approve", "cli-waits")) == "host/cli-waits approved\n"
    assert again() == 200 and "cli-waits" not in ok(fleet("waiting"))

    _, second, again = device(api, fleet, token, serial="cli-0001", hostname="cli-second")
    assert ok(fleet("waiting")).count("cli-waits") == 1
    assert ok(fleet("reject", "cli-second")) == "host/cli-second refused\n"
    assert again() == 403 and "cli-second (refused)" in ok(fleet("waiting"))
    assert ok(fleet("approve", "cli-second")) == "host/cli-second approved, in place of cli-waits\n"

    _, third, again = device(api, fleet, token, serial="cli-0001", hostname="cli-third")
    assert ok(fleet("approve", "--as-new", "cli-third")) == "host/cli-third approved\n"
    assert again() == 200 and len({first["request"], second["request"], third["request"]}) == 3
    assert fleet("reject", "cli-third").exit_code == 4
    assert fleet("approve", "nobody").exit_code == 3


def test_machines_are_written_down(fleet: Fleet, tmp_path: Path) -> None:
    """From a file or standard input; tried without writing; what is known already is left alone; what is wrong is named."""
    sheet = tmp_path / "machines.csv"
    sheet.write_text("serial,name,labels\nCLI-SHEET-1,sheet-1,line=4\nCLI-SHEET-2,,\n", encoding="utf-8")
    assert ok(fleet("preregister", "-f", str(sheet), "--dry-run")).splitlines()[0] == "host/sheet-1 would be expected"
    assert ok(fleet("preregister", "-f", str(sheet))) == "host/sheet-1 expected\nhost/cli-sheet-2 expected\n"
    again = fleet("preregister", "-f", "-", input=sheet.read_text())
    assert ok(again) == "" and "line 2: is host/sheet-1 already" in again.stderr
    assert json.loads(ok(fleet("get", "host", "sheet-1", "-o", "json")))["expected_serial"] == "CLI-SHEET-1"
    wrong = fleet("preregister", "-f", "-", input="serial\nTo Be Filled By O.E.M.\n")
    assert wrong.exit_code == 1 and "/lines/2/serial" in wrong.stderr
    assert fleet("preregister", "-f", str(tmp_path / "none.csv")).exit_code == 2
    (tmp_path / "latin.csv").write_bytes(b"serial\n\xfc\n")
    assert "CSV UTF-8" in fleet("preregister", "-f", str(tmp_path / "latin.csv")).stderr


def test_integration_create_writes_a_key_that_fits(fleet: Fleet, tmp_path: Path) -> None:
    """Certificate, key and CA are there, belong together, and the key is for its owner's eyes only."""
    out = tmp_path / "grafana"
    assert ok(fleet("integration", "create", "grafana", "--write", "--out", str(out))) == f"{out}\n"
    key = load_pem_private_key((out / "client.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((out / "client.crt").read_bytes())
    authority = x509.load_pem_x509_certificate((out / "ca.crt").read_bytes())
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string().count("CN=grafana") == 1
    certificate.verify_directly_issued_by(authority)
    assert stat.S_IMODE((out / "client.key").stat().st_mode) == 0o600
    both = fleet("integration", "create", "both", "--write", "--write-unsigned", "--out", str(out))
    assert both.exit_code == 2


def test_integration_renew_keeps_the_key(fleet: Fleet, tmp_path: Path) -> None:
    """The certificate that is there while it lasts; what can't be renewed is said."""
    out = str(tmp_path)
    ok(fleet("integration", "create", "again", "--out", out))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert ok(fleet("integration", "renew", "again", "--out", out)) == f"{out}\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert fleet("integration", "renew", "nobody", "--out", out).exit_code == 3
    assert fleet("integration", "renew", "again", "--out", str(tmp_path / "nowhere")).exit_code == 2
    (tmp_path / "client.key").write_text("nonsense")
    assert fleet("integration", "renew", "again", "--out", out).exit_code == 2


def test_integration_scope_says_what_it_takes(fleet: Fleet, tmp_path: Path) -> None:
    """A first scope replaces the certificate, and renewing fetches that; another one does not."""
    out = str(tmp_path)
    ok(fleet("integration", "create", "narrow", "--out", out))
    before = (tmp_path / "client.crt").read_bytes()
    first = fleet("integration", "scope", "narrow", "labels.line = 4")
    assert ok(first) == "integration/narrow is about labels.line = 4 now\n"
    assert "fleetward integration renew narrow" in first.stderr
    ok(fleet("integration", "renew", "narrow", "--out", out))
    assert (tmp_path / "client.crt").read_bytes() != before
    assert "renew" not in fleet("integration", "scope", "narrow", "labels.line = 5").stderr
    for name, scope, code in (("narrow", "presence = online", 1), ("nobody", "", 3)):
        assert fleet("integration", "scope", name, scope).exit_code == code
    assert "delete the integration" in fleet("certificate", "revoke", "narrow").stderr, "one of both classes is one integration"
    assert "1 to 63 small letters" in fleet("integration", "create", "N A", "--out", out).stderr


def test_what_was_let_in_is_taken_back(fleet: Fleet, tmp_path: Path) -> None:
    """The list names every certificate by its whole serial number; revoking and deleting are seen there, and twice is an error."""
    ok(fleet("integration", "create", "leaver", "--out", str(tmp_path / "leaver")))
    ok(fleet("integration", "create", "unsigning", "--write-unsigned", "--out", str(tmp_path / "unsigning")))
    listed = {line.split()[0]: line.split()[1] for line in ok(fleet("integration", "list")).splitlines()}
    assert (listed["NAME"], listed["leaver"], listed["unsigning"]) == ("WRITE", "none", "unsigned")
    assert "integration/leaver" in ok(fleet("integration", "list", "-o", "name")).split()
    services = ok(fleet("certificate", "list", "--class", "service"))
    assert "svc-inventory" in services and "leaver" not in services
    serial = x509.load_pem_x509_certificate((tmp_path / "leaver" / "client.crt").read_bytes()).serial_number
    [line] = [line for line in ok(fleet("certificate", "list")).splitlines() if "leaver" in line]
    assert line.split()[:3] == [f"{serial:x}", "leaver", "integration"]
    refused = fleet("certificate", "revoke", f"{serial:x}")
    assert refused.exit_code == 4 and "delete the integration" in refused.stderr
    ok(fleet("integration", "delete", "leaver"))
    assert fleet("integration", "delete", "leaver").exit_code == 3
    [line] = [line for line in ok(fleet("certificate", "list")).splitlines() if "leaver" in line]
    assert line.endswith("revoked")
    [revoked] = ok(fleet("certificate", "revoke", "svc-web")).split()
    assert [line for line in ok(fleet("certificate", "list")).splitlines() if line.startswith(revoked) and line.endswith("revoked")]


def test_a_broker_s_configuration_is_printed(tmp_path: Path) -> None:
    """By a process of its own, which takes over: `fleetward broker config` for both kinds, and `fleetward broker` still runs one."""
    secrets = tmp_path / "secrets"
    Authority(secrets).bootstrap()

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "fleetward", "broker", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    for kind, names in (("mosquitto", ["mosquitto.conf", "mosquitto.acl"]), ("emqx", ["emqx.conf", "acl.conf"])):
        done = run("config", kind, "--secrets", str(secrets), "--port", "1234")
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if line.startswith("#### ")][:2] == [f"#### {name}" for name in names]
        assert "1234" in done.stdout
    nowhere = run("config", "emqx", "--secrets", str(tmp_path / "nowhere"))
    assert (nowhere.returncode, nowhere.stdout) == (2, "") and "--secrets" in nowhere.stderr
    assert "--kind" in run("--secrets", str(secrets), "--help").stdout


def test_an_integration_is_made_whole_or_not_at_all(fleet: Fleet, tmp_path: Path) -> None:
    """A directory that can't be written costs no name; a name that is taken costs no key of the one that has it."""
    assert fleet("integration", "create", "whole", "--out", "/proc/nowhere").exit_code == 2
    ok(fleet("integration", "create", "whole", "--out", str(tmp_path)))
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert fleet("integration", "create", "whole", "--out", str(tmp_path)).exit_code == 4
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_explain_takes_every_format(fleet: Fleet) -> None:
    """The same ones as `get`."""
    ok(fleet("create", "region", "told"))
    beginnings = {"table": "told is", "wide": "told is", "json": "{\n", "jsonl": '{"', "yaml": "summary: ", "name": "region/told\n"}
    for output, beginning in beginnings.items():
        assert ok(fleet("explain", "region", "told", "-o", output)).startswith(beginning)


def test_events_as_yaml_are_documents(fleet: Fleet) -> None:
    """As `get -o yaml` prints resources."""
    ok(fleet("create", "region", "eventful"))
    until(lambda: "name: eventful" in ok(fleet("events", "--kind", "region", "-o", "yaml")), 10, "the change has not been published")
    assert ok(fleet("events", "--kind", "region", "-o", "yaml")).startswith("---\nposition: ")


def test_the_client_raises_what_happened(api: "object") -> None:
    """Each refusal is an exception of its own, with status and members; what a version guards is guarded."""
    with api.client() as client:  # type: ignore[attr-defined]
        made = client.create("sites", {"name": "typed"})
        with pytest.raises(Conflict) as taken:
            client.create("sites", {"name": "typed"})
        assert taken.value.status == 409
        assert client.create("sites", {"name": "imagined"}, dry_run=True)["name"] == "imagined"
        with pytest.raises(NotFound):
            client.get("sites", "imagined")
        with pytest.raises(ApiError) as wrong:
            client.patch("sites", "typed", {"latitude": 1000})
        assert wrong.value.errors[0].pointer == "/latitude"
        client.patch("sites", "typed", {"title": "Newer"})
        with pytest.raises(Conflict) as lost:
            client.patch("sites", "typed", {"title": "Older"}, version=made["version"])
        assert lost.value.status == 412
        once = client.create("sites", {"name": "once"}, idempotency_key="k-1")
        assert client.create("sites", {"name": "once"}, idempotency_key="k-1")["id"] == once["id"]
        page = client.page("sites", filter='name = "typed"', count=True)
        assert (page.total, page.next_page_token) == (1, None)
        stream = client.stream(after=page.position, kinds=("site",))
        client.patch("sites", "typed", {"title": "Streamed"})
        # The list's position may lie before what the list shows: then that is told once more.
        assert next(title for event in stream if (title := event.resource["title"]) not in ("", "Newer")) == "Streamed"
        assert client.whoami()["name"]
        with pytest.raises(Denied), Client(client.server) as stranger:
            stranger.kinds()
        with pytest.raises(Unreachable), Client("http://127.0.0.1:9") as nowhere:
            nowhere.kinds()
