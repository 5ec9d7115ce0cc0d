-- name: FindForReset :one
-- As FindCredentials finds; a user without an address cannot be written to.
SELECT u.id, u.full_name, u.email, (u.is_active AND u.deleted_at IS NULL AND u.email IS NOT NULL)::boolean AS reachable
FROM public.users u
WHERE lower(u.email) = lower(@identifier) OR u.primary_mobile = @identifier OR lower(u.username) = lower(@identifier)
ORDER BY (lower(u.email) = lower(@identifier)) DESC NULLS LAST, (u.primary_mobile = @identifier) DESC NULLS LAST
LIMIT 1;

-- name: ReplaceResetToken :exec
-- Of nobody it makes no token, in the same time.
INSERT INTO public.password_tokens (token_hash, user_id, purpose, expires_at)
SELECT @token_hash, u.id, 'reset', now() + make_interval(secs => @lifetime_seconds)
FROM public.users u WHERE u.id = @user_id
ON CONFLICT (user_id) WHERE purpose = 'reset' AND used_at IS NULL
DO UPDATE SET token_hash = excluded.token_hash, created_at = now(), expires_at = excluded.expires_at;

-- name: FindPasswordToken :one
SELECT t.user_id FROM public.password_tokens t JOIN public.users u ON u.id = t.user_id
WHERE t.token_hash = @token_hash AND t.used_at IS NULL AND t.expires_at > now() AND u.is_active AND u.deleted_at IS NULL;

-- name: UsePasswordToken :one
UPDATE public.password_tokens t SET used_at = now()
WHERE t.token_hash = @token_hash AND t.used_at IS NULL AND t.expires_at > now()
RETURNING t.user_id;

-- name: PasswordsOf :one
-- The password that counts and the ones before it, the latest first.
SELECT u.full_name, u.password_hash, u.is_2fa_enabled, COALESCE(u.locked_until > now(), false)::boolean AS locked,
       ARRAY(SELECT h.password_hash FROM public.password_history h WHERE h.user_id = u.id ORDER BY h.id DESC LIMIT @earlier)::text[] AS earlier
FROM public.users u WHERE u.id = @id;

-- name: KeepPassword :exec
-- Moves the password that is about to be replaced into the history, of which
-- the latest are kept: this one and @others before it.
WITH kept AS (
    INSERT INTO public.password_history (user_id, password_hash)
    SELECT u.id, u.password_hash FROM public.users u WHERE u.id = @user_id::bigint AND u.password_hash IS NOT NULL
)
DELETE FROM public.password_history h
WHERE h.user_id = @user_id::bigint
  AND h.id <= (SELECT k.id FROM public.password_history k WHERE k.user_id = @user_id::bigint ORDER BY k.id DESC OFFSET @others LIMIT 1);

-- name: SetPassword :one
-- With a session and the hash that was compared: only while both still count.
UPDATE public.users u
SET password_hash = @password_hash, failed_logins = 0, locked_until = NULL, updated_at = now(),
    email_verified = u.email_verified OR (@proves_email::boolean AND u.email IS NOT NULL)
WHERE u.id = @id AND u.is_active AND u.deleted_at IS NULL
  AND (sqlc.narg(old_hash)::text IS NULL OR u.password_hash = sqlc.narg(old_hash)::text)
  AND (sqlc.narg(session_id)::uuid IS NULL
       OR EXISTS (SELECT FROM public.sessions s WHERE s.id = sqlc.narg(session_id)::uuid AND s.user_id = u.id AND s.revoked_at IS NULL))
RETURNING u.full_name, u.email;

-- name: EndAfterPasswordChange :exec
-- Every session but the one that is kept, if any, and every link to set a
-- password.
WITH tokens AS (
    UPDATE public.password_tokens t SET used_at = now() WHERE t.user_id = @user_id::bigint AND t.used_at IS NULL
), sessions AS (
    UPDATE public.sessions s SET revoked_at = now(), revoked_reason = 'password changed'
    WHERE s.user_id = @user_id::bigint AND s.revoked_at IS NULL AND s.id IS DISTINCT FROM sqlc.narg(kept_session)::uuid
)
INSERT INTO ledger.security_logs (user_id, user_display, action, metadata, ip_address, request_id)
VALUES (@user_id, @user_display, @action, @metadata, @ip_address, @request_id);

