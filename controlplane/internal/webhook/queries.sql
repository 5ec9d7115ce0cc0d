-- name: LockEndpoints :exec
SELECT pg_advisory_xact_lock(hashtextextended('control.webhook_endpoints', 0));

-- name: CountEndpoints :one
SELECT count(*) FROM control.webhook_endpoints;

-- name: InsertEndpoint :one
INSERT INTO control.webhook_endpoints (id, url, description, events, secret)
VALUES (@id, @url, @description, @events, @secret)
RETURNING created_at, updated_at;

-- name: ListEndpoints :many
SELECT id, url, description, events, status, disabled_reason, failing_since, created_at, updated_at
FROM control.webhook_endpoints ORDER BY created_at, id;

-- name: GetEndpoint :one
SELECT id, url, description, events, status, disabled_reason, failing_since, created_at, updated_at
FROM control.webhook_endpoints WHERE id = @id;

-- name: LockEndpoint :one
SELECT id, url, description, events, status, disabled_reason, failing_since, created_at, updated_at
FROM control.webhook_endpoints WHERE id = @id FOR UPDATE;

-- name: ChangeEndpoint :one
UPDATE control.webhook_endpoints
SET url = @url, description = @description, events = @events, status = @status, disabled_reason = @disabled_reason,
    failing_since = @failing_since, updated_at = now()
WHERE id = @id
RETURNING updated_at;

-- name: DeleteEndpoint :one
DELETE FROM control.webhook_endpoints WHERE id = @id RETURNING url;

-- name: InsertTestEvent :exec
INSERT INTO control.events (id, type, payload, fanned_out) VALUES (@id, @type, @payload, true);

-- name: InsertDelivery :exec
INSERT INTO control.webhook_deliveries (id, endpoint_id, event_id) VALUES (@id, @endpoint_id, @event_id);

-- name: GetDelivery :one
SELECT d.id, d.endpoint_id, d.event_id, e.type, d.status, d.attempts, d.next_attempt_at, d.last_status, d.last_error, d.created_at, d.finished_at
FROM control.webhook_deliveries d
JOIN control.events e ON e.id = d.event_id
WHERE d.id = @id;

-- name: Redeliver :execrows
UPDATE control.webhook_deliveries
SET status = 'pending', attempts = 0, next_attempt_at = now(), lease_until = NULL, finished_at = NULL
WHERE id = @id AND (status <> 'pending' OR lease_until IS NULL OR lease_until < now());

-- Deliveries are written in the transaction that notes that they were: an event is
-- lost to nobody, and nobody has it twice. Who began to listen later than it
-- happened does not get it.
-- name: FanOut :execrows
WITH batch AS (
    SELECT e.id, e.type, e.created_at FROM control.events e
    WHERE NOT e.fanned_out ORDER BY e.created_at, e.id LIMIT @at_most FOR UPDATE SKIP LOCKED
), written AS (
    INSERT INTO control.webhook_deliveries (id, endpoint_id, event_id)
    SELECT gen_random_uuid(), w.id, b.id
    FROM batch b
    JOIN control.webhook_endpoints w ON w.status = 'active' AND b.type = ANY (w.events) AND w.created_at <= b.created_at
    ON CONFLICT DO NOTHING
)
UPDATE control.events SET fanned_out = true WHERE id IN (SELECT id FROM batch);

-- name: Finish :execrows
UPDATE control.webhook_deliveries
SET status = @status, finished_at = now(), lease_until = NULL, last_status = @last_status, last_error = @last_error
WHERE id = @id AND attempts = @attempts AND status = 'pending';

-- name: Postpone :execrows
UPDATE control.webhook_deliveries
SET next_attempt_at = now() + make_interval(secs => @pause_seconds::float8), lease_until = NULL, last_status = @last_status, last_error = @last_error
WHERE id = @id AND attempts = @attempts AND status = 'pending';

-- What was broken off by the end of the worker does not count.
-- name: GiveBack :exec
UPDATE control.webhook_deliveries
SET attempts = attempts - 1, lease_until = NULL
WHERE id = @id AND attempts = @attempts AND status = 'pending';

-- name: NoteWorks :exec
UPDATE control.webhook_endpoints SET failing_since = NULL WHERE id = @id AND failing_since IS NOT NULL;

-- name: NoteFails :one
UPDATE control.webhook_endpoints SET failing_since = COALESCE(failing_since, now())
WHERE id = @id AND status = 'active'
RETURNING failing_since, url, now()::timestamptz AS asked_at;

-- name: Disable :exec
UPDATE control.webhook_endpoints SET status = 'disabled', disabled_reason = @reason, updated_at = now() WHERE id = @id;

-- name: DeleteOldDeliveries :execrows
DELETE FROM control.webhook_deliveries WHERE finished_at < now() - interval '30 days';
