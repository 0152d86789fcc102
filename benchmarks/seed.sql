-- A fleet on paper: `hosts` hosts at 200 sites with `components` components each (up to 40), written straight into Inventory's tables as it would hold them.
-- psql -v hosts=100000 -v components=40 -f seed.sql, as a superuser: foreign keys are not checked row by row. No changes are logged, no device stands
-- behind it. Run by benchmarks/paper.py.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL session_replication_role = replica;
SET LOCAL synchronous_commit = off;

INSERT INTO region (id, name, title, labels, version, generation, created_at, updated_at)
SELECT 'reg-' || lpad(n::text, 26, '0'), 'region-' || n, '', jsonb_build_object('country', (ARRAY['de','fr','it','pl','es'])[n % 5 + 1]),
       nextval('versions'), 1, now(), now()
FROM generate_series(0, 9) AS n;

INSERT INTO site (id, name, title, labels, version, generation, created_at, updated_at, region, timezone, address)
SELECT 'site-' || lpad(n::text, 26, '0'), 'site-' || n, '', '{}', nextval('versions'), 1, now(), now(),
       'reg-' || lpad((n % 10)::text, 26, '0'), 'Europe/Berlin', ''
FROM generate_series(0, 199) AS n;

-- The order of ids is not the order of names, states, labels or sizes.
CREATE TEMP TABLE paper ON COMMIT DROP AS
SELECT n, 'host-' || lpad(n::text, 26, '0') AS id, (n * 7919) % :hosts AS shuffled,
       CASE WHEN n % 50 = 0 THEN 'offline' WHEN n % 97 = 0 THEN 'stale' ELSE 'online' END AS presence,
       jsonb_build_object('line', (n % 100)::text, 'role', (ARRAY['press','paint','pack','gate'])[n % 4 + 1]) AS labels
FROM generate_series(0, :hosts - 1) AS n;

INSERT INTO host (id, name, title, labels, version, generation, observed_generation, desired_state, current_state, status, created_at,
                  updated_at, presence, site, serial, uuid, vendor, product, arch, cpu_model, cpu_sockets, cpu_cores, cpu_threads,
                  memory_bytes, disk_bytes, os_name, os_version, kernel, hostname, primary_ip, primary_mac, boot_id, agent_version)
SELECT id, 'edge-' || lpad(shuffled::text, 6, '0'), '', labels, nextval('versions'), 1, 1, 'onboarded', 'onboarded',
       '{"indicator": "idle", "reason": "Reconciled", "message": "", "since": "2026-01-01T00:00:00.000Z", "halted": false}',
       now() - n * interval '1 second', now(), presence, 'site-' || lpad((n % 200)::text, 26, '0'), 'SN' || lpad(n::text, 10, '0'),
       md5(n::text)::uuid::text, (ARRAY['Siemens','Advantech','Dell','HPE'])[n % 4 + 1], 'Edge ' || n % 12, 'x86_64',
       'Intel(R) Core(TM) i5-' || n % 9, 1, (ARRAY[2,4,8,16])[n % 4 + 1], (ARRAY[4,8,16,32])[n % 4 + 1],
       (ARRAY[4,8,16,32])[n % 4 + 1] * 1073741824::bigint, 256060514304, 'Debian GNU/Linux', (11 + n % 3)::text, '6.12.' || n % 30,
       'edge-' || shuffled, '10.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256, '02:00:00:' || lpad(to_hex(n), 6, '0'),
       md5('boot' || n), '0.' || n % 3 || '.0'
FROM paper ORDER BY n;

INSERT INTO host_labels (host, labels)
SELECT p.id, r.labels || p.labels FROM paper p
JOIN site s ON s.id = 'site-' || lpad((p.n % 200)::text, 26, '0') JOIN region r ON r.id = s.region;

INSERT INTO device_stream (host, seq, session, session_since, retired, retired_epochs, keepalive_s, heartbeat_s, flaps)
SELECT id, 100, 's', now(), '[]', '[]', 30, 30, 0 FROM paper;

INSERT INTO device_liveness (host, last_seen) SELECT id, now() - (n % 60) * interval '1 second' FROM paper;

INSERT INTO device_identity (host, fingerprint, incarnation, certificate, certificate_serial, expires_at, fence, evidence, created_at)
SELECT id, id, 1, '', '', now() + interval '30 days', 0, '{}', now() FROM paper;

INSERT INTO host_told (host, presence, boot_id, agent_version, told_at)
SELECT id, CASE presence WHEN 'offline' THEN 'offline' ELSE 'online' END, md5('boot' || n), '0.' || n % 3 || '.0', now() FROM paper;

INSERT INTO component (id, name, title, labels, version, generation, created_at, updated_at, host, type, key, attributes, present,
                       first_seen, last_seen, told_present)
SELECT c.id, c.id, '', '{}', nextval('versions'), 1, now(), now(), c.host, c.type, c.key,
       jsonb_build_object('name', c.type || c.k, 'model', 'Model ' || (c.n + c.k) % 40, 'size_bytes', 256060514304), c.n % 500 <> 0,
       now(), now(), c.n % 500 <> 0
FROM (
    SELECT p.n, k, 'comp-' || lpad((p.n * 40 + k)::text, 26, '0') AS id, p.id AS host,
           (ARRAY['cpu','dimm','dimm','disk','disk','nic','nic','pci','usb','sensor'])[k % 10 + 1] AS type, 'K' || p.n || '-' || k AS key
    FROM paper p, generate_series(0, :components - 1) AS k ORDER BY p.n, k
) AS c;

COMMIT;
VACUUM ANALYZE;
