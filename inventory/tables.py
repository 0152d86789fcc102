"""The tables that are not resources: the change log, what devices said last, the work queue, identities and accounts.

They are models so that migrations know them; the hot paths reach them by named SQL (`queries.sql`). `changes` is partitioned, which
models can't say: the migration makes it by SQL. Source: design.md section 5.
"""

from typing import Any

from tortoise import Model, fields
from tortoise.fields import CharField, DatetimeField, TextField


class ChangeIn(Model):
    """A change as its writer's transaction left it, before the relay gives it a position."""

    id = fields.BigIntField(primary_key=True, generated=True)
    kind = CharField(max_length=32)
    resource_id = CharField(max_length=64)
    op = CharField(max_length=16)
    version = fields.BigIntField()
    generation = fields.BigIntField()
    changed: Any = fields.JSONField()
    resource: Any = fields.JSONField(null=True)
    before: Any = fields.JSONField(null=True)
    host = CharField(max_length=64, null=True)
    actor: Any = fields.JSONField()
    at = DatetimeField()

    class Meta:
        table = "changes_in"


class ProcessMetrics(Model):
    """The numbers that a process published last (`inventory.telemetry`). The table is not logged: a crash of the database empties it."""

    process = CharField(max_length=128, primary_key=True)
    pid = fields.IntField()
    samples: Any = fields.JSONField()
    at = DatetimeField()

    class Meta:
        table = "process_metrics"


class LogGap(Model):
    """Positions that the change log does not have and never will: given by an installation that was then restored from a backup. A reader
    that stands after `after` and before `before` has seen what is no longer so. `signature` (`inventory.seals`): it is no cut."""

    after = fields.BigIntField(primary_key=True, generated=False)
    before = fields.BigIntField()
    at = DatetimeField()
    signature = fields.BinaryField(null=True)

    class Meta:
        table = "log_gaps"


class ChainHead(Model):
    """How far the change log went at a time, signed (`inventory.seals.Head`). One an hour, and the newest."""

    position = fields.BigIntField(primary_key=True, generated=False)
    hash = fields.BinaryField()
    at = DatetimeField()
    key = fields.BinaryField()
    signature = fields.BinaryField()

    class Meta:
        table = "chain_heads"


class Stray(Model):
    """An item that a device reports and that nothing here asks for, as after a restore: it is to be removed from the device."""

    id = CharField(max_length=64, primary_key=True)
    host = CharField(max_length=64)
    kind = CharField(max_length=32)
    generation = fields.BigIntField()
    at = DatetimeField()

    class Meta:
        table = "strays"


class Cursor(Model):
    """How far a consumer of the change log has come."""

    name = CharField(max_length=64, primary_key=True)
    position = fields.BigIntField()

    class Meta:
        table = "cursors"


class HostLabels(Model):
    """A host's effective labels: its own over its site's over its regions'."""

    host = CharField(max_length=64, primary_key=True)
    labels: Any = fields.JSONField()

    class Meta:
        table = "host_labels"


class HostFacts(Model):
    """One section of a device's facts, as it sent it. One row a host and section (a unique index says so)."""

    id = fields.BigIntField(primary_key=True, generated=True)
    host = CharField(max_length=64)
    section = CharField(max_length=32)
    hash = CharField(max_length=80)
    data: Any = fields.JSONField()
    updated_at = DatetimeField()

    class Meta:
        table = "host_facts"
        unique_together = (("host", "section"),)


class DeviceLiveness(Model):
    """When a device was last heard. Written at every sign of life, so it is narrow and has no second index."""

    host = CharField(max_length=64, primary_key=True)
    last_seen = DatetimeField()
    uptime_s = fields.BigIntField(null=True)
    unacked = fields.IntField(null=True)

    class Meta:
        table = "device_liveness"


class DeviceStream(Model):
    """Where a device's durable stream stands (epoch and the last committed seq), and its sessions. `retired`: the last sessions before
    the current one, as [session, boot_id, heard] (`inventory.streams` says what); `retired_epochs`: the epochs before; `flaps`: how often
    a retired session has spoken;
    `resync_at`: when the device is to be asked for everything, None where nothing is doubted."""

    host = CharField(max_length=64, primary_key=True)
    epoch = CharField(max_length=256, null=True)
    seq = fields.BigIntField(default=0)
    session = CharField(max_length=256, null=True)
    session_since = DatetimeField(null=True)
    retired: Any = fields.JSONField(default=list)
    keepalive_s = fields.IntField(default=30)
    heartbeat_s = fields.IntField(default=30)
    flaps = fields.IntField(default=0)
    boot_id = CharField(max_length=256, null=True)
    retired_epochs: Any = fields.JSONField(default=list)
    resync_at = DatetimeField(null=True)

    class Meta:
        table = "device_stream"


