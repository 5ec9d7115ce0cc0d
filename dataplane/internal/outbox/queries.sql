-- name: Add :exec
INSERT INTO public.outbox (channel, recipient, template, language, payload_sealed, user_id, expires_at)
VALUES (@channel, @recipient, @template, @language, @payload_sealed, @user_id,
        now() + make_interval(secs => sqlc.narg(lifetime)::float8));

-- name: CountSMS :one
-- The row stays locked until the transaction ends: counts are exact, on all
-- nodes together.
INSERT INTO public.sms_counts AS c (day, prefix, sent)
VALUES ((now() AT TIME ZONE 'UTC')::date, @prefix, 1)
ON CONFLICT (day, prefix) DO UPDATE SET sent = c.sent + 1
RETURNING sent;

-- name: Claim :many
-- The lease is due_at: whoever claims moves it ahead. A message whose lease has
-- run out is claimed again, by whoever comes.
WITH waiting AS MATERIALIZED (
    SELECT w.id FROM public.outbox w
    WHERE w.status = 'pending' AND w.due_at <= clock_timestamp()
    ORDER BY w.due_at, w.id
    LIMIT @most
    FOR UPDATE SKIP LOCKED)
UPDATE public.outbox o
SET attempts = o.attempts + 1, due_at = clock_timestamp() + make_interval(secs => @lease::float8)
FROM waiting WHERE o.id = waiting.id
RETURNING o.id, o.message_id, o.channel, o.recipient, o.template, o.language, o.payload_sealed, o.user_id, o.attempts, o.created_at,
          (o.handed_at IS NOT NULL)::boolean AS handed, COALESCE(o.expires_at <= clock_timestamp(), false)::boolean AS expired;

-- name: Sender :one
-- The tenant's home company: in whose name it writes.
SELECT COALESCE((SELECT c.name FROM ouvira.seeds s JOIN public.companies c ON c.id = s.company_id
                 ORDER BY s.created_at, s.company_id LIMIT 1), '')::text AS name;

-- name: Hand :execrows
-- Nothing if the claim is not ours any more.
UPDATE public.outbox SET handed_at = clock_timestamp()
WHERE id = @id AND attempts = @attempts AND status = 'pending' AND handed_at IS NULL AND due_at > clock_timestamp();

-- name: Finish :execrows
UPDATE public.outbox
SET status = @status, last_error = @last_error, payload_sealed = NULL, finished_at = clock_timestamp()
WHERE id = @id AND attempts = @attempts AND status = 'pending';

-- name: Later :execrows
UPDATE public.outbox
SET due_at = clock_timestamp() + make_interval(secs => @wait::float8), last_error = @last_error, handed_at = NULL
WHERE id = @id AND attempts = @attempts AND status = 'pending';

-- name: NextDue :one
-- Seconds until something is due; -1 when nothing waits.
SELECT (CASE WHEN count(*) = 0 THEN -1 ELSE GREATEST(EXTRACT(epoch FROM min(due_at) - clock_timestamp()), 0) END)::float8 AS wait
FROM public.outbox WHERE status = 'pending';

-- name: Forget :execrows
DELETE FROM public.outbox WHERE id IN (
    SELECT w.id FROM public.outbox w
    WHERE w.status <> 'pending' AND w.finished_at < now() - make_interval(days => @days) LIMIT 1000);

-- name: ForgetCounts :exec
DELETE FROM public.sms_counts WHERE day < (now() AT TIME ZONE 'UTC')::date - 7;

-- name: CountLetters :one
SELECT count(*) FROM public.outbox WHERE (sqlc.narg(status)::text IS NULL OR status = sqlc.narg(status));

-- name: Letters :many
SELECT id, channel, recipient, template, status, attempts, last_error, user_id, created_at, finished_at
FROM public.outbox WHERE (sqlc.narg(status)::text IS NULL OR status = sqlc.narg(status))
ORDER BY id DESC LIMIT @most OFFSET @skip;
