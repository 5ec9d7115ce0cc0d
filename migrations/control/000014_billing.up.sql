-- What a plan grants, and what becomes of tenants who do not pay. Existing plans
-- only tell: nobody is suspended, and nothing is refused, by an update.
ALTER TABLE control.plans
    ADD COLUMN max_storage_mb integer NOT NULL DEFAULT 0 CONSTRAINT plans_max_storage_mb_check CHECK (max_storage_mb >= 0),
    ADD COLUMN max_users      integer NOT NULL DEFAULT 0 CONSTRAINT plans_max_users_check CHECK (max_users >= 0),
    ADD COLUMN over_quota     text NOT NULL DEFAULT 'notify' CONSTRAINT plans_over_quota_check CHECK (over_quota IN ('notify', 'refuse')),
    ADD COLUMN grace_days     integer NOT NULL DEFAULT 7 CONSTRAINT plans_grace_days_check CHECK (grace_days BETWEEN 0 AND 365),
    ADD COLUMN lapse_action   text NOT NULL DEFAULT 'notify' CONSTRAINT plans_lapse_action_check CHECK (lapse_action IN ('notify', 'suspend'));
COMMENT ON COLUMN control.plans.max_storage_mb IS '0: no quota; so are users.';
COMMENT ON COLUMN control.plans.trial_days IS '0: no trial, and nothing is due before a first payment.';
COMMENT ON COLUMN control.plans.grace_days IS 'Between the end of what is paid and the lapse.';

-- Which end of what is paid the tenant was warned of, and which was acted upon: each
-- once.
ALTER TABLE control.tenants ADD COLUMN warned_of date, ADD COLUMN lapsed_of date;

-- A ledger: the control plane adds to it and reads it.
CREATE TABLE control.payments (
    id          uuid CONSTRAINT payments_pkey PRIMARY KEY,
    tenant_id   uuid NOT NULL CONSTRAINT payments_tenant_id_fkey REFERENCES control.tenants (id),
    amount      numeric NOT NULL CONSTRAINT payments_amount_check CHECK (amount > 0 AND amount < 1e12 AND scale(amount) <= 4),
    currency    text NOT NULL CONSTRAINT payments_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
    period_end  date NOT NULL,
    reference   text NOT NULL CONSTRAINT payments_reference_check CHECK (reference <> '' AND length(reference) <= 100),
    recorded_by text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payments_reference_key UNIQUE (tenant_id, reference)
);
COMMENT ON COLUMN control.payments.period_end IS 'The last day that is paid.';
REVOKE ALL ON control.payments FROM ouvira_control;
GRANT SELECT, INSERT ON control.payments TO ouvira_control;

-- Sign-ups that wait for an operator, who says why not.
ALTER TABLE control.signups
    DROP CONSTRAINT signups_status_check,
    ADD CONSTRAINT signups_status_check
        CHECK (status IN ('pending_verification', 'pending_approval', 'provisioning', 'active', 'failed', 'expired', 'rejected')),
    ADD COLUMN decision_reason text NOT NULL DEFAULT '';
CREATE INDEX signups_approval_idx ON control.signups (expires_at) WHERE status = 'pending_approval';

-- How often somebody may sign up from one address, and from one network: counted
-- over all processes. All that is kept is when everything is there again.
CREATE TABLE control.signup_limits (
    key     text CONSTRAINT signup_limits_pkey PRIMARY KEY,
    full_at timestamptz NOT NULL
);
CREATE INDEX signup_limits_full_at_idx ON control.signup_limits (full_at);
