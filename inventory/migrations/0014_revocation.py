"""Every certificate that was issued, so that each can be taken back, and the list of those that are (`inventory.revocation`).

A device's is noted by a trigger on its identity: whoever writes there, by whatever way, can't forget it. With another incarnation, what the
machine had before is superseded; with a renewal, it is not.
"""

from tortoise import fields
from tortoise.migrations import operations as ops

from inventory.additive import Additive

CERTIFICATES = """
ALTER TABLE certificate ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE SET NULL;
CREATE INDEX certificate_host ON certificate (host);
CREATE INDEX certificate_name ON certificate (name);
CREATE INDEX certificate_revoked ON certificate (serial) WHERE revoked_at IS NOT NULL;
CREATE INDEX certificate_ownerless ON certificate (serial) WHERE host IS NULL AND unit = 'device' AND revoked_at IS NULL;
CREATE INDEX host_distrusted ON host (id) WHERE desired_state IN ('untrusted', 'deleted');
INSERT INTO certificate (serial, name, unit, host, issued_at, expires_at)
SELECT certificate_serial, host, 'device', host, created_at, expires_at FROM device_identity WHERE certificate_serial <> ''
ON CONFLICT DO NOTHING;
"""

NOTED = """
CREATE FUNCTION note_device_certificate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO certificate (serial, name, unit, host, issued_at, expires_at)
    VALUES (NEW.certificate_serial, NEW.host, 'device', NEW.host, now(), NEW.expires_at) ON CONFLICT DO NOTHING;
    IF TG_OP = 'UPDATE' AND NEW.incarnation <> OLD.incarnation THEN
        UPDATE certificate SET revoked_at = now(), reason = 'superseded'
        WHERE host = NEW.host AND serial <> NEW.certificate_serial AND revoked_at IS NULL;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER certificate_noted AFTER INSERT OR UPDATE OF certificate_serial, incarnation ON device_identity
FOR EACH ROW WHEN (NEW.certificate_serial <> '') EXECUTE FUNCTION note_device_certificate();
"""

REVOKED = """
CREATE VIEW revoked_certificate AS
SELECT serial, name, unit, host, expires_at, reason AS why FROM certificate WHERE revoked_at IS NOT NULL
UNION ALL
SELECT c.serial, c.name, c.unit, c.host, c.expires_at, h.desired_state
FROM host h JOIN certificate c ON c.host = h.id AND c.revoked_at IS NULL WHERE h.desired_state IN ('untrusted', 'deleted')
UNION ALL
SELECT serial, name, unit, host, expires_at, 'deleted' FROM certificate
WHERE host IS NULL AND unit = 'device' AND revoked_at IS NULL;
"""


class Migration(Additive):
    dependencies = [("inventory", "0013_policy")]
    operations = [
        ops.CreateModel(
            name="Certificate",
            fields=[
                ("serial", fields.CharField(primary_key=True, max_length=64)),
                ("name", fields.CharField(max_length=255)),
                ("unit", fields.CharField(max_length=32)),
                ("host", fields.CharField(null=True, max_length=64)),
                ("issued_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("expires_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("revoked_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("reason", fields.CharField(null=True, max_length=16)),
            ],
            options={"table": "certificate", "app": "inventory", "pk_attr": "serial"},
            bases=["Model"],
        ),
        ops.RunSQL(CERTIFICATES, reverse_sql="DROP INDEX host_distrusted;"),
        ops.RunSQL(NOTED, reverse_sql="DROP TRIGGER certificate_noted ON device_identity; DROP FUNCTION note_device_certificate();"),
        ops.RunSQL(REVOKED, reverse_sql="DROP VIEW revoked_certificate;"),
    ]
