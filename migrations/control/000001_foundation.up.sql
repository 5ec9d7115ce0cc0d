-- The control database: tenants, where they live, how they came to be.
-- Tables live in schema "control" and belong to ouvira_control_owner. The
-- control plane (ouvira_control) reads and writes rows, and cannot change the
-- tables. The nodes (ouvira_node) see schema "node" only: views and functions.

ALTER DEFAULT PRIVILEGES IN SCHEMA control GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ouvira_control;
ALTER DEFAULT PRIVILEGES IN SCHEMA control GRANT USAGE ON SEQUENCES TO ouvira_control;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA control TO ouvira_control;
GRANT SELECT ON control.schema_migrations, control.migration_ledger TO ouvira_control;

CREATE TABLE control.plans (
    id                   uuid PRIMARY KEY,
    code                 text NOT NULL CONSTRAINT plans_code_key UNIQUE,
    name                 text NOT NULL,
    max_connections      integer NOT NULL CONSTRAINT plans_max_connections_check CHECK (max_connections BETWEEN 1 AND 1000),
    statement_timeout_ms integer NOT NULL CONSTRAINT plans_statement_timeout_check CHECK (statement_timeout_ms BETWEEN 100 AND 600000),
    trial_days           integer NOT NULL DEFAULT 14 CONSTRAINT plans_trial_days_check CHECK (trial_days >= 0),
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.plans.max_connections IS 'Backends that one tenant may hold, over all nodes.';

INSERT INTO control.plans (id, code, name, max_connections, statement_timeout_ms)
VALUES ('01900000-0000-7000-8000-000000000001', 'standard', 'Standard', 10, 30000);

CREATE TABLE control.servers (
    id                     uuid PRIMARY KEY,
    name                   text NOT NULL CONSTRAINT servers_name_key UNIQUE
                           CONSTRAINT servers_name_check CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    host                   text NOT NULL,
    port                   integer NOT NULL CONSTRAINT servers_port_check CHECK (port BETWEEN 1 AND 65535),
    tls_mode               text NOT NULL DEFAULT 'disable' CONSTRAINT servers_tls_mode_check
                           CHECK (tls_mode IN ('disable', 'require', 'verify-ca', 'verify-full')),
    tls_ca                 text NOT NULL DEFAULT '',
    region                 text NOT NULL DEFAULT '',
    status                 text NOT NULL DEFAULT 'active' CONSTRAINT servers_status_check
                           CHECK (status IN ('active', 'draining', 'offline')),
    max_databases          integer NOT NULL CONSTRAINT servers_max_databases_check CHECK (max_databases >= 0),
    max_connections        integer NOT NULL CONSTRAINT servers_max_connections_check CHECK (max_connections >= 1),
    system_identifier      bigint NOT NULL CONSTRAINT servers_system_identifier_key UNIQUE,
    postgres_version       integer NOT NULL,
    provisioner_credential bytea NOT NULL,
    version                bigint NOT NULL DEFAULT 0,
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.servers.max_connections IS 'The budget: backends of ours on this server, all nodes and workers together.';
COMMENT ON COLUMN control.servers.system_identifier IS 'Of pg_control_system(): one Postgres server cannot be added under two names.';
COMMENT ON COLUMN control.servers.provisioner_credential IS 'Sealed with the control key; in no view, never returned.';

CREATE TABLE control.tenants (
    id                uuid PRIMARY KEY,
    slug              text NOT NULL CONSTRAINT tenants_slug_key UNIQUE
                      CONSTRAINT tenants_slug_check CHECK (slug ~ '^[a-z][a-z0-9-]{1,61}[a-z0-9]$'),
    name              text NOT NULL,
    status            text NOT NULL CONSTRAINT tenants_status_check
                      CHECK (status IN ('provisioning', 'active', 'suspended', 'deleted', 'purged', 'failed')),
    status_reason     text NOT NULL DEFAULT '',
    plan_id           uuid NOT NULL CONSTRAINT tenants_plan_id_fkey REFERENCES control.plans (id),
    server_id         uuid CONSTRAINT tenants_server_id_fkey REFERENCES control.servers (id),
    incarnation       integer NOT NULL DEFAULT 1 CONSTRAINT tenants_incarnation_check CHECK (incarnation >= 1),
    database_name     text CONSTRAINT tenants_database_name_key UNIQUE,
    credential        bytea,
    token_epoch       bigint NOT NULL DEFAULT 1,
    schema_version    bigint NOT NULL DEFAULT 0,
    signing_keys      jsonb NOT NULL DEFAULT '[]',
    settings          jsonb NOT NULL DEFAULT '{}',
    route_mode        text NOT NULL DEFAULT 'serve' CONSTRAINT tenants_route_mode_check
                      CHECK (route_mode IN ('serve', 'hold', 'maintenance')),
    on_trial          boolean NOT NULL DEFAULT true,
    paid_until        date,
    purge_at          timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.tenants.incarnation IS 'Which physical database of the tenant: names, marker and encryption context derive from it.';
COMMENT ON COLUMN control.tenants.token_epoch IS 'Which access tokens count: claim "gen".';
COMMENT ON COLUMN control.tenants.database_name IS 'Also the name of the tenant''s login role.';
COMMENT ON COLUMN control.tenants.credential IS 'The role''s password, sealed to the data plane''s public key: the control plane cannot open it.';
COMMENT ON COLUMN control.tenants.signing_keys IS 'Public JWKs. The private halves are in the tenant''s database, sealed.';
CREATE INDEX tenants_server_id_idx ON control.tenants (server_id);
CREATE INDEX tenants_status_idx ON control.tenants (status);

CREATE TABLE control.domains (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL CONSTRAINT domains_tenant_id_fkey REFERENCES control.tenants (id),
    hostname    text NOT NULL CONSTRAINT domains_hostname_key UNIQUE
                CONSTRAINT domains_hostname_check CHECK (hostname = lower(hostname) AND hostname !~ '\.$'),
    status      text NOT NULL DEFAULT 'pending' CONSTRAINT domains_status_check
                CHECK (status IN ('pending', 'verified', 'lost')),
    is_primary  boolean NOT NULL DEFAULT false,
    challenge   text NOT NULL,
    verified_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX domains_tenant_id_idx ON control.domains (tenant_id);
CREATE UNIQUE INDEX domains_primary_key ON control.domains (tenant_id) WHERE is_primary;

-- One row counts the changes of the whole route table. Its row lock is held
-- until commit, so versions become visible in order: a node that has pulled up
-- to N has missed nothing below N. (Values of a sequence commit out of order.)
CREATE TABLE control.route_clock (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT route_clock_singleton_check CHECK (singleton),
    version   bigint NOT NULL
);
INSERT INTO control.route_clock (version) VALUES (0);

-- A tenant that was ever routed has a row here; "deleted" leaves a tombstone,
-- so that a pull by version carries removals too.
CREATE TABLE control.routes (
    tenant_id uuid PRIMARY KEY CONSTRAINT routes_tenant_id_fkey REFERENCES control.tenants (id),
    version   bigint NOT NULL,
    deleted   boolean NOT NULL DEFAULT false
);
CREATE INDEX routes_version_idx ON control.routes (version);
CREATE INDEX servers_version_idx ON control.servers (version);

CREATE TABLE control.signups (
    id            uuid PRIMARY KEY,
    company_name  text NOT NULL,
    slug          text NOT NULL,
    full_name     text NOT NULL,
    email         text NOT NULL,
    password_hash text,
    status        text NOT NULL DEFAULT 'pending_verification' CONSTRAINT signups_status_check
                  CHECK (status IN ('pending_verification', 'pending_approval', 'provisioning', 'active', 'failed', 'expired')),
    code_serial   integer NOT NULL DEFAULT 1,
    code_attempts integer NOT NULL DEFAULT 0 CONSTRAINT signups_code_attempts_check CHECK (code_attempts BETWEEN 0 AND 5),
    tenant_id     uuid CONSTRAINT signups_tenant_id_fkey REFERENCES control.tenants (id),
    expires_at    timestamptz NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.signups.password_hash IS 'argon2id; erased after seeding or expiry.';
COMMENT ON COLUMN control.signups.code_serial IS 'Counts the codes sent. The code itself is derived with the control key and stored nowhere.';
CREATE INDEX signups_tenant_id_idx ON control.signups (tenant_id);
CREATE INDEX signups_expiry_idx ON control.signups (expires_at) WHERE status = 'pending_verification';

CREATE TABLE control.operations (
    id           uuid PRIMARY KEY,
    kind         text NOT NULL,
    tenant_id    uuid CONSTRAINT operations_tenant_id_fkey REFERENCES control.tenants (id),
    status       text NOT NULL DEFAULT 'queued' CONSTRAINT operations_status_check
                 CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    params       jsonb NOT NULL DEFAULT '{}',
    epoch        bigint NOT NULL DEFAULT 0,
    lease_holder text NOT NULL DEFAULT '',
    lease_until  timestamptz,
    wake_at      timestamptz NOT NULL DEFAULT now(),
    attempts     integer NOT NULL DEFAULT 0,
    error        jsonb,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
COMMENT ON COLUMN control.operations.params IS 'What was asked for. No secrets.';
COMMENT ON COLUMN control.operations.epoch IS 'The fence: raised by each claim; a write of an older epoch changes nothing.';
COMMENT ON COLUMN control.operations.wake_at IS 'When the reaper looks at it next, unless its lease is alive.';
CREATE INDEX operations_tenant_id_idx ON control.operations (tenant_id, created_at DESC);
CREATE INDEX operations_unfinished_idx ON control.operations (wake_at) WHERE status IN ('queued', 'running');

CREATE TABLE control.operation_steps (
    operation_id uuid NOT NULL CONSTRAINT operation_steps_operation_id_fkey REFERENCES control.operations (id) ON DELETE CASCADE,
    position     smallint NOT NULL,
    name         text NOT NULL,
    status       text NOT NULL DEFAULT 'pending' CONSTRAINT operation_steps_status_check
                 CHECK (status IN ('pending', 'running', 'succeeded', 'failed')),
    started_at   timestamptz,
    finished_at  timestamptz,
    PRIMARY KEY (operation_id, position),
    CONSTRAINT operation_steps_name_key UNIQUE (operation_id, name)
);

CREATE TABLE control.operators (
    id            uuid PRIMARY KEY,
    email         text NOT NULL CONSTRAINT operators_email_check CHECK (email = lower(email)),
    full_name     text NOT NULL DEFAULT '',
    role          text NOT NULL CONSTRAINT operators_role_check CHECK (role IN ('owner', 'operator', 'support', 'auditor')),
    password_hash text NOT NULL,
    is_active     boolean NOT NULL DEFAULT true,
    failed_logins integer NOT NULL DEFAULT 0,
    locked_until  timestamptz,
    last_login_at timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT operators_email_key UNIQUE (email)
);

-- Operators' tokens are opaque and stored hashed (SHA-256 of >= 128 random bits).
CREATE TABLE control.operator_sessions (
    id                 uuid PRIMARY KEY,
    operator_id        uuid NOT NULL CONSTRAINT operator_sessions_operator_id_fkey REFERENCES control.operators (id),
    access_hash        bytea NOT NULL CONSTRAINT operator_sessions_access_hash_key UNIQUE,
    access_expires_at  timestamptz NOT NULL,
    refresh_hash       bytea NOT NULL CONSTRAINT operator_sessions_refresh_hash_key UNIQUE,
    expires_at         timestamptz NOT NULL,
    authenticated_at   timestamptz NOT NULL DEFAULT now(),
    revoked_at         timestamptz,
    user_agent         text NOT NULL DEFAULT '',
    ip_address         inet,
    created_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.operator_sessions.expires_at IS 'The absolute lifetime: refreshing does not extend it.';
CREATE INDEX operator_sessions_operator_id_idx ON control.operator_sessions (operator_id);

-- Append-only for the control plane: it may insert and read.
CREATE TABLE control.audit_log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor_kind  text NOT NULL CONSTRAINT audit_log_actor_kind_check CHECK (actor_kind IN ('operator', 'signup', 'worker', 'cli')),
    actor_id    text NOT NULL,
    actor_name  text NOT NULL,
    action      text NOT NULL,
    entity_type text NOT NULL,
    entity_id   text NOT NULL,
    tenant_id   uuid,
    detail      jsonb NOT NULL DEFAULT '{}',
    ip_address  inet,
    request_id  text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now()
);
REVOKE ALL ON control.audit_log FROM ouvira_control;
GRANT SELECT ON control.audit_log TO ouvira_control;
GRANT INSERT (actor_kind, actor_id, actor_name, action, entity_type, entity_id, tenant_id, detail, ip_address, request_id)
    ON control.audit_log TO ouvira_control;
CREATE INDEX audit_log_tenant_id_idx ON control.audit_log (tenant_id, id DESC);

-- The outbox of the control plane: what happened, for webhooks and mail.
CREATE TABLE control.events (
    id         uuid PRIMARY KEY,
    type       text NOT NULL,
    tenant_id  uuid CONSTRAINT events_tenant_id_fkey REFERENCES control.tenants (id),
    payload    jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_tenant_id_idx ON control.events (tenant_id, created_at DESC);

-- Live processes that hold connections to tenant servers. Shares are static
-- here: together they must not exceed the whole.
CREATE TABLE control.members (
    id               text PRIMARY KEY,
    kind             text NOT NULL CONSTRAINT members_kind_check CHECK (kind IN ('node', 'worker')),
    connection_share numeric(4, 3) NOT NULL CONSTRAINT members_connection_share_check CHECK (connection_share > 0 AND connection_share <= 1),
    schema_min       bigint,
    schema_max       bigint,
    route_version    bigint NOT NULL DEFAULT 0,
    started_at       timestamptz NOT NULL DEFAULT now(),
    last_seen_at     timestamptz NOT NULL DEFAULT now()
);
