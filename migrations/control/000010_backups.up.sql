-- Backups of the tenants' databases, and what restoring one needs.
CREATE TABLE control.backup_rules (
    plan_id        uuid PRIMARY KEY CONSTRAINT backup_rules_plan_id_fkey REFERENCES control.plans (id) ON DELETE CASCADE,
    interval_hours integer NOT NULL CONSTRAINT backup_rules_interval_hours_check CHECK (interval_hours BETWEEN 0 AND 8760),
    keep           integer NOT NULL CONSTRAINT backup_rules_keep_check CHECK (keep BETWEEN 1 AND 10000),
    keep_days      integer NOT NULL CONSTRAINT backup_rules_keep_days_check CHECK (keep_days BETWEEN 1 AND 3650),
    updated_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE control.backup_rules IS 'How often tenants of a plan are backed up, and how long that is kept; a plan without a row has the default.';
COMMENT ON COLUMN control.backup_rules.interval_hours IS '0: none are taken by themselves.';
COMMENT ON COLUMN control.backup_rules.keep IS 'How many of a tenant are kept at most; those of a deleted tenant all are, until it is purged.';
COMMENT ON COLUMN control.backup_rules.keep_days IS 'How long one is kept at most; the last one is kept for longer while the tenant lives.';

-- The rules in force, the default included.
CREATE VIEW control.backup_rules_in_force AS
SELECT p.id AS plan_id, p.code AS plan, COALESCE(r.interval_hours, 24) AS interval_hours, COALESCE(r.keep, 14) AS keep,
       COALESCE(r.keep_days, 30) AS keep_days
FROM control.plans p LEFT JOIN control.backup_rules r ON r.plan_id = p.id;

ALTER TABLE control.tenants ADD COLUMN next_backup_at timestamptz;
COMMENT ON COLUMN control.tenants.next_backup_at IS 'NULL: not planned yet.';
CREATE INDEX tenants_next_backup_at_idx ON control.tenants (next_backup_at) WHERE status IN ('active', 'suspended');

CREATE TABLE control.backups (
    id               uuid PRIMARY KEY,
    tenant_id        uuid NOT NULL CONSTRAINT backups_tenant_id_fkey REFERENCES control.tenants (id),
    operation_id     uuid CONSTRAINT backups_operation_id_key UNIQUE CONSTRAINT backups_operation_id_fkey REFERENCES control.operations (id),
    reason           text NOT NULL CONSTRAINT backups_reason_check CHECK (reason <> ''),
    status           text NOT NULL DEFAULT 'running' CONSTRAINT backups_status_check
                     CHECK (status IN ('running', 'complete', 'failed', 'removed')),
    object           text NOT NULL CONSTRAINT backups_object_key UNIQUE,
    incarnation      integer NOT NULL,
    schema_version   bigint NOT NULL DEFAULT 0,
    postgres_version integer NOT NULL DEFAULT 0,
    size             bigint NOT NULL DEFAULT 0,
    sha256           bytea,
    manifest         jsonb,
    created_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    removed_at       timestamptz,
    CONSTRAINT backups_complete_check CHECK (status <> 'complete' OR (sha256 IS NOT NULL AND manifest IS NOT NULL))
);
COMMENT ON COLUMN control.backups.operation_id IS 'Which took it, at most one each; NULL: it was brought from elsewhere.';
COMMENT ON COLUMN control.backups.object IS 'Its name in the storage. Each attempt has another one, so that a run that was overtaken overwrites nothing.';
COMMENT ON COLUMN control.backups.sha256 IS 'Over what is stored: the sealed bytes.';
CREATE INDEX backups_tenant_id_idx ON control.backups (tenant_id, id DESC);

-- A restore in place: what is made beside the database that serves, until it takes
-- its place.
CREATE TABLE control.restores (
    tenant_id      uuid NOT NULL CONSTRAINT restores_tenant_id_fkey REFERENCES control.tenants (id),
    incarnation    integer NOT NULL,
    operation_id   uuid NOT NULL CONSTRAINT restores_operation_id_fkey REFERENCES control.operations (id),
    backup_id      uuid NOT NULL CONSTRAINT restores_backup_id_fkey REFERENCES control.backups (id),
    credential     bytea,
    signing_keys   jsonb,
    schema_version bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    recorded_at    timestamptz,
    CONSTRAINT restores_pkey PRIMARY KEY (tenant_id, incarnation)
);
COMMENT ON COLUMN control.restores.recorded_at IS 'When the restore was written into the tenant''s audit chain.';

-- Databases that were replaced: fenced, kept for a while, then dropped.
CREATE TABLE control.retired_databases (
    tenant_id     uuid NOT NULL CONSTRAINT retired_databases_tenant_id_fkey REFERENCES control.tenants (id),
    incarnation   integer NOT NULL,
    server_id     uuid NOT NULL CONSTRAINT retired_databases_server_id_fkey REFERENCES control.servers (id),
    database_name text NOT NULL,
    retired_at    timestamptz NOT NULL DEFAULT now(),
    drop_at       timestamptz NOT NULL,
    dropped_at    timestamptz,
    CONSTRAINT retired_databases_pkey PRIMARY KEY (tenant_id, incarnation)
);
CREATE INDEX retired_databases_drop_at_idx ON control.retired_databases (drop_at) WHERE dropped_at IS NULL;

-- After a restore the chain in a tenant's database does not lead to the head that is
-- kept of it. That a restore was ordered is known here, where the tenant's server has
-- no say: only then a node writes it into the chain, and once.
CREATE FUNCTION node.pending_restore(p_tenant_id uuid, p_incarnation integer)
RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.backup_id FROM control.restores r JOIN control.tenants t ON t.id = r.tenant_id AND t.incarnation = r.incarnation
    WHERE r.tenant_id = p_tenant_id AND r.incarnation = p_incarnation AND r.recorded_at IS NULL
$$;

CREATE FUNCTION node.restore_recorded(p_tenant_id uuid, p_incarnation integer)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE control.restores SET recorded_at = now()
    WHERE tenant_id = p_tenant_id AND incarnation = p_incarnation AND recorded_at IS NULL
$$;
GRANT EXECUTE ON FUNCTION node.pending_restore(uuid, integer), node.restore_recorded(uuid, integer) TO ouvira_node;

-- A copy goes on with the chain of its origin: the head that its backup had is the
-- first that is kept of it.
CREATE FUNCTION control.adopt_audit_head(p_tenant_id uuid, p_batch bigint, p_head bytea, p_kid text, p_signature bytea)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO control.audit_heads (tenant_id, day, batch, head, kid, signature)
    SELECT p_tenant_id, (now() AT TIME ZONE 'UTC')::date, p_batch, p_head, p_kid, p_signature
    WHERE NOT EXISTS (SELECT FROM control.audit_heads h WHERE h.tenant_id = p_tenant_id)
$$;
GRANT EXECUTE ON FUNCTION control.adopt_audit_head(uuid, bigint, bytea, text, bytea) TO ouvira_control;
