-- name: PutCode :exec
-- The code before it dies, with its attempts. What is long over goes as well, a
-- little each time.
WITH over AS (
    DELETE FROM public.one_time_codes o
    WHERE (o.purpose, o.recipient) IN (
        SELECT c.purpose, c.recipient FROM public.one_time_codes c
        WHERE c.expires_at < now() - interval '1 day' AND c.recipient <> @recipient::text
        ORDER BY c.expires_at LIMIT 10 FOR UPDATE SKIP LOCKED)
)
INSERT INTO public.one_time_codes AS o (purpose, recipient, code_sealed, data, expires_at)
VALUES (@purpose, @recipient::text, @code_sealed, @data, now() + make_interval(secs => @lifetime_seconds))
ON CONFLICT ON CONSTRAINT one_time_codes_pkey DO UPDATE
SET code_sealed = excluded.code_sealed, data = excluded.data, expires_at = excluded.expires_at,
    attempts = 0, created_at = now(), used_at = NULL;

-- name: ReplaceCode :execrows
-- Only while what the code is for is under way.
UPDATE public.one_time_codes o
SET code_sealed = @code_sealed, expires_at = now() + make_interval(secs => @lifetime_seconds), attempts = 0
WHERE o.purpose = @purpose AND o.recipient = @recipient AND o.used_at IS NULL
  AND o.created_at > now() - make_interval(secs => @open_seconds);

-- name: TakeAttempt :one
-- Counted before it is compared, and the row stays locked until the end of the
-- transaction: of many guesses at once, the first five are compared.
UPDATE public.one_time_codes o SET attempts = o.attempts + 1
WHERE o.purpose = @purpose AND o.recipient = @recipient AND o.used_at IS NULL AND o.expires_at > now()
  AND o.attempts < @max_attempts::integer
RETURNING o.code_sealed, o.data;

-- name: SpendCode :exec
UPDATE public.one_time_codes o SET used_at = now() WHERE o.purpose = @purpose AND o.recipient = @recipient;

-- name: OwnerOfMobile :one
SELECT u.id, u.full_name FROM public.users u WHERE u.primary_mobile = @primary_mobile::text;

-- name: PutSignup :exec
WITH over AS (
    DELETE FROM public.signups s
    WHERE s.primary_mobile IN (
        SELECT o.primary_mobile FROM public.signups o
        WHERE o.expires_at < now() AND o.primary_mobile <> @primary_mobile::text
        ORDER BY o.expires_at LIMIT 10 FOR UPDATE SKIP LOCKED)
)
INSERT INTO public.signups (primary_mobile, full_name, token_hash, ip_address, expires_at)
VALUES (@primary_mobile::text, @full_name, @token_hash, @ip_address, now() + make_interval(secs => @lifetime_seconds))
ON CONFLICT (primary_mobile) DO UPDATE
SET full_name = excluded.full_name, token_hash = excluded.token_hash, ip_address = excluded.ip_address,
    verified_at = now(), expires_at = excluded.expires_at;

-- name: FindSignup :one
SELECT s.token_hash, s.ip_address FROM public.signups s
WHERE s.primary_mobile = @primary_mobile AND s.expires_at > now();

-- name: TakeSignup :one
-- Once: who comes second finds none. The token's digest says that it is still
-- the sign-up that was looked at.
DELETE FROM public.signups s
WHERE s.primary_mobile = @primary_mobile AND s.token_hash = @token_hash AND s.expires_at > now()
RETURNING s.full_name;

-- name: CreateUserByMobile :one
INSERT INTO public.users (username, full_name, email, primary_mobile, phone_verified, password_hash, last_login)
VALUES (@username, @full_name, @email, @primary_mobile, true, @password_hash, now())
RETURNING id, account_uid, username, full_name, email, email_verified, primary_mobile, phone_verified,
          is_2fa_enabled, two_fa_type, date_joined, last_login, created_at, updated_at;

-- name: FirstUse :execrows
WITH over AS (
    DELETE FROM public.turnstile_tokens t
    WHERE t.token_hash IN (
        SELECT o.token_hash FROM public.turnstile_tokens o WHERE o.expires_at < now() AND o.token_hash <> @token_hash::bytea
        ORDER BY o.expires_at LIMIT 10 FOR UPDATE SKIP LOCKED)
)
INSERT INTO public.turnstile_tokens (token_hash, expires_at)
VALUES (@token_hash::bytea, now() + make_interval(secs => @lifetime_seconds))
ON CONFLICT (token_hash) DO NOTHING;
