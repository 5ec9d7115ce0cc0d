-- Heads of the tenants' audit chains: what a tenant's own database is verified
-- against. The last of each day is kept.
CREATE TABLE control.audit_heads (
    tenant_id uuid NOT NULL CONSTRAINT audit_heads_tenant_id_fkey REFERENCES control.tenants (id),
    day       date NOT NULL,
    batch     bigint NOT NULL CONSTRAINT audit_heads_batch_check CHECK (batch > 0),
    head      bytea NOT NULL CONSTRAINT audit_heads_head_check CHECK (length(head) = 32),
    kid       text NOT NULL,
    signature bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_heads_pkey PRIMARY KEY (tenant_id, day)
);
CREATE UNIQUE INDEX audit_heads_batch_key ON control.audit_heads (tenant_id, batch);
REVOKE ALL ON control.audit_heads FROM ouvira_control;
GRANT SELECT ON control.audit_heads TO ouvira_control;

-- store_audit_head moves a tenant's head forward. The caller says which head it
-- has seen (batch 0 and no head: none) and has proven that the new one follows
-- from it; false says that another was stored in between. What was stored for
-- an earlier day never changes again.
CREATE FUNCTION node.store_audit_head(p_tenant_id uuid, p_seen_batch bigint, p_seen_head bytea,
                                      p_batch bigint, p_head bytea, p_kid text, p_signature bytea)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_batch bigint;
    last_head  bytea;
    last_day   date;
BEGIN
    -- Not by the tenant's row, which long operations lock.
    PERFORM pg_advisory_xact_lock(hashtextextended('control.audit_heads ' || p_tenant_id, 0));
    SELECT h.batch, h.head, h.day INTO last_batch, last_head, last_day
    FROM control.audit_heads h WHERE h.tenant_id = p_tenant_id ORDER BY h.batch DESC LIMIT 1;
    IF COALESCE(last_batch, 0) <> p_seen_batch OR last_head IS DISTINCT FROM p_seen_head OR p_batch <= p_seen_batch THEN
        RETURN false;
    END IF;
    INSERT INTO control.audit_heads AS h (tenant_id, day, batch, head, kid, signature)
    VALUES (p_tenant_id, greatest((now() AT TIME ZONE 'UTC')::date, last_day), p_batch, p_head, p_kid, p_signature)
    ON CONFLICT (tenant_id, day) DO UPDATE
    SET batch = EXCLUDED.batch, head = EXCLUDED.head, kid = EXCLUDED.kid, signature = EXCLUDED.signature, stored_at = now();
    RETURN true;
END
$$;

-- audit_heads are those kept of a tenant, the latest first.
CREATE FUNCTION node.audit_heads(p_tenant_id uuid)
RETURNS TABLE (batch bigint, head bytea, kid text, signature bytea, stored_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT h.batch, h.head, h.kid, h.signature, h.stored_at
    FROM control.audit_heads h WHERE h.tenant_id = p_tenant_id ORDER BY h.batch DESC
$$;
GRANT EXECUTE ON FUNCTION node.store_audit_head(uuid, bigint, bytea, bigint, bytea, text, bytea), node.audit_heads(uuid) TO ouvira_node;
