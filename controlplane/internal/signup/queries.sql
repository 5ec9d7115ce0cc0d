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
  AND status IN ('pending_verification', 'pending_approval', 'provisioning', 'active', 'failed')
RETURNING code_serial;

-- name: ForgiveAttempt :exec
UPDATE control.signups SET code_attempts = 0 WHERE id = @id AND code_serial = @code_serial;

-- name: GetSignup :one
SELECT id, company_name, slug, full_name, email, status, code_serial, code_attempts, tenant_id, decision_reason, expires_at, created_at, updated_at
FROM control.signups WHERE id = @id;

-- name: LockSignup :one
SELECT id, company_name, slug, full_name, email, status, code_serial, code_attempts, tenant_id, decision_reason, expires_at, created_at, updated_at
FROM control.signups WHERE id = @id FOR UPDATE;

-- name: NextCode :one
UPDATE control.signups
SET code_serial = code_serial + 1, code_attempts = 0, expires_at = @expires_at, updated_at = now()
WHERE id = @id
RETURNING code_serial;

-- name: AwaitApproval :exec
UPDATE control.signups
SET status = 'pending_approval', code_attempts = 0, expires_at = @expires_at, updated_at = now()
WHERE id = @id;

-- name: Reject :exec
UPDATE control.signups
SET status = 'rejected', decision_reason = @reason, password_hash = NULL, updated_at = now()
WHERE id = @id;

-- name: SetDecisionReason :exec
UPDATE control.signups SET decision_reason = @reason WHERE id = @id;

-- name: Deciders :many
SELECT id FROM control.operators WHERE is_active AND role = ANY (@roles::text[]) ORDER BY id;

-- name: ApprovalMail :one
SELECT s.id, s.slug, o.email FROM control.signups s, control.operators o
WHERE s.id = @signup_id AND s.status = 'pending_approval' AND s.expires_at > now() AND o.id = @operator_id AND o.is_active;

-- name: DecisionMail :one
SELECT slug, email, status, decision_reason FROM control.signups WHERE id = @id AND status <> 'pending_approval';

-- name: TakeLimit :one
-- One row: it is allowed. None: not yet.
INSERT INTO control.signup_limits AS l (key, full_at)
VALUES (@key, now() + make_interval(secs => @step_seconds::float8))
ON CONFLICT (key) DO UPDATE SET full_at = greatest(l.full_at, now()) + make_interval(secs => @step_seconds::float8)
WHERE greatest(l.full_at, now()) + make_interval(secs => @step_seconds::float8) <= now() + make_interval(secs => @window_seconds::float8)
RETURNING full_at;

-- name: LimitWait :one
SELECT extract(epoch FROM full_at - now())::float8 AS full_in FROM control.signup_limits WHERE key = @key;

-- name: ForgetLimits :exec
DELETE FROM control.signup_limits
WHERE key IN (SELECT key FROM control.signup_limits WHERE full_at < now() ORDER BY full_at LIMIT @most FOR UPDATE SKIP LOCKED);

-- name: BeginProvisioning :exec
UPDATE control.signups
SET status = 'provisioning', tenant_id = @tenant_id, code_attempts = 0, updated_at = now()
WHERE id = @id;

-- name: ExpireSignups :execrows
UPDATE control.signups
SET status = 'expired', password_hash = NULL, updated_at = now()
WHERE status IN ('pending_verification', 'pending_approval') AND expires_at <= now();

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
