-- name: Claim :execrows
-- Waits for another request of the same key that is under way. Changes no row
-- when the key has been used in the last day.
INSERT INTO control.idempotency_keys AS k (key_hash, request)
VALUES (@key_hash, @request)
ON CONFLICT (key_hash) DO UPDATE SET request = EXCLUDED.request, answer = NULL, created_at = now()
WHERE k.created_at <= now() - make_interval(secs => @lifetime_seconds::float8);

-- name: Find :one
SELECT request, COALESCE(answer, 'null'::jsonb) AS answer, (answer IS NOT NULL)::boolean AS answered
FROM control.idempotency_keys
WHERE key_hash = @key_hash AND created_at > now() - make_interval(secs => @lifetime_seconds::float8);

-- name: Answer :exec
UPDATE control.idempotency_keys SET answer = @answer WHERE key_hash = @key_hash;

-- name: Release :exec
DELETE FROM control.idempotency_keys WHERE key_hash = @key_hash AND answer IS NULL;

-- name: Sweep :exec
DELETE FROM control.idempotency_keys
WHERE key_hash IN (
    SELECT key_hash FROM control.idempotency_keys
    WHERE created_at <= now() - make_interval(secs => @lifetime_seconds::float8)
    ORDER BY created_at LIMIT @most FOR UPDATE SKIP LOCKED);
