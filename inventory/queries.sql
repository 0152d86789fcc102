-- The statements of the hot paths, by name. `$n` are parameters; JSONB goes in and comes out as text.
-- A statement lives here when it runs for every message, change or reconcile; all else is Tortoise's.

------------------------------------------------------------------------------------------------------------- the change log

-- name: append_changes
-- Leave changes for the relay, in the writer's own transaction. NOTIFY takes a global lock at commit, so it is sent only while the
-- relay says that it sleeps.
-- $1 kind[], $2 resource_id[], $3 op[], $4 version[], $5 generation[], $6 changed[] (JSON), $7 resource[] (JSON), $8 before[] (JSON),
-- $9 host[], $10 actor[] (JSON), $11 at[]
WITH added AS (
    INSERT INTO changes_in (kind, resource_id, op, version, generation, changed, resource, before, host, actor, at)
    SELECT kind, resource_id, op, version, generation, changed::jsonb, resource::jsonb, before::jsonb, host, actor::jsonb, at
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
                $10::text[], $11::timestamptz[])
         AS t (kind, resource_id, op, version, generation, changed, resource, before, host, actor, at)
)
SELECT pg_notify('changes_in', '') FROM relay WHERE idle;

-- name: take_changes
-- What has committed and has no position yet, oldest first. $1 how many at most.
WITH taken AS (
    DELETE FROM changes_in WHERE id IN (SELECT id FROM changes_in ORDER BY id LIMIT $1) RETURNING *
)
SELECT * FROM taken ORDER BY id;

-- name: place_changes
-- Give the taken changes their positions. $1 position[], $2 kind[], $3 resource_id[], $4 op[], $5 version[], $6 generation[],
-- $7 changed[] (JSON), $8 resource[] (JSON), $9 before[] (JSON), $10 host[], $11 actor[] (JSON), $12 at[], $13 hash[]
INSERT INTO changes (position, kind, resource_id, op, version, generation, changed, resource, before, host, actor, at, hash)
SELECT position, kind, resource_id, op, version, generation, changed::jsonb, resource::jsonb, before::jsonb, host, actor::jsonb, at, hash
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[],
            $11::text[], $12::timestamptz[], $13::bytea[])
     AS t (position, kind, resource_id, op, version, generation, changed, resource, before, host, actor, at, hash);

-- name: advance_relay
-- $1 position, $2 hash
UPDATE relay SET position = $1, hash = $2, idle = false;

-- name: read_changes
-- $1 after, $2 up to, $3 kinds or NULL, $4 resource ids or NULL, $5 how many at most
SELECT * FROM changes
WHERE position > $1 AND position <= $2 AND ($3::text[] IS NULL OR kind = ANY ($3)) AND ($4::text[] IS NULL OR resource_id = ANY ($4))
ORDER BY position LIMIT $5;

-- name: newest_changes
-- $1 up to, $2 kinds or NULL, $3 resource ids or NULL, $4 how many at most
SELECT * FROM changes
WHERE position <= $1 AND ($2::text[] IS NULL OR kind = ANY ($2)) AND ($3::text[] IS NULL OR resource_id = ANY ($3))
ORDER BY position DESC LIMIT $4;

-- name: save_cursor
-- $1 name, $2 position
INSERT INTO cursors (name, position) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET position = EXCLUDED.position;

-------------------------------------------------------------------------------------------------------------------- labels

-- name: effective_labels
-- The labels of hosts as they are in effect, and as they stand in the side table. The nearest wins: host over site over region over the
-- regions above. $1 host ids.
WITH RECURSIVE asked AS (
    SELECT h.id, h.labels, h.site FROM host h WHERE h.id = ANY ($1::text[])
), chain (site, region, depth, labels) AS (
    SELECT s.id, s.region, 0, s.labels FROM site s WHERE s.id IN (SELECT site FROM asked)
    UNION ALL
    SELECT c.site, r.parent, c.depth + 1, r.labels FROM chain c JOIN region r ON r.id = c.region WHERE c.depth < 64
), nearest AS (
    SELECT DISTINCT ON (site, key) site, key, value FROM chain, jsonb_each(chain.labels) ORDER BY site, key, depth
), inherited AS (
    SELECT site, jsonb_object_agg(key, value) AS labels FROM nearest GROUP BY site
)
SELECT a.id, coalesce(i.labels, '{}') || a.labels AS wanted, l.labels AS stored
FROM asked a LEFT JOIN inherited i ON i.site = a.site LEFT JOIN host_labels l ON l.host = a.id;

-- name: store_labels
-- $1 host[], $2 labels[] (JSON)
INSERT INTO host_labels (host, labels)
SELECT host, labels::jsonb FROM unnest($1::text[], $2::text[]) AS t (host, labels)
ON CONFLICT (host) DO UPDATE SET labels = EXCLUDED.labels;

