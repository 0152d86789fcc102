"""`python -m broker config mosquitto|emqx`: the complete configuration of a broker that somebody runs on their own.

Its files follow each other on standard output, each under a line with its name, or are written into the directory of `--out`. They are
what `broker.mosquitto_files` renders, as for the Mosquitto that we run, and what `broker.emqx` does. Called by `broker.__main__`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from broker import emqx
from broker.acl import Acl, Identity, emqx_rules, mosquitto_acl
from broker.mosquitto import find_plugin
from broker.mosquitto_files import PLUGIN_CLIENTS, Files, read_integrations, render
from broker.topics import DEFAULT_ROOT, TopicError, Topics

DATA = Path("/etc/fleetward-broker")
"""Where such a broker has its files, unless told otherwise."""
DEBIANS_PLUGIN = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so"
"""Where there is no Mosquitto on this machine to look at."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        files = render_all(options, read_integrations(options.secrets.parent / "broker" / "integrations.json"))
        _hand_out(files, options.out)
    except (OSError, ValueError, TopicError) as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetward broker config", description="Print the configuration of a broker of your own.")
    parser.add_argument("kind", choices=("mosquitto", "emqx"))
    parser.add_argument("--secrets", type=Path, required=True, help="the directory that it will have broker.crt, broker.key and ca.crt in")
    parser.add_argument("--data", type=Path, default=DATA, help="where these files will be [%(default)s]")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8883)
    parser.add_argument("--user", default="mosquitto", help="whom Mosquitto runs as [%(default)s]")
    parser.add_argument("--topic-root", default=DEFAULT_ROOT)
    parser.add_argument("--out", type=Path, help="write the files into this directory")
    return parser


def render_all(options: argparse.Namespace, integrations: Sequence[Identity]) -> dict[str, str]:
    """The files, by name. Raises TopicError for a topic root that is none, OSError where the first CRL can't be read."""
    acl = Acl(Topics(options.topic_root))
    if options.kind == "emqx":
        conf = emqx.render(options.secrets, options.data / "acl.conf", options.host, options.port)
        return {"emqx.conf": conf, "acl.conf": emqx_rules(acl, integrations)}
    files = Files(options.secrets, options.data)
    plugin = find_plugin() or DEBIANS_PLUGIN
    return {
        files.config.name: render(files, options.host, options.port, options.user, plugin),
        files.acl.name: mosquitto_acl(acl, integrations),
        files.plugin.name: json.dumps(PLUGIN_CLIENTS, indent=1) + "\n",
        files.crl.name: (options.secrets / "ca.crl").read_text(),
    }


def _hand_out(files: dict[str, str], out: Path | None) -> None:
    if out is None:
        print("\n".join(f"#### {name}\n{text}" for name, text in files.items()), end="")
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text)
        (out / name).chmod(0o640)
        print(out / name)
