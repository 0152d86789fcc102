"""People: disabled users, one-time passwords, second factors, sessions that can be listed, sign-ins under way, tokens' last use."""

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

MORE = """
UPDATE sessions SET id = 'sess-' || substr(md5(random()::text || token_hash), 1, 26);
ALTER TABLE sessions ALTER COLUMN id SET NOT NULL, ADD CONSTRAINT sessions_id_key UNIQUE (id);
UPDATE users SET password_changed_at = created_at;
ALTER TABLE recovery_codes ADD FOREIGN KEY ("user") REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE sign_ins_begun ADD FOREIGN KEY ("user") REFERENCES users (id) ON DELETE CASCADE;
CREATE INDEX recovery_codes_user ON recovery_codes ("user");
CREATE INDEX sign_ins_begun_user ON sign_ins_begun ("user");
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE subject IS NOT NULL;
"""


class Migration(Additive):
    dependencies = [("inventory", "0011_audit")]
    operations = [
        ops.AddField("User", "title", fields.CharField(max_length=256, default="", db_default="")),
        ops.AddField("User", "scope", fields.TextField(default="", db_default="")),
        ops.AddField("User", "disabled_at", fields.DatetimeField(null=True)),
        ops.AddField("User", "signed_in_at", fields.DatetimeField(null=True)),
        ops.AddField("User", "password_changed_at", fields.DatetimeField(null=True)),
        ops.AddField("User", "password_expires_at", fields.DatetimeField(null=True)),
        ops.AddField("User", "issuer", fields.TextField(null=True)),
        ops.AddField("User", "subject", fields.TextField(null=True)),
        ops.AddField("User", "totp_secret", fields.BinaryField(null=True)),
        ops.AddField("User", "totp_since", fields.DatetimeField(null=True)),
        ops.AddField("User", "totp_step", fields.BigIntField(default=0, db_default=0)),
        ops.AddField("Session", "id", fields.CharField(max_length=64, null=True)),
        ops.AddField("Session", "agent", fields.CharField(max_length=256, default="", db_default="")),
        ops.AddField("ApiToken", "scope", fields.TextField(default="", db_default="")),
        ops.AddField("ApiToken", "last_used_at", fields.DatetimeField(null=True)),
        ops.AddField("ApiToken", "created_by", fields.CharField(max_length=253, default="", db_default="")),
        ops.CreateModel(
            name="RecoveryCode",
            fields=[
                ("code_hash", fields.CharField(primary_key=True, max_length=64)),
                ("user", fields.CharField(max_length=64)),
            ],
            options={"table": "recovery_codes", "app": "inventory", "pk_attr": "code_hash"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="SignInBegun",
            fields=[
                ("token_hash", fields.CharField(primary_key=True, max_length=64)),
                ("user", fields.CharField(max_length=64)),
                ("expires_at", fields.DatetimeField()),
            ],
            options={"table": "sign_ins_begun", "app": "inventory", "pk_attr": "token_hash"},
            bases=["Model"],
        ),
        ops.RunSQL(MORE),
    ]
