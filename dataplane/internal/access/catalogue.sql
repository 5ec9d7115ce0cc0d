-- name: CountPermissions :one
SELECT count(*) FROM public.permissions p WHERE (sqlc.narg(module)::text IS NULL OR p.module = sqlc.narg(module));

-- name: ListPermissions :many
SELECT p.id, p.code, p.module, p.description, p.is_system, p.created_at, p.updated_at
FROM public.permissions p
WHERE (sqlc.narg(module)::text IS NULL OR p.module = sqlc.narg(module))
ORDER BY p.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: GetPermission :one
SELECT p.id, p.code, p.module, p.description, p.is_system, p.created_at, p.updated_at
FROM public.permissions p WHERE p.id = @id;

-- name: LockPermission :one
SELECT p.id, p.code, p.module, p.description, p.is_system, p.created_at, p.updated_at
FROM public.permissions p WHERE p.id = @id FOR UPDATE;

-- name: PermissionByCode :one
SELECT p.id FROM public.permissions p WHERE p.code = @code;

-- name: ModuleIsSeeded :one
SELECT EXISTS (SELECT FROM public.permissions p WHERE p.module = @module AND p.is_system);

-- name: CreatePermission :one
-- Owners hold everything, also what is new.
WITH added AS (
    INSERT INTO public.permissions (code, module, description) VALUES (@code, @module, @description)
    RETURNING id, code, module, description, is_system, created_at, updated_at
), held AS (
    INSERT INTO public.role_permissions (role_id, permission_id)
    SELECT r.id, added.id FROM added, public.roles r WHERE r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL
)
SELECT added.id, added.code, added.module, added.description, added.is_system, added.created_at, added.updated_at FROM added;

-- name: UpdatePermission :one
UPDATE public.permissions p SET code = @code, module = @module, description = @description, updated_at = clock_timestamp()
WHERE p.id = @id
RETURNING p.id, p.code, p.module, p.description, p.is_system, p.created_at, p.updated_at;

-- name: DeletePermission :exec
DELETE FROM public.permissions p WHERE p.id = @id;

-- name: CountRoles :one
-- Roles that can be given in the companies: system-wide ones, and those of the
-- companies and of the ones above them.
SELECT count(*) FROM public.roles r
WHERE r.deleted_at IS NULL AND (r.company_id IS NULL OR EXISTS (
    SELECT FROM public.company_paths p WHERE p.ancestor_id = r.company_id AND p.descendant_id = ANY (@company_ids::bigint[])));

-- name: ListRoles :many
SELECT r.id, r.role, r.description, r.company_id, r.is_system_role, r.created_at, r.updated_at, r.deleted_at, r.is_deleted
FROM public.roles r
WHERE r.deleted_at IS NULL AND (r.company_id IS NULL OR EXISTS (
    SELECT FROM public.company_paths p WHERE p.ancestor_id = r.company_id AND p.descendant_id = ANY (@company_ids::bigint[])))
ORDER BY r.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: GetRole :one
SELECT r.id, r.role, r.description, r.company_id, r.is_system_role, r.created_at, r.updated_at, r.deleted_at, r.is_deleted
FROM public.roles r WHERE r.id = @id AND r.deleted_at IS NULL;

-- name: LockRole :one
SELECT r.id, r.role, r.description, r.company_id, r.is_system_role, r.created_at, r.updated_at, r.deleted_at, r.is_deleted
FROM public.roles r WHERE r.id = @id AND r.deleted_at IS NULL FOR UPDATE;

-- name: RoleReaches :one
-- Whether the role can be given in one of the companies.
SELECT EXISTS (SELECT FROM public.roles r JOIN public.company_paths p ON p.ancestor_id = r.company_id
               WHERE r.id = @role_id AND p.descendant_id = ANY (@company_ids::bigint[]));

-- name: CreateRole :one
INSERT INTO public.roles (role, description, company_id) VALUES (@role, @description, @company_id)
RETURNING id, role, description, company_id, is_system_role, created_at, updated_at, deleted_at, is_deleted;

-- name: UpdateRole :one
UPDATE public.roles r SET role = @role, description = @description, updated_at = clock_timestamp() WHERE r.id = @id
RETURNING r.id, r.role, r.description, r.company_id, r.is_system_role, r.created_at, r.updated_at, r.deleted_at, r.is_deleted;

