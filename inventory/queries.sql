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

-- name: newest_changes_within
-- Likewise of those that a scope may let be seen: of what is inside now, what may have left it, and what is of no host. Its condition on
-- `host` goes in, with parameters from $8 on. $1 up to, $2 kinds or NULL, $3 resource ids or NULL, $4 how many at most, $5 kinds that
-- are of no host, $6 the kind of hosts, $7 members that a scope can ask for
SELECT * FROM changes
WHERE position <= $1 AND ($2::text[] IS NULL OR kind = ANY ($2)) AND ($3::text[] IS NULL OR resource_id = ANY ($3) OR kind = $6)
  AND ((host IS NULL AND kind = ANY ($5::text[])) OR {inside} OR (kind = $6::text AND (op = 'deleted' OR EXISTS (
         SELECT 1 FROM jsonb_array_elements_text(changed) AS path WHERE split_part(path, '.', 1) = ANY ($7::text[])))) OR op = 'deleted')
ORDER BY position DESC LIMIT $4;

-- name: ends_of_hosts
-- How hosts that are gone were at their end, as JSON; NULL where the log no longer knows. $1 their ids
SELECT g.id, coalesce(
    (SELECT before FROM changes_in WHERE resource_id = g.id AND kind = 'host' AND op = 'deleted' ORDER BY id DESC LIMIT 1),
    (SELECT before FROM changes WHERE resource_id = g.id AND kind = 'host' AND op = 'deleted' ORDER BY position DESC LIMIT 1)) AS state
FROM unnest($1::text[]) AS g (id);

-- name: states_before
-- How hosts stood at positions: as they were before the next change of theirs, also one that still waits for its position; NULL where there
-- is none. $1 the hosts, $2 the positions
SELECT coalesce(
    (SELECT coalesce(resource, '{}') || before FROM changes
     WHERE resource_id = a.host AND kind = 'host' AND op <> 'created' AND position > a.position ORDER BY position LIMIT 1),
    (SELECT coalesce(resource, '{}') || before FROM changes_in
     WHERE resource_id = a.host AND kind = 'host' AND op <> 'created' ORDER BY id LIMIT 1)) AS state
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS a (host, position, n) ORDER BY a.n;

-- name: states_within
-- Which states of hosts a scope holds; its condition on a host's row and labels goes in, with parameters from $3 on. $1 numbers of the
-- states, $2 the states as JSON
SELECT s.n FROM unnest($1::int[], $2::text[]) AS s (n, state)
CROSS JOIN LATERAL jsonb_populate_record(NULL::host, s.state::jsonb) AS r
CROSS JOIN LATERAL (SELECT s.state::jsonb -> 'effective_labels' AS labels) AS hl
WHERE {within};

-- name: deleted_of_hosts
-- What hung on hosts and has been deleted since. $1 hosts, $2 after this position, $3 the kind of hosts
SELECT kind, resource_id, host, before FROM changes WHERE position > $2 AND host = ANY ($1::text[]) AND op = 'deleted' AND kind <> $3;

-- name: log_ends
-- Where the log begins and ends, as the relay knows it and as the rows have it, in one snapshot.
SELECT position, hash, floor, (SELECT min(position) FROM changes) AS lowest, (SELECT max(position) FROM changes) AS highest FROM relay;

-- name: rows_to_verify
-- Every column that the hash covers. A time that no calendar of ours has is NULL. $1 after, $2 up to, $3 how many at most
SELECT position, kind, resource_id, op, version, generation, changed, resource, before, host, actor, hash,
       CASE WHEN at >= '0001-01-02' AND at < '9999-12-31' THEN at END AS at
FROM changes WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3;

-- name: newest_head
SELECT * FROM chain_heads ORDER BY position DESC LIMIT 1;

-- name: add_head
-- $1 position, $2 hash, $3 at, $4 key, $5 signature
INSERT INTO chain_heads (position, hash, at, key, signature) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (position) DO NOTHING;

-- name: thin_heads
-- One head an hour stays; beside them the newest. $1 position of the one before the newest
DELETE FROM chain_heads WHERE position = $1 AND at < (SELECT max(at) FROM chain_heads WHERE position < $1) + interval '1 hour';

-- name: forget_seals
-- Those of a key that is gone.
WITH heads AS (DELETE FROM chain_heads), anchors AS (UPDATE change_anchors SET signature = NULL)
UPDATE log_gaps SET signature = NULL;

-- name: unsealed_anchors
SELECT position, hash FROM change_anchors WHERE signature IS NULL;

-- name: seal_anchor
-- $1 position, $2 signature
UPDATE change_anchors SET signature = $2 WHERE position = $1;

-- name: unsealed_gaps
SELECT after, before FROM log_gaps WHERE signature IS NULL;

-- name: seal_gap
-- $1 after, $2 signature
UPDATE log_gaps SET signature = $2 WHERE after = $1;

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
SELECT id, name, role, scope, last_used_at FROM api_tokens WHERE token_hash = $1 AND (expires_at IS NULL OR expires_at > $2);

-- name: note_sign_in
-- Nothing where the password is another one by now. $1 user id, $2 now, $3 since when the one that was shown has been theirs, or NULL
UPDATE users SET signed_in_at = $2 WHERE id = $1 AND ($3::timestamptz IS NULL OR password_changed_at = $3) RETURNING true;

-- name: open_session
-- $1 SHA-256 of the cookie, $2 id, $3 user id, $4 CSRF token, $5 now, $6 until when, $7 address, $8 what the browser calls itself
INSERT INTO sessions (token_hash, id, "user", csrf, created_at, seen_at, expires_at, address, agent)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8);

-- name: find_session
-- $1 SHA-256 of the cookie, $2 now, $3 unused since
SELECT u.id, u.name, u.role, u.scope, u.password_expires_at, s.id AS session, s.csrf, s.seen_at, s.address
FROM sessions s JOIN users u ON u.id = s."user"
WHERE s.token_hash = $1 AND s.expires_at > $2 AND s.seen_at > $3 AND u.disabled_at IS NULL;

-- name: touch_sessions
-- They are in use. $1 SHA-256 of the cookies, $2 now, $3 those not touched since
UPDATE sessions SET seen_at = $2 WHERE token_hash = ANY ($1::text[]) AND seen_at < $3;

-- name: standing
-- Which credentials still stand, and the rights that each gives. $1 SHA-256 of tokens and cookies, $2 now, $3 sessions unused since
SELECT s.token_hash AS hash, u.role, u.scope FROM sessions s JOIN users u ON u.id = s."user"
WHERE s.token_hash = ANY ($1::text[]) AND s.expires_at > $2 AND s.seen_at > $3 AND u.disabled_at IS NULL
UNION ALL
SELECT token_hash, role, scope FROM api_tokens WHERE token_hash = ANY ($1::text[]) AND (expires_at IS NULL OR expires_at > $2);

-- name: list_sessions
-- Those that stand, the newest first (ids rise with time). $1 user id or NULL for all, $2 now, $3 unused since, $4 only those before this
-- id or '', $5 how many
SELECT s.id, s."user", u.name, s.address, s.agent, s.created_at, s.seen_at, s.expires_at FROM sessions s JOIN users u ON u.id = s."user"
WHERE ($1::text IS NULL OR s."user" = $1) AND s.expires_at > $2 AND s.seen_at > $3 AND u.disabled_at IS NULL
    AND ($4 = '' OR s.id < $4)
ORDER BY s.id DESC LIMIT $5;

--------------------------------------------------------------------------------------------------------------- idempotency

-- name: claim_idempotency_key
-- Take a key that is new or forgotten. Another transaction that has just taken it is waited for: a committed one then wins (no row here),
-- a rolled back one leaves the key to us. $1 key, $2 digest, $3 now, $4 kept until
INSERT INTO idempotency (key, digest, status, body, created_at, expires_at) VALUES ($1, $2, 0, NULL, $3, $4)
ON CONFLICT (key) DO UPDATE SET digest = EXCLUDED.digest, status = 0, body = NULL, created_at = EXCLUDED.created_at,
                                expires_at = EXCLUDED.expires_at
    WHERE idempotency.expires_at <= $3
RETURNING key;

-- name: keep_answer
-- $1 key, $2 status, $3 body (JSON)
UPDATE idempotency SET status = $2, body = $3::jsonb WHERE key = $1;

------------------------------------------------------------------------------------------------------------------- metrics

