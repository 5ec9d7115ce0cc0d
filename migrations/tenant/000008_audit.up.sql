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
CREATE INDEX activity_logs_entity_idx ON ledger.activity_logs (entity_type, entity_id, id);
CREATE INDEX activity_logs_date_idx ON ledger.activity_logs USING brin (date, created_at);
CREATE INDEX security_logs_user_id_idx ON ledger.security_logs (user_id, id);
CREATE INDEX security_logs_created_at_idx ON ledger.security_logs USING brin (created_at);

-- Seals: a chain of batches of the logs, each signed. What is hashed, and how
-- it is proven, is said in docs/security.md.
CREATE TABLE ledger.seals (
    batch     bigint CONSTRAINT seals_pkey PRIMARY KEY CONSTRAINT seals_batch_check CHECK (batch > 0),
    format    smallint NOT NULL,
    tenant_id uuid NOT NULL,
    kind      text NOT NULL CONSTRAINT seals_kind_check CHECK (kind IN ('activity', 'security', 'event')),
    from_id   bigint NOT NULL,
    to_id     bigint NOT NULL,
    row_count integer NOT NULL,
    digests   bytea NOT NULL,
    detail    text NOT NULL DEFAULT '',
    previous  bytea NOT NULL,
    head      bytea NOT NULL,
    kid       text NOT NULL,
    signature bytea NOT NULL,
    sealed_at timestamptz NOT NULL
);
COMMENT ON TABLE ledger.seals IS 'The batch is given, not generated: of two nodes that seal at once, one is refused.';
COMMENT ON COLUMN ledger.seals.tenant_id IS 'Whose log it was when it was sealed: a copy of the database keeps the chain of its origin.';
COMMENT ON COLUMN ledger.seals.digests IS 'For each row its id (8 bytes, big endian) and SHA-256.';
COMMENT ON COLUMN ledger.seals.detail IS 'JSON of an event; text, because its bytes are hashed.';
ALTER TABLE ledger.seals ALTER COLUMN digests SET STORAGE EXTERNAL; -- digests do not compress
CREATE INDEX seals_kind_idx ON ledger.seals (kind, batch);
GRANT INSERT (batch, format, tenant_id, kind, from_id, to_id, row_count, digests, detail, previous, head, kid, signature, sealed_at)
    ON ledger.seals TO ouvira_app;

-- How far a log has been written, for good: under a SHARE lock nobody is
-- inserting, so no row with a lower id can appear afterwards. Ids that were
-- taken and rolled back stay gaps. One log at a time: who waits for one lock
-- with another in hand could meet a writer who wants them the other way round.
-- The wait is short, because writers queue behind it; refused with 55P03, the
-- caller tries again later.
CREATE FUNCTION ouvira.audit_boundary(p_kind text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $$
BEGIN
    CASE p_kind
        WHEN 'activity' THEN
            LOCK TABLE ledger.activity_logs IN SHARE MODE;
            RETURN (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM ledger.activity_logs_id_seq);
        WHEN 'security' THEN
            LOCK TABLE ledger.security_logs IN SHARE MODE;
            RETURN (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM ledger.security_logs_id_seq);
    END CASE;
END
$$;
GRANT EXECUTE ON FUNCTION ouvira.audit_boundary(text) TO ouvira_app;
-- To see how far ids have been given, not to take one.
GRANT SELECT ON SEQUENCE ledger.activity_logs_id_seq, ledger.security_logs_id_seq TO ouvira_app;

-- The calendar. Its fiscal columns are those of a year that begins in January;
-- a company's own are computed from its settings. Every tenant has a copy, so
-- it is no longer than it must be (0.9 MB); a later migration calls
-- extend_calendar again.
CREATE TABLE public.date_dimension (
    id             integer CONSTRAINT date_dimension_pkey PRIMARY KEY,
    full_date      date NOT NULL,
    day            smallint NOT NULL,
    day_of_week    smallint NOT NULL,
    day_of_year    smallint NOT NULL,
    week_of_year   smallint NOT NULL,
    iso_week       smallint NOT NULL,
    month          smallint NOT NULL,
    quarter        smallint NOT NULL,
    year           smallint NOT NULL,
    fiscal_month   smallint NOT NULL,
    fiscal_quarter smallint NOT NULL,
    fiscal_year    smallint NOT NULL,
    is_weekend     boolean NOT NULL,
    day_name       text NOT NULL,
    month_name     text NOT NULL
);
COMMENT ON COLUMN public.date_dimension.id IS 'YYYYMMDD';
COMMENT ON COLUMN public.date_dimension.day_of_week IS '1 is Monday';
COMMENT ON COLUMN public.date_dimension.week_of_year IS 'Days 1 to 7 of the year are week 1';
REVOKE INSERT, UPDATE, DELETE ON public.date_dimension FROM ouvira_app;

CREATE FUNCTION ouvira.extend_calendar(p_first date, p_last date) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO public.date_dimension (id, full_date, day, day_name, day_of_week, day_of_year, week_of_year, iso_week,
                                       month, month_name, quarter, year, is_weekend, fiscal_month, fiscal_quarter, fiscal_year)
    SELECT to_char(d, 'YYYYMMDD')::integer, d, extract(day FROM d), to_char(d, 'FMDay'), extract(isodow FROM d),
           extract(doy FROM d), (extract(doy FROM d)::integer + 6) / 7, extract(week FROM d),
           extract(month FROM d), to_char(d, 'FMMonth'), extract(quarter FROM d), extract(year FROM d),
           extract(isodow FROM d) >= 6, extract(month FROM d), extract(quarter FROM d), extract(year FROM d)
    FROM (SELECT p_first + n AS d FROM generate_series(0, p_last - p_first) AS n) AS days
    ON CONFLICT DO NOTHING
$$;
SELECT ouvira.extend_calendar('2020-01-01', '2040-12-31');
