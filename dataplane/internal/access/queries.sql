-- name: Standing :one
WITH up AS (
    SELECT p.ancestor_id, p.depth, c.status, c.deleted_at
    FROM public.company_paths p JOIN public.companies c ON c.id = p.ancestor_id
    WHERE p.descendant_id = @company_id
), assigned AS (
    SELECT a.role_id
    FROM up
    JOIN public.user_companies m ON m.company_id = up.ancestor_id AND m.user_id = @user_id AND m.is_active
    JOIN public.user_company_roles a ON a.user_company_id = m.id
         AND (a.expires_at IS NULL OR a.expires_at > now()) AND (up.depth = 0 OR a.scope = 'subtree')
    JOIN public.roles r ON r.id = a.role_id AND r.deleted_at IS NULL
), decided AS (
    SELECT p.code, bool_and(rp.granted) AS granted
    FROM assigned
    JOIN public.role_permissions rp ON rp.role_id = assigned.role_id
    JOIN public.permissions p ON p.id = rp.permission_id
    GROUP BY p.code
)
SELECT (EXISTS (SELECT FROM up WHERE up.depth = 0 AND up.deleted_at IS NULL)
        AND (EXISTS (SELECT FROM assigned)
             OR EXISTS (SELECT FROM public.user_companies m WHERE m.company_id = @company_id AND m.user_id = @user_id AND m.is_active)))::boolean AS visible,
       COALESCE((SELECT bool_and(up.status = 'active') FROM up), false)::boolean AS active,
       COALESCE((SELECT array_agg(decided.code) FROM decided WHERE decided.granted), '{}')::text[] AS granted;

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
