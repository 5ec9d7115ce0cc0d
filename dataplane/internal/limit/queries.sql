-- name: Take :many
-- One row: whether it was allowed, and in how many seconds all of the limit is
-- there again. None: a row that came up at the same moment refuses it, and
-- this statement cannot see it yet.
WITH taken AS (
    INSERT INTO public.rate_limits AS r (key, full_at)
    VALUES (@key, now() + make_interval(secs => @step_seconds::float8))
    ON CONFLICT (key) DO UPDATE SET full_at = greatest(r.full_at, now()) + make_interval(secs => @step_seconds::float8)
    WHERE greatest(r.full_at, now()) + make_interval(secs => @step_seconds::float8) <= now() + make_interval(secs => @window_seconds::float8)
    RETURNING full_at
)
SELECT true AS allowed, extract(epoch FROM full_at - now())::float8 AS full_in FROM taken
UNION ALL
SELECT false, extract(epoch FROM r.full_at - now())::float8 FROM public.rate_limits r
WHERE r.key = @key AND NOT EXISTS (SELECT FROM taken);

-- name: Sweep :exec
-- A statement of its own, which never waits.
DELETE FROM public.rate_limits
WHERE key IN (SELECT key FROM public.rate_limits WHERE full_at < now() ORDER BY full_at LIMIT @most FOR UPDATE SKIP LOCKED);
