-- name: TakeServers :many
-- Servers whose time has come, each to one worker.
INSERT INTO control.usage_visits AS v (server_id, visited_at)
SELECT s.id, @now FROM control.servers s LEFT JOIN control.usage_visits w ON w.server_id = s.id
WHERE s.status <> 'offline' AND (w.visited_at IS NULL OR w.visited_at <= @visited_before)
ON CONFLICT (server_id) DO UPDATE SET visited_at = EXCLUDED.visited_at WHERE v.visited_at <= @visited_before
RETURNING server_id;

-- name: DatabasesOf :many
SELECT id, database_name::text AS database_name FROM control.tenants
WHERE server_id = @server_id AND database_name IS NOT NULL AND status IN ('active', 'suspended') ORDER BY id;

-- name: Seen :exec
INSERT INTO control.usage_hours AS h (tenant_id, hour, database_bytes, last_bytes, connections)
SELECT u.tenant, @hour, u.bytes, u.bytes, u.connections
FROM (SELECT unnest(@tenants::uuid[]) AS tenant, unnest(@bytes::bigint[]) AS bytes, unnest(@connections::int[]) AS connections) u
ORDER BY u.tenant
ON CONFLICT (tenant_id, hour) DO UPDATE
SET database_bytes = greatest(h.database_bytes, EXCLUDED.database_bytes), last_bytes = EXCLUDED.last_bytes, connections = greatest(h.connections, EXCLUDED.connections);

-- name: RollUp :exec
-- Yesterday too, for what came in around midnight.
INSERT INTO control.usage_days AS d (tenant_id, day, database_bytes, connections, requests, errors, logins)
SELECT h.tenant_id, (h.hour AT TIME ZONE 'UTC')::date, max(h.database_bytes), max(h.connections), sum(h.requests)::bigint, sum(h.errors)::bigint, sum(h.logins)::bigint
FROM control.usage_hours h WHERE h.hour >= @since
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (tenant_id, day) DO UPDATE
SET database_bytes = EXCLUDED.database_bytes, connections = EXCLUDED.connections, requests = EXCLUDED.requests,
    errors = EXCLUDED.errors, logins = EXCLUDED.logins;

-- name: ForgetHours :exec
DELETE FROM control.usage_hours WHERE hour < @before;

-- name: ForgetDays :exec
DELETE FROM control.usage_days WHERE day < @before::date;

-- name: ForgetReports :exec
DELETE FROM control.usage_reports WHERE reported_at < @before;

-- name: OverStorage :many
-- Who has come over the quota by what was seen of it last.
INSERT INTO control.quota_breaches (tenant_id, quota)
SELECT t.id, 'storage' FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id AND p.max_storage_mb > 0
WHERE t.status IN ('active', 'suspended') AND control.seen_bytes(t.id) > p.max_storage_mb * 1048576::bigint
ON CONFLICT (tenant_id, quota) DO NOTHING
RETURNING tenant_id;

-- name: UnderStorage :many
DELETE FROM control.quota_breaches b USING control.tenants t, control.plans p
WHERE b.quota = 'storage' AND t.id = b.tenant_id AND p.id = t.plan_id
  AND (p.max_storage_mb = 0 OR control.seen_bytes(t.id) <= p.max_storage_mb * 1048576::bigint)
RETURNING b.tenant_id;

-- name: PublishRoute :exec
SELECT control.publish_route(tenant_id, deleted) FROM control.routes WHERE tenant_id = @tenant_id;

-- name: StorageOf :one
SELECT t.slug, p.max_storage_mb, p.over_quota, control.seen_bytes(t.id)::bigint AS database_bytes
FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id WHERE t.id = @id;

-- name: Hours :many
SELECT hour, database_bytes, connections, requests, errors, logins FROM control.usage_hours
WHERE tenant_id = @tenant_id AND hour >= @since AND hour < @until ORDER BY hour;

-- name: Days :many
SELECT day, database_bytes, connections, requests, errors, logins FROM control.usage_days
WHERE tenant_id = @tenant_id AND day >= @since::date AND day < @until::date ORDER BY day;
