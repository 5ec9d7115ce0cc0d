-- name: CountMembers :one
SELECT count(*) FROM public.user_companies m
JOIN public.users u ON u.id = m.user_id AND u.deleted_at IS NULL
WHERE m.company_id = @company_id
  AND (sqlc.narg(is_active)::boolean IS NULL OR m.is_active = sqlc.narg(is_active)::boolean)
  AND (@q::text = '' OR position(lower(@q::text) IN lower(concat_ws(' ', u.full_name, u.email, u.username))) > 0);

-- name: ListMembers :many
SELECT m.id AS membership_id, m.company_id, u.id AS user_id, u.username, u.full_name, u.email, u.is_active AS user_active,
       m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at
FROM public.user_companies m
JOIN public.users u ON u.id = m.user_id AND u.deleted_at IS NULL
WHERE m.company_id = @company_id
  AND (sqlc.narg(is_active)::boolean IS NULL OR m.is_active = sqlc.narg(is_active)::boolean)
  AND (@q::text = '' OR position(lower(@q::text) IN lower(concat_ws(' ', u.full_name, u.email, u.username))) > 0)
ORDER BY m.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: LockMember :one
SELECT m.id AS membership_id, m.company_id, u.id AS user_id, u.username, u.full_name, u.email, u.is_active AS user_active,
       m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at
FROM public.user_companies m
JOIN public.users u ON u.id = m.user_id AND u.deleted_at IS NULL
WHERE m.company_id = @company_id AND m.user_id = @user_id
FOR NO KEY UPDATE OF m;

-- name: MemberRoles :many
SELECT a.id AS assignment_id, a.user_company_id, r.id AS role_id, r.role, a.scope, a.expires_at, a.assigned_at,
       COALESCE(a.expires_at <= now(), false)::boolean AS expired
FROM public.user_company_roles a
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
WHERE a.user_company_id = ANY(@membership_ids::bigint[])
ORDER BY a.user_company_id, r.id;
