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
