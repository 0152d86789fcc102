"""`python -m inventory`: the Inventory service; `bootstrap`: the first step of every start; `migrate`: the schema alone; `certificate`: the
secrets of a replica; `rotate-command-key`; `authority`: rotation of the CA and the command root; `vault`: the key that secrets lie under,
and its rotation; `dump` and `load`: the database for `fleetward backup` and `restore`; `verify`: the change log for `fleetward audit`.

Settings come from the environment (`inventory.settings`), flags go before them. Standard output is for the caller: `ready` from the
service, one JSON line from bootstrap. The log goes to standard error, in JSON lines. Exit 2: the environment is wrong; a line says how.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker import logs
from inventory import backup, rotation, seals, service, trusting, vault_keys, verdict
from inventory.authority import Authority
from inventory.backup import BackupError
from inventory.bootstrap import Wanted, bootstrap
from inventory.db import Database, migrate
from inventory.errors import Unavailable
from inventory.resource import time_text
from inventory.secret_files import AuthorityError
from inventory.settings import Settings

ENVIRONMENT_WRONG = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inventory", description=__doc__.splitlines()[0])
    parser.add_argument("--database", metavar="URL", help="postgresql://…; else FLEETWARD_DATABASE")
    parser.add_argument("--secrets", metavar="DIR", type=Path, help="the installation's keys; else FLEETWARD_SECRETS")
    parser.add_argument("--broker", metavar="URL", help="mqtts://HOST:PORT; else FLEETWARD_BROKER")
    commands = parser.add_subparsers(dest="command")
    first = commands.add_parser("bootstrap", help="schema, keys and certificates, first administrator")
    first.add_argument("--database", metavar="URL", default=argparse.SUPPRESS)
    first.add_argument("--secrets", metavar="DIR", type=Path, default=argparse.SUPPRESS)
    first.add_argument("--advertise", metavar="NAME", action="append", default=[], help="a name or address for the servers' certificates")
    first.add_argument("--admin-token-file", metavar="FILE", type=Path, help="where to put a token with the administrator's role")
    only = commands.add_parser("migrate", help="bring the schema up to date")
    only.add_argument("--database", metavar="URL", default=argparse.SUPPRESS)
    named = commands.add_parser(
        "certificate", help="a service's certificate, with what else its role needs, for another machine or replica"
    )
    named.add_argument("name", help="svc-inventory, svc-managers or svc-web, with .2 to .8 for further replicas")
    named.add_argument("--new-key", action="store_true", help="with another key, in the place of one that is to be revoked")
    named.add_argument("--out", metavar="DIR", type=Path, help="the secrets directory to make; without it, into the installation's own")
    commands.add_parser("rotate-command-key", help="another key to sign commands with; the one before is void from then on")
    vault = commands.add_parser("vault", help="the key that secrets of configs lie under: how it stands, and its rotation")
    vault.add_argument("--database", metavar="URL", default=argparse.SUPPRESS)
    vault.add_argument("do", choices=("show", "rotate"))
    keys = commands.add_parser("authority", help="CA and command root: how they stand, and their rotation")
    keys.add_argument("--database", metavar="URL", default=argparse.SUPPRESS)
    keys.add_argument("do", choices=("show", "rotate", "advance"))
    keys.add_argument("--only", choices=rotation.PARTS, action="append", help="of what to rotate; both without it")
    keys.add_argument("--force", action="store_true", help="leave behind who has not followed")
    _database_file(commands.add_parser("dump", help="the database into a file"), "--to")
    load = _database_file(commands.add_parser("load", help="a dump in the place of what the database holds"), "--from")
    load.add_argument("--schema", metavar="NAMES", required=True, help="the migrations of the dump's schema, with commas")
    verify = commands.add_parser("verify", help="the change log, every row of it; exit 1 where it is not intact")
    verify.add_argument("--head", metavar="FILE", type=Path, action="append", default=[], help="a signed head that was kept elsewhere")
    verify.add_argument("--json", action="store_true", help="the report as JSON")
    return parser.parse_args()


def _database_file(parser: argparse.ArgumentParser, file: str) -> argparse.ArgumentParser:
    parser.add_argument(file, dest="file", metavar="FILE", type=Path, required=True)
    parser.add_argument("--programs", metavar="DIR", type=Path, required=True, help="where pg_dump and psql are")
    return parser


async def _bootstrap(settings: Settings, options: argparse.Namespace) -> None:
    wanted = Wanted(settings.secrets, settings.database, tuple(options.advertise), options.admin_token_file)
    password = await bootstrap(wanted, datetime.now(UTC))
    print(json.dumps({"admin_password": password}), flush=True)


async def _seal_restore(settings: Settings) -> None:
    db = await Database.open(settings.database, application="fleetward-restore", pool_size=1)
    try:
        await seals.seal_restore(db, settings.secrets, datetime.now(UTC))
    finally:
        await db.close()


async def _run(options: argparse.Namespace, settings: Settings) -> int:
    """The exit code."""
    match options.command:
        case "bootstrap":
            await _bootstrap(settings, options)
        case "migrate":
            await migrate(settings.database)
        case "certificate":
            for path in Authority(settings.secrets).equip(options.name, options.out, anew=options.new_key):
                print(path)
        case "authority":
            print(json.dumps(await _authority(settings, options)))
        case "vault":
            print(json.dumps(await _vault(settings, options.do == "rotate")))
        case "rotate-command-key":
            print(f"generation {Authority(settings.secrets).rotate_command_key()}")
        case "dump":
            print(json.dumps(backup.as_json(await backup.dump(settings.database, options.programs, options.file))))
        case "load":
            await backup.load(settings.database, options.programs, options.file, options.schema.split(","))
            Authority(settings.secrets).delegate_anew()
            await _seal_restore(settings)
        case "verify":
            return await verdict.judge(settings.database, settings.secrets, options.head, as_json=options.json)
        case _:
            await service.run(settings)
    return 0


async def _vault(settings: Settings, rotates: bool) -> dict[str, Any]:
    """How it stands after what was asked for. Raises AuthorityError, Unavailable."""
    db = await Database.open(settings.database, application="fleetward-vault", pool_size=2)
    try:
        resealed = await vault_keys.rotate(db, settings.secrets, datetime.now(UTC)) if rotates else 0
        found = await vault_keys.standing(db)
        return {"key": found.key, "since": time_text(found.since), "secrets": found.secrets, "older": found.older, "resealed": resealed}
    finally:
        await db.close()


async def _authority(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """How it stands after what was asked for. Raises AuthorityError, Unavailable."""
    authority = Authority(settings.secrets)
    db = await Database.open(settings.database, application="fleetward-authority", pool_size=1)
    try:
        now, before = datetime.now(UTC), authority.keychain
        if options.do == "rotate":
            rotation.begin(authority, tuple(options.only or rotation.PARTS))
        elif options.do == "advance":
            left = "" if options.force else (await trusting.followers(db, authority, now)).left_behind(authority.keychain.phase)
            if left:
                raise AuthorityError(f"{left}: wait for them, or leave them behind with --force")
            rotation.advance(authority)
        await trusting.recorded(db, before, authority.keychain, now)
        return trusting.described(authority.keychain, await trusting.followers(db, authority, now))
    finally:
        await db.close()


def main() -> int:
    options = _arguments()
    logs.configure(os.environ.get("FLEETWARD_LOG", "INFO"))
    try:
        settings = Settings.read(os.environ, database=options.database, secrets=options.secrets, broker=options.broker)
        return asyncio.run(_run(options, settings))
    except (AuthorityError, BackupError, Unavailable, ValueError, OSError) as error:
        if options.command is None:
            logging.getLogger("inventory").error("can't go on", extra={"error": str(error)})
        print(f"inventory: {error}", file=sys.stderr)
        return ENVIRONMENT_WRONG


if __name__ == "__main__":
    sys.exit(main())
