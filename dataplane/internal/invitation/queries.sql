-- name: ExpirePending :exec
-- What is over does not stand in the way of another one.
UPDATE public.invitations i SET status = 'expired', updated_at = now()
WHERE i.company_id = @company_id AND i.email = @email AND i.status = 'pending' AND i.expires_at <= now();

-- name: IsMember :one
SELECT EXISTS (
    SELECT FROM public.user_companies m JOIN public.users u ON u.id = m.user_id AND u.deleted_at IS NULL
    WHERE m.company_id = @company_id AND m.is_active AND lower(u.email) = @email::text);

-- name: Create :one
-- Nobody knows the language of the reader better than the one who invites; who
-- does not say it takes the company's.
INSERT INTO public.invitations (company_id, email, role_id, scope, language, token_hash, expires_at, invited_by)
SELECT s.company_id, @email::text, @role_id::bigint, @scope::text, COALESCE(NULLIF(@language::text, ''), s.default_language),
       @token_hash::bytea, @expires_at::timestamptz, @invited_by::bigint
FROM public.company_settings s WHERE s.company_id = @company_id
RETURNING id;

-- name: Get :one
SELECT i.id, i.company_id, c.name AS company, i.email, i.role_id, r.role, i.scope, i.language, i.expires_at, i.invited_by, i.accepted_by, i.accepted_at,
       i.created_at, i.updated_at, i.deleted_at,
       (CASE WHEN i.status = 'pending' AND i.expires_at <= now() THEN 'expired' ELSE i.status END)::text AS status
FROM public.invitations i
JOIN public.companies c ON c.id = i.company_id
JOIN public.roles r ON r.id = i.role_id
WHERE i.id = @id AND i.deleted_at IS NULL;

-- name: Lock :one
SELECT i.id FROM public.invitations i WHERE i.id = @id AND i.deleted_at IS NULL FOR NO KEY UPDATE;

-- name: LockByToken :one
SELECT i.id FROM public.invitations i WHERE i.token_hash = @token_hash AND i.deleted_at IS NULL FOR NO KEY UPDATE;

-- name: Count :one
SELECT count(*) FROM public.invitations i
WHERE i.company_id = ANY(@company_ids::bigint[]) AND i.deleted_at IS NULL
  AND (@status::text = '' OR @status::text = CASE WHEN i.status = 'pending' AND i.expires_at <= now() THEN 'expired' ELSE i.status END);

-- name: List :many
SELECT i.id, i.company_id, c.name AS company, i.email, i.role_id, r.role, i.scope, i.language, i.expires_at, i.invited_by, i.accepted_by, i.accepted_at,
       i.created_at, i.updated_at, i.deleted_at,
       (CASE WHEN i.status = 'pending' AND i.expires_at <= now() THEN 'expired' ELSE i.status END)::text AS status
FROM public.invitations i
JOIN public.companies c ON c.id = i.company_id
JOIN public.roles r ON r.id = i.role_id
WHERE i.company_id = ANY(@company_ids::bigint[]) AND i.deleted_at IS NULL
  AND (@status::text = '' OR @status::text = CASE WHEN i.status = 'pending' AND i.expires_at <= now() THEN 'expired' ELSE i.status END)
ORDER BY i.id DESC
LIMIT @max_rows OFFSET @skip_rows;

-- name: Renew :exec
UPDATE public.invitations i
SET token_hash = @token_hash, expires_at = @expires_at, invited_by = @invited_by::bigint, status = 'pending', updated_at = now()
WHERE i.id = @id;

-- name: Revoke :exec
UPDATE public.invitations i SET status = 'revoked', updated_at = now() WHERE i.id = @id;

-- name: Delete :exec
UPDATE public.invitations i
SET deleted_at = now(), updated_at = now(), status = CASE WHEN i.status = 'pending' THEN 'revoked' ELSE i.status END
WHERE i.id = @id;

-- name: Accept :exec
UPDATE public.invitations i SET status = 'accepted', accepted_by = @accepted_by::bigint, accepted_at = now(), updated_at = now() WHERE i.id = @id;

-- name: State :one
-- What has to hold when an invitation is accepted, beside what it says itself.
SELECT (SELECT bool_and(a.status = 'active' AND a.deleted_at IS NULL) FROM public.company_paths p JOIN public.companies a ON a.id = p.ancestor_id
        WHERE p.descendant_id = i.company_id)::boolean AS active,
       COALESCE((SELECT u.is_active AND u.deleted_at IS NULL FROM public.users u WHERE u.id = i.invited_by), false)::boolean AS inviter_there
FROM public.invitations i WHERE i.id = @id;