-- name: installation_numbers
-- Numbers of the whole installation for /metrics and /readyz, in one row. Counts that grow with the fleet are by an index or of narrow
-- tables. $1 how many agent versions at most
SELECT clock_timestamp() AS now, pg_database_size(current_database()) AS bytes, (SELECT position FROM relay) AS position,
       (SELECT count(*) FROM changes_in) AS waiting, (SELECT extract(epoch FROM clock_timestamp() - min(at)) FROM changes_in) AS lag_s,
       (SELECT count(*) FROM poison) AS poison,
       (SELECT jsonb_object_agg(presence, n) FROM (SELECT presence, count(*) AS n FROM host GROUP BY presence) AS p) AS hosts,
       (SELECT jsonb_object_agg(version, n) FROM (
           SELECT left(coalesce(agent_version, ''), 64) AS version, count(*) AS n FROM host WHERE presence <> 'never'
           GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $1) AS v) AS agents,
       (SELECT jsonb_object_agg(state, n) FROM (
           SELECT state, count(*) AS n FROM command WHERE state IN ('queued', 'sent', 'accepted', 'running') GROUP BY state) AS c) AS commands,
       (SELECT jsonb_object_agg(name, greatest(0, (SELECT position FROM relay) - position)) FROM cursors) AS readers,
       (SELECT jsonb_agg(w) FROM (
           SELECT manager AS queue, count(*) FILTER (WHERE halted) AS halted, count(*) FILTER (WHERE lease_until IS NOT NULL) AS running,
                  count(*) FILTER (WHERE NOT halted AND lease_until IS NULL AND due_at <= now()) AS due,
                  count(*) FILTER (WHERE NOT halted AND lease_until IS NULL AND due_at > now()) AS later,
                  count(*) FILTER (WHERE NOT halted AND lease_until IS NULL AND due_at IS NULL) AS waiting
           FROM work GROUP BY manager ORDER BY manager) AS w) AS work,
       (SELECT jsonb_object_agg(manager, lag) FROM (
           SELECT manager, extract(epoch FROM clock_timestamp() - min(due_at)) AS lag FROM work
           WHERE NOT halted AND lease_until IS NULL AND due_at <= now() GROUP BY manager) AS l) AS work_lag;

-- name: publish_metrics
-- $1 process, $2 pid, $3 samples (JSON), $4 after how many seconds a process that publishes nothing is gone
WITH gone AS (
    DELETE FROM process_metrics WHERE at < now() - make_interval(secs => $4) AND process <> $1
)
INSERT INTO process_metrics (process, pid, samples, at) VALUES ($1, $2, $3::jsonb, now())
ON CONFLICT (process) DO UPDATE SET pid = EXCLUDED.pid, samples = EXCLUDED.samples, at = EXCLUDED.at;

-- name: published_metrics
-- $1 after how many seconds a process that publishes nothing is gone
SELECT process, samples, extract(epoch FROM now() - at) AS age_s FROM process_metrics
WHERE at >= now() - make_interval(secs => $1) ORDER BY process;

---------------------------------------------------------------------------------------------------------------- work queue

-- name: trigger_work
-- Queue keys. `again` notes a trigger of a key that is being reconciled; otherwise the row is due when it was, or sooner. Halted rows
-- hear only FRESH (3), rows that back off only NOW (2) and FRESH. A row goes to the better lane, and stays in it until it is done.
-- $1 manager, $2 keys, $3 strength, $4 delay, $5 now, or NULL for this clock, $6 lane
INSERT INTO work AS w (manager, key, due_at, attempts, halted, backoff, again, fence, queued_at, lane)
SELECT $1, key, now + $4::interval, 0, false, false, 0, 0, now, $6::smallint
FROM unnest($2::text[]) AS key, coalesce($5::timestamptz, clock_timestamp()) AS now ORDER BY key
ON CONFLICT (manager, key) DO UPDATE SET
    again = CASE WHEN w.lease_until IS NULL THEN 0 ELSE greatest(w.again, $3::int) END,
    due_at = CASE WHEN w.lease_until IS NULL THEN least(w.due_at, EXCLUDED.due_at) ELSE w.due_at END,
    attempts = CASE WHEN w.lease_until IS NULL AND $3::int = 3 THEN 0 ELSE w.attempts END,
    last_error = CASE WHEN w.lease_until IS NULL AND $3::int = 3 THEN NULL ELSE w.last_error END,
    halted = w.halted AND (w.lease_until IS NOT NULL OR $3::int < 3),
    backoff = w.backoff AND (w.lease_until IS NOT NULL OR $3::int < 2),
    lane = least(w.lane, EXCLUDED.lane)
WHERE CASE
    WHEN w.lease_until IS NOT NULL THEN w.again < $3::int OR w.lane > EXCLUDED.lane
    WHEN $3::int = 3 THEN true
    WHEN w.halted OR (w.backoff AND $3::int < 2) THEN false
    ELSE w.due_at IS NULL OR w.due_at > EXCLUDED.due_at OR w.backoff OR w.lane > EXCLUDED.lane
END;

-- name: claim_work
-- Take due keys and those whose lease has run out. A key that was triggered during a lease that ran out is read afresh now, which serves
-- that trigger. What is due, or leased, further ahead than anything ever is, was so by a clock that has been put right since; it is looked
-- for apart, so that the index is not walked through all that waits. The prompt lane (0) comes first, but never has it all: a share is the
-- bulk's (1).
-- $1 manager, $2 how many, $3 owner, $4 for how long, $5 now, or NULL for this clock, $6 how many of the prompt lane at most
WITH clock AS (
    SELECT coalesce($5::timestamptz, clock_timestamp()) AS now
), prompt AS (
    SELECT id, due_at FROM work
    WHERE manager = $1 AND lane = 0 AND NOT halted AND due_at <= (SELECT now FROM clock)
      AND (lease_until IS NULL OR lease_until <= (SELECT now FROM clock) OR lease_until > (SELECT now FROM clock) + interval '1 hour')
    ORDER BY due_at LIMIT $6 FOR UPDATE SKIP LOCKED
), bulk AS (
    SELECT id, due_at FROM work
    WHERE manager = $1 AND lane = 1 AND NOT halted AND due_at <= (SELECT now FROM clock)
      AND (lease_until IS NULL OR lease_until <= (SELECT now FROM clock) OR lease_until > (SELECT now FROM clock) + interval '1 hour')
    ORDER BY due_at LIMIT $2 - (SELECT count(*) FROM prompt) FOR UPDATE SKIP LOCKED
), astray AS (
    SELECT id, due_at FROM work
    WHERE manager = $1 AND lane IN (0, 1) AND NOT halted AND due_at > (SELECT now FROM clock) + interval '1 hour'
      AND (lease_until IS NULL OR lease_until <= (SELECT now FROM clock) OR lease_until > (SELECT now FROM clock) + interval '1 hour')
    LIMIT $2 - (SELECT count(*) FROM prompt) - (SELECT count(*) FROM bulk) FOR UPDATE SKIP LOCKED
), due AS (
    TABLE prompt UNION ALL TABLE bulk UNION ALL TABLE astray
)
UPDATE work w SET lease_owner = $3, lease_until = (SELECT now FROM clock) + $4::interval, fence = nextval('work_fences'), again = 0,
    backoff = false, attempts = CASE WHEN w.again = 3 THEN 0 ELSE w.attempts END,
    last_error = CASE WHEN w.again = 3 THEN NULL ELSE w.last_error END
WHERE w.id = ANY (ARRAY(SELECT id FROM due))
RETURNING w.key, w.attempts, w.fence, greatest(0, extract(epoch FROM (SELECT now FROM clock) - w.due_at))::float8 AS waited_s;

-- name: renew_work
-- $1 manager, $2 keys, $3 fences, $4 for how long, $5 now, or NULL for this clock
UPDATE work w SET lease_until = coalesce($5::timestamptz, clock_timestamp()) + $4::interval FROM unnest($2::text[], $3::bigint[]) AS t (key, fence)
WHERE w.manager = $1 AND w.key = t.key AND w.fence = t.fence AND w.lease_until IS NOT NULL;

-- name: release_work
-- It is looked at again anyhow, which serves what was triggered meanwhile. $1 manager, $2 keys, $3 fences, $4 delay,
-- $5 now, or NULL for this clock
UPDATE work w SET lease_owner = NULL, lease_until = NULL, again = 0, due_at = coalesce($5::timestamptz, clock_timestamp()) + $4::interval,
    attempts = CASE WHEN w.again = 3 THEN 0 ELSE w.attempts END, last_error = CASE WHEN w.again = 3 THEN NULL ELSE w.last_error END
