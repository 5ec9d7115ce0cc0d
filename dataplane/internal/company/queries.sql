-- name: LockUser :exec
-- One creation at a time per user: whether it is the first decides which
-- company is the primary one.
SELECT FROM public.users u WHERE u.id = @id FOR NO KEY UPDATE;

-- name: LockParent :one
-- A company under which others are made must not be deleted or deactivated
-- meanwhile.
SELECT c.status FROM public.companies c WHERE c.id = @id AND c.deleted_at IS NULL FOR SHARE;

-- name: LockCompanies :many
-- In the order of their ids, so that two changes that want the same two wait
-- for each other instead of embracing.
SELECT c.id FROM public.companies c
WHERE c.id = ANY(@ids::bigint[]) AND c.deleted_at IS NULL
ORDER BY c.id
FOR NO KEY UPDATE;

-- name: Create :one
INSERT INTO public.companies (name, logo, description, address, parent_company_id, is_parent_company, create_by)
VALUES (@name, @logo, @description, @address, @parent_company_id, @is_parent_company, @create_by::bigint)
RETURNING id;

-- name: CreateSettings :exec
INSERT INTO public.company_settings (company_id) VALUES (@company_id);

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

-- name: Get :one
SELECT c.id, c.name, c.logo, c.description, c.address, c.parent_company_id, c.is_parent_company, c.status, c.create_by,
       c.created_at, c.updated_at, c.deleted_at,
       (SELECT bool_and(a.status = 'active') FROM public.company_paths p JOIN public.companies a ON a.id = p.ancestor_id
        WHERE p.descendant_id = c.id)::boolean AS active,
       s.default_language, s.default_currency, s.timezone, s.fiscal_year_start_month, s.feature_flags,
       s.created_at AS settings_created_at, s.updated_at AS settings_updated_at
FROM public.companies c
JOIN public.company_settings s ON s.company_id = c.id
WHERE c.id = @id AND c.deleted_at IS NULL;

-- name: ActiveAbove :one
-- Whether every company above one is active. Of a company without one above
-- it, it is.
SELECT COALESCE(bool_and(a.status = 'active'), true)::boolean
FROM public.company_paths p JOIN public.companies a ON a.id = p.ancestor_id
WHERE p.descendant_id = @id AND p.depth > 0;

-- name: Update :exec
UPDATE public.companies c
SET name = @name, logo = @logo, description = @description, address = @address, parent_company_id = @parent_company_id,
    is_parent_company = @is_parent_company, status = @status, updated_at = now()
WHERE c.id = @id;

-- name: HasSubsidiaries :one
SELECT EXISTS (SELECT FROM public.companies c WHERE c.parent_company_id = @id AND c.deleted_at IS NULL);

-- name: Delete :exec
UPDATE public.companies c SET status = 'deleted', deleted_at = now(), updated_at = now() WHERE c.id = @id;

-- name: RevokeInvitations :exec
UPDATE public.invitations i SET status = 'revoked', updated_at = now() WHERE i.company_id = @company_id AND i.status = 'pending';

-- name: FreePrimary :many
-- The company, now deleted, is nobody's primary one any more.
UPDATE public.user_companies m SET is_primary_company = false, updated_at = now()
WHERE m.company_id = @company_id AND m.is_primary_company
RETURNING m.user_id;

-- name: ChoosePrimary :exec
-- Who has lost their primary company gets the one that they have been in for
-- longest.
UPDATE public.user_companies m SET is_primary_company = true, updated_at = now()
WHERE m.id IN (
    SELECT DISTINCT ON (o.user_id) o.id FROM public.user_companies o
    JOIN public.companies c ON c.id = o.company_id AND c.deleted_at IS NULL
    WHERE o.user_id = ANY(@user_ids::bigint[]) AND o.is_active
      AND NOT EXISTS (SELECT FROM public.user_companies p WHERE p.user_id = o.user_id AND p.is_primary_company)
    ORDER BY o.user_id, o.joined_at, o.id);

