-- How large each tenant's database was when it was seen last, one row for each: a
-- placement adds them up over a server while all others wait, and went through the
-- hours of all its tenants for it.
CREATE TABLE control.tenant_sizes (
    tenant_id uuid CONSTRAINT tenant_sizes_pkey PRIMARY KEY
              CONSTRAINT tenant_sizes_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    bytes     bigint NOT NULL,
    hour      timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE control.tenant_sizes IS 'Written by a trigger of usage_hours, because workers of an earlier release write only there.';
COMMENT ON COLUMN control.tenant_sizes.hour IS 'In which it was seen.';

CREATE FUNCTION control.note_size() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO control.tenant_sizes AS s (tenant_id, bytes, hour)
    VALUES (NEW.tenant_id, COALESCE(NULLIF(NEW.last_bytes, 0), NEW.database_bytes), NEW.hour)
    ON CONFLICT (tenant_id) DO UPDATE SET bytes = excluded.bytes, hour = excluded.hour
    WHERE s.hour <= excluded.hour AND (s.hour, s.bytes) IS DISTINCT FROM (excluded.hour, excluded.bytes);
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION control.note_size() FROM PUBLIC;
CREATE TRIGGER usage_hours_note_size AFTER INSERT OR UPDATE OF database_bytes, last_bytes ON control.usage_hours
    FOR EACH ROW WHEN (NEW.database_bytes > 0) EXECUTE FUNCTION control.note_size();

INSERT INTO control.tenant_sizes (tenant_id, bytes, hour)
SELECT DISTINCT ON (tenant_id) tenant_id, COALESCE(NULLIF(last_bytes, 0), database_bytes), hour
FROM control.usage_hours WHERE database_bytes > 0 ORDER BY tenant_id, hour DESC;

CREATE OR REPLACE FUNCTION control.seen_bytes(p_tenant_id uuid) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE((SELECT bytes FROM control.tenant_sizes WHERE tenant_id = p_tenant_id), 0)
$$;

-- Operations are listed by their status, the newest first.
CREATE INDEX operations_status_idx ON control.operations (status, id DESC);
