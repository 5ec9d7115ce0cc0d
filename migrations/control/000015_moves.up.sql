-- Moves of tenants from one server to another.

-- The credential by which another server reads a tenant's database while it is
-- copied. Null: the server was added before there were moves; prepare it again.
ALTER TABLE control.servers ADD COLUMN mover_credential bytea;
COMMENT ON COLUMN control.servers.mover_credential IS 'Of ouvira_mover, sealed with the control key; in no view, never returned.';

-- A row for each operation that moves a tenant. It is written with the
-- operation, so that the place on the target is taken before anything is there.
CREATE TABLE control.moves (
    operation_id       uuid PRIMARY KEY CONSTRAINT moves_operation_id_fkey REFERENCES control.operations (id) ON DELETE CASCADE,
    tenant_id          uuid NOT NULL CONSTRAINT moves_tenant_id_fkey REFERENCES control.tenants (id),
    drain_id           uuid CONSTRAINT moves_drain_id_fkey REFERENCES control.operations (id) ON DELETE SET NULL,
    source_id          uuid NOT NULL CONSTRAINT moves_source_id_fkey REFERENCES control.servers (id),
    target_id          uuid NOT NULL CONSTRAINT moves_target_id_fkey REFERENCES control.servers (id),
    source_incarnation integer NOT NULL,
    target_incarnation integer NOT NULL,
    credential         bytea,
    fenced             boolean NOT NULL DEFAULT false,
    held_at            timestamptz,
    fences             integer NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
    switched_at        timestamptz,
    cleared_at         timestamptz,
    aborted_at         timestamptz,
    drop_at            timestamptz,
    looked_at          timestamptz,
    dropped_at         timestamptz,
    CONSTRAINT moves_servers_check CHECK (source_id <> target_id),
    CONSTRAINT moves_incarnation_check CHECK (target_incarnation > source_incarnation)
);
COMMENT ON COLUMN control.moves.credential IS 'The password of the role on the target, sealed to the data plane; the tenant''s own from the switch on.';
COMMENT ON COLUMN control.moves.fenced IS 'The source may be fenced. Written before it is, so that a run that takes over knows to open it again.';
COMMENT ON COLUMN control.moves.held_at IS 'Since when requests wait.';
COMMENT ON COLUMN control.moves.fences IS 'How often the fence was tried.';
COMMENT ON COLUMN control.moves.cleared_at IS 'When slots and publication were removed from the source: a slot keeps write-ahead log from being removed.';
COMMENT ON COLUMN control.moves.drop_at IS 'When the source, which stays closed, is dropped.';
CREATE INDEX moves_tenant_id_idx ON control.moves (tenant_id);
CREATE INDEX moves_drain_id_idx ON control.moves (drain_id);
CREATE INDEX moves_target_id_idx ON control.moves (target_id) WHERE switched_at IS NULL AND aborted_at IS NULL;
CREATE INDEX moves_source_id_idx ON control.moves (source_id) WHERE switched_at IS NOT NULL AND dropped_at IS NULL;
