-- name: InsertTenant :exec
INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential, schema_version)
VALUES (@id, @slug, @name, 'provisioning', @plan_id, sqlc.narg(server_id), sqlc.narg(database_name), @credential, @schema_version);

-- name: PlanByCode :one
-- Locked, so that a tenant that comes to the plan and a change of the plan see
-- each other: one of them publishes the tenant's route with what is new.
SELECT id, code, name FROM control.plans WHERE code = @code FOR SHARE;

-- name: ServerExists :one
SELECT EXISTS (SELECT FROM control.servers WHERE name = @name)::boolean AS known;

-- name: GetTenant :one
SELECT t.id, t.slug, t.name, t.status, t.status_reason, t.route_mode, t.schema_version, t.settings, t.on_trial,
       t.paid_until, t.purge_at, t.created_at, t.updated_at,
       p.code AS plan, s.name AS server,
       COALESCE((SELECT d.hostname FROM control.domains d WHERE d.tenant_id = t.id AND d.is_primary AND d.status = 'verified'), '')::text AS custom_primary
FROM control.tenants t
JOIN control.plans p ON p.id = t.plan_id
LEFT JOIN control.servers s ON s.id = t.server_id
WHERE t.id = sqlc.narg(id)::uuid OR t.slug = sqlc.narg(slug)::text;

-- name: LockTenant :one
SELECT id, slug, status, settings, plan_id FROM control.tenants WHERE id = @id FOR UPDATE;

-- name: SetStatus :exec
UPDATE control.tenants SET status = @status, status_reason = @reason, updated_at = now() WHERE id = @id;

-- name: MarkDeleted :exec
UPDATE control.tenants SET status_before = status, status = 'deleted', purge_at = NULL, updated_at = now() WHERE id = @id;

-- name: GraceIsOver :one
SELECT COALESCE(purge_at <= now(), false)::boolean AS over FROM control.tenants WHERE id = @id;

-- name: RaiseTokenEpoch :one
UPDATE control.tenants SET token_epoch = token_epoch + 1, updated_at = now() WHERE id = @id RETURNING token_epoch;

-- name: UpdateTenant :exec
UPDATE control.tenants
SET name     = COALESCE(sqlc.narg(name), name),
    plan_id  = COALESCE(sqlc.narg(plan_id), plan_id),
    settings = COALESCE(sqlc.narg(settings)::jsonb, settings),
    updated_at = now()
WHERE id = @id;

-- name: PublishRoute :one
SELECT control.publish_route(@tenant_id::uuid)::bigint AS version;

-- name: PublishTombstone :exec
SELECT control.publish_route(tenant_id, true) FROM control.routes WHERE tenant_id = @tenant_id;

-- name: IsRouted :one
SELECT EXISTS (SELECT FROM control.routes WHERE tenant_id = @tenant_id AND NOT deleted)::boolean AS routed;

-- name: SlugTaken :one
SELECT EXISTS (SELECT FROM control.tenants WHERE slug = @slug)::boolean AS taken;

-- name: ListPlans :many
SELECT sqlc.embed(p) FROM control.plans p ORDER BY p.code;

-- name: GetPlan :one
SELECT sqlc.embed(p) FROM control.plans p WHERE p.code = @code;

-- name: LockPlan :one
SELECT sqlc.embed(p) FROM control.plans p WHERE p.code = @code FOR NO KEY UPDATE;

-- name: InsertPlan :exec
INSERT INTO control.plans (id, code, name, max_connections, statement_timeout_ms)
VALUES (@id, @code, @name, @max_connections, @statement_timeout_ms);

-- name: SavePlan :exec
UPDATE control.plans
SET name = @name, max_connections = @max_connections, statement_timeout_ms = @statement_timeout_ms, trial_days = @trial_days, limits = @limits,
    max_storage_mb = @max_storage_mb, max_users = @max_users, over_quota = @over_quota, grace_days = @grace_days, lapse_action = @lapse_action,
    retention_days = @retention_days,
    updated_at = now()
WHERE id = @id;

-- name: DeletePlan :execrows
DELETE FROM control.plans WHERE code = @code;

-- name: RoutedTenantsOfPlan :many
SELECT t.id FROM control.tenants t JOIN control.routes r ON r.tenant_id = t.id AND NOT r.deleted
WHERE t.plan_id = @plan_id ORDER BY t.id;

-- name: OwnerOfOperation :one
SELECT t.slug, COALESCE(t.settings ->> 'reset_url', '')::text AS reset_url, (o.params #>> '{owner,email}')::text AS email,
       COALESCE(o.params ->> 'link_key', '0')::bigint AS link_key
FROM control.operations o
JOIN control.tenants t ON t.id = o.tenant_id
WHERE o.id = @operation_id AND t.status = 'active' AND o.params #>> '{owner,email}' IS NOT NULL;
