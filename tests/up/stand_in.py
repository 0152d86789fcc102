"""A program that behaves towards `fleetward up` as the real services do (contract.md section 1), and does nothing else.

Run as `python stand_in.py PACKAGE ARGUMENTS...` by the tests of the supervisor, so that these need no working control plane.
"""

import json
import os
import signal
import sys
from pathlib import Path


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def bootstrap() -> None:
    token = Path(argument("--admin-token-file"))
    first = not token.exists()
    token.write_text("admin-token\n")
    print("migrating", file=sys.stderr)
    print(json.dumps({"admin_password": "correct-horse" if first else None}))


def enroll() -> None:
    """A machine that the fleet knows (STAND_IN_KNOWN, a file) waits until it is approved, which the file's end stands for."""
    state, known = Path(argument("--state-dir")), os.environ.get("STAND_IN_KNOWN")
    if known and Path(known).exists():
        sys.exit("waiting for approval")
    host, port = argument("--broker").rsplit(":", 1)
    identity = {"device": "host-01", "token": os.environ["FLEETWARD_ENROLLMENT_TOKEN"], "broker": {"host": host, "port": int(port)}}
    (state / "identity.json").write_text(json.dumps(identity))
    print("host-01")


def web() -> None:
    # Only this stand-in needs it, and all start at once.
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Web(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = ("/readyz",) if os.environ.get("STAND_IN_FORGETFUL") else ("/readyz", "/api/v1/hosts/host-01")
            if self.path.startswith("/api/v1/hosts?"):
                self._answer(200, {"items": [{"id": "host-02", "replaces": None}], "position": 0})
            else:
                self._answer(200 if self.path in known else 404, {})

        def do_PATCH(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            approved = self.path == "/api/v1/hosts/host-02" and asked == {"desired_state": "onboarded"}
            if approved:
                Path(os.environ["STAND_IN_KNOWN"]).unlink()
            self._answer(200 if approved else 403, {})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.headers["Authorization"] == "Bearer admin-token" and asked["uses"] == 1
            secret = "once-only" if asked["approve"] else "unapproved"
            self._answer(201 if known and self.path == "/api/v1/enrollment-tokens" else 403, {"id": "tok-01", "token": secret})

        def _answer(self, status: int, body: dict[str, object]) -> None:
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the log is read for the ready line."""

    server = HTTPServer((argument("--host"), int(argument("--port"))), Web)
    print("ready")
    server.serve_forever()


def wait() -> None:
    if os.environ.get("STAND_IN_DEAF") == sys.argv[1]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("listening somewhere" if sys.argv[1] == "broker" else "ready")
    while True:
        signal.pause()


def main() -> None:
    match sys.argv[1:3]:
        case ["inventory", "bootstrap"]:
            bootstrap()
        case ["edge_agent", "enroll"]:
            enroll()
        case [broken, *_] if broken == os.environ.get("STAND_IN_BROKEN"):
            sys.exit("no such luck")
        case ["web", *_]:
            web()
        case _:
            wait()


if __name__ == "__main__":
    main()
