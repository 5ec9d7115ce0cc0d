-- name: CountMemberships :one
SELECT count(*) FROM public.user_companies m JOIN public.companies c ON c.id = m.company_id AND c.deleted_at IS NULL
WHERE m.company_id = ANY (@company_ids::bigint[])
  AND (sqlc.narg(user_id)::bigint IS NULL OR m.user_id = sqlc.narg(user_id))
  AND (sqlc.narg(company_id)::bigint IS NULL OR m.company_id = sqlc.narg(company_id));

-- name: ListMemberships :many
SELECT m.id, m.user_id, m.company_id, m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at
FROM public.user_companies m JOIN public.companies c ON c.id = m.company_id AND c.deleted_at IS NULL
WHERE m.company_id = ANY (@company_ids::bigint[])
  AND (sqlc.narg(user_id)::bigint IS NULL OR m.user_id = sqlc.narg(user_id))
  AND (sqlc.narg(company_id)::bigint IS NULL OR m.company_id = sqlc.narg(company_id))
ORDER BY m.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: GetMembership :one
SELECT m.id, m.user_id, m.company_id, m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at
FROM public.user_companies m JOIN public.companies c ON c.id = m.company_id AND c.deleted_at IS NULL
WHERE m.id = @id;

-- name: LockMembership :one
SELECT m.id, m.user_id, m.company_id, m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at
FROM public.user_companies m WHERE m.id = @id FOR UPDATE;

-- name: LockMembershipOf :one
SELECT m.id, m.user_id, m.company_id, m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at
FROM public.user_companies m WHERE m.user_id = @user_id AND m.company_id = @company_id FOR UPDATE;

-- name: UserIsKnownIn :one
-- Whether there is such a user, and they are a member of one of the companies.
SELECT EXISTS (SELECT FROM public.users u WHERE u.id = @user_id AND u.deleted_at IS NULL
               AND (@anywhere::boolean OR EXISTS (
                    SELECT FROM public.user_companies m WHERE m.user_id = u.id AND m.company_id = ANY (@company_ids::bigint[]))));

-- name: LockUser :exec
-- Which company is a user's primary one is decided one change at a time.
SELECT FROM public.users u WHERE u.id = @id FOR NO KEY UPDATE;

-- name: HasOtherPrimary :one
SELECT EXISTS (SELECT FROM public.user_companies m WHERE m.user_id = @user_id AND m.is_primary_company AND m.id <> @except_id);

-- name: LeavePrimary :exec
UPDATE public.user_companies m SET is_primary_company = false, updated_at = clock_timestamp()
WHERE m.user_id = @user_id AND m.is_primary_company AND m.id <> @except_id;

-- name: CreateMembership :one
INSERT INTO public.user_companies (user_id, company_id, is_active, is_primary_company, joined_at)
VALUES (@user_id, @company_id, @is_active, @is_primary_company, COALESCE(sqlc.narg(joined_at), now()))
RETURNING id, user_id, company_id, is_active, is_primary_company, joined_at, created_at, updated_at;

-- name: UpdateMembership :one
UPDATE public.user_companies m
SET is_active = @is_active, is_primary_company = @is_primary_company, joined_at = @joined_at, updated_at = clock_timestamp()
WHERE m.id = @id
RETURNING m.id, m.user_id, m.company_id, m.is_active, m.is_primary_company, m.joined_at, m.created_at, m.updated_at;

-- name: DeleteMembership :exec
DELETE FROM public.user_companies m WHERE m.id = @id;

-- name: RolesOfMembership :many
SELECT a.id, a.role_id, a.scope, (r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL)::boolean AS owner
FROM public.user_company_roles a JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
WHERE a.user_company_id = @membership_id ORDER BY a.id FOR UPDATE OF a;

-- name: CountAssignments :one
SELECT count(*)
FROM public.user_company_roles a
JOIN public.user_companies m ON m.id = a.user_company_id
JOIN public.companies c ON c.id = m.company_id AND c.deleted_at IS NULL
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
WHERE m.company_id = ANY (@company_ids::bigint[])
  AND (sqlc.narg(user_id)::bigint IS NULL OR m.user_id = sqlc.narg(user_id))
  AND (sqlc.narg(company_id)::bigint IS NULL OR m.company_id = sqlc.narg(company_id))
  AND (sqlc.narg(membership_id)::bigint IS NULL OR m.id = sqlc.narg(membership_id))
  AND (sqlc.narg(role_id)::bigint IS NULL OR r.id = sqlc.narg(role_id));

-- name: ListAssignments :many
SELECT a.id, a.scope, a.expires_at, a.assigned_at, a.created_at, a.updated_at, sqlc.embed(m), sqlc.embed(r)
FROM public.user_company_roles a
JOIN public.user_companies m ON m.id = a.user_company_id
JOIN public.companies c ON c.id = m.company_id AND c.deleted_at IS NULL
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
WHERE m.company_id = ANY (@company_ids::bigint[])
  AND (sqlc.narg(user_id)::bigint IS NULL OR m.user_id = sqlc.narg(user_id))
  AND (sqlc.narg(company_id)::bigint IS NULL OR m.company_id = sqlc.narg(company_id))
  AND (sqlc.narg(membership_id)::bigint IS NULL OR m.id = sqlc.narg(membership_id))
  AND (sqlc.narg(role_id)::bigint IS NULL OR r.id = sqlc.narg(role_id))
ORDER BY a.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: GetAssignment :one
SELECT a.id, a.scope, a.expires_at, a.assigned_at, a.created_at, a.updated_at, sqlc.embed(m), sqlc.embed(r)
FROM public.user_company_roles a
JOIN public.user_companies m ON m.id = a.user_company_id
JOIN public.companies c ON c.id = m.company_id AND c.deleted_at IS NULL
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
WHERE a.id = @id;

-- name: LockAssignment :exec
SELECT FROM public.user_company_roles a WHERE a.id = @id FOR UPDATE;

-- name: CreateAssignment :one
INSERT INTO public.user_company_roles (user_company_id, role_id, scope, expires_at)
VALUES (@membership_id, @role_id, @scope, @expires_at)
RETURNING id;

-- name: UpdateAssignment :exec
UPDATE public.user_company_roles a SET scope = @scope, expires_at = @expires_at, updated_at = clock_timestamp() WHERE a.id = @id;

-- name: DeleteAssignment :exec
DELETE FROM public.user_company_roles a WHERE a.id = @id;

-- name: IsOwnerAround :one
-- Whether the user is an owner of the company, of one above, or of one below.
SELECT EXISTS (
    SELECT FROM public.user_companies m
    JOIN public.user_company_roles a ON a.user_company_id = m.id
    JOIN public.roles r ON r.id = a.role_id AND r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL
    JOIN public.company_paths p ON (p.ancestor_id = m.company_id AND p.descendant_id = @company_id::bigint)
                                OR (p.ancestor_id = @company_id::bigint AND p.descendant_id = m.company_id)
    WHERE m.user_id = @user_id);

-- name: IsFuture :one
SELECT (@at::timestamptz > now())::boolean;