-- name: hosts_below_regions
-- All hosts at sites in these regions or in regions below them. $1 region ids.
WITH RECURSIVE below AS (
    SELECT id FROM region WHERE id = ANY ($1::text[])
    UNION
    SELECT r.id FROM region r JOIN below b ON r.parent = b.id
)
SELECT h.id FROM host h JOIN site s ON s.id = h.site JOIN below b ON b.id = s.region ORDER BY h.id;

-- name: bump_hosts
-- New versions for hosts whose effective labels changed. $1 host ids.
UPDATE host SET version = nextval('versions'), updated_at = now() WHERE id = ANY ($1::text[]);

------------------------------------------------------------------------------------------------------------------ accounts

-- name: find_token
-- Whose bearer token it is. $1 SHA-256 of the token, $2 now
SELECT id, name, role FROM api_tokens WHERE token_hash = $1 AND (expires_at IS NULL OR expires_at > $2);

-- name: open_session
-- $1 SHA-256 of the cookie, $2 user id, $3 CSRF token, $4 now, $5 until when, $6 address
INSERT INTO sessions (token_hash, "user", csrf, created_at, seen_at, expires_at, address) VALUES ($1, $2, $3, $4, $4, $5, $6);

-- name: find_session
-- $1 SHA-256 of the cookie, $2 now, $3 unused since
SELECT u.id, u.name, u.role, s.csrf, s.seen_at FROM sessions s JOIN users u ON u.id = s."user"
WHERE s.token_hash = $1 AND s.expires_at > $2 AND s.seen_at > $3;

--------------------------------------------------------------------------------------------------------------- idempotency

-- name: claim_idempotency_key
-- Take a key that is new or forgotten. Another transaction that has just taken it is waited for: a committed one then wins (no row here),
-- a rolled back one leaves the key to us. $1 key, $2 digest, $3 now, $4 forgotten when older
INSERT INTO idempotency (key, digest, status, body, created_at) VALUES ($1, $2, 0, NULL, $3)
ON CONFLICT (key) DO UPDATE SET digest = EXCLUDED.digest, status = 0, body = NULL, created_at = EXCLUDED.created_at
    WHERE idempotency.created_at <= $4
RETURNING key;

-- name: keep_answer
-- $1 key, $2 status, $3 body (JSON)
UPDATE idempotency SET status = $2, body = $3::jsonb WHERE key = $1;

------------------------------------------------------------------------------------------------------------------- metrics

-- name: inventory_gauges
-- Numbers for /metrics and /readyz, in one row. $1 now
SELECT (SELECT position FROM relay) AS position, (SELECT count(*) FROM changes_in) AS waiting,
       (SELECT extract(epoch FROM $1::timestamptz - min(at)) FROM changes_in) AS lag_s,
       (SELECT count(*) FROM work WHERE NOT halted AND due_at <= $1) AS work_due, (SELECT count(*) FROM work WHERE halted) AS work_halted,
       (SELECT count(*) FROM poison) AS poison,
       (SELECT jsonb_object_agg(presence, n) FROM (SELECT presence, count(*) AS n FROM host GROUP BY presence) AS p) AS hosts;

---------------------------------------------------------------------------------------------------------------- work queue

-- name: trigger_work
-- Queue keys. `again` notes a trigger of a key that is being reconciled; otherwise the row is due when it was, or sooner. Halted rows
-- hear only FRESH (3), rows that back off only NOW (2) and FRESH. $1 manager, $2 keys, $3 strength, $4 due at, $5 now
INSERT INTO work AS w (manager, key, due_at, attempts, halted, backoff, again, fence, queued_at)
SELECT $1, key, $4, 0, false, false, 0, 0, $5 FROM unnest($2::text[]) AS key ORDER BY key
ON CONFLICT (manager, key) DO UPDATE SET
    again = CASE WHEN w.lease_until IS NULL THEN 0 ELSE greatest(w.again, $3::int) END,
    due_at = CASE WHEN w.lease_until IS NULL THEN least(w.due_at, EXCLUDED.due_at) ELSE w.due_at END,
    attempts = CASE WHEN w.lease_until IS NULL AND $3::int = 3 THEN 0 ELSE w.attempts END,
    last_error = CASE WHEN w.lease_until IS NULL AND $3::int = 3 THEN NULL ELSE w.last_error END,
    halted = w.halted AND (w.lease_until IS NOT NULL OR $3::int < 3),
    backoff = w.backoff AND (w.lease_until IS NOT NULL OR $3::int < 2)
WHERE CASE
    WHEN w.lease_until IS NOT NULL THEN w.again < $3::int
    WHEN $3::int = 3 THEN true
    WHEN w.halted OR (w.backoff AND $3::int < 2) THEN false
    ELSE w.due_at IS NULL OR w.due_at > EXCLUDED.due_at OR w.backoff
END;