class DeviceIdentity(Model):
    """The key a device is known by, and the fence of its commands. `incarnation` rises with each enrollment anew."""

    host = CharField(max_length=64, primary_key=True)
    fingerprint = CharField(max_length=64, unique=True)
    incarnation = fields.IntField(default=1)
    certificate = TextField()
    certificate_serial = CharField(max_length=64)
    expires_at = DatetimeField()
    fence = fields.BigIntField(default=0)
    evidence: Any = fields.JSONField(default=dict)
    token = CharField(max_length=64, null=True)
    revoked_at = DatetimeField(null=True)
    created_at = DatetimeField()

    class Meta:
        table = "device_identity"


class DeviceTrust(Model):
    """How a device follows when keys change. `keys`: the list that it says it trusts, null before it has said; `told_at`: when it was last
    sent the newest. `replaces`: the serial number of the certificate before the present one, null after an enrollment; `former`: the
    fingerprints of the keys that the host had before, the last of them at the end. `told_end`: the end of a certificate that people know
    of."""

    host = CharField(max_length=64, primary_key=True)
    keys = fields.BigIntField(null=True)
    told_at = DatetimeField(null=True)
    replaces = CharField(max_length=256, null=True)
    former: Any = fields.JSONField(default=list)
    told_end = DatetimeField(null=True)

    class Meta:
        table = "device_trust"


class Certificate(Model):
    """A certificate that was issued: to whom (`name` is its CN, `unit` its OU), for which host, until when, since when it is taken back.

    `host` becomes null when the host goes: a device's certificate without one is nobody's any more. `reason`: revoked or superseded; what a
    host's state takes back stands in its host, and in the view `revoked_certificate`."""

    serial = CharField(max_length=64, primary_key=True)
    name = CharField(max_length=255)
    unit = CharField(max_length=32)
    host = CharField(max_length=64, null=True)
    issued_at = DatetimeField()
    expires_at = DatetimeField()
    revoked_at = DatetimeField(null=True)
    reason = CharField(max_length=16, null=True)

    class Meta:
        table = "certificate"


class EnrollmentRequest(Model):
    """A device that waits to be let in, or was refused: its key, and what it says of itself. It has a host, which nobody has approved.

    `same_as`: ids of the hosts whose machine it seems to be. `asked_at`: it is heard no later. `told`: people have been told of it."""

    host = CharField(max_length=64, primary_key=True)
    fingerprint = CharField(max_length=64, unique=True)
    token = CharField(max_length=64)
    evidence: Any = fields.JSONField()
    same_as: Any = fields.JSONField()
    told = fields.BooleanField(default=False)
    created_at = DatetimeField()
    asked_at = DatetimeField()

    class Meta:
        table = "enrollment_request"


class Secret(Model):
    """A secret of a resource, sealed (`inventory.vault`), under a name that is its own in that resource. `tag` (`inventory.deposits`) tells
    whether another value is the same."""

    id = fields.BigIntField(primary_key=True, generated=True)
    owner = CharField(max_length=64)
    name = CharField(max_length=64)
    sealed = TextField()
    tag = fields.BinaryField()
    changed_at = DatetimeField()

    class Meta:
        table = "secret"
        unique_together = (("owner", "name"),)


class VaultState(Model):
    """The id of the key that secrets are sealed under, in the only row there is."""

    id = fields.IntField(primary_key=True, generated=False)
    key = CharField(max_length=16)
    since = DatetimeField()

    class Meta:
        table = "vault_state"


class Poison(Model):
    """A message of a device whose body could not be used, set aside with its error."""

    id = fields.BigIntField(primary_key=True, generated=True)
    host = CharField(max_length=64)
    suffix = CharField(max_length=32)
    epoch = CharField(max_length=256, null=True)
    seq = fields.BigIntField(null=True)
    error = TextField()
    payload = fields.BinaryField()
    at = DatetimeField()

    class Meta:
        table = "poison"


class DeviceLog(Model):
    """What a device wanted known (`up/log`). `id` is the device's own; a log sent twice across epochs is stored once."""

    id = fields.BigIntField(primary_key=True, generated=True)
    host = CharField(max_length=64)
    log_id = CharField(max_length=256)
    type = CharField(max_length=256)
    severity = CharField(max_length=16)
    message = TextField()
    data: Any = fields.JSONField()
    at = DatetimeField()

    class Meta:
        table = "device_log"
        unique_together = (("host", "log_id"),)


class IngestLease(Model):
    """Which Inventory replica reads a shard's devices, until when, and since when it has been subscribed."""

    shard = CharField(max_length=2, primary_key=True)
    owner = CharField(max_length=64, null=True)
    until = DatetimeField(null=True)
    fence = fields.BigIntField(default=0)
    subscribed_since = DatetimeField(null=True)

    class Meta:
        table = "ingest_lease"


class IngestReplica(Model):
    """An Inventory replica that is alive, so that shards are shared out among those that are."""

    name = CharField(max_length=64, primary_key=True)
    seen_at = DatetimeField()

    class Meta:
        table = "ingest_replica"