FROM unnest($2::text[], $3::bigint[]) AS t (key, fence)
WHERE w.manager = $1 AND w.key = t.key AND w.fence = t.fence AND w.lease_until IS NOT NULL;

-- name: hold_work
-- Lock the rows that this holder still has; `now` is what time it is by whoever keeps it. $1 manager, $2 keys, $3 fences,
-- $4 now, or NULL for this clock
SELECT w.key, w.fence, w.attempts, w.again, w.last_error, w.lane, coalesce($4::timestamptz, clock_timestamp()) AS now
FROM work w JOIN unnest($2::text[], $3::bigint[]) AS t (key, fence) ON t.key = w.key AND t.fence = w.fence
WHERE w.manager = $1 AND w.lease_until IS NOT NULL ORDER BY w.key FOR UPDATE OF w;

-- name: leave_work
-- $1 manager, $2 keys, $3 due_at[], $4 attempts[], $5 halted[], $6 backoff[], $7 last_error[] (JSON)
UPDATE work w SET due_at = t.due_at, attempts = t.attempts, halted = t.halted, backoff = t.backoff, last_error = t.last_error::jsonb,
    again = 0, lease_owner = NULL, lease_until = NULL
FROM unnest($2::text[], $3::timestamptz[], $4::int[], $5::boolean[], $6::boolean[], $7::text[])
     AS t (key, due_at, attempts, halted, backoff, last_error)
WHERE w.manager = $1 AND w.key = t.key;

-- name: due_work
-- Which managers have something to claim, as `claim_work` sees it; the first row of each lane tells, in the order of the index.
-- $1 managers, $2 now, or NULL for this clock
WITH clock AS (SELECT coalesce($2::timestamptz, clock_timestamp()) AS now)
SELECT DISTINCT m AS manager FROM clock, unnest($1::text[]) AS m, unnest(ARRAY[0, 1]) AS l, LATERAL ((
    SELECT id FROM work w
    WHERE w.manager = m AND w.lane = l AND NOT w.halted AND w.due_at <= clock.now
      AND (w.lease_until IS NULL OR w.lease_until <= clock.now OR w.lease_until > clock.now + interval '1 hour')
    ORDER BY w.due_at LIMIT 1
) UNION ALL (
    SELECT id FROM work w
    WHERE w.manager = m AND w.lane = l AND NOT w.halted AND w.due_at > clock.now + interval '1 hour'
      AND (w.lease_until IS NULL OR w.lease_until <= clock.now OR w.lease_until > clock.now + interval '1 hour')
    ORDER BY w.due_at LIMIT 1
)) AS due;

-- name: work_in_hand
-- $1 manager
SELECT key FROM work WHERE manager = $1 AND lease_until IS NOT NULL ORDER BY key;

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

-- name: rekey_identity
-- Another key takes a host's place: a new incarnation. $1 host, $2 fingerprint, $3 certificate (PEM), $4 its serial, $5 its end,
-- $6 evidence (JSON), $7 token id
UPDATE device_identity
SET fingerprint = $2, incarnation = incarnation + 1, certificate = $3, certificate_serial = $4, expires_at = $5, evidence = $6::jsonb,
    token = $7, revoked_at = NULL
WHERE host = $1
RETURNING host, incarnation, certificate;

-- name: forget_trust
-- What keys the device before had, and which it knew, is nothing to the next. $1 host
DELETE FROM device_trust WHERE host = $1;

-- name: add_stream
-- $1 host
INSERT INTO device_stream (host, seq, retired, retired_epochs, keepalive_s, heartbeat_s, flaps) VALUES ($1, 0, '[]', '[]', 30, 30, 0);

-- name: lock_enrollment
-- Whoever may make an identity, one at a time: what one has just made, the next must see. $1 the lock
SELECT pg_advisory_xact_lock($1);

-- name: waiting_by_key
-- A device that waits, or was refused, asking again with the token that it came with. $1 fingerprint, $2 SHA-256 of the token, hex
SELECT q.host, q.same_as, q.created_at, h.desired_state
FROM enrollment_request q JOIN host h ON h.id = q.host JOIN enrollment_token t ON t.id = q.token
WHERE q.fingerprint = $1 AND t.token_hash = $2;

-- name: request_by_key
-- $1 fingerprint
SELECT host, token, evidence, same_as, created_at FROM enrollment_request WHERE fingerprint = $1 FOR UPDATE;

-- name: add_request
-- $1 host, $2 fingerprint, $3 token id, $4 evidence (JSON), $5 ids of hosts that it seems to be (JSON), $6 now
INSERT INTO enrollment_request (host, fingerprint, token, evidence, same_as, told, created_at, asked_at)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, false, $6, $6);

-- name: renew_request
-- $1 host, $2 token id, $3 evidence (JSON), $4 ids of hosts that it seems to be (JSON), $5 now
UPDATE enrollment_request SET token = $2, evidence = $3::jsonb, same_as = $4::jsonb, asked_at = $5 WHERE host = $1;

-- name: request_heard
-- $1 host, $2 now
UPDATE enrollment_request SET asked_at = $2 WHERE host = $1;

-- name: drop_request
-- $1 host
DELETE FROM enrollment_request WHERE host = $1;

-- name: waiting_ids
-- $1 how many
SELECT host FROM enrollment_request ORDER BY created_at DESC, host LIMIT $1;

-- name: expected_ids
-- $1 how many
SELECT h.id FROM host h LEFT JOIN device_identity di ON di.host = h.id
WHERE (h.expected_serial IS NOT NULL OR h.expected_uuid IS NOT NULL) AND di.host IS NULL AND h.deleted_at IS NULL
ORDER BY h.id DESC LIMIT $1;

-- name: recognised_hosts
-- Hosts whose machine has one of these keys: by what devices said when they came, by what they report, by what people expect. Those with
-- the serial number first, the latest of them foremost. $1 serial number, $2 UUID, each as it is compared, or NULL; $3 the serial number as
-- machines may write it; $4 the host that asks, or NULL
WITH found AS (
    SELECT host AS id, true AS by_serial FROM device_identity WHERE lower(evidence->>'serial') = $1
    UNION ALL SELECT host, false FROM device_identity WHERE lower(evidence->>'uuid') = $2
    UNION ALL SELECT host, lower(evidence->>'serial') IS NOT DISTINCT FROM $1 FROM enrollment_request
              WHERE lower(evidence->>'serial') = $1 OR lower(evidence->>'uuid') = $2
    UNION ALL SELECT id, true FROM host WHERE serial = ANY ($3::text[])
    UNION ALL SELECT id, true FROM host WHERE lower(expected_serial) = $1 AND expected_serial IS NOT NULL
    UNION ALL SELECT id, false FROM host WHERE expected_uuid = $2 AND expected_uuid IS NOT NULL
)
SELECT h.id, h.name, lower(h.expected_serial) AS expected_serial, h.expected_uuid,
       di.host IS NOT NULL OR q.host IS NOT NULL OR h.desired_state = 'untrusted' AS taken
FROM (SELECT id, bool_or(by_serial) AS by_serial FROM found GROUP BY id) f
JOIN host h ON h.id = f.id LEFT JOIN device_identity di ON di.host = h.id LEFT JOIN enrollment_request q ON q.host = h.id
WHERE h.id IS DISTINCT FROM $4::text AND h.deleted_at IS NULL
ORDER BY f.by_serial DESC, di.host IS NOT NULL DESC, h.id DESC LIMIT 50;

-- name: renew_identity
-- $1 host, $2 certificate (PEM), $3 its serial, $4 its end, $5 evidence (JSON), $6 token id
UPDATE device_identity
SET incarnation = incarnation + 1, certificate = $2, certificate_serial = $3, expires_at = $4, evidence = $5::jsonb, token = $6
WHERE host = $1
RETURNING host, incarnation, certificate;

------------------------------------------------------------------------------------------------------------ renewal

-- name: lock_identity
-- What decides about a renewal. $1 host
SELECT i.host, i.fingerprint, i.incarnation, i.certificate, i.certificate_serial, i.expires_at, i.revoked_at, h.desired_state, h.current_state,
       t.replaces, coalesce(t.former, '[]') AS former
FROM device_identity i JOIN host h ON h.id = i.host LEFT JOIN device_trust t ON t.host = i.host
WHERE i.host = $1 FOR UPDATE OF i;

-- name: exchange_certificate
-- $1 host, $2 fingerprint, $3 certificate (PEM), $4 its serial, $5 its end
UPDATE device_identity SET fingerprint = $2, certificate = $3, certificate_serial = $4, expires_at = $5 WHERE host = $1;

