-- name: LockUser :exec
-- One creation at a time per user: whether it is the first decides which
-- company is the primary one.
SELECT FROM public.users u WHERE u.id = @id FOR NO KEY UPDATE;

-- name: LockParent :one
-- A company under which others are made must not be deleted or deactivated
-- meanwhile.
SELECT c.status FROM public.companies c WHERE c.id = @id AND c.deleted_at IS NULL FOR SHARE;

-- name: AncestorDeactivated :one
WITH RECURSIVE up AS (
    SELECT c.id, c.parent_company_id, c.status FROM public.companies c WHERE c.id = @id
    UNION
    SELECT p.id, p.parent_company_id, p.status FROM public.companies p JOIN up ON up.parent_company_id = p.id
)
SELECT COALESCE(bool_or(up.status <> 'active'), false)::boolean FROM up;

-- name: MayCreateUnder :one
-- Whether the user holds the owner or admin role in the company, or above it
-- with the scope of the whole subtree.
WITH RECURSIVE up AS (
    SELECT c.id, c.parent_company_id, 0 AS distance FROM public.companies c WHERE c.id = @company_id
    UNION
    SELECT p.id, p.parent_company_id, up.distance + 1 FROM public.companies p JOIN up ON up.parent_company_id = p.id
)
SELECT EXISTS (
    SELECT FROM up
    JOIN public.user_companies m ON m.company_id = up.id AND m.user_id = @user_id AND m.is_active
    JOIN public.user_company_roles a ON a.user_company_id = m.id AND (a.expires_at IS NULL OR a.expires_at > now())
    JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
    WHERE r.is_system_role AND r.company_id IS NULL AND r.role IN ('owner', 'admin') AND (up.distance = 0 OR a.scope = 'subtree')
);

-- name: Create :one
INSERT INTO public.companies (name, description, address, parent_company_id, is_parent_company, create_by)
VALUES (@name, @description, @address, @parent_company_id, @is_parent_company, @create_by::bigint)
RETURNING id, name, logo, description, address, parent_company_id, is_parent_company, status, create_by, created_at, updated_at, deleted_at;

-- name: CreateSettings :one
INSERT INTO public.company_settings (company_id) VALUES (@company_id)
RETURNING company_id, default_language, default_currency, timezone, fiscal_year_start_month, feature_flags, created_at, updated_at;

-- name: AddOwner :exec
WITH membership AS (
    INSERT INTO public.user_companies (user_id, company_id, is_primary_company)
    VALUES (@user_id, @company_id,
            NOT EXISTS (SELECT FROM public.user_companies o WHERE o.user_id = @user_id AND o.is_primary_company))
    RETURNING id
)
INSERT INTO public.user_company_roles (user_company_id, role_id)
SELECT membership.id, r.id FROM membership, public.roles r
WHERE r.role = 'owner' AND r.company_id IS NULL AND r.is_system_role AND r.deleted_at IS NULL;

-- name: CountVisible :one
WITH RECURSIVE visible AS (
    SELECT m.company_id AS id,
           EXISTS (SELECT FROM public.user_company_roles a WHERE a.user_company_id = m.id AND a.scope = 'subtree'
                   AND (a.expires_at IS NULL OR a.expires_at > now())) AS subtree
    FROM public.user_companies m WHERE m.user_id = @user_id AND m.is_active
    UNION
    SELECT c.id, true FROM public.companies c JOIN visible v ON c.parent_company_id = v.id AND v.subtree
)
SELECT count(*) FROM public.companies c WHERE c.deleted_at IS NULL AND c.id IN (SELECT visible.id FROM visible);

-- name: ListVisible :many
-- A user sees the companies of which they are a member, and those below where
-- a role of theirs reaches the subtree.
WITH RECURSIVE visible AS (
    SELECT m.company_id AS id,
           EXISTS (SELECT FROM public.user_company_roles a WHERE a.user_company_id = m.id AND a.scope = 'subtree'
                   AND (a.expires_at IS NULL OR a.expires_at > now())) AS subtree
    FROM public.user_companies m WHERE m.user_id = @user_id AND m.is_active
    UNION
    SELECT c.id, true FROM public.companies c JOIN visible v ON c.parent_company_id = v.id AND v.subtree
)
SELECT c.id, c.name, c.logo, c.status, c.parent_company_id, c.is_parent_company, c.created_at, c.updated_at, c.deleted_at
FROM public.companies c
WHERE c.deleted_at IS NULL AND c.id IN (SELECT visible.id FROM visible)
ORDER BY c.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: GetVisible :one
WITH RECURSIVE up AS (
    SELECT c.id, c.parent_company_id, 0 AS distance FROM public.companies c WHERE c.id = @company_id
    UNION
    SELECT p.id, p.parent_company_id, up.distance + 1 FROM public.companies p JOIN up ON up.parent_company_id = p.id
)
SELECT c.id, c.name, c.logo, c.description, c.address, c.parent_company_id, c.is_parent_company, c.status, c.create_by,
       c.created_at, c.updated_at, c.deleted_at,
       s.default_language, s.default_currency, s.timezone, s.fiscal_year_start_month, s.feature_flags,
       s.created_at AS settings_created_at, s.updated_at AS settings_updated_at
FROM public.companies c
JOIN public.company_settings s ON s.company_id = c.id
WHERE c.id = @company_id AND c.deleted_at IS NULL AND EXISTS (
    SELECT FROM up
    JOIN public.user_companies m ON m.company_id = up.id AND m.user_id = @user_id AND m.is_active
    WHERE up.distance = 0 OR EXISTS (
        SELECT FROM public.user_company_roles a WHERE a.user_company_id = m.id AND a.scope = 'subtree'
        AND (a.expires_at IS NULL OR a.expires_at > now())));
