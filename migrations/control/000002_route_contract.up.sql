-- The route contract: what a data-plane node may know, and nothing else.
CREATE SCHEMA node;
GRANT USAGE ON SCHEMA node TO ouvira_node, ouvira_control;

CREATE VIEW node.servers_v1 WITH (security_barrier) AS
SELECT s.id, s.version, s.name, s.host, s.port, s.tls_mode, s.tls_ca, s.max_connections, s.status
FROM control.servers s;

CREATE VIEW node.routes_v1 WITH (security_barrier) AS
SELECT r.tenant_id,
       r.version,
       r.deleted,
       t.slug,
       t.status,
       t.route_mode AS mode,
       t.token_epoch,
       t.schema_version,
       t.incarnation,
       t.server_id,
       t.database_name,
       t.credential,
       p.max_connections,
       p.statement_timeout_ms,
       t.settings,
       t.signing_keys,
       COALESCE((SELECT array_agg(d.hostname ORDER BY d.is_primary DESC, d.hostname)
                 FROM control.domains d
                 WHERE d.tenant_id = t.id AND d.status = 'verified'), '{}') AS hosts,
       EXISTS (SELECT FROM control.domains d
               WHERE d.tenant_id = t.id AND d.status = 'verified' AND d.is_primary) AS custom_primary
FROM control.routes r
JOIN control.tenants t ON t.id = r.tenant_id
JOIN control.plans p ON p.id = t.plan_id;

GRANT SELECT ON node.servers_v1, node.routes_v1 TO ouvira_node, ouvira_control;

-- The clock, and which server's clock it is: after a restore or a failover of
-- the control database it may run back, and nodes then pull everything.
CREATE FUNCTION node.clock(OUT version bigint, OUT system_identifier bigint, OUT timeline integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.version, s.system_identifier, k.timeline_id
    FROM control.route_clock c, pg_control_system() s, pg_control_checkpoint() k
$$;

-- heartbeat announces a live process and its static share of every server's
-- connection budget. It refuses a share that would bring the sum of the live
-- ones over the whole. Processes not heard of for 30 s do not count.
CREATE FUNCTION node.heartbeat(p_id text, p_kind text, p_share numeric, p_schema_min bigint, p_schema_max bigint, p_route_version bigint)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken numeric;
BEGIN
    UPDATE control.members
    SET last_seen_at = now(), route_version = p_route_version
    WHERE id = p_id AND kind = p_kind AND connection_share = p_share
      AND schema_min IS NOT DISTINCT FROM p_schema_min AND schema_max IS NOT DISTINCT FROM p_schema_max
      AND last_seen_at > now() - interval '30 s';
    IF FOUND THEN
        RETURN;
    END IF;
    -- Joining is rare and must be seen by others who join: one at a time. Not by
    -- a lock on the table: the UPDATE above holds one already, and two who join
    -- would wait for each other's.
    PERFORM pg_advisory_xact_lock(hashtextextended('control.members', 0));
    SELECT COALESCE(sum(connection_share), 0) INTO taken
    FROM control.members WHERE id <> p_id AND last_seen_at > now() - interval '30 s';
    IF taken + p_share > 1 THEN
        RAISE EXCEPTION 'live processes already hold % of every connection budget; a share of % is more than what is left', taken, p_share
            USING ERRCODE = 'OV001', HINT = 'Lower OUVIRA_CONNECTION_SHARE, or wait until a stopped process is forgotten (30 s).';
    END IF;
    INSERT INTO control.members AS m (id, kind, connection_share, schema_min, schema_max, route_version)
    VALUES (p_id, p_kind, p_share, p_schema_min, p_schema_max, p_route_version)
    ON CONFLICT (id) DO UPDATE
    SET kind = EXCLUDED.kind, connection_share = EXCLUDED.connection_share, schema_min = EXCLUDED.schema_min,
        schema_max = EXCLUDED.schema_max, route_version = EXCLUDED.route_version, started_at = now(), last_seen_at = now();
END
$$;

GRANT EXECUTE ON FUNCTION node.clock(), node.heartbeat(text, text, numeric, bigint, bigint, bigint) TO ouvira_node, ouvira_control;

-- publish_route is the last statement of every transaction that changes what a
-- route says (all other rows locked before it). It gives the route its new
-- version and tells the nodes when the transaction commits.
CREATE FUNCTION control.publish_route(p_tenant_id uuid, p_deleted boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v bigint;
BEGIN
    PERFORM FROM control.routes WHERE tenant_id = p_tenant_id FOR UPDATE;
    UPDATE control.route_clock SET version = version + 1 RETURNING version INTO v;
    INSERT INTO control.routes (tenant_id, version, deleted) VALUES (p_tenant_id, v, p_deleted)
    ON CONFLICT (tenant_id) DO UPDATE SET version = v, deleted = p_deleted;
    PERFORM pg_notify('ouvira_routes', v::text);
    RETURN v;
END
$$;

CREATE FUNCTION control.publish_server(p_server_id uuid)
RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v bigint;
BEGIN
    PERFORM FROM control.servers WHERE id = p_server_id FOR UPDATE;
    UPDATE control.route_clock SET version = version + 1 RETURNING version INTO v;
    UPDATE control.servers SET version = v WHERE id = p_server_id;
    PERFORM pg_notify('ouvira_routes', v::text);
    RETURN v;
END
$$;

GRANT EXECUTE ON FUNCTION control.publish_route(uuid, boolean), control.publish_server(uuid) TO ouvira_control;