-- name: CountVisible :one
SELECT count(*) FROM public.companies c WHERE c.deleted_at IS NULL AND (sqlc.narg(within)::bigint[] IS NULL OR c.id = ANY (sqlc.narg(within)::bigint[])) AND c.id IN (
    SELECT m.company_id FROM public.user_companies m WHERE m.user_id = @user_id AND m.is_active
    UNION
    SELECT p.descendant_id FROM public.user_companies m
    JOIN public.user_company_roles a ON a.user_company_id = m.id AND a.scope = 'subtree' AND (a.expires_at IS NULL OR a.expires_at > now())
    JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
    JOIN public.company_paths p ON p.ancestor_id = m.company_id
    WHERE m.user_id = @user_id AND m.is_active);

-- name: ListVisible :many
-- A user sees the companies of which they are a member, and those below where
-- a role of theirs reaches the subtree.
SELECT c.id, c.name, c.logo, c.status, c.parent_company_id, c.is_parent_company, c.created_at, c.updated_at, c.deleted_at,
       (SELECT bool_and(a.status = 'active') FROM public.company_paths p JOIN public.companies a ON a.id = p.ancestor_id
        WHERE p.descendant_id = c.id)::boolean AS active
FROM public.companies c
WHERE c.deleted_at IS NULL AND (sqlc.narg(within)::bigint[] IS NULL OR c.id = ANY (sqlc.narg(within)::bigint[])) AND c.id IN (
    SELECT m.company_id FROM public.user_companies m WHERE m.user_id = @user_id AND m.is_active
    UNION
    SELECT p.descendant_id FROM public.user_companies m
    JOIN public.user_company_roles a ON a.user_company_id = m.id AND a.scope = 'subtree' AND (a.expires_at IS NULL OR a.expires_at > now())
    JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
    JOIN public.company_paths p ON p.ancestor_id = m.company_id
    WHERE m.user_id = @user_id AND m.is_active)
ORDER BY c.id
LIMIT @max_rows OFFSET @skip_rows;

-- name: VisibleBelow :many
-- The company and those below it that the user sees, parents first.
SELECT c.id, c.name, c.logo, c.status, c.parent_company_id, c.is_parent_company, c.created_at, c.updated_at, c.deleted_at,
       (SELECT bool_and(a.status = 'active') FROM public.company_paths p JOIN public.companies a ON a.id = p.ancestor_id
        WHERE p.descendant_id = c.id)::boolean AS active,
       (SELECT array_agg(p.ancestor_id ORDER BY p.depth) FROM public.company_paths p
        WHERE p.descendant_id = c.id AND p.depth > 0)::bigint[] AS above
FROM public.company_paths down
JOIN public.companies c ON c.id = down.descendant_id AND c.deleted_at IS NULL
WHERE down.ancestor_id = @id AND c.id IN (
    SELECT m.company_id FROM public.user_companies m WHERE m.user_id = @user_id AND m.is_active
    UNION
    SELECT p.descendant_id FROM public.user_companies m
    JOIN public.user_company_roles a ON a.user_company_id = m.id AND a.scope = 'subtree' AND (a.expires_at IS NULL OR a.expires_at > now())
    JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
    JOIN public.company_paths p ON p.ancestor_id = m.company_id
    WHERE m.user_id = @user_id AND m.is_active)
ORDER BY down.depth, c.id;

-- name: LockSettings :one
SELECT s.default_language, s.default_currency, s.timezone, s.fiscal_year_start_month, s.feature_flags, s.created_at, s.updated_at
FROM public.company_settings s WHERE s.company_id = @company_id
FOR NO KEY UPDATE;

-- name: UpdateSettings :one
UPDATE public.company_settings s
SET default_language = @default_language, default_currency = @default_currency, timezone = @timezone,
    fiscal_year_start_month = @fiscal_year_start_month, feature_flags = @feature_flags, updated_at = now()
WHERE s.company_id = @company_id
RETURNING s.default_language, s.default_currency, s.timezone, s.fiscal_year_start_month, s.feature_flags, s.created_at, s.updated_at;
