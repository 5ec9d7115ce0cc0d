-- name: AuthenticateKey :one
-- The first statement of a request that comes with an API key: the key, the
-- state of the user it acts for, the authorization epoch and the profile, in
-- one row or none. That it was used is written at most once a minute, by the
-- first request that finds nobody else writing it.
WITH used AS (
    UPDATE public.api_keys SET last_used_at = now()
    WHERE id = (SELECT k.id FROM public.api_keys k
                WHERE k.token_hash = @token_hash AND k.deleted_at IS NULL
                  AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute')
                FOR NO KEY UPDATE SKIP LOCKED)
)
SELECT k.id AS key_id, k.name AS key_name, k.company_id AS key_company_id, k.permissions AS key_permissions,
       k.expires_at AS key_expires_at, a.epoch AS authz_epoch, now()::timestamptz AS asked_at,
       u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
       u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at
FROM public.api_keys k
JOIN public.users u ON u.id = k.user_id
CROSS JOIN public.authz_epoch a
WHERE k.token_hash = @token_hash AND k.deleted_at IS NULL AND k.expires_at > now() AND k.token_epoch = @token_epoch
  AND u.is_active AND u.deleted_at IS NULL;

-- name: KeyReaches :one
-- A key works in its company and in those below it.
SELECT EXISTS (SELECT FROM public.company_paths p WHERE p.ancestor_id = @key_company_id AND p.descendant_id = @company_id);

-- name: KeyCompanies :many
SELECT p.descendant_id FROM public.company_paths p WHERE p.ancestor_id = @key_company_id;

-- name: UnknownPermissions :many
SELECT asked.code::text FROM unnest(@codes::text[]) AS asked (code)
WHERE NOT EXISTS (SELECT FROM public.permissions p WHERE p.code = asked.code);

-- name: CreateKey :one
INSERT INTO public.api_keys (name, user_id, company_id, parent_key_id, prefix, token_hash, permissions, token_epoch, expires_at)
VALUES (@name, @user_id, @company_id, @parent_key_id, @prefix, @token_hash, @permissions, @token_epoch,
        COALESCE(sqlc.narg(expires_at)::timestamptz, now() + make_interval(secs => @lifetime_seconds)))
RETURNING id, created_at, updated_at, expires_at;

-- name: ListKeys :many
SELECT k.id, k.name, k.user_id, u.full_name AS user_display, k.company_id, k.prefix, k.permissions, k.expires_at, k.last_used_at,
       k.created_at, k.updated_at, k.deleted_at
FROM public.api_keys k JOIN public.users u ON u.id = k.user_id
WHERE k.company_id = ANY (@companies::bigint[]) AND k.deleted_at IS NULL
ORDER BY k.id DESC
LIMIT @max_rows OFFSET @skip_rows;

-- name: CountKeys :one
SELECT count(*) FROM public.api_keys k WHERE k.company_id = ANY (@companies::bigint[]) AND k.deleted_at IS NULL;

-- name: LockKey :one
SELECT k.id, k.name, k.user_id, k.company_id, k.prefix, k.permissions, k.expires_at
FROM public.api_keys k WHERE k.id = @id AND k.deleted_at IS NULL
FOR UPDATE;

-- name: RevokeKey :many
-- The key and those that were made with it.
WITH RECURSIVE made AS (
    SELECT k.id FROM public.api_keys k WHERE k.id = @id
    UNION
    SELECT k.id FROM public.api_keys k JOIN made ON k.parent_key_id = made.id
)
UPDATE public.api_keys k SET deleted_at = now(), updated_at = now()
FROM made WHERE k.id = made.id AND k.deleted_at IS NULL
RETURNING k.id, k.name, k.user_id, k.company_id, k.prefix, k.permissions, k.expires_at;

