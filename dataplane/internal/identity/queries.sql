-- name: Authenticate :one
-- The first statement of every request that needs a login: the session, the
-- state of its user, the authorization epoch and the profile, in one row or
-- none.
SELECT s.id AS session_id, s.expires_at AS session_expires_at, a.epoch AS authz_epoch, now()::timestamptz AS asked_at,
       u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
       u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at
FROM public.sessions s
JOIN public.users u ON u.id = s.user_id
CROSS JOIN public.authz_epoch a
WHERE s.id = @session_id AND s.user_id = @user_id AND s.revoked_at IS NULL AND s.expires_at > now()
  AND u.is_active AND u.deleted_at IS NULL;

-- name: FindCredentials :one
-- An identifier is an email address, a phone number or a user name; should it
-- be two of them, for different users, the address wins.
SELECT u.id, u.full_name, u.password_hash, u.is_2fa_enabled,
       (u.is_active AND u.deleted_at IS NULL)::boolean AS enabled,
       COALESCE(u.locked_until > now(), false)::boolean AS locked
FROM public.users u
WHERE lower(u.email) = lower(@identifier) OR u.primary_mobile = @identifier OR lower(u.username) = lower(@identifier)
ORDER BY (lower(u.email) = lower(@identifier)) DESC NULLS LAST, (u.primary_mobile = @identifier) DESC NULLS LAST
LIMIT 1;

-- name: CountFailedLogin :exec
-- Counts, locks at the limit, and records it, in one round trip. What arrives
-- while the account is locked neither counts nor makes the lock longer.
WITH counted AS (
    UPDATE public.users u
    SET failed_logins = CASE WHEN u.failed_logins + 1 >= @max_failures::integer THEN 0 ELSE u.failed_logins + 1 END,
        locked_until = CASE WHEN u.failed_logins + 1 >= @max_failures::integer THEN now() + make_interval(secs => @lock_for_seconds) ELSE u.locked_until END
    WHERE u.id = @user_id::bigint AND (u.locked_until IS NULL OR u.locked_until <= now())
)
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);

-- name: RecordSecurity :exec
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);

-- name: SignIn :one
-- Only when the account is still as it was when the password was compared:
-- guesses that were under way when the account was locked do not count, and
-- who has a second factor needs more than this.
UPDATE public.users u
SET failed_logins = 0, locked_until = NULL, last_login = now(),
    password_hash = COALESCE(sqlc.narg(new_hash)::text, u.password_hash)
WHERE u.id = @id AND u.is_active AND u.deleted_at IS NULL AND (u.locked_until IS NULL OR u.locked_until <= now()) AND NOT u.is_2fa_enabled
  AND u.password_hash = @old_hash::text
RETURNING u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
          u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at;

-- name: CreateUser :one
INSERT INTO public.users (username, full_name, email, primary_mobile, password_hash, last_login)
VALUES (@username, @full_name, @email, @primary_mobile, @password_hash, now())
RETURNING id, account_uid, username, full_name, email, email_verified, primary_mobile, phone_verified,
          is_2fa_enabled, two_fa_type, date_joined, last_login, created_at, updated_at;

-- name: StartSession :exec
WITH session AS (
    INSERT INTO public.sessions (id, user_id, remember, user_agent, ip_address, expires_at)
    VALUES (@session_id, @user_id, @remember, @user_agent, @ip_address, now() + make_interval(secs => @lifetime_seconds))
), token AS (
    INSERT INTO public.refresh_tokens (token_hash, session_id, expires_at)
    VALUES (@token_hash, @session_id, now() + make_interval(secs => @idle_seconds))
)
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);

-- name: LockRefreshToken :one
-- Both rows are locked: of many who present the token at once one rotates, and
-- the others see what it did.
SELECT r.session_id, r.child_sealed,
       (r.rotated_at IS NOT NULL)::boolean AS rotated,
       COALESCE(r.rotated_at > now() - make_interval(secs => @grace_seconds), false)::boolean AS within_grace,
       (r.expires_at > now() AND s.revoked_at IS NULL AND s.expires_at > now())::boolean AS alive,
       s.user_id, s.remember, s.expires_at AS session_expires_at, u.full_name,
       (u.is_active AND u.deleted_at IS NULL)::boolean AS enabled
FROM public.refresh_tokens r
JOIN public.sessions s ON s.id = r.session_id
JOIN public.users u ON u.id = s.user_id
WHERE r.token_hash = @token_hash
FOR NO KEY UPDATE OF r, s;

-- name: RotateRefreshToken :exec
WITH child AS (
    INSERT INTO public.refresh_tokens (token_hash, session_id, expires_at)
    VALUES (@child_hash, @session_id, LEAST(now() + make_interval(secs => @idle_seconds), @session_expires_at::timestamptz))
), used AS (
    UPDATE public.sessions s SET last_used_at = now() WHERE s.id = @session_id
)
UPDATE public.refresh_tokens r SET rotated_at = now(), child_sealed = @child_sealed WHERE r.token_hash = @parent_hash;

-- name: RevokeSession :exec
WITH revoked AS (
    UPDATE public.sessions s SET revoked_at = now(), revoked_reason = @reason::text
    WHERE s.id = @session_id AND s.revoked_at IS NULL
)
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);

-- name: SessionOfRefreshToken :one
SELECT s.id FROM public.refresh_tokens r JOIN public.sessions s ON s.id = r.session_id
WHERE r.token_hash = @token_hash AND s.user_id = @user_id;

-- name: SigningKey :one
SELECT k.private_sealed FROM ouvira.signing_keys k WHERE k.kid = @kid AND k.retired_at IS NULL;

-- name: FamilyOfRefreshToken :one
SELECT session_id FROM public.refresh_tokens WHERE token_hash = @token_hash;
