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
       (r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL)::boolean AS owner
FROM public.user_company_roles a
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
WHERE a.user_company_id = ANY(@membership_ids::bigint[])
ORDER BY a.user_company_id, r.id;

-- name: AddMember :one
INSERT INTO public.user_companies (user_id, company_id, is_primary_company)
VALUES (@user_id, @company_id,
        NOT EXISTS (SELECT FROM public.user_companies o WHERE o.user_id = @user_id AND o.is_primary_company))
RETURNING id;

-- name: SetMemberActive :exec
UPDATE public.user_companies m SET is_active = @is_active, updated_at = now() WHERE m.id = @id;

-- name: RemoveMember :exec
DELETE FROM public.user_companies m WHERE m.id = @id;

-- name: GiveRole :exec
-- For good, also where it was held for a time; and to the subtree, where either
-- said so.
INSERT INTO public.user_company_roles (user_company_id, role_id, scope) VALUES (@membership_id, @role_id, @scope)
ON CONFLICT ON CONSTRAINT user_company_roles_role_key DO UPDATE
SET scope = CASE WHEN EXCLUDED.scope = 'subtree' THEN 'subtree' ELSE user_company_roles.scope END, expires_at = NULL, updated_at = now();

-- name: TakeRoles :exec
DELETE FROM public.user_company_roles a WHERE a.user_company_id = @membership_id AND a.role_id = ANY(@role_ids::bigint[]);

-- name: TakeAllRoles :exec
DELETE FROM public.user_company_roles a WHERE a.user_company_id = @membership_id;
