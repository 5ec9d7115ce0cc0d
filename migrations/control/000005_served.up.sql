-- Which tenants a node has served last: when it dies, the others look after
-- what those still have to send. And when anybody has looked last.
CREATE TABLE control.served (
    node_id   text NOT NULL,
    tenant_id uuid NOT NULL CONSTRAINT served_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    served_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT served_pkey PRIMARY KEY (node_id, tenant_id)
);
CREATE INDEX served_tenant_id_idx ON control.served (tenant_id);

CREATE TABLE control.sweeps (
    tenant_id uuid PRIMARY KEY CONSTRAINT sweeps_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    swept_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sweeps_swept_at_idx ON control.sweeps (swept_at);

-- report_served notes tenants for whom the node has taken requests that may
-- have written messages. What is older than 15 minutes is forgotten: the node
-- would have sent it, or the slow sweep finds it.
CREATE FUNCTION node.report_served(p_node text, p_tenants uuid[])
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM control.served WHERE node_id = p_node AND served_at < now() - interval '15 min';
    INSERT INTO control.served AS s (node_id, tenant_id)
    SELECT p_node, t.id FROM control.tenants t WHERE t.id = ANY (p_tenants) ORDER BY t.id
    ON CONFLICT (node_id, tenant_id) DO UPDATE SET served_at = now();
$$;

-- orphaned gives the node tenants that others served who have not been heard of
-- for 30 s. They count as the node's own from then on, should it die as well.
CREATE FUNCTION node.orphaned(p_node text, p_most integer)
RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH lost AS (
        SELECT s.node_id, s.tenant_id FROM control.served s
        WHERE s.node_id <> p_node
          AND NOT EXISTS (SELECT FROM control.members m WHERE m.id = s.node_id AND m.last_seen_at > now() - interval '30 s')
        ORDER BY s.served_at DESC LIMIT p_most
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM control.served s USING lost
        WHERE s.node_id = lost.node_id AND s.tenant_id = lost.tenant_id
        RETURNING s.tenant_id
    )
    INSERT INTO control.served AS s (node_id, tenant_id)
    SELECT DISTINCT p_node, taken.tenant_id FROM taken
    ON CONFLICT (node_id, tenant_id) DO UPDATE SET served_at = now()
    RETURNING s.tenant_id
$$;

-- unswept gives tenants at which nobody has looked for an hour, each to one
-- node: who comes second finds them looked at.
CREATE FUNCTION node.unswept(p_most integer)
RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO control.sweeps AS s (tenant_id)
    SELECT r.tenant_id
    FROM control.routes r
    JOIN control.tenants t ON t.id = r.tenant_id AND t.status = 'active'
    LEFT JOIN control.sweeps w ON w.tenant_id = r.tenant_id
    WHERE NOT r.deleted AND (w.swept_at IS NULL OR w.swept_at < now() - interval '1 hour')
    ORDER BY w.swept_at NULLS FIRST, r.tenant_id LIMIT p_most
    ON CONFLICT (tenant_id) DO UPDATE SET swept_at = now() WHERE s.swept_at < now() - interval '1 hour'
    RETURNING s.tenant_id
$$;
GRANT EXECUTE ON FUNCTION node.report_served(text, uuid[]), node.orphaned(text, integer), node.unswept(integer) TO ouvira_node;
