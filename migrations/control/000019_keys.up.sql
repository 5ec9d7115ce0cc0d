-- Keys that are rotated: which key each value is sealed with, which keys the processes
-- have, and what is seen in each tenant's database of it.

-- sealed_key is the id of the key that a value is sealed with: it stands in front of
-- the value, where nobody needs a key to read it.
CREATE FUNCTION control.sealed_key(p_sealed bytea) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN length(p_sealed) < 5 OR get_byte(p_sealed, 0) <> 1 THEN 0
           ELSE (get_byte(p_sealed, 1)::bigint << 24) + (get_byte(p_sealed, 2) << 16) + (get_byte(p_sealed, 3) << 8) + get_byte(p_sealed, 4) END
$$;
REVOKE ALL ON FUNCTION control.sealed_key(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION control.sealed_key(bytea) TO ouvira_control;

CREATE TABLE control.key_rings (
    member_id  text CONSTRAINT key_rings_pkey PRIMARY KEY,
    rings      jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE control.key_rings IS 'The ids of the keys that each process has, as it has told.';
COMMENT ON COLUMN control.key_rings.rings IS 'By use (control: of the control key; credentials: what the control plane seals to nodes; nodes: what nodes seal): {"primary": the one that seals, "keys": all that open}.';

CREATE FUNCTION node.report_keys(p_member text, p_rings jsonb)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO control.key_rings AS k (member_id, rings) VALUES (p_member, p_rings)
    ON CONFLICT (member_id) DO UPDATE SET rings = excluded.rings, changed_at = now() WHERE k.rings <> excluded.rings
$$;
GRANT EXECUTE ON FUNCTION node.report_keys(text, jsonb) TO ouvira_node, ouvira_control;

ALTER TABLE control.backups ADD COLUMN control_key bigint, ADD COLUMN data_keys bigint[];
COMMENT ON COLUMN control.backups.control_key IS 'The id of the key that the archive is sealed with; NULL: taken by an earlier release, and not looked at yet; 0: it is gone.';
COMMENT ON COLUMN control.backups.data_keys IS 'The ids of the data plane''s keys with which secrets in it are sealed; NULL: taken by an earlier release.';

-- Every tenant's database is looked at, once a day and when it is a new one.
CREATE TABLE control.database_looks (
    tenant_id       uuid CONSTRAINT database_looks_pkey PRIMARY KEY
                    CONSTRAINT database_looks_tenant_id_fkey REFERENCES control.tenants (id) ON DELETE CASCADE,
    incarnation     integer NOT NULL,
    due_at          timestamptz NOT NULL DEFAULT now(),
    looked_at       timestamptz,
    foreign_code    text[] NOT NULL DEFAULT '{}',
    signing_keys    bigint[] NOT NULL DEFAULT '{}',
    secrets         bigint[] NOT NULL DEFAULT '{}',
    resealing_until timestamptz
);
COMMENT ON COLUMN control.database_looks.due_at IS 'When it is looked at next.';
COMMENT ON COLUMN control.database_looks.foreign_code IS 'What can run code there or reach elsewhere, and is not ours.';
COMMENT ON COLUMN control.database_looks.signing_keys IS 'Ids of the keys to which private signing keys are sealed.';
COMMENT ON COLUMN control.database_looks.secrets IS 'Ids of the keys with which nodes have sealed second factors and messages that wait.';
COMMENT ON COLUMN control.database_looks.resealing_until IS 'A node seals its secrets anew; after this it is another one''s to do.';
CREATE INDEX database_looks_due_at_idx ON control.database_looks (due_at);

-- A node takes databases of which it can seal secrets anew, with its own key.
CREATE FUNCTION node.take_resealing(p_key bigint, p_most integer)
RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE control.database_looks l SET resealing_until = now() + interval '1 min'
    FROM (SELECT c.tenant_id FROM control.database_looks c
          JOIN control.tenants t ON t.id = c.tenant_id AND t.incarnation = c.incarnation AND t.status = 'active' AND t.route_mode = 'serve'
          WHERE c.secrets <> '{}' AND c.secrets <> ARRAY[p_key] AND COALESCE(c.resealing_until < now(), true)
            AND EXISTS (SELECT FROM control.operations o WHERE o.kind = 'key.rotate' AND o.params ->> 'kind' = 'data' AND o.status IN ('queued', 'running'))
          ORDER BY c.resealing_until NULLS FIRST, c.tenant_id LIMIT p_most FOR UPDATE OF c SKIP LOCKED) due
    WHERE l.tenant_id = due.tenant_id
    RETURNING l.tenant_id
$$;

-- What is left there under which key is the control plane's to see.
CREATE FUNCTION node.resealed(p_tenant_id uuid)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE control.database_looks SET due_at = now() WHERE tenant_id = p_tenant_id AND resealing_until IS NOT NULL
$$;
GRANT EXECUTE ON FUNCTION node.take_resealing(bigint, integer), node.resealed(uuid) TO ouvira_node;