-- name: claim_work
-- Take due keys and those whose lease has run out. A key that was triggered during a lease that ran out is read afresh now, which serves
-- that trigger. $1 manager, $2 now, $3 how many, $4 owner, $5 until
WITH due AS (
    SELECT id FROM work
    WHERE manager = $1 AND NOT halted AND due_at <= $2 AND (lease_until IS NULL OR lease_until <= $2)
    ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE work w SET lease_owner = $4, lease_until = $5, fence = nextval('work_fences'), again = 0, backoff = false,
    attempts = CASE WHEN w.again = 3 THEN 0 ELSE w.attempts END, last_error = CASE WHEN w.again = 3 THEN NULL ELSE w.last_error END
FROM due WHERE w.id = due.id
RETURNING w.key, w.attempts, w.fence;

-- name: renew_work
-- $1 manager, $2 keys, $3 fences, $4 until
UPDATE work w SET lease_until = $4 FROM unnest($2::text[], $3::bigint[]) AS t (key, fence)
WHERE w.manager = $1 AND w.key = t.key AND w.fence = t.fence AND w.lease_until IS NOT NULL;

-- name: release_work
-- It is looked at again anyhow, which serves what was triggered meanwhile. $1 manager, $2 keys, $3 fences, $4 due at
UPDATE work w SET lease_owner = NULL, lease_until = NULL, again = 0, due_at = $4,
    attempts = CASE WHEN w.again = 3 THEN 0 ELSE w.attempts END, last_error = CASE WHEN w.again = 3 THEN NULL ELSE w.last_error END
FROM unnest($2::text[], $3::bigint[]) AS t (key, fence)
WHERE w.manager = $1 AND w.key = t.key AND w.fence = t.fence AND w.lease_until IS NOT NULL;

-- name: hold_work
-- Lock the rows that this holder still has. $1 manager, $2 keys, $3 fences
SELECT w.key, w.fence, w.attempts, w.again FROM work w JOIN unnest($2::text[], $3::bigint[]) AS t (key, fence) ON t.key = w.key AND t.fence = w.fence
WHERE w.manager = $1 AND w.lease_until IS NOT NULL ORDER BY w.key FOR UPDATE OF w;

-- name: leave_work
-- $1 manager, $2 keys, $3 due_at[], $4 attempts[], $5 halted[], $6 backoff[], $7 last_error[] (JSON)
UPDATE work w SET due_at = t.due_at, attempts = t.attempts, halted = t.halted, backoff = t.backoff, last_error = t.last_error::jsonb,
    again = 0, lease_owner = NULL, lease_until = NULL
FROM unnest($2::text[], $3::timestamptz[], $4::int[], $5::boolean[], $6::boolean[], $7::text[])
     AS t (key, due_at, attempts, halted, backoff, last_error)
WHERE w.manager = $1 AND w.key = t.key;

-- name: due_work
-- Which managers have something to claim. $1 managers, $2 now
SELECT m AS manager FROM unnest($1::text[]) AS m
WHERE EXISTS (SELECT 1 FROM work w WHERE w.manager = m AND NOT w.halted AND w.due_at <= $2 AND (w.lease_until IS NULL OR w.lease_until <= $2));

-- name: work_stats
SELECT manager, count(*) FILTER (WHERE NOT halted AND lease_until IS NULL AND due_at IS NOT NULL) AS queued,
       count(*) FILTER (WHERE NOT halted AND lease_until IS NULL AND due_at IS NULL) AS waiting,
       count(*) FILTER (WHERE lease_until IS NOT NULL) AS running, count(*) FILTER (WHERE halted) AS halted
FROM work GROUP BY manager ORDER BY manager;

---------------------------------------------------------------------------------------------------------------- enrollment

-- name: lock_enrollment_token
-- One redemption of a token at a time. $1 SHA-256 of the token, hex
SELECT id, uses, used, expires_at, approve, site, given_labels, deleted_at FROM enrollment_token WHERE token_hash = $1 FOR UPDATE;

-- name: lock_identity_by_key
-- $1 fingerprint of the public key
SELECT host, incarnation, certificate, token, revoked_at FROM device_identity WHERE fingerprint = $1 FOR UPDATE;

-- name: add_identity
-- $1 host, $2 fingerprint, $3 certificate (PEM), $4 its serial, $5 its end, $6 evidence (JSON), $7 token id, $8 now
INSERT INTO device_identity (host, fingerprint, incarnation, certificate, certificate_serial, expires_at, fence, evidence, token, created_at)
VALUES ($1, $2, 1, $3, $4, $5, 0, $6::jsonb, $7, $8)
RETURNING host, incarnation, certificate;

-- name: add_stream
-- $1 host
INSERT INTO device_stream (host, seq, retired, retired_epochs, keepalive_s, heartbeat_s, flaps) VALUES ($1, 0, '[]', '[]', 30, 30, 0);

-- name: renew_identity
-- $1 host, $2 certificate (PEM), $3 its serial, $4 its end, $5 evidence (JSON), $6 token id
UPDATE device_identity
SET incarnation = incarnation + 1, certificate = $2, certificate_serial = $3, expires_at = $4, evidence = $5::jsonb, token = $6
WHERE host = $1
RETURNING host, incarnation, certificate;
