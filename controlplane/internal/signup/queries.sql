-- name: InsertSignup :exec
INSERT INTO control.signups (id, company_name, slug, full_name, email, password_hash, expires_at)
VALUES (@id, @company_name, @slug, @full_name, @email, @password_hash, @expires_at);

-- name: CountPending :one
SELECT count(*) FROM control.signups
WHERE status = 'pending_verification' AND expires_at > now() AND email = @email;

-- The attempt is counted, and committed, before the code is compared: however
-- many guesses arrive at once, no more than five of them are looked at.
-- name: CountAttempt :one
UPDATE control.signups
SET code_attempts = code_attempts + 1, updated_at = now()
WHERE id = @id AND code_attempts < @max_attempts::int AND expires_at > now()
  AND status IN ('pending_verification', 'provisioning', 'active', 'failed')
RETURNING code_serial;

-- name: ForgiveAttempt :exec
UPDATE control.signups SET code_attempts = 0 WHERE id = @id AND code_serial = @code_serial;

-- name: GetSignup :one
SELECT id, company_name, slug, full_name, email, status, code_serial, code_attempts, tenant_id, expires_at, created_at, updated_at
FROM control.signups WHERE id = @id;

-- name: LockSignup :one
SELECT id, company_name, slug, full_name, email, status, code_serial, code_attempts, tenant_id, expires_at, created_at, updated_at
FROM control.signups WHERE id = @id FOR UPDATE;

-- name: NextCode :one
UPDATE control.signups
SET code_serial = code_serial + 1, code_attempts = 0, expires_at = @expires_at, updated_at = now()
WHERE id = @id
RETURNING code_serial;

-- name: BeginProvisioning :exec
UPDATE control.signups
SET status = 'provisioning', tenant_id = @tenant_id, code_attempts = 0, updated_at = now()
WHERE id = @id;

-- name: ExpireSignups :execrows
UPDATE control.signups
SET status = 'expired', password_hash = NULL, updated_at = now()
WHERE status = 'pending_verification' AND expires_at <= now();

-- name: ForgetFailedPasswords :execrows
-- A failed sign-up can be tried again for a while; then the hash goes too.
UPDATE control.signups
SET password_hash = NULL
WHERE status = 'failed' AND password_hash IS NOT NULL AND updated_at <= now() - @kept::interval;

-- name: LatestOperation :one
SELECT id FROM control.operations WHERE tenant_id = @tenant_id AND kind = @kind ORDER BY created_at DESC LIMIT 1;

-- name: CodeRecipient :one
SELECT id, email, full_name, company_name, code_serial FROM control.signups
WHERE id = @id AND code_serial = @code_serial AND status = 'pending_verification' AND expires_at > now();
