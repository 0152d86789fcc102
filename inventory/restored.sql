-- What a restored database needs before anybody works with it; run in the transaction that loads it. 10^9 is more than an installation gives
-- between a backup and its restore (5 million changes a day for half a year). Source: design.md section 5.
SET search_path = public;

-- Versions and fences: what devices, clients and late holders of leases have seen stays behind.
SELECT setval('versions', (SELECT last_value FROM versions) + 1000000000);
SELECT setval('work_fences', (SELECT last_value FROM work_fences) + 1000000000);
UPDATE device_identity SET fence = fence + 1000000000;

-- Nobody holds anything.
UPDATE ingest_lease SET owner = NULL, until = NULL, subscribed_since = NULL, fence = fence + 1000000000;
DELETE FROM ingest_replica;
UPDATE work SET lease_owner = NULL, lease_until = NULL, again = 0, due_at = coalesce(due_at, now()) WHERE lease_until IS NOT NULL;

-- Positions: a reader between the backup's last one and the first of the future has read what is lost, and is told `gone`.
INSERT INTO log_gaps (after, before, at) SELECT position, position + 1000000000, now() FROM relay;
UPDATE relay SET position = position + 1000000000, idle = false;
DO $$
DECLARE number bigint := (SELECT (position + 1) / 1000000 FROM relay);
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS changes_%s PARTITION OF changes FOR VALUES FROM (%s) TO (%s)',
                   number, number * 1000000, (number + 1) * 1000000);
END $$;

-- Devices have said things since that are not here: each is asked again.
UPDATE device_stream SET resync_at = now();
