-- How much may be stored on a server. A Postgres server does not tell how much room
-- its disk has: whoever runs it says so.
ALTER TABLE control.servers
    ADD COLUMN max_storage_mb integer NOT NULL DEFAULT 0 CONSTRAINT servers_max_storage_mb_check CHECK (max_storage_mb >= 0);
COMMENT ON COLUMN control.servers.max_storage_mb IS 'What all databases together may take, by what is seen of them; 0: it was not said.';

-- database_bytes is the most of an hour, for who pays by it. Whether a quota or a
-- server is full is asked of what was seen last.
ALTER TABLE control.usage_hours ADD COLUMN last_bytes bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN control.usage_hours.last_bytes IS 'What was seen last in the hour; 0: nothing, or by a worker of an earlier release.';
CREATE FUNCTION control.seen_bytes(p_tenant_id uuid) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE((SELECT COALESCE(NULLIF(h.last_bytes, 0), h.database_bytes) FROM control.usage_hours h
                     WHERE h.tenant_id = p_tenant_id AND h.database_bytes > 0 ORDER BY h.hour DESC LIMIT 1), 0)
$$;
COMMENT ON FUNCTION control.seen_bytes(uuid) IS 'The size of the tenant''s database as it was seen last; 0: it was not.';
REVOKE ALL ON FUNCTION control.seen_bytes(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION control.seen_bytes(uuid) TO ouvira_control;

-- The limit of the tenant's role that a worker has seen to. It follows the plan's.
ALTER TABLE control.tenants ADD COLUMN role_connections integer;
COMMENT ON COLUMN control.tenants.role_connections IS 'CONNECTION LIMIT of the role as it was last brought in line with the plan; null: it is as it was made.';

-- Nodes refuse to add anything for who is over the quota of storage of a plan that
-- refuses. It travels among the limits, so that nodes of either release can read it.
CREATE OR REPLACE VIEW node.routes_v1 WITH (security_barrier) AS
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
       t.settings || CASE WHEN l.limits = '{}' THEN '{}' ELSE jsonb_build_object('limits', l.limits) END AS settings,
       t.signing_keys,
       COALESCE((SELECT array_agg(d.hostname ORDER BY d.is_primary DESC, d.hostname)
                 FROM control.domains d
                 WHERE d.tenant_id = t.id AND d.status = 'verified'), '{}') AS hosts,
       EXISTS (SELECT FROM control.domains d
               WHERE d.tenant_id = t.id AND d.status = 'verified' AND d.is_primary) AS custom_primary
FROM control.routes r
JOIN control.tenants t ON t.id = r.tenant_id
JOIN control.plans p ON p.id = t.plan_id
CROSS JOIN LATERAL (
    SELECT p.limits || CASE
        WHEN p.over_quota = 'refuse' AND EXISTS (SELECT FROM control.quota_breaches b WHERE b.tenant_id = t.id AND b.quota = 'storage')
        THEN jsonb_build_object('storage_exceeded', 1) ELSE jsonb '{}' END AS limits
) l;

-- What is kept for a while only is found by its age.
CREATE INDEX events_created_at_idx ON control.events (created_at);
CREATE INDEX operations_finished_at_idx ON control.operations (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX signups_updated_at_idx ON control.signups (updated_at);
