-- Limits of a plan, carried in the route: among the settings, so that nodes of
-- either version can read the routes of either version.
ALTER TABLE control.plans ADD COLUMN limits jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT plans_limits_check CHECK (jsonb_typeof(limits) = 'object');
COMMENT ON COLUMN control.plans.limits IS 'Counts by name; what is absent is as the nodes have it by default.';

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
       t.settings || CASE WHEN p.limits = '{}' THEN '{}' ELSE jsonb_build_object('limits', p.limits) END AS settings,
       t.signing_keys,
       COALESCE((SELECT array_agg(d.hostname ORDER BY d.is_primary DESC, d.hostname)
                 FROM control.domains d
                 WHERE d.tenant_id = t.id AND d.status = 'verified'), '{}') AS hosts,
       EXISTS (SELECT FROM control.domains d
               WHERE d.tenant_id = t.id AND d.status = 'verified' AND d.is_primary) AS custom_primary
FROM control.routes r
JOIN control.tenants t ON t.id = r.tenant_id
JOIN control.plans p ON p.id = t.plan_id;
