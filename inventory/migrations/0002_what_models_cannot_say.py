"""The version sequence, the partitioned change log, the relay's row, foreign keys and the indexes of the hot paths."""

from tortoise.migrations import operations as ops

from inventory.additive import Additive

SEQUENCES_AND_LOG = """
CREATE SEQUENCE versions AS bigint;

CREATE TABLE changes (
    position bigint NOT NULL, kind text NOT NULL, resource_id text NOT NULL, op text NOT NULL, version bigint NOT NULL,
    generation bigint NOT NULL, changed jsonb NOT NULL, resource jsonb, before jsonb, host text, actor jsonb NOT NULL,
    at timestamptz NOT NULL, hash bytea NOT NULL, PRIMARY KEY (position)
) PARTITION BY RANGE (position);
CREATE TABLE changes_0 PARTITION OF changes FOR VALUES FROM (0) TO (1000000);
CREATE INDEX changes_resource ON changes (resource_id, position);

CREATE TABLE change_anchors (position bigint PRIMARY KEY, hash bytea NOT NULL, at timestamptz NOT NULL);

CREATE TABLE relay (
    id int PRIMARY KEY CHECK (id = 1), position bigint NOT NULL, hash bytea NOT NULL, floor bigint NOT NULL, idle boolean NOT NULL
);
INSERT INTO relay VALUES (1, 0, '\\x', 0, false);
"""

REFERENCES = """
ALTER TABLE region ADD FOREIGN KEY (parent) REFERENCES region (id);
ALTER TABLE site ADD FOREIGN KEY (region) REFERENCES region (id);
ALTER TABLE host ADD FOREIGN KEY (site) REFERENCES site (id);
ALTER TABLE component ADD FOREIGN KEY (host) REFERENCES host (id);
ALTER TABLE host_config ADD FOREIGN KEY (host) REFERENCES host (id), ADD FOREIGN KEY (config) REFERENCES config (id);
ALTER TABLE command ADD FOREIGN KEY (host) REFERENCES host (id);
ALTER TABLE enrollment_token ADD FOREIGN KEY (site) REFERENCES site (id);
ALTER TABLE host_labels ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE host_facts ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE device_liveness ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE device_stream ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE device_identity ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE device_log ADD FOREIGN KEY (host) REFERENCES host (id) ON DELETE CASCADE;
ALTER TABLE sessions ADD FOREIGN KEY ("user") REFERENCES users (id) ON DELETE CASCADE;
"""

INDEXES = """
CREATE INDEX region_parent ON region (parent);
CREATE INDEX site_region ON site (region);
CREATE INDEX host_site ON host (site);
CREATE INDEX host_presence ON host (presence, id);
CREATE INDEX host_labels_labels ON host_labels USING gin (labels jsonb_path_ops);
CREATE INDEX host_config_config ON host_config (config);
CREATE INDEX host_config_unsettled ON host_config (host) WHERE status->>'indicator' IS DISTINCT FROM 'idle';
CREATE INDEX command_host ON command (host, created_at);
CREATE INDEX command_resource ON command ((resource->>'id'));
CREATE INDEX command_due ON command (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX component_untold ON component (host) WHERE told_present IS DISTINCT FROM present;
CREATE INDEX notification_created ON notification (created_at);
CREATE INDEX enrollment_token_site ON enrollment_token (site);
CREATE INDEX work_due ON work (manager, due_at) WHERE NOT halted;
CREATE INDEX device_log_at ON device_log (host, at);
CREATE INDEX sessions_user ON sessions ("user");
CREATE INDEX idempotency_expires ON idempotency (expires_at);
"""

STORAGE = """
ALTER TABLE device_liveness SET (fillfactor = 50);
ALTER TABLE device_stream SET (fillfactor = 50);
ALTER TABLE work SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE changes_in SET (autovacuum_vacuum_scale_factor = 0.02);
"""


class Migration(Additive):
    dependencies = [("inventory", "0001_initial")]
    operations = [ops.RunSQL(statements) for statements in (SEQUENCES_AND_LOG, REFERENCES, INDEXES, STORAGE)]
