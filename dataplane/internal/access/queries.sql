-- name: Look :many
-- Everything that decides what a user may do in a company (0: the home
-- company), in one statement: the epoch it brings is the one of what it has
-- seen. One row for each assignment; one with assignment 0 if there is none.
WITH asked AS (
    SELECT CASE WHEN @company_id::bigint <> 0 THEN @company_id::bigint
                ELSE (SELECT s.company_id FROM ouvira.seeds s ORDER BY s.created_at, s.company_id LIMIT 1) END AS id
), up AS (
    SELECT p.ancestor_id, p.depth, c.status, c.deleted_at
    FROM asked JOIN public.company_paths p ON p.descendant_id = asked.id JOIN public.companies c ON c.id = p.ancestor_id
), about AS (
    SELECT EXISTS (SELECT FROM up WHERE up.depth = 0 AND up.deleted_at IS NULL) AS present,
           COALESCE((SELECT bool_and(up.status = 'active') FROM up), false) AS active,
           EXISTS (SELECT FROM asked JOIN public.user_companies m ON m.company_id = asked.id
                   WHERE m.user_id = @user_id AND m.is_active) AS member
), assigned AS (
    SELECT a.id, a.role_id, r.role, (r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL) AS owner,
           m.company_id, up.depth, a.scope, a.expires_at
    FROM up
    JOIN public.user_companies m ON m.company_id = up.ancestor_id AND m.user_id = @user_id AND m.is_active
    JOIN public.user_company_roles a ON a.user_company_id = m.id
         AND (a.expires_at IS NULL OR a.expires_at > now()) AND (up.depth = 0 OR a.scope = 'subtree')
    JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
)
SELECT COALESCE(asked.id, 0)::bigint AS asked_id, e.epoch, now()::timestamptz AS at,
       about.present::boolean AS present, about.active::boolean AS active, about.member::boolean AS member,
       COALESCE(assigned.id, 0)::bigint AS assignment_id, COALESCE(assigned.role_id, 0)::bigint AS role_id,
       COALESCE(assigned.role, '')::text AS role, COALESCE(assigned.owner, false)::boolean AS owner,
       COALESCE(assigned.company_id, 0)::bigint AS company_id, COALESCE(assigned.depth, 0)::integer AS distance,
       COALESCE(assigned.scope, '')::text AS scope, assigned.expires_at,
       ARRAY(SELECT rp.permission_id FROM public.role_permissions rp WHERE rp.role_id = assigned.role_id AND rp.granted)::bigint[] AS granted,
       ARRAY(SELECT rp.permission_id FROM public.role_permissions rp WHERE rp.role_id = assigned.role_id AND NOT rp.granted)::bigint[] AS denied,
       -- the catalogue comes once, with the first row, and only if wanted
       CASE WHEN @with_catalogue::boolean AND row_number() OVER () = 1
            THEN ARRAY(SELECT p.id FROM public.permissions p ORDER BY p.id) END::bigint[] AS permission_ids,
       CASE WHEN @with_catalogue::boolean AND row_number() OVER () = 1
            THEN ARRAY(SELECT p.code FROM public.permissions p ORDER BY p.id) END::text[] AS permission_codes
FROM asked CROSS JOIN about CROSS JOIN public.authz_epoch e LEFT JOIN assigned ON true
ORDER BY assigned.depth, assigned.id;

-- name: CompaniesWith :many
SELECT down.descendant_id AS id
FROM public.user_companies m
JOIN public.user_company_roles a ON a.user_company_id = m.id AND (a.expires_at IS NULL OR a.expires_at > now())
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
JOIN public.role_permissions rp ON rp.role_id = r.id
JOIN public.permissions p ON p.id = rp.permission_id AND p.code = @code
JOIN public.company_paths down ON down.ancestor_id = m.company_id AND (down.depth = 0 OR a.scope = 'subtree')
JOIN public.companies c ON c.id = down.descendant_id AND c.deleted_at IS NULL
WHERE m.user_id = @user_id AND m.is_active
GROUP BY down.descendant_id
HAVING bool_and(rp.granted)
ORDER BY down.descendant_id;

-- name: Home :one
SELECT s.company_id FROM ouvira.seeds s ORDER BY s.created_at, s.company_id LIMIT 1;

-- name: RoleToGive :one
-- A role that is to be given in a company, or taken: what it says, and whether
-- the company lies where the role may be given. It stays as it is until the
-- transaction ends.
SELECT r.id, (r.role = 'owner' AND r.is_system_role AND r.company_id IS NULL)::boolean AS owner,
       (r.company_id IS NULL OR EXISTS (SELECT FROM public.company_paths p
            WHERE p.ancestor_id = r.company_id AND p.descendant_id = @company_id::bigint))::boolean AS inside,
       ARRAY(SELECT p.code FROM public.role_permissions rp JOIN public.permissions p ON p.id = rp.permission_id
             WHERE rp.role_id = r.id AND rp.granted ORDER BY p.code)::text[] AS granted,
       ARRAY(SELECT p.code FROM public.role_permissions rp JOIN public.permissions p ON p.id = rp.permission_id
             WHERE rp.role_id = r.id AND NOT rp.granted ORDER BY p.code)::text[] AS denied
FROM public.roles r
WHERE r.id = @role_id AND r.deleted_at IS NULL
FOR SHARE OF r;

-- name: DeniedBelow :many
-- What is denied to a user in a company below, and so is not theirs in the
-- whole subtree.
SELECT DISTINCT p.code
FROM public.company_paths down
JOIN public.user_companies m ON m.company_id = down.descendant_id AND m.user_id = @user_id AND m.is_active
JOIN public.user_company_roles a ON a.user_company_id = m.id AND (a.expires_at IS NULL OR a.expires_at > now())
JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
JOIN public.role_permissions rp ON rp.role_id = r.id AND NOT rp.granted
JOIN public.permissions p ON p.id = rp.permission_id
WHERE down.ancestor_id = @company_id AND down.depth > 0;