-- name: note_exchange
-- $1 host, $2 serial of the certificate that is replaced, $3 fingerprints of the keys before (JSON)
INSERT INTO device_trust (host, replaces, former) VALUES ($1, $2, $3::jsonb)
ON CONFLICT (host) DO UPDATE SET replaces = EXCLUDED.replaces, former = EXCLUDED.former;

-- name: note_keys
-- Which list of keys devices say that they trust; one that has followed may be told of the next at once. $1 host[], in order, $2 keys[]
INSERT INTO device_trust (host, keys, former) SELECT host, keys, '[]' FROM unnest($1::text[], $2::bigint[]) AS t (host, keys)
ON CONFLICT (host) DO UPDATE SET keys = EXCLUDED.keys, told_at = NULL WHERE device_trust.keys IS DISTINCT FROM EXCLUDED.keys;

-- name: untaught_devices
-- Connected devices that trust an older list of keys, and were not sent the newest just now. $1 its number, $2 how many, $3 again after how
-- many seconds
UPDATE device_trust t SET told_at = now()
FROM (
    SELECT d.host FROM device_trust d JOIN host h ON h.id = d.host
    WHERE d.keys < $1 AND (d.told_at IS NULL OR d.told_at < now() - make_interval(secs => $3)) AND h.presence IN ('online', 'stale')
    ORDER BY d.host LIMIT $2 FOR UPDATE OF d SKIP LOCKED
) AS due
WHERE t.host = due.host RETURNING t.host;

-- name: followers
-- How far devices follow a rotation: those that may come back at all. $1 the newest list of keys, $2 the end of a certificate that was made
-- when the CA took over, null where it always was the one, $3 what has ended longer ago does not come back
SELECT count(*) AS devices, count(*) FILTER (WHERE t.keys >= $1) AS informed,
       count(*) FILTER (WHERE $2::timestamptz IS NULL OR i.expires_at >= $2) AS renewed
FROM device_identity i LEFT JOIN device_trust t ON t.host = i.host WHERE i.revoked_at IS NULL AND i.expires_at > $3;

-- name: ended_certificates
-- Certificates that have ended, of hosts that people want, each once. $1 now
WITH ended AS (
    SELECT i.host, h.name, i.expires_at
    FROM device_identity i JOIN host h ON h.id = i.host LEFT JOIN device_trust t ON t.host = i.host
    WHERE i.expires_at <= $1 AND i.revoked_at IS NULL AND t.told_end IS DISTINCT FROM i.expires_at
      AND h.desired_state IN ('registered', 'onboarded')
    ORDER BY i.host FOR UPDATE OF i SKIP LOCKED
), told AS (
    INSERT INTO device_trust (host, former, told_end) SELECT host, '[]', expires_at FROM ended
    ON CONFLICT (host) DO UPDATE SET told_end = EXCLUDED.told_end
)
SELECT host, name, expires_at FROM ended ORDER BY host;

---------------------------------------------------------------------------------------------------------------- revocation

-- name: note_certificate
-- Of a service or an integration; those of devices are noted by a trigger. $1 serial, $2 name (CN), $3 unit (OU), $4 now, $5 its end
INSERT INTO certificate (serial, name, unit, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (serial) DO NOTHING;

-- name: find_certificates
-- By serial, or of a name or of a host's name, that have not ended, locked. $1 serial or name, $2 now
SELECT c.serial, c.name, c.unit
FROM certificate c LEFT JOIN host h ON h.id = c.host
WHERE (c.serial = $1 OR c.name = $1 OR h.name = $1) AND c.expires_at > $2
ORDER BY c.serial FOR UPDATE OF c;

-- name: hold_identity
-- Of the host of this id or name: none gets another certificate until the end of the transaction. $1 id or name
SELECT i.host FROM device_identity i JOIN host h ON h.id = i.host WHERE h.id = $1 OR h.name = $1 ORDER BY i.host FOR UPDATE OF i;

-- name: revoke_certificates
-- $1 serials, $2 now
UPDATE certificate SET revoked_at = $2, reason = 'revoked' WHERE serial = ANY ($1::text[]) AND revoked_at IS NULL;

-- name: revoke_identities
-- Those whose certificate is one of these: their key gets no other. $1 serials, $2 now
UPDATE device_identity SET revoked_at = $2 WHERE certificate_serial = ANY ($1::text[]) AND revoked_at IS NULL RETURNING host;

-- name: certificates_by_serial
-- $1 serials
SELECT c.serial, c.name, c.unit, c.host, c.issued_at, c.expires_at, r.why
FROM certificate c LEFT JOIN revoked_certificate r ON r.serial = c.serial WHERE c.serial = ANY ($1::text[]) ORDER BY c.serial;

-- name: list_certificates
-- Those that have not ended, and why they are taken back. $1 now, $2 after which serial, $3 how many, $4 the class (OU), NULL: all
SELECT c.serial, c.name, c.unit, c.host, c.issued_at, c.expires_at, r.why
FROM certificate c LEFT JOIN revoked_certificate r ON r.serial = c.serial
WHERE c.expires_at > $1 AND c.serial > $2 AND ($4::text IS NULL OR c.unit = $4) ORDER BY c.serial LIMIT $3;

-- name: revoked_mark
-- Differs where the list of revoked certificates does. $1 now
SELECT concat(count(*), ' ', md5(string_agg(serial, ' ' ORDER BY serial))) FROM revoked_certificate WHERE expires_at > $1;

-- name: revoked_certificates
-- $1 now
SELECT serial, name, why FROM revoked_certificate WHERE expires_at > $1 ORDER BY serial;

-- name: next_list_number
-- Seconds since 1970, and always more than the last one.
INSERT INTO cursors (name, position) VALUES ('revocation', extract(epoch FROM clock_timestamp())::bigint)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursors.position + 1, EXCLUDED.position) RETURNING position;

-- name: forget_certificates
-- $1 those that ended before, $2 how many
DELETE FROM certificate WHERE serial IN (SELECT serial FROM certificate WHERE expires_at < $1 ORDER BY serial LIMIT $2) RETURNING serial;

------------------------------------------------------------------------------------------------------------------- secrets

-- name: put_secrets
-- $1 owner, $2 name[], $3 sealed[], $4 tag[], $5 now
INSERT INTO secret (owner, name, sealed, tag, changed_at)
SELECT $1, name, sealed, tag, $5 FROM unnest($2::text[], $3::text[], $4::bytea[]) AS t (name, sealed, tag)
ON CONFLICT (owner, name) DO UPDATE SET sealed = EXCLUDED.sealed, tag = EXCLUDED.tag, changed_at = EXCLUDED.changed_at;

-- name: drop_secrets
-- Those of a resource, but for these names. $1 owner, $2 names
DELETE FROM secret WHERE owner = $1 AND name <> ALL ($2::text[]);

-- name: put_salt
-- Made with the first secret, and kept as long as there is one. $1 owner, $2 name, $3 sealed, $4 now
INSERT INTO secret (owner, name, sealed, tag, changed_at) VALUES ($1, $2, $3, '', $4) ON CONFLICT (owner, name) DO NOTHING;

-- name: name_vault_key
-- From its commit on everybody seals under this key; those who are just sealing under the one before are waited for. $1 key, $2 now
INSERT INTO vault_state (id, key, since) VALUES (1, $1, $2)
ON CONFLICT (id) DO UPDATE SET key = EXCLUDED.key, since = EXCLUDED.since WHERE vault_state.key <> EXCLUDED.key;

-- name: configs
-- With their secrets, sealed, by name. $1 ids
SELECT c.*, (SELECT jsonb_object_agg(s.name, s.sealed) FROM secret s WHERE s.owner = c.id) AS sealed
FROM config c WHERE c.id = ANY ($1::text[]);

-- name: vault_standing
-- The key, and how many secrets lie under it or another one.
SELECT v.key, v.since, count(s.id) FILTER (WHERE s.name <> '.salt') AS secrets, count(s.id) FILTER (WHERE split_part(s.sealed, '.', 1) <> v.key) AS older
FROM vault_state v LEFT JOIN secret s ON true GROUP BY v.key, v.since;

-- name: older_secrets
-- $1 the newest key, $2 only those after this id, $3 how many
SELECT id, owner, name, sealed FROM secret WHERE split_part(sealed, '.', 1) <> $1 AND id > $2 ORDER BY id LIMIT $3 FOR UPDATE;

