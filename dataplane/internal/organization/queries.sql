-- name: ChartDepartments :many
SELECT d.id, d.name, d.code, d.is_active, d.parent_id, m.user_id AS manager_id, COALESCE(u.full_name, '')::text AS manager_name
FROM public.departments d
LEFT JOIN public.user_companies m ON m.user_id = d.manager_id AND m.company_id = d.company_id AND m.is_active
LEFT JOIN public.users u ON u.id = m.user_id
WHERE d.company_id = @company_id AND d.deleted_at IS NULL
ORDER BY lower(d.name), d.id;

-- name: ChartPositions :many
SELECT p.id, p.name, p.code, p.is_active, p.department_id, p.reports_to_id, p.job_title_id, t.name AS job_title_name,
       p.location_id, COALESCE(l.name, '')::text AS location_name, m.user_id, COALESCE(u.full_name, '')::text AS user_name
FROM public.positions p
JOIN public.job_titles t ON t.id = p.job_title_id
LEFT JOIN public.locations l ON l.id = p.location_id
LEFT JOIN public.user_companies m ON m.user_id = p.user_id AND m.company_id = p.company_id AND m.is_active
LEFT JOIN public.users u ON u.id = m.user_id
WHERE p.company_id = @company_id AND p.deleted_at IS NULL
ORDER BY lower(p.name), p.id;
