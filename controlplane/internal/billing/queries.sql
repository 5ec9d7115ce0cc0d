-- name: LockTenant :one
-- due is the last day that is paid, or of the trial, and null when nothing is due.
SELECT t.slug, t.status, t.warned_of, t.lapsed_of, p.grace_days, p.lapse_action,
       COALESCE(t.paid_until, CASE WHEN t.on_trial AND p.trial_days > 0 THEN (t.created_at AT TIME ZONE 'UTC')::date + p.trial_days END)::date AS due
FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id
WHERE t.id = @id FOR UPDATE OF t;

-- name: InsertPayment :execrows
INSERT INTO control.payments (id, tenant_id, amount, currency, period_end, reference, recorded_by)
VALUES (@id, @tenant_id, (@amount::text)::numeric, @currency, @period_end, @reference, @recorded_by)
ON CONFLICT (tenant_id, reference) DO NOTHING;

-- name: PaymentByReference :one
SELECT id, amount::text AS amount, amount = (@amount::text)::numeric AS same_amount, currency, period_end, reference, recorded_by, created_at
FROM control.payments WHERE tenant_id = @tenant_id AND reference = @reference;

-- name: ExtendPaid :one
UPDATE control.tenants
SET paid_until = greatest(paid_until, @period_end::date), on_trial = false, updated_at = now()
WHERE id = @id
RETURNING paid_until;

-- name: ListPayments :many
SELECT id, amount::text AS amount, currency, period_end, reference, recorded_by, created_at
FROM control.payments WHERE tenant_id = @tenant_id AND (sqlc.narg(before)::uuid IS NULL OR id < sqlc.narg(before))
ORDER BY id DESC LIMIT @most;

-- name: DueTenants :many
-- Those to warn, and those whose grace is over, each once for one due date.
SELECT d.id FROM (
    SELECT t.id, t.warned_of, t.lapsed_of, p.grace_days,
           COALESCE(t.paid_until, CASE WHEN t.on_trial AND p.trial_days > 0 THEN (t.created_at AT TIME ZONE 'UTC')::date + p.trial_days END) AS due
    FROM control.tenants t JOIN control.plans p ON p.id = t.plan_id
    WHERE t.status = 'active') d
WHERE (@today::date >= d.due - @warn_days::int AND d.warned_of IS DISTINCT FROM d.due)
   OR (@today::date > d.due + d.grace_days AND d.lapsed_of IS DISTINCT FROM d.due)
ORDER BY d.id;

-- name: SetWarned :exec
UPDATE control.tenants SET warned_of = @due WHERE id = @id;

-- name: SetLapsed :exec
UPDATE control.tenants SET lapsed_of = @due WHERE id = @id;

-- name: SuspendedTenants :many
SELECT id FROM control.tenants WHERE status = 'suspended' ORDER BY id;

-- name: LastMove :one
-- Who has last suspended or resumed the tenant. The audit is written with the change.
SELECT action, actor_kind, actor_id FROM control.audit_log
WHERE tenant_id = @tenant_id AND action IN ('tenant.suspend', 'tenant.resume')
ORDER BY id DESC LIMIT 1;

-- name: Contact :one
-- The first owner, as far as the control plane knows: of the sign-up, or named by
-- the operator.
SELECT t.slug, t.name, COALESCE(
    (SELECT s.email FROM control.signups s WHERE s.tenant_id = t.id ORDER BY s.id DESC LIMIT 1),
    (SELECT o.params #>> '{owner,email}' FROM control.operations o WHERE o.tenant_id = t.id AND o.params #>> '{owner,email}' IS NOT NULL ORDER BY o.id LIMIT 1),
    '')::text AS email
FROM control.tenants t WHERE t.id = @id;