class Work(Model):
    """A key that a manager has to reconcile. At most one row a key: triggers of a queued key collapse into it.

    `due_at` null: it waits for a trigger. `again`: the strongest trigger that came while it was being reconciled. `backoff`: `due_at` is
    a pause after a failure. `lane`: `inventory.work.Lane`."""

    id = fields.BigIntField(primary_key=True, generated=True)
    manager = CharField(max_length=32)
    key = CharField(max_length=128)
    due_at = DatetimeField(null=True)
    attempts = fields.IntField(default=0)
    halted = fields.BooleanField(default=False)
    again = fields.IntField(default=0)
    backoff = fields.BooleanField(default=False)
    last_error: Any = fields.JSONField(null=True)
    lease_owner = CharField(max_length=64, null=True)
    lease_until = DatetimeField(null=True)
    fence = fields.BigIntField(default=0)
    queued_at = DatetimeField()
    lane = fields.SmallIntField(default=1, db_default=1)

    class Meta:
        table = "work"
        unique_together = (("manager", "key"),)


class HostTold(Model):
    """What people were told last of a host, so that only what is different now is told."""

    host = CharField(max_length=64, primary_key=True)
    presence = CharField(max_length=16)
    boot_id = TextField(null=True)
    agent_version = TextField(null=True)
    told_at = DatetimeField()

    class Meta:
        table = "host_told"


class User(Model):
    """A person who may sign in. `password` is an argon2id hash, empty for those whom an identity provider knows (`issuer`, `subject`).

    `password_expires_at`: set while the password is one that an administrator handed out, to be used once until then. `totp_secret`:
    sealed (`inventory.second_factor`), in force since `totp_since`; `totp_step`: the last step whose code was used. `scope`: the filter of
    hosts that the role holds for, empty for all."""

    id = CharField(max_length=64, primary_key=True)
    name = CharField(max_length=253, unique=True)
    title = CharField(max_length=256, default="", db_default="")
    password = CharField(max_length=256)
    role = CharField(max_length=16, default="viewer")
    scope = TextField(default="", db_default="")
    created_at = DatetimeField()
    disabled_at = DatetimeField(null=True)
    signed_in_at = DatetimeField(null=True)
    password_changed_at = DatetimeField(null=True)
    password_expires_at = DatetimeField(null=True)
    issuer: Any = TextField(null=True)
    subject: Any = TextField(null=True)
    totp_secret = fields.BinaryField(null=True)
    totp_since = DatetimeField(null=True)
    totp_step = fields.BigIntField(default=0, db_default=0)

    class Meta:
        table = "users"


class RecoveryCode(Model):
    """A code that stands in for a lost second factor, once. `code_hash` is its SHA-256, hex."""

    code_hash = CharField(max_length=64, primary_key=True)
    user = CharField(max_length=64)

    class Meta:
        table = "recovery_codes"


class SignInBegun(Model):
    """A sign-in between its two steps: the user's password was right, and waits for its code. `token_hash` is the SHA-256 of the cookie
    that goes with it, hex."""

    token_hash = CharField(max_length=64, primary_key=True)
    user = CharField(max_length=64)
    expires_at = DatetimeField()

    class Meta:
        table = "sign_ins_begun"


class Session(Model):
    """A browser that has signed in. `token_hash` is the SHA-256 of the cookie, hex; `id` is what it is listed and revoked by; `agent`: what
    the browser calls itself."""

    token_hash = CharField(max_length=64, primary_key=True)
    id = CharField(max_length=64, unique=True)
    user = CharField(max_length=64)
    csrf = CharField(max_length=64)
    created_at = DatetimeField()
    seen_at = DatetimeField()
    expires_at = DatetimeField()
    address = CharField(max_length=64, default="")
    agent = CharField(max_length=256, default="", db_default="")

    class Meta:
        table = "sessions"


class ApiToken(Model):
    """A bearer token. `token_hash` is its SHA-256, hex; `scope` as of a user."""

    id = CharField(max_length=64, primary_key=True)
    name = CharField(max_length=253, unique=True)
    token_hash = CharField(max_length=64, unique=True)
    role = CharField(max_length=16)
    scope = TextField(default="", db_default="")
    created_at = DatetimeField()
    created_by = CharField(max_length=253, default="", db_default="")
    expires_at = DatetimeField(null=True)
    last_used_at = DatetimeField(null=True)

    class Meta:
        table = "api_tokens"


class Integration(Model):
    """Another program, with a certificate of its own. `write`: none, signed or unsigned; `scope` as of a user."""

    id = CharField(max_length=64, primary_key=True)
    name = CharField(max_length=64, unique=True)
    write = CharField(max_length=16)
    scope = TextField(default="", db_default="")
    certificate = TextField()
    created_at = DatetimeField()

    class Meta:
        table = "integrations"


class Idempotency(Model):
    """The answer given to an idempotency key, until `expires_at`. `digest` is of the request, so that another body is noticed."""

    key = CharField(max_length=256, primary_key=True)
    digest = CharField(max_length=64)
    status = fields.IntField()
    body: Any = fields.JSONField(null=True)
    created_at = DatetimeField()
    expires_at = DatetimeField()

    class Meta:
        table = "idempotency"
