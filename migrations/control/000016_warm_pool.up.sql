-- The warm pool: databases that are made, migrated and locked down before anybody
-- asks for them. An entry has the id of the tenant that it will be; a sign-up takes
-- the row away in its own transaction, so that none is handed out twice.
CREATE TABLE control.warm_targets (
    server_id  uuid NOT NULL CONSTRAINT warm_targets_server_id_fkey REFERENCES control.servers (id) ON DELETE CASCADE,
    plan_id    uuid NOT NULL CONSTRAINT warm_targets_plan_id_fkey REFERENCES control.plans (id) ON DELETE CASCADE,
    size       integer NOT NULL CONSTRAINT warm_targets_size_check CHECK (size BETWEEN 0 AND 1000),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server_id, plan_id)
);
COMMENT ON COLUMN control.warm_targets.size IS 'How many databases are kept ready.';

CREATE TABLE control.warm_databases (
    id              uuid PRIMARY KEY,
    server_id       uuid NOT NULL CONSTRAINT warm_databases_server_id_fkey REFERENCES control.servers (id),
    plan_id         uuid NOT NULL CONSTRAINT warm_databases_plan_id_fkey REFERENCES control.plans (id),
    database_name   text NOT NULL CONSTRAINT warm_databases_database_name_key UNIQUE,
    status          text NOT NULL DEFAULT 'making' CONSTRAINT warm_databases_status_check CHECK (status IN ('making', 'ready', 'dropping')),
    fingerprint     text NOT NULL,
    schema_version  bigint NOT NULL,
    max_connections integer NOT NULL,
    credential      bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    ready_at        timestamptz
);
COMMENT ON COLUMN control.warm_databases.id IS 'Of the tenant that takes it: names, marker and encryption context derive from it.';
COMMENT ON COLUMN control.warm_databases.fingerprint IS 'Of the tenant migrations that it was made by. Only the release that has the same ones hands it out.';
CREATE INDEX warm_databases_ready_idx ON control.warm_databases (plan_id, ready_at) WHERE status = 'ready';
CREATE INDEX warm_databases_server_id_idx ON control.warm_databases (server_id);