-- name: reseal_secrets
-- $1 id[], $2 sealed[]
UPDATE secret s SET sealed = v.sealed FROM unnest($1::bigint[], $2::text[]) AS v (id, sealed) WHERE s.id = v.id;

--------------------------------------------------------------------------------------------------------- configs and hosts

-- name: host_config_views
-- Everything that decides about host-configs, in one row each. $1 host-config ids
SELECT c.id, c.host, c.config, c.desired_state, c.current_state, c.generation, c.digest, c.paths, c.reported, h.name AS host_name,
       h.presence, h.current_state AS host_state, h.policy, f.name AS config_name, f.version AS config_version,
       k.id AS command_id, k.verb, k.state, k.resource, k.result, k.created_at AS commanded_at, clock_timestamp() AS now
FROM host_config c JOIN host h ON h.id = c.host JOIN config f ON f.id = c.config LEFT JOIN command k ON k.id = c.command
WHERE c.id = ANY ($1::text[]) ORDER BY c.id;

-- name: placed_configs
-- The host-configs that hosts have. $1 host ids
SELECT id, host, config, digest, paths, shadowed, desired_state FROM host_config WHERE host = ANY ($1::text[]) ORDER BY id;

-- name: unsettled_host_configs
-- What of these hosts is not as wanted: worth a look when one of them comes online. $1 host ids
SELECT id AS key FROM host_config WHERE host = ANY ($1::text[]) AND status->>'indicator' IS DISTINCT FROM 'idle';

-- name: refused_host_configs
-- What these devices' owners did not allow: worth another try when one allows something else. $1 host ids
SELECT id AS key FROM host_config WHERE host = ANY ($1::text[]) AND status->>'reason' IN ('PolicyRefused', 'PathOutsideRoots');

-- name: stray_items
-- What connected devices have and nobody asks for. Not again while a command to remove it is young. $1 ids
SELECT s.id, s.host, s.generation, clock_timestamp() AS now FROM strays s JOIN host h ON h.id = s.host
WHERE s.id = ANY ($1::text[]) AND h.presence IN ('online', 'stale') AND h.current_state = 'onboarded'
  AND NOT EXISTS (SELECT 1 FROM host_config c WHERE c.id = s.id)
  AND NOT EXISTS (SELECT 1 FROM command k WHERE k.resource->>'id' = s.id
                  AND (k.state IN ('queued', 'sent', 'accepted', 'running') OR k.created_at > now() - interval '10 min'))
ORDER BY s.id;

-- name: scan_strays
SELECT s.id AS key FROM strays s JOIN host h ON h.id = s.host
WHERE h.presence IN ('online', 'stale') AND NOT EXISTS (SELECT 1 FROM work w WHERE w.manager = 'host-config' AND w.key = s.id);

-- name: scan_host_configs
-- Host-configs that look as if there were something to do, with nobody at it: not in the queue, no command under way, not halted.
SELECT c.id AS key FROM host_config c JOIN host h ON h.id = c.host
WHERE h.presence IN ('online', 'stale') AND h.current_state = 'onboarded' AND NOT coalesce((c.status->>'halted')::boolean, false)
  AND (c.status->>'indicator' IS DISTINCT FROM 'idle' OR c.observed_generation IS DISTINCT FROM c.generation
       OR c.reported->>'state' IS DISTINCT FROM 'present' OR c.reported->>'digest' IS DISTINCT FROM c.digest)
  AND NOT EXISTS (SELECT 1 FROM work w WHERE w.manager = 'host-config' AND w.key = c.id AND (w.due_at IS NOT NULL OR w.halted))
  AND NOT EXISTS (SELECT 1 FROM command k WHERE k.id = c.command AND k.state IN ('queued', 'sent', 'accepted', 'running'));

-- name: scan_configs
-- Configs that wait for their hosts to give them up.
SELECT id AS key FROM config WHERE deleted_at IS NOT NULL;

-- name: scan_placements
SELECT id AS key FROM host WHERE current_state = 'onboarded'
UNION SELECT host FROM host_config;

-- name: scan_hosts
SELECT id AS key FROM host WHERE desired_state IS DISTINCT FROM current_state;

-- name: scan_places
SELECT id AS key FROM site;

-- name: host_lives
-- What decides about a host's life. $1 host ids
SELECT h.id, h.name, h.desired_state, h.current_state, h.generation, di.host IS NOT NULL AND di.revoked_at IS NULL AS enrolled,
       q.host IS NOT NULL AS waiting
FROM host h LEFT JOIN device_identity di ON di.host = h.id LEFT JOIN enrollment_request q ON q.host = h.id
WHERE h.id = ANY ($1::text[]) ORDER BY h.id;

-------------------------------------------------------------------------------------------------------------- notifications

-- name: told_hosts
-- Hosts as they are, and as people were told last. `settled_s`: since when no component has been found. $1 host ids
SELECT h.id, h.name, h.title, h.site, s.name AS site_name, h.presence, h.boot_id, h.agent_version, t.host IS NOT NULL AS told,
       t.presence AS told_presence, t.boot_id AS told_boot_id, t.agent_version AS told_agent_version,
       EXISTS (SELECT 1 FROM host_facts f WHERE f.host = h.id) AS known
FROM host h LEFT JOIN host_told t ON t.host = h.id LEFT JOIN site s ON s.id = h.site
WHERE h.id = ANY ($1::text[]) ORDER BY h.id;

-- name: untold_requests
-- Devices that wait and that people have not been told of. $1 host ids
SELECT q.host, h.name, h.title, h.desired_state = 'registered' AS waits, q.evidence->>'serial' AS serial,
       q.evidence->>'address' AS address, o.name AS replaces
FROM enrollment_request q JOIN host h ON h.id = q.host LEFT JOIN host o ON o.id = h.replaces
WHERE q.host = ANY ($1::text[]) AND NOT q.told ORDER BY q.host;

-- name: tell_requests
-- $1 host ids
UPDATE enrollment_request SET told = true WHERE host = ANY ($1::text[]);

-- name: untold_components
-- Components that are not as people were told. $1 host ids
SELECT host, type, key, attributes, present, told_present FROM component
WHERE host = ANY ($1::text[]) AND told_present IS DISTINCT FROM present ORDER BY host, type, key;

-- name: count_components
-- $1 host ids
SELECT host, count(*) AS n FROM component WHERE host = ANY ($1::text[]) AND present GROUP BY host;

-- name: tell_hosts
-- $1 host[], $2 presence[], $3 boot_id[], $4 agent_version[]
INSERT INTO host_told (host, presence, boot_id, agent_version, told_at)
SELECT t.host, t.presence, t.boot_id, t.agent_version, now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS t (host, presence, boot_id, agent_version) JOIN host h ON h.id = t.host
ORDER BY t.host
ON CONFLICT (host) DO UPDATE SET presence = EXCLUDED.presence, boot_id = EXCLUDED.boot_id, agent_version = EXCLUDED.agent_version,
    told_at = EXCLUDED.told_at;

-- name: tell_components
-- What was read as untold is told now, unless it has changed since. $1 host[], $2 type[], $3 key[], $4 present[]
UPDATE component c SET told_present = t.present
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS t (host, type, key, present)
WHERE c.host = t.host AND c.type = t.type AND c.key = t.key;

-- name: untold_halts
-- Host-configs of a config whose halt people have not been told of, or whose end of it is to be noted. $1 config ids
SELECT c.id, c.config, f.name AS config_name, h.id AS host, h.name AS host_name, c.status->>'reason' AS reason,
       c.status->>'message' AS message, coalesce((c.status->>'halted')::boolean, false) AS halted
FROM host_config c JOIN config f ON f.id = c.config JOIN host h ON h.id = c.host
WHERE c.config = ANY ($1::text[]) AND coalesce((c.status->>'halted')::boolean, false) <> c.told_halted ORDER BY c.id;

-- name: tell_halts
-- $1 host-config ids, $2 halted[]
UPDATE host_config c SET told_halted = t.halted FROM unnest($1::text[], $2::boolean[]) AS t (id, halted) WHERE c.id = t.id;

-- name: scan_untold
SELECT h.id AS key FROM host h LEFT JOIN host_told t ON t.host = h.id
WHERE t.presence IS DISTINCT FROM CASE h.presence WHEN 'offline' THEN 'offline' WHEN 'never' THEN t.presence ELSE 'online' END
   OR (t.host IS NOT NULL AND (t.boot_id IS DISTINCT FROM h.boot_id OR t.agent_version IS DISTINCT FROM h.agent_version))
