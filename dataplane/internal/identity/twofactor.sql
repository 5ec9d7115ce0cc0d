-- name: LockForGuess :one
-- Guesses at one account's secrets come one after another: each sees what the
-- one before has counted.
SELECT u.id, u.full_name, u.username, u.email, u.primary_mobile, u.is_2fa_enabled,
       COALESCE(u.locked_until > now(), false)::boolean AS locked,
       sha256(convert_to(COALESCE(u.password_hash, ''), 'UTF8'))::bytea AS password_digest
FROM public.users u
WHERE u.id = @id AND u.is_active AND u.deleted_at IS NULL
FOR NO KEY UPDATE;

-- name: FindFactor :one
SELECT f.id, f.user_id, f.method, f.secret_sealed, f.mobile
FROM public.two_factors f
WHERE f.user_id = @user_id AND (f.confirmed_at IS NOT NULL) = @confirmed::boolean
  AND (@confirmed::boolean OR f.created_at > now() - make_interval(secs => @pending_seconds));

-- name: AddFactor :one
WITH factor AS (
    INSERT INTO public.two_factors (user_id, method, secret_sealed, mobile)
    VALUES (@user_id, @method, @secret_sealed, @mobile)
    RETURNING id
), codes AS (
    INSERT INTO public.backup_codes (two_factor_id, code_hash)
    SELECT f.id, h FROM factor f, unnest(@code_hashes::bytea[]) h
)
SELECT f.id FROM factor f;

-- name: DropFactors :exec
-- With their backup codes.
DELETE FROM public.two_factors f
WHERE f.user_id = @user_id AND (f.confirmed_at IS NOT NULL) = @confirmed::boolean;

-- name: ConfirmFactor :exec
UPDATE public.two_factors f SET confirmed_at = now() WHERE f.id = @id;

-- name: SetSecondFactor :exec
-- What the profile says of it; a code that came back from the profile's own
-- number proves that too.
UPDATE public.users u
SET is_2fa_enabled = sqlc.narg(method)::text IS NOT NULL, two_fa_type = sqlc.narg(method)::text,
    phone_verified = u.phone_verified OR COALESCE(u.primary_mobile = sqlc.narg(proved_mobile)::text, false), updated_at = now()
WHERE u.id = @id;

-- name: AdvanceStep :execrows
-- Compare and set: the code of a time step counts once, and none of an earlier
-- step after it.
UPDATE public.two_factors f SET last_step = @step WHERE f.id = @id AND f.last_step < @step;

-- name: UseBackupCode :execrows
UPDATE public.backup_codes b SET used_at = now()
WHERE b.two_factor_id = @two_factor_id AND b.code_hash = @code_hash AND b.used_at IS NULL;

-- name: ReplaceBackupCodes :exec
WITH old AS (
    DELETE FROM public.backup_codes b WHERE b.two_factor_id = @two_factor_id::bigint AND b.code_hash <> ALL (@code_hashes::bytea[])
)
INSERT INTO public.backup_codes (two_factor_id, code_hash)
SELECT @two_factor_id::bigint, h FROM unnest(@code_hashes::bytea[]) h;

-- name: PassPassword :one
-- The first half of a login with two factors: as SignIn, but nothing is
-- forgiven and nobody is signed in yet.
UPDATE public.users u
SET password_hash = COALESCE(sqlc.narg(new_hash)::text, u.password_hash)
WHERE u.id = @id AND u.is_active AND u.deleted_at IS NULL AND (u.locked_until IS NULL OR u.locked_until <= now())
  AND u.password_hash = @old_hash::text AND u.is_2fa_enabled
RETURNING u.full_name, sha256(convert_to(u.password_hash, 'UTF8'))::bytea AS password_digest;

-- name: PutChallenge :exec
WITH over AS (
    DELETE FROM public.login_challenges l
    WHERE l.session_hash IN (
        SELECT o.session_hash FROM public.login_challenges o WHERE o.expires_at < now()
        ORDER BY o.expires_at LIMIT 10 FOR UPDATE SKIP LOCKED)
)
INSERT INTO public.login_challenges (session_hash, user_id, password_digest, remember, code_sealed, code_expires_at, expires_at)
VALUES (@session_hash, @user_id, @password_digest, @remember, @code_sealed,
        now() + make_interval(secs => @code_seconds), now() + make_interval(secs => @lifetime_seconds));

-- name: TakeChallenge :one
-- Counted before anything is compared; see TakeAttempt.
UPDATE public.login_challenges l SET attempts = l.attempts + 1
WHERE l.session_hash = @session_hash AND l.used_at IS NULL AND l.expires_at > now() AND l.attempts < @max_attempts::integer
RETURNING l.user_id, l.password_digest, l.remember, l.code_sealed,
          COALESCE(l.code_expires_at > now(), false)::boolean AS code_alive;

-- name: SpendChallenge :exec
UPDATE public.login_challenges l SET used_at = now() WHERE l.session_hash = @session_hash;

-- name: CompleteLogin :one
UPDATE public.users u SET failed_logins = 0, locked_until = NULL, last_login = now()
WHERE u.id = @id
RETURNING u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
          u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at;

-- name: FactorsUnderOtherKeys :many
-- By what stands in front of each sealed secret: the id of its key.
SELECT f.id, f.user_id, f.secret_sealed
FROM public.two_factors f
WHERE f.id > @after AND substring(f.secret_sealed FROM 1 FOR 5) <> @prefix::bytea
ORDER BY f.id LIMIT @most;

-- name: ResealFactor :exec
-- Unless it was changed meanwhile.
UPDATE public.two_factors f SET secret_sealed = @sealed WHERE f.id = @id AND f.secret_sealed = @before;
