-- Support access: an operator asks for a code and hands it to a node of the
-- tenant, which redeems it once. Whether the tenant lets support in is decided
-- in the tenant's own database, at the redemption and at each request.
CREATE TABLE control.support_codes (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL CONSTRAINT support_codes_tenant_id_fkey REFERENCES control.tenants (id),
    operator_id uuid NOT NULL CONSTRAINT support_codes_operator_id_fkey REFERENCES control.operators (id),
    code_hash   bytea NOT NULL CONSTRAINT support_codes_code_hash_key UNIQUE
                CONSTRAINT support_codes_code_hash_check CHECK (length(code_hash) = 32),
    reason      text NOT NULL CONSTRAINT support_codes_reason_check CHECK (reason <> '' AND length(reason) <= 500),
    minutes     integer NOT NULL CONSTRAINT support_codes_minutes_check CHECK (minutes BETWEEN 1 AND 60),
    write       boolean NOT NULL DEFAULT false,
    break_glass boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    redeemed_at timestamptz,
    CONSTRAINT support_codes_break_glass_check CHECK (NOT (write AND break_glass))
);
COMMENT ON COLUMN control.support_codes.code_hash IS 'SHA-256 of the code (256 random bits).';
COMMENT ON COLUMN control.support_codes.minutes IS 'How long the session lasts that the code begins.';
COMMENT ON COLUMN control.support_codes.break_glass IS 'Without the tenant''s consent: it only reads, and all owners are told.';
CREATE INDEX support_codes_tenant_id_idx ON control.support_codes (tenant_id, created_at DESC);
REVOKE ALL ON control.support_codes FROM ouvira_control;
GRANT SELECT ON control.support_codes TO ouvira_control;

-- create_support_code keeps the hash of a code for five minutes, and tells when
-- it ends. Who may ask for one (break-glass: an owner, freshly signed in) is
-- decided by the caller, who also writes the audit; here only what must hold
-- whoever calls.
CREATE FUNCTION control.create_support_code(p_id uuid, p_tenant_id uuid, p_operator_id uuid, p_code_hash bytea, p_reason text,
                                            p_minutes integer, p_write boolean, p_break_glass boolean)
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_expires_at timestamptz := now() + interval '5 minutes';
BEGIN
    IF NOT EXISTS (SELECT FROM control.operators o WHERE o.id = p_operator_id AND o.is_active
                   AND (o.role = 'owner' OR (o.role IN ('operator', 'support') AND NOT p_break_glass))) THEN
        RAISE EXCEPTION 'this operator may not enter tenants' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM control.tenants t WHERE t.id = p_tenant_id AND t.status = 'active') THEN
        RAISE EXCEPTION 'the tenant is not active' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO control.support_codes (id, tenant_id, operator_id, code_hash, reason, minutes, write, break_glass, expires_at)
    VALUES (p_id, p_tenant_id, p_operator_id, p_code_hash, p_reason, p_minutes, p_write, p_break_glass, v_expires_at);
    RETURN v_expires_at;
END
$$;
GRANT EXECUTE ON FUNCTION control.create_support_code(uuid, uuid, uuid, bytea, text, integer, boolean, boolean) TO ouvira_control;

-- redeem_support_code takes a code once, for its own tenant, and writes that
-- down. No row: there is no such code, it was used, or its time is over.
CREATE FUNCTION node.redeem_support_code(p_tenant_id uuid, p_code_hash bytea)
RETURNS TABLE (id uuid, operator_id uuid, operator text, reason text, minutes integer, write boolean, break_glass boolean)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH redeemed AS (
        UPDATE control.support_codes c SET redeemed_at = now()
        FROM control.operators o
        WHERE c.code_hash = p_code_hash AND c.tenant_id = p_tenant_id AND c.redeemed_at IS NULL AND c.expires_at > now()
          AND o.id = c.operator_id AND o.is_active
        RETURNING c.id, c.operator_id, o.email AS operator, c.reason, c.minutes, c.write, c.break_glass
    ), recorded AS (
        INSERT INTO control.audit_log (actor_kind, actor_id, actor_name, action, entity_type, entity_id, tenant_id, detail)
        SELECT 'operator', r.operator_id::text, r.operator, 'support.enter', 'tenant', p_tenant_id::text, p_tenant_id,
               jsonb_build_object('support_code', r.id, 'reason', r.reason, 'minutes', r.minutes, 'write', r.write, 'break_glass', r.break_glass)
        FROM redeemed r
    )
    SELECT r.id, r.operator_id, r.operator, r.reason, r.minutes, r.write, r.break_glass FROM redeemed r
$$;
GRANT EXECUTE ON FUNCTION node.redeem_support_code(uuid, bytea) TO ouvira_node;