-- name: RoleInUse :one
-- Whether somebody holds the role, or is invited to.
SELECT (EXISTS (SELECT FROM public.user_company_roles a WHERE a.role_id = @role_id)
        OR EXISTS (SELECT FROM public.invitations i WHERE i.role_id = @role_id AND i.status = 'pending' AND i.expires_at > now()))::boolean;

-- name: DeleteRole :exec
UPDATE public.roles r SET deleted_at = now(), updated_at = clock_timestamp() WHERE r.id = @id;

-- name: CountGrants :one
SELECT count(*)
FROM public.role_permissions rp JOIN public.roles r ON r.id = rp.role_id
WHERE r.deleted_at IS NULL AND (sqlc.narg(role_id)::bigint IS NULL OR r.id = sqlc.narg(role_id))
  AND (sqlc.narg(permission_id)::bigint IS NULL OR rp.permission_id = sqlc.narg(permission_id))
  AND (r.company_id IS NULL OR EXISTS (
    SELECT FROM public.company_paths p WHERE p.ancestor_id = r.company_id AND p.descendant_id = ANY (@company_ids::bigint[])));

-- name: ListGrants :many
SELECT rp.id, rp.role_id, rp.permission_id, rp.granted, rp.created_at, rp.updated_at, p.code, p.module, r.company_id
FROM public.role_permissions rp JOIN public.roles r ON r.id = rp.role_id JOIN public.permissions p ON p.id = rp.permission_id
WHERE r.deleted_at IS NULL AND (sqlc.narg(role_id)::bigint IS NULL OR r.id = sqlc.narg(role_id))
  AND (sqlc.narg(permission_id)::bigint IS NULL OR rp.permission_id = sqlc.narg(permission_id))
  AND (r.company_id IS NULL OR EXISTS (
    SELECT FROM public.company_paths up WHERE up.ancestor_id = r.company_id AND up.descendant_id = ANY (@company_ids::bigint[])))
ORDER BY rp.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: GetGrant :one
SELECT rp.id, rp.role_id, rp.permission_id, rp.granted, rp.created_at, rp.updated_at, p.code, p.module, r.company_id
FROM public.role_permissions rp JOIN public.roles r ON r.id = rp.role_id JOIN public.permissions p ON p.id = rp.permission_id
WHERE rp.id = @id AND r.deleted_at IS NULL;

-- name: FindGrant :one
SELECT rp.id, rp.role_id, rp.permission_id, rp.granted, rp.created_at, rp.updated_at, p.code, p.module, r.company_id
FROM public.role_permissions rp JOIN public.roles r ON r.id = rp.role_id JOIN public.permissions p ON p.id = rp.permission_id
WHERE rp.role_id = @role_id AND rp.permission_id = @permission_id AND r.deleted_at IS NULL;

-- name: PutGrant :one
INSERT INTO public.role_permissions (role_id, permission_id, granted) VALUES (@role_id, @permission_id, @granted)
ON CONFLICT (role_id, permission_id) DO UPDATE SET granted = EXCLUDED.granted, updated_at = clock_timestamp()
RETURNING id;

-- name: DeleteGrant :exec
DELETE FROM public.role_permissions rp WHERE rp.id = @id;

-- name: OwnersHoldRole :one
-- Whether somebody holds the role who is an owner where it reaches: of the
-- company where they hold it, of one above, or of one below.
SELECT EXISTS (
    SELECT FROM public.user_company_roles a
    JOIN public.user_companies m ON m.id = a.user_company_id
    JOIN public.user_companies o ON o.user_id = m.user_id
    JOIN public.user_company_roles oa ON oa.user_company_id = o.id
    JOIN public.roles owner ON owner.id = oa.role_id AND owner.role = 'owner' AND owner.is_system_role AND owner.company_id IS NULL
    JOIN public.company_paths p ON (p.ancestor_id = o.company_id AND p.descendant_id = m.company_id)
                                OR (p.ancestor_id = m.company_id AND p.descendant_id = o.company_id)
    WHERE a.role_id = @role_id);
