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

-- What tenants use, by the hour and then by the day. Sizes and connections are seen
-- by workers, the rest is counted by nodes.
CREATE TABLE control.usage_hours (
    tenant_id      uuid NOT NULL CONSTRAINT usage_hours_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    hour           timestamptz NOT NULL,
    database_bytes bigint NOT NULL DEFAULT 0,
    connections    integer NOT NULL DEFAULT 0,
    requests       bigint NOT NULL DEFAULT 0,
    errors         bigint NOT NULL DEFAULT 0,
    logins         bigint NOT NULL DEFAULT 0,
    CONSTRAINT usage_hours_pkey PRIMARY KEY (tenant_id, hour)
);
COMMENT ON COLUMN control.usage_hours.database_bytes IS 'The most that was seen; 0: it was not looked at. So are connections.';
CREATE INDEX usage_hours_hour_idx ON control.usage_hours (hour);
CREATE TABLE control.usage_days (
    tenant_id      uuid NOT NULL CONSTRAINT usage_days_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    day            date NOT NULL,
    database_bytes bigint NOT NULL,
    connections    integer NOT NULL,
    requests       bigint NOT NULL,
    errors         bigint NOT NULL,
    logins         bigint NOT NULL,
    CONSTRAINT usage_days_pkey PRIMARY KEY (tenant_id, day)
);
CREATE INDEX usage_days_day_idx ON control.usage_days (day);

-- The last report of each process of a node, so that one which is sent twice counts
-- once.
CREATE TABLE control.usage_reports (
    instance    text CONSTRAINT usage_reports_pkey PRIMARY KEY,
    sequence    bigint NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE control.usage_visits (
    server_id  uuid CONSTRAINT usage_visits_pkey PRIMARY KEY CONSTRAINT usage_visits_server_id_fkey REFERENCES control.servers (id) ON DELETE CASCADE,
    visited_at timestamptz NOT NULL
);
COMMENT ON TABLE control.usage_visits IS 'When a server was last looked at: by one worker at a time.';
CREATE TABLE control.quota_breaches (
    tenant_id uuid NOT NULL CONSTRAINT quota_breaches_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    quota     text NOT NULL,
    since     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT quota_breaches_pkey PRIMARY KEY (tenant_id, quota)
);
COMMENT ON TABLE control.quota_breaches IS 'Who is over a quota and was told so.';

-- report_usage adds what a process of a node has counted since its last report.
-- Reports are numbered; one that was counted already changes nothing. Tenants that
-- there are not are left out.
CREATE FUNCTION node.report_usage(p_instance text, p_sequence bigint, p_tenants uuid[], p_requests bigint[], p_errors bigint[], p_logins bigint[])
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF length(p_instance) NOT BETWEEN 1 AND 100 OR p_sequence < 1 OR cardinality(p_tenants) > 10000
       OR cardinality(p_requests) <> cardinality(p_tenants) OR cardinality(p_errors) <> cardinality(p_tenants)
       OR cardinality(p_logins) <> cardinality(p_tenants)
       OR EXISTS (SELECT FROM unnest(p_requests || p_errors || p_logins) n WHERE n IS NULL OR n NOT BETWEEN 0 AND 1000000000000) THEN
        RAISE EXCEPTION 'a report of usage has 10000 tenants at most, and counts for each' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO control.usage_reports AS r (instance, sequence) VALUES (p_instance, p_sequence)
    ON CONFLICT (instance) DO UPDATE SET sequence = EXCLUDED.sequence, reported_at = now() WHERE r.sequence < EXCLUDED.sequence;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO control.usage_hours AS h (tenant_id, hour, requests, errors, logins)
    SELECT t.id, date_trunc('hour', now(), 'UTC'), sum(u.requests), sum(u.errors), sum(u.logins)
    FROM unnest(p_tenants, p_requests, p_errors, p_logins) AS u (tenant, requests, errors, logins)
    JOIN control.tenants t ON t.id = u.tenant
    GROUP BY t.id ORDER BY t.id
    ON CONFLICT (tenant_id, hour) DO UPDATE
    SET requests = h.requests + EXCLUDED.requests, errors = h.errors + EXCLUDED.errors, logins = h.logins + EXCLUDED.logins;
END
$$;
GRANT EXECUTE ON FUNCTION node.report_usage(text, bigint, uuid[], bigint[], bigint[], bigint[]) TO ouvira_node;