-- name: CountSessions :one
SELECT count(*) FROM public.sessions s
WHERE s.user_id = @user_id AND s.revoked_at IS NULL AND s.expires_at > now()
  AND EXISTS (SELECT FROM public.refresh_tokens r WHERE r.session_id = s.id AND r.expires_at > now());

-- name: ListSessions :many
-- A session whose refresh tokens have all died of idleness has ended.
SELECT s.id, s.user_agent, s.ip_address, s.created_at, s.last_used_at, s.expires_at FROM public.sessions s
WHERE s.user_id = @user_id AND s.revoked_at IS NULL AND s.expires_at > now()
  AND EXISTS (SELECT FROM public.refresh_tokens r WHERE r.session_id = s.id AND r.expires_at > now())
ORDER BY s.last_used_at DESC, s.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: LockOwnSession :one
SELECT s.id FROM public.sessions s
WHERE s.id = @id AND s.user_id = @user_id AND s.revoked_at IS NULL AND s.expires_at > now()
FOR NO KEY UPDATE;

-- name: GetAccount :one
SELECT u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
       u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at, u.is_active
FROM public.users u WHERE u.id = @id AND u.deleted_at IS NULL;

-- name: LockAccount :one
SELECT u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
       u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at, u.is_active
FROM public.users u WHERE u.id = @id AND u.deleted_at IS NULL
FOR NO KEY UPDATE;

-- name: UpdateAccount :one
UPDATE public.users u
SET full_name = @full_name, username = @username, email = @email, email_verified = @email_verified,
    primary_mobile = @primary_mobile, phone_verified = @phone_verified, updated_at = now()
WHERE u.id = @id
RETURNING u.updated_at;

-- name: KillPasswordTokens :exec
UPDATE public.password_tokens t SET used_at = now() WHERE t.user_id = @user_id AND t.used_at IS NULL;

-- name: SetActive :one
UPDATE public.users u SET is_active = @is_active, updated_at = now() WHERE u.id = @id RETURNING u.updated_at;

-- name: EndSessions :exec
UPDATE public.sessions s SET revoked_at = now(), revoked_reason = @reason::text WHERE s.user_id = @user_id AND s.revoked_at IS NULL;

-- name: CompaniesOfUser :many
SELECT m.company_id FROM public.user_companies m JOIN public.companies c ON c.id = m.company_id
WHERE m.user_id = @user_id AND m.is_active AND c.deleted_at IS NULL
ORDER BY m.company_id;

-- name: CountAccounts :one
SELECT count(*) FROM public.users u
WHERE u.deleted_at IS NULL
  AND (@everyone::boolean OR EXISTS (SELECT FROM public.user_companies m WHERE m.user_id = u.id AND m.is_active AND m.company_id = ANY (@companies::bigint[])));

-- name: ListAccounts :many
SELECT u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
       u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at, u.is_active
FROM public.users u
WHERE u.deleted_at IS NULL
  AND (@everyone::boolean OR EXISTS (SELECT FROM public.user_companies m WHERE m.user_id = u.id AND m.is_active AND m.company_id = ANY (@companies::bigint[])))
ORDER BY u.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: VerifyEmail :one
UPDATE public.users u SET email_verified = true, updated_at = now()
WHERE u.id = @id AND u.email = @email AND u.is_active AND u.deleted_at IS NULL
RETURNING u.updated_at;

-- name: VerifyPhone :one
UPDATE public.users u SET phone_verified = true, updated_at = now()
WHERE u.id = @id AND u.primary_mobile = @primary_mobile AND u.is_active AND u.deleted_at IS NULL
RETURNING u.updated_at;
