-- name: InsertDomain :one
INSERT INTO control.domains (id, tenant_id, hostname, challenge)
VALUES (@id, @tenant_id, @hostname, @challenge)
RETURNING id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at, checked_at, next_check_at, failures, failing_since;

-- name: DropLost :one
-- A name that its tenant has lost is free for others, who need a proof of their own.
DELETE FROM control.domains WHERE hostname = @hostname AND status = 'lost' AND tenant_id <> @tenant_id
RETURNING tenant_id;

-- name: ListDomains :many
SELECT id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at, checked_at, next_check_at, failures, failing_since
FROM control.domains WHERE tenant_id = @tenant_id ORDER BY hostname;

-- name: GetDomain :one
SELECT id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at, checked_at, next_check_at, failures, failing_since
FROM control.domains WHERE id = @id;

-- name: LockDomain :one
SELECT id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at, checked_at, next_check_at, failures, failing_since
FROM control.domains WHERE id = @id FOR UPDATE;

-- name: LockTenant :one
SELECT status FROM control.tenants WHERE id = @id FOR UPDATE;

-- name: SetChecked :execrows
-- status and challenge are those that were looked for: a domain that was changed
-- meanwhile stays as it is.
UPDATE control.domains
SET status = @new_status, checked_at = @checked_at::timestamptz, next_check_at = @next_check_at, failures = @failures, failing_since = sqlc.narg(failing_since),
    verified_at = CASE WHEN @new_status = 'verified' AND status <> 'verified' THEN @checked_at::timestamptz ELSE verified_at END,
    updated_at = CASE WHEN @new_status <> status THEN @checked_at::timestamptz ELSE updated_at END
WHERE id = @id AND status = @old_status AND challenge = @challenge;

-- name: TakeDue :many
-- Each to one worker: who has taken them has until retry_at.
UPDATE control.domains SET next_check_at = @retry_at
WHERE id IN (
    SELECT d.id FROM control.domains d JOIN control.tenants t ON t.id = d.tenant_id AND t.status NOT IN ('deleted', 'purged')
    WHERE d.status IN ('verified', 'lost') AND d.next_check_at <= @now
    ORDER BY d.next_check_at LIMIT @most FOR UPDATE OF d SKIP LOCKED)
RETURNING id, tenant_id, hostname, status, is_primary, challenge, verified_at, created_at, updated_at, checked_at, next_check_at, failures, failing_since;

-- name: Postpone :exec
UPDATE control.domains SET next_check_at = @next_check_at WHERE id = @id;

-- name: TakeUnproven :many
-- Claims that were not proven in time, and what purged tenants have left.
DELETE FROM control.domains WHERE id IN (
    SELECT d.id FROM control.domains d JOIN control.tenants t ON t.id = d.tenant_id
    WHERE (d.status = 'pending' AND d.created_at <= @claimed_before) OR t.status = 'purged'
    ORDER BY d.id LIMIT @most FOR UPDATE OF d SKIP LOCKED)
RETURNING id, tenant_id, hostname, status;

-- name: UnsetPrimary :exec
UPDATE control.domains SET is_primary = false, updated_at = now() WHERE tenant_id = @tenant_id AND is_primary;

-- name: SetPrimary :exec
UPDATE control.domains SET is_primary = true, updated_at = now() WHERE id = @id;

-- name: DeleteDomain :exec
DELETE FROM control.domains WHERE id = @id;

-- name: IsRouted :one
SELECT EXISTS (SELECT FROM control.routes WHERE tenant_id = @tenant_id AND NOT deleted)::boolean AS routed;

-- name: PublishRoute :one
SELECT control.publish_route(@tenant_id::uuid)::bigint AS version;

-- name: Serves :one
SELECT (EXISTS (SELECT FROM control.domains d JOIN control.tenants t ON t.id = d.tenant_id
                WHERE d.hostname = @hostname AND d.status = 'verified' AND t.status IN ('active', 'suspended'))
     OR EXISTS (SELECT FROM control.tenants t WHERE t.slug = @slug AND t.status IN ('active', 'suspended')))::boolean AS serves;