UNION SELECT host FROM component WHERE told_present IS DISTINCT FROM present
UNION SELECT host FROM enrollment_request WHERE NOT told
UNION SELECT config FROM host_config WHERE coalesce((status->>'halted')::boolean, false) <> told_halted;

------------------------------------------------------------------------------------------------------------------- dispatch

-- name: due_commands
-- Commands that are to be sent, sent again or ended, each with where its device is; `now` is what time it is by whoever keeps it. One that
-- was not taken yet is due within seconds, or was made so by a clock that has been put right since.
-- $1 now, or NULL for this clock, $2 how many
SELECT c.id, c.host, c.verb, c.args, c.sealed, c.resource, c.state, c.attempt, c.timeout_s, c.not_after, c.first_fence, c.sends,
       c.sent_session, h.presence, s.session,
       CASE WHEN h.desired_state IN ('untrusted', 'deleted') THEN h.desired_state ELSE h.current_state END AS host_state, di.host IS NOT NULL AND di.revoked_at IS NULL AS enrolled,
       coalesce($1::timestamptz, clock_timestamp()) AS now
FROM command c JOIN host h ON h.id = c.host LEFT JOIN device_stream s ON s.host = c.host LEFT JOIN device_identity di ON di.host = c.host
WHERE c.state IN ('queued', 'sent', 'accepted', 'running') AND (c.due_at <= coalesce($1::timestamptz, clock_timestamp())
    OR c.state IN ('queued', 'sent') AND c.due_at > coalesce($1::timestamptz, clock_timestamp()) + interval '1 minute')
ORDER BY c.due_at LIMIT $2
FOR UPDATE OF c SKIP LOCKED;

-- name: rouse_commands
-- Commands whose device has begun another session since they were sent are due at once, and those that a device is not to get any more.
-- $1 now, or NULL for this clock
WITH clock AS (SELECT coalesce($1::timestamptz, clock_timestamp()) AS now)
UPDATE command c SET due_at = clock.now
FROM clock, host h LEFT JOIN device_stream s ON s.host = h.id LEFT JOIN device_identity di ON di.host = h.id
WHERE h.id = c.host AND c.due_at > clock.now
  AND (c.state IN ('sent', 'accepted', 'running') AND s.session <> c.sent_session
       OR c.state IN ('queued', 'sent') AND (h.desired_state IN ('untrusted', 'deleted') OR di.revoked_at IS NOT NULL))
RETURNING c.id;

-- name: take_fences
-- The next numbers of devices, to sign with: the highest of each is returned. $1 host[], $2 how many[]
WITH locked AS (
    SELECT d.host, t.n FROM device_identity d JOIN unnest($1::text[], $2::int[]) AS t (host, n) ON t.host = d.host ORDER BY d.host FOR UPDATE OF d
)
UPDATE device_identity d SET fence = d.fence + locked.n FROM locked WHERE d.host = locked.host RETURNING d.host, d.fence;

-- name: commands_sent
-- Neither a change nor a version: only a command's making and end are. $1 ids, $2 session[], $3 due_at[], $4 fence[], $5 now
UPDATE command c SET state = CASE WHEN c.state = 'queued' THEN 'sent' ELSE c.state END, sent_at = $5, sends = c.sends + 1,
    sent_session = t.session, due_at = t.due_at, first_fence = coalesce(c.first_fence, t.fence)
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[]) AS t (id, session, due_at, fence) WHERE c.id = t.id;

-- name: commands_wait
-- $1 ids, $2 due_at[]
UPDATE command c SET due_at = t.due_at FROM unnest($1::text[], $2::timestamptz[]) AS t (id, due_at) WHERE c.id = t.id;

-------------------------------------------------------------------------------------------------------------------- ingest

-- name: device_keys
-- What the channel keys of devices are made with; those that are not to be heard have none. $1 hosts
SELECT i.host, i.incarnation FROM device_identity i JOIN host h ON h.id = i.host AND h.desired_state NOT IN ('untrusted', 'deleted')
WHERE i.host = ANY ($1::text[]) AND i.revoked_at IS NULL;

-- name: lock_streams
-- Where devices stand, locked in one order for everybody until the commit. $1 hosts
SELECT s.host, s.epoch, s.seq, s.session, s.session_since, s.boot_id, s.retired, s.retired_epochs, s.keepalive_s, s.heartbeat_s, s.flaps,
       i.incarnation, i.fence
FROM device_stream s JOIN device_identity i ON i.host = s.host AND i.revoked_at IS NULL
     JOIN host h ON h.id = s.host AND h.desired_state NOT IN ('untrusted', 'deleted')
WHERE s.host = ANY ($1::text[])
ORDER BY s.host
FOR UPDATE OF s;

-- name: advance_streams
-- $1 host[], $2 epoch[], $3 seq[]
UPDATE device_stream s SET epoch = v.epoch, seq = v.seq
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v (host, epoch, seq) WHERE s.host = v.host;

-- name: store_sessions
-- A device that connects anew and is doubted is asked at once: what it was asked before, it has not heard.
-- $1 host[], $2 session[], $3 session_since[], $4 boot_id[], $5 retired[] (JSON), $6 retired_epochs[] (JSON), $7 keepalive_s[],
-- $8 heartbeat_s[], $9 flaps[]
UPDATE device_stream s
SET session = v.session, session_since = v.session_since, boot_id = v.boot_id, retired = v.retired::jsonb,
    retired_epochs = v.retired_epochs::jsonb, keepalive_s = v.keepalive_s, heartbeat_s = v.heartbeat_s, flaps = v.flaps,
    resync_at = CASE WHEN s.resync_at IS NOT NULL AND s.session IS DISTINCT FROM v.session THEN now() ELSE s.resync_at END
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::int[], $8::int[], $9::int[])
     AS v (host, session, session_since, boot_id, retired, retired_epochs, keepalive_s, heartbeat_s, flaps)
WHERE s.host = v.host;

-- name: touch_liveness
-- Devices that were heard so many seconds ago. A time in the future is of a clock that has been put right since. $1 host[], in order, $2 age_s[]
INSERT INTO device_liveness (host, last_seen)
SELECT host, now() - make_interval(secs => age_s) FROM unnest($1::text[], $2::float8[]) AS t (host, age_s)
ON CONFLICT (host) DO UPDATE SET last_seen = greatest(least(device_liveness.last_seen, now()), EXCLUDED.last_seen);

-- name: beat
-- Heartbeats of current sessions; the hosts whose session or presence is not as the heartbeat says are given back.
-- $1 host[], in order, $2 session[], $3 uptime_s[], $4 unacked[], $5 age_s[]
WITH beat AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::int[], $5::float8[]) AS t (host, session, uptime_s, unacked, age_s)
), known AS (
    SELECT b.*, coalesce(s.session = b.session, false) AS current, h.presence
    FROM beat b JOIN device_stream s ON s.host = b.host JOIN host h ON h.id = b.host AND h.desired_state NOT IN ('untrusted', 'deleted')
         JOIN device_identity i ON i.host = b.host AND i.revoked_at IS NULL
    ORDER BY b.host
), written AS (
    INSERT INTO device_liveness (host, last_seen, uptime_s, unacked)
    SELECT host, now() - make_interval(secs => age_s), uptime_s, unacked FROM known WHERE current
    ON CONFLICT (host) DO UPDATE SET last_seen = greatest(least(device_liveness.last_seen, now()), EXCLUDED.last_seen),
                                     uptime_s = EXCLUDED.uptime_s, unacked = EXCLUDED.unacked
)
SELECT host FROM known WHERE NOT current OR presence <> 'online';

-- name: doubted_devices
-- Connected devices that are to be asked for everything; each again after a while, until it has told. $1 how many, $2 after how many seconds
UPDATE device_stream s SET resync_at = now() + make_interval(secs => $2)
FROM (
    SELECT d.host FROM device_stream d JOIN host h ON h.id = d.host
    WHERE d.resync_at <= now() AND d.session IS NOT NULL AND h.presence IN ('online', 'stale') ORDER BY d.resync_at LIMIT $1 FOR UPDATE OF d SKIP LOCKED
) AS due
WHERE s.host = due.host RETURNING s.host, s.session;

-- name: sessions_of
-- $1 hosts
SELECT host, session FROM device_stream WHERE host = ANY ($1::text[]) AND session IS NOT NULL;