-- name: AuthenticateSupport :one
-- The first statement of a request of support: the session, the consent as it
-- is now, the state of the owner it acts for, the authorization epoch and the
-- profile, in one row or none.
SELECT s.operator_id, s.operator, (s.write AND COALESCE(c.write, false))::boolean AS write, s.break_glass,
       a.epoch AS authz_epoch, now()::timestamptz AS asked_at,
       u.id, u.account_uid, u.username, u.full_name, u.email, u.email_verified, u.primary_mobile, u.phone_verified,
       u.is_2fa_enabled, u.two_fa_type, u.date_joined, u.last_login, u.created_at, u.updated_at
FROM public.support_sessions s
JOIN public.users u ON u.id = s.user_id
LEFT JOIN public.support_consents c ON c.id = s.consent_id AND c.ended_at IS NULL AND c.until > now()
CROSS JOIN public.authz_epoch a
WHERE s.id = @session_id AND s.user_id = @user_id AND s.ended_at IS NULL AND s.expires_at > now()
  AND (s.break_glass OR c.id IS NOT NULL) AND u.is_active AND u.deleted_at IS NULL;

-- name: EndStaleConsent :exec
UPDATE public.support_consents SET ended_at = until WHERE ended_at IS NULL AND until <= now();

-- name: OpenConsent :one
SELECT c.id, c.user_id, u.full_name AS user_display, c.write, c.until, c.created_at, c.updated_at
FROM public.support_consents c JOIN public.users u ON u.id = c.user_id
WHERE c.ended_at IS NULL AND c.until > now();

-- name: LockConsent :one
SELECT c.id, c.user_id, u.full_name, c.write, c.until
FROM public.support_consents c JOIN public.users u ON u.id = c.user_id
WHERE c.ended_at IS NULL AND c.until > now() AND u.is_active AND u.deleted_at IS NULL
FOR UPDATE OF c;

-- name: GiveConsent :one
-- One that is open is changed, and is from then on that of who changed it.
INSERT INTO public.support_consents (user_id, write, until) VALUES (@user_id, @write, @until)
ON CONFLICT ((ended_at IS NULL)) WHERE ended_at IS NULL
DO UPDATE SET user_id = EXCLUDED.user_id, write = EXCLUDED.write, until = EXCLUDED.until, updated_at = now()
RETURNING id, created_at, updated_at;

-- name: EndConsent :exec
UPDATE public.support_consents SET ended_at = now(), updated_at = now() WHERE ended_at IS NULL;

-- name: EndSupportSessions :execrows
UPDATE public.support_sessions SET ended_at = now() WHERE ended_at IS NULL AND expires_at > now();

-- name: SupportSessions :many
SELECT s.id, s.operator, s.reason, s.write, s.break_glass, s.created_at, s.expires_at, s.ended_at
FROM public.support_sessions s ORDER BY s.created_at DESC LIMIT 50;

-- name: StartSupportSession :one
INSERT INTO public.support_sessions (id, consent_id, user_id, operator_id, operator, reason, write, break_glass, ip_address, expires_at)
VALUES (@id, sqlc.narg(consent_id), @user_id, @operator_id, @operator, @reason, @write, @break_glass, sqlc.narg(ip_address),
        LEAST(now() + make_interval(mins => @minutes::integer), @until::timestamptz))
RETURNING expires_at, now()::timestamptz AS started_at;

-- name: Owners :many
-- The owners of the home company: whoever holds the owner role there.
SELECT u.id, u.full_name, u.email
FROM public.users u
JOIN public.user_companies m ON m.user_id = u.id AND m.is_active
JOIN public.user_company_roles a ON a.user_company_id = m.id AND (a.expires_at IS NULL OR a.expires_at > now())
JOIN public.roles r ON r.id = a.role_id AND r.is_system_role AND r.role = 'owner' AND r.company_id IS NULL AND r.deleted_at IS NULL
WHERE m.company_id = (SELECT s.company_id FROM ouvira.seeds s ORDER BY s.created_at, s.company_id LIMIT 1)
  AND u.is_active AND u.deleted_at IS NULL
ORDER BY u.id;

-- name: HomeCompany :one
SELECT s.company_id FROM ouvira.seeds s ORDER BY s.created_at, s.company_id LIMIT 1;
