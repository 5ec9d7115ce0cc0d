-- name: InsertDomain :one
INSERT INTO control.domains (id, tenant_id, hostname, challenge)
VALUES (@id, @tenant_id, @hostname, @challenge)
RETURNING id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at;

-- name: ListDomains :many
SELECT id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at
FROM control.domains WHERE tenant_id = @tenant_id ORDER BY hostname;

-- name: GetDomain :one
SELECT id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at
FROM control.domains WHERE id = @id;

-- name: LockDomain :one
SELECT id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at
FROM control.domains WHERE id = @id FOR UPDATE;

-- name: LockTenant :one
SELECT status FROM control.tenants WHERE id = @id FOR UPDATE;

-- name: MarkVerified :exec
UPDATE control.domains SET status = 'verified', verified_at = now(), updated_at = now() WHERE id = @id;

-- name: DeleteDomain :exec
DELETE FROM control.domains WHERE id = @id;

-- name: IsRouted :one
SELECT EXISTS (SELECT FROM control.routes WHERE tenant_id = @tenant_id AND NOT deleted)::boolean AS routed;

-- name: PublishRoute :one
SELECT control.publish_route(@tenant_id::uuid)::bigint AS version;
