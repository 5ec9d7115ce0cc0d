-- name: Claim :execrows
-- Waits for another request of the same key that is under way. Changes no row
-- when the key has been used in the last day.
INSERT INTO public.idempotency_keys AS k (user_id, key_hash, request)
VALUES (@user_id, @key_hash, @request)
ON CONFLICT (user_id, key_hash) DO UPDATE SET request = EXCLUDED.request, answer = NULL, created_at = now()
WHERE k.created_at <= now() - make_interval(secs => @lifetime_seconds::float8);

-- name: Find :one
SELECT request, COALESCE(answer, 'null'::jsonb) AS answer, (answer IS NOT NULL)::boolean AS answered
FROM public.idempotency_keys WHERE user_id = @user_id AND key_hash = @key_hash;

-- name: Answer :exec
UPDATE public.idempotency_keys SET answer = @answer WHERE user_id = @user_id AND key_hash = @key_hash;

-- name: Release :exec
DELETE FROM public.idempotency_keys WHERE user_id = @user_id AND key_hash = @key_hash AND answer IS NULL;

-- name: Sweep :exec
DELETE FROM public.idempotency_keys
WHERE (user_id, key_hash) IN (
    SELECT user_id, key_hash FROM public.idempotency_keys
    WHERE created_at <= now() - make_interval(secs => @lifetime_seconds::float8)
    ORDER BY created_at LIMIT @most FOR UPDATE SKIP LOCKED);
