-- The activity log: what was changed or looked at, by whom, in the transaction
-- of the change. No foreign keys: a record outlives what it speaks of.
CREATE TABLE ledger.activity_logs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      bigint,
    user_display text NOT NULL,
    on_behalf    text,
    company_id   bigint,
    date         integer NOT NULL DEFAULT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')::integer,
    entity_type  text NOT NULL,
    entity_id    bigint,
    action       text NOT NULL,
    old_values   jsonb,
    new_values   jsonb,
    ip_address   inet,
    request_id   text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN ledger.activity_logs.on_behalf IS 'Who really acted when support acts for the user.';
GRANT INSERT (user_id, user_display, on_behalf, company_id, entity_type, entity_id, action, old_values, new_values, ip_address, request_id)
    ON ledger.activity_logs TO ouvira_app;
CREATE INDEX activity_logs_company_id_idx ON ledger.activity_logs (company_id, id);
CREATE INDEX activity_logs_user_id_idx ON ledger.activity_logs (user_id, id);