-- name: unanswering_devices
-- Connected devices that have been sent a command again and again in this session. $1 more often than that, $2 how many at most
SELECT c.host, s.session FROM command c JOIN device_stream s ON s.host = c.host AND s.session = c.sent_session JOIN host h ON h.id = c.host
WHERE c.state = 'sent' AND c.sends > $1 AND h.presence = 'online' GROUP BY c.host, s.session ORDER BY c.host LIMIT $2;

-- name: awaited_commands
-- What devices have been sent and not answered, oldest first. $1 hosts, $2 how many of each at most
SELECT host, (array_agg(id ORDER BY first_fence, id))[1:$2] AS ids
FROM command WHERE host = ANY ($1::text[]) AND state = 'sent' GROUP BY host;

-- name: end_doubts
-- $1 hosts that have told everything
UPDATE device_stream SET resync_at = NULL WHERE host = ANY ($1::text[]) AND resync_at IS NOT NULL RETURNING host;

-- name: note_strays
-- And have the manager of host-configs look at them. $1 id[], $2 host[], $3 kind[], $4 generation[], $5 now
WITH noted AS (
    INSERT INTO strays (id, host, kind, generation, at)
    SELECT id, host, kind, generation, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS t (id, host, kind, generation)
    ON CONFLICT (id) DO NOTHING
)
INSERT INTO work (manager, key, due_at, attempts, halted, backoff, again, fence, queued_at)
SELECT 'host-config', id, $5, 0, false, false, 0, 0, $5 FROM unnest($1::text[]) AS id ORDER BY id
ON CONFLICT (manager, key) DO NOTHING;

-- name: known_sections
-- $1 hosts
SELECT host, section, hash FROM host_facts WHERE host = ANY ($1::text[]);

-- name: store_facts
-- $1 host[], $2 section[], in order, $3 hash[], $4 data[] (JSON), $5 now
INSERT INTO host_facts (host, section, hash, data, updated_at)
SELECT host, section, hash, data::jsonb, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS t (host, section, hash, data)
ON CONFLICT (host, section) DO UPDATE SET hash = EXCLUDED.hash, data = EXCLUDED.data, updated_at = EXCLUDED.updated_at
    WHERE host_facts.hash <> EXCLUDED.hash;

-- name: lock_commands
-- $1 ids
SELECT id, host, state FROM command WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE;

-- name: progress_commands
-- Accepted or running: no version, no change. $1 id[], $2 state[], $3 started_at[], $4 result[] (JSON), $5 now
UPDATE command c
SET state = v.state, accepted_at = coalesce(c.accepted_at, $5), started_at = coalesce(v.started_at, c.started_at), result = v.result::jsonb
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[]) AS v (id, state, started_at, result) WHERE c.id = v.id;

-- name: store_logs
-- A log keeps its id across epochs, so one that is sent twice is stored once.
-- $1 host[], $2 log_id[], $3 type[], $4 severity[], $5 message[], $6 data[] (JSON), $7 now
INSERT INTO device_log (host, log_id, type, severity, message, data, at)
SELECT host, log_id, type, severity, message, data::jsonb, $7
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS t (host, log_id, type, severity, message, data)
ON CONFLICT (host, log_id) DO NOTHING;

-- name: set_aside
-- $1 host[], $2 suffix[], $3 epoch[], $4 seq[], $5 error[], $6 payload[], $7 now
INSERT INTO poison (host, suffix, epoch, seq, error, payload, at)
SELECT host, suffix, epoch, seq, error, payload, $7
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bytea[]) AS t (host, suffix, epoch, seq, error, payload);

-- name: trim_poison
-- Keep the last messages of each of these hosts, so that a broken device can't fill the disk. $1 hosts, $2 how many
DELETE FROM poison p USING (
    SELECT id, row_number() OVER (PARTITION BY host ORDER BY id DESC) AS n FROM poison WHERE host = ANY ($1::text[])
) AS old WHERE p.id = old.id AND old.n > $2;

------------------------------------------------------------------------------------------------------------------ presence

-- name: silent_hosts
-- Hosts that are taken for connected and have been silent for so long that they are not: one missed heartbeat is stale, three are offline.
-- Silence counts only while a replica has been listening to the shard. `wanted` is the presence that a host should have. Times in the future
-- were written by a clock that has been put right since, and count for nothing. Who is not heard any more is offline at once.
WITH listening AS (
    SELECT shard, subscribed_since FROM ingest_lease WHERE subscribed_since IS NOT NULL AND until > now()
), quiet AS (
    SELECT h.id, h.presence, s.heartbeat_s,
           extract(epoch FROM now() - (
               SELECT max(t) FROM unnest(ARRAY[coalesce(dl.last_seen, s.session_since, h.updated_at), l.subscribed_since]) AS t WHERE t <= now()
           )) AS silent_s
    FROM host h
    JOIN device_stream s ON s.host = h.id
    JOIN listening l ON l.shard = left(encode(sha256(convert_to(h.id, 'UTF8')), 'hex'), 2)
    LEFT JOIN device_liveness dl ON dl.host = h.id
    WHERE h.presence IN ('online', 'stale') AND h.desired_state NOT IN ('untrusted', 'deleted')
)
SELECT id, 'offline' AS wanted FROM host WHERE desired_state IN ('untrusted', 'deleted') AND presence IN ('online', 'stale')
UNION ALL
SELECT id, CASE WHEN silent_s > 3 * heartbeat_s + 5 THEN 'offline' ELSE 'stale' END AS wanted
FROM quiet
WHERE silent_s > 3 * heartbeat_s + 5 OR (presence = 'online' AND silent_s > 1.1 * heartbeat_s + 5)
ORDER BY id;

-------------------------------------------------------------------------------------------------------------------- leases

-- name: greet_replicas
-- Say that we are alive; how many are. One that was seen in the future was seen by a clock that has been put right since.
-- $1 our name, $2 after how many seconds of silence one is dead
WITH us AS (
    INSERT INTO ingest_replica (name, seen_at) VALUES ($1, now()) ON CONFLICT (name) DO UPDATE SET seen_at = now()
), dead AS (
    DELETE FROM ingest_replica WHERE abs(extract(epoch FROM now() - seen_at)) > $2 AND name <> $1
)
SELECT 1 + count(*) FROM ingest_replica WHERE abs(extract(epoch FROM now() - seen_at)) <= $2 AND name <> $1;

-- name: renew_leases
-- Ours that nobody has taken; a lease that has run out is still ours until then, but we were away (`lapsed`), so that the silence before
-- counts for nothing. So it is with one that ends later than any that is given: the clock has been set back since.
-- $1 our name, $2 for how many seconds
UPDATE ingest_lease l
SET until = now() + make_interval(secs => $2), subscribed_since = CASE WHEN NOT old.lapsed THEN l.subscribed_since END
FROM (
    SELECT shard, until < now() OR until > now() + make_interval(secs => 2 * $2) AS lapsed
    FROM ingest_lease WHERE owner = $1 ORDER BY shard FOR UPDATE
) AS old
WHERE l.shard = old.shard
RETURNING l.shard, old.lapsed;

-- name: take_leases
-- Up to so many that are nobody's, or whose owner has gone. $1 our name, $2 for how many seconds, $3 how many
UPDATE ingest_lease l
SET owner = $1, until = now() + make_interval(secs => $2), fence = fence + 1, subscribed_since = NULL
FROM (
    SELECT shard FROM ingest_lease WHERE owner IS NULL OR until < now() OR until > now() + make_interval(secs => 2 * $2)
    ORDER BY shard LIMIT $3 FOR UPDATE SKIP LOCKED
) AS free
WHERE l.shard = free.shard
RETURNING l.shard;

-- name: give_leases
-- $1 our name, $2 shards
UPDATE ingest_lease SET owner = NULL, until = NULL, subscribed_since = NULL WHERE owner = $1 AND shard = ANY ($2::text[]);

-- name: say_subscribed
-- We have been listening to these since now, without a gap; NULL for those that we don't hear. $1 our name, $2 shards, $3 whether we hear
UPDATE ingest_lease SET subscribed_since = CASE WHEN $3 THEN now() END WHERE owner = $1 AND shard = ANY ($2::text[]);

------------------------------------------------------------------------------------------------------------- integrations

-- name: find_integration
-- $1 name
SELECT id, name, write, scope, certificate, created_at FROM integrations WHERE name = $1;

-- name: lock_integration
-- $1 name
SELECT id, name, write, scope, certificate, created_at FROM integrations WHERE name = $1 FOR UPDATE;

------------------------------------------------------------------------------------------------------------------ dashboard

-- name: fleet_numbers
-- The fleet in one row. `waiting`: known and not approved.
SELECT count(*) AS hosts, count(*) FILTER (WHERE presence = 'online') AS online, count(*) FILTER (WHERE presence = 'stale') AS stale,
       count(*) FILTER (WHERE presence = 'offline') AS offline, count(*) FILTER (WHERE presence = 'never') AS never,
       count(*) FILTER (WHERE desired_state = 'registered') AS waiting,
       (SELECT count(*) FROM config) AS configs, (SELECT count(*) FROM site) AS sites,
       (SELECT count(*) FROM host_config) AS placed,
       (SELECT count(*) FROM host_config WHERE status->>'indicator' = 'idle') AS settled,
       (SELECT count(*) FROM host_config WHERE (status->>'halted')::boolean) AS halted,
       (SELECT count(*) FROM host_config WHERE current_state = 'drifted') AS drifted,
       (SELECT count(DISTINCT host) FROM host_config WHERE status->>'indicator' IS DISTINCT FROM 'idle') AS pending
FROM host;

-- name: versions_in_use
-- Both counts by one scan: hosts are wide, and a fleet of 100,000 takes most of the time to be read.
SELECT CASE WHEN grouping(agent) = 0 THEN 'agent_version' ELSE 'os_version' END AS what,
       CASE WHEN grouping(agent) = 0 THEN agent ELSE system END AS value, count(*) AS n
FROM (SELECT coalesce(agent_version, '') AS agent, coalesce(concat_ws(' ', os_name, os_version), '') AS system
      FROM host WHERE presence <> 'never') AS heard
GROUP BY GROUPING SETS ((agent), (system))
ORDER BY 1, 3 DESC, 2;

-- name: work_of_hosts
-- What is under way or in the way of these hosts. $1 host ids
SELECT host, count(*) FILTER (WHERE status->>'indicator' IS DISTINCT FROM 'idle') AS pending,
       count(*) FILTER (WHERE (status->>'halted')::boolean) AS halted, count(*) AS placed
FROM host_config WHERE host = ANY ($1::text[]) GROUP BY host;

-- name: work_of_configs
-- How far configs are on their hosts. $1 config ids
SELECT config, count(*) AS hosts, count(*) FILTER (WHERE status->>'indicator' = 'idle') AS settled,
       count(*) FILTER (WHERE (status->>'halted')::boolean) AS halted,
       count(*) FILTER (WHERE NOT coalesce((status->>'halted')::boolean, false) AND status->>'indicator' = 'error') AS failing
FROM host_config WHERE config = ANY ($1::text[]) GROUP BY config;

-- name: health_of_sites
-- Hosts by site; those at no site under NULL.
SELECT h.site, count(*) AS hosts, count(*) FILTER (WHERE h.presence = 'online') AS online, count(*) FILTER (WHERE h.presence = 'stale') AS stale,
       count(*) FILTER (WHERE h.presence = 'offline') AS offline,
       count(*) FILTER (WHERE EXISTS (SELECT 1 FROM host_config c WHERE c.host = h.id AND (c.status->>'halted')::boolean)) AS halted
FROM host h GROUP BY h.site;

-- name: things_of_host
-- Ids of all that a host's story is told by: itself, its hardware, its configs, its last commands. $1 host id
SELECT $1::text AS id
UNION ALL SELECT id FROM component WHERE host = $1
UNION ALL SELECT id FROM host_config WHERE host = $1
UNION ALL (SELECT id FROM command WHERE host = $1 ORDER BY created_at DESC LIMIT 200);

-- name: unread_notifications
SELECT count(*) FROM (SELECT 1 FROM notification WHERE read_at IS NULL LIMIT 1000) AS unread;

-- name: unread_ids
-- The ids that nobody has read yet, oldest first. $1 how many at most
SELECT id FROM notification WHERE read_at IS NULL ORDER BY created_at LIMIT $1;

-- name: add_integration
-- Nothing where the name is taken. $1 id, $2 name, $3 write, $4 certificate (PEM), $5 now, $6 scope
INSERT INTO integrations (id, name, write, certificate, created_at, scope) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO NOTHING RETURNING id, name, write, scope, certificate;

-------------------------------------------------------------------------------------------------------------------- explain

-- name: explain_host_configs
-- Host-configs that are not as wanted, each with what stands in the way. $1 host or NULL, $2 config or NULL, $3 id or NULL, $4 how many
SELECT c.id, f.name AS config_name, h.name AS host_name, c.desired_state, c.current_state, c.status, c.shadowed, h.presence,
       h.current_state AS host_state, dl.last_seen, k.verb, k.state AS command_state, k.created_at AS commanded_at, k.sends,
       w.due_at, w.attempts, w.last_error, w.lease_until IS NOT NULL AS running
FROM host_config c JOIN host h ON h.id = c.host JOIN config f ON f.id = c.config
LEFT JOIN device_liveness dl ON dl.host = c.host
LEFT JOIN command k ON k.id = c.command AND k.state IN ('queued', 'sent', 'accepted', 'running')
LEFT JOIN work w ON w.manager = 'host-config' AND w.key = c.id
WHERE ($1::text IS NULL OR c.host = $1) AND ($2::text IS NULL OR c.config = $2) AND ($3::text IS NULL OR c.id = $3)
  AND (c.id = $3 OR c.status->>'indicator' IS DISTINCT FROM 'idle')
ORDER BY c.status->>'reason', c.id LIMIT $4;

-- name: explain_host
-- $1 host id
SELECT h.name, h.presence, h.desired_state, h.current_state, h.status, h.policy, dl.last_seen, di.host IS NOT NULL AS enrolled, w.due_at,
       w.attempts, (SELECT f.data FROM host_facts f WHERE f.host = h.id AND f.section = 'agent') AS agent
FROM host h LEFT JOIN device_liveness dl ON dl.host = h.id LEFT JOIN device_identity di ON di.host = h.id
LEFT JOIN work w ON w.manager = 'host' AND w.key = h.id
WHERE h.id = $1;

-- name: explain_config
-- How many host-configs a config has, by how they are. $1 config id
SELECT status->>'reason' AS reason, status->>'indicator' AS indicator, count(*) AS n, min(status->>'since') AS since
FROM host_config WHERE config = $1 GROUP BY 1, 2 ORDER BY 3 DESC, 1;

-- name: evaluation_ahead
-- Whether something that decides which hosts a config is on has yet to happen: its last change has no position, is unread by the
-- managers, or what it triggered is due or under way. $1 config id
SELECT EXISTS (SELECT 1 FROM changes_in WHERE resource_id = $1)
    OR EXISTS (SELECT 1 FROM changes
               WHERE resource_id = $1 AND position > coalesce((SELECT position FROM cursors WHERE name = 'managers'), 0))
    OR EXISTS (SELECT 1 FROM work
               WHERE NOT halted AND (lease_until IS NOT NULL OR due_at <= clock_timestamp())
                 AND (manager = 'placement' OR manager = 'config' AND key = $1));

-- name: shadowing_configs
-- Names of the configs that won paths. $1 config ids
SELECT id, name FROM config WHERE id = ANY ($1::text[]);

------------------------------------------------------------------------------------------------------------------ retention

-- name: trim_logs
-- Of the oldest rows those that are older. $1 than this, $2 how many at most
DELETE FROM device_log WHERE id IN (SELECT id FROM device_log ORDER BY id LIMIT $2) AND at < $1 RETURNING id;

-- name: trim_old_poison
-- Likewise. $1 than this, $2 how many at most
DELETE FROM poison WHERE id IN (SELECT id FROM poison ORDER BY id LIMIT $2) AND at < $1 RETURNING id;

-- name: trim_idempotency
-- $1 what ended before goes, $2 how many at most
DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE expires_at < $1 ORDER BY expires_at LIMIT $2) RETURNING key;

-- name: old_commands
-- Commands by id, and whether they may go (`old`): ended long ago, and not what a host-config still points to.
-- $1 after this id, $2 before this id, $3 ended before, $4 how many
SELECT k.id, coalesce(k.finished_at < $3, false) AND k.state NOT IN ('queued', 'sent', 'accepted', 'running')
             AND NOT EXISTS (SELECT 1 FROM host_config c WHERE c.id = k.resource->>'id' AND c.command = k.id) AS old
FROM command k WHERE k.id > $1 AND k.id < $2 ORDER BY k.id LIMIT $4;

-- name: old_notifications
-- $1 after this id, $2 before this id, $3 made before, $4 how many
SELECT id, created_at < $3 AS old FROM notification WHERE id > $1 AND id < $2 ORDER BY id LIMIT $4;
