-- A tenant's database. Everything belongs to ouvira_owner; the tenant's login
-- role is a member of ouvira_app and holds row privileges only.
--   public  the tenant's data: read and write
--   ouvira  what the platform says about this database: read only
--   ledger  append-only: insert by column, read
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA ledger;
GRANT USAGE ON SCHEMA public, ouvira, ledger TO ouvira_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ouvira_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO ouvira_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA ouvira GRANT SELECT ON TABLES TO ouvira_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA ledger GRANT SELECT ON TABLES TO ouvira_app;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT SELECT ON ouvira.schema_migrations, ouvira.migration_ledger TO ouvira_app;

-- Which tenant and which incarnation this database is: each new connection
-- reads it before it is used.
CREATE TABLE ouvira.marker (
    singleton   boolean PRIMARY KEY DEFAULT true CONSTRAINT marker_singleton_check CHECK (singleton),
    tenant_id   uuid NOT NULL,
    incarnation integer NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- The private half is sealed with the data plane's key.
CREATE TABLE ouvira.signing_keys (
    kid            text PRIMARY KEY,
    public_jwk     jsonb NOT NULL,
    private_sealed bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    retired_at     timestamptz
);

CREATE TABLE ouvira.seeds (
    seed_id    uuid PRIMARY KEY,
    user_id    bigint NOT NULL,
    company_id bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.users (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_uid    text NOT NULL DEFAULT ('USR-' || upper(substr(replace(gen_random_uuid()::text, '-', ''), 21)))
                   CONSTRAINT users_account_uid_key UNIQUE
                   CONSTRAINT users_account_uid_check CHECK (account_uid ~ '^USR-[0-9A-F]{12}$'),
    username       text NOT NULL,
    full_name      text NOT NULL,
    email          text,
    email_verified boolean NOT NULL DEFAULT false,
    primary_mobile text CONSTRAINT users_primary_mobile_key UNIQUE
                   CONSTRAINT users_primary_mobile_check CHECK (primary_mobile ~ '^\+[1-9][0-9]{6,14}$'),
    phone_verified boolean NOT NULL DEFAULT false,
    password_hash  text,
    is_active      boolean NOT NULL DEFAULT true,
    is_2fa_enabled boolean NOT NULL DEFAULT false,
    two_fa_type    text CONSTRAINT users_two_fa_type_check CHECK (two_fa_type IN ('totp', 'sms')),
    failed_logins  integer NOT NULL DEFAULT 0,
    locked_until   timestamptz,
    date_joined    timestamptz NOT NULL DEFAULT now(),
    last_login     timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    is_deleted     boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED
);
COMMENT ON COLUMN public.users.password_hash IS 'argon2id in PHC form; NULL until the owner has set one.';
CREATE UNIQUE INDEX users_username_key ON public.users (lower(username));
CREATE UNIQUE INDEX users_email_key ON public.users (lower(email));

CREATE TABLE public.sessions (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        bigint NOT NULL CONSTRAINT sessions_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    remember       boolean NOT NULL DEFAULT false,
    user_agent     text NOT NULL DEFAULT '',
    ip_address     inet,
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_used_at   timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    revoked_at     timestamptz,
    revoked_reason text
);
COMMENT ON COLUMN public.sessions.expires_at IS 'The absolute lifetime of the family: refreshing never extends it.';
CREATE INDEX sessions_user_id_idx ON public.sessions (user_id);

-- A family is a session; each refresh token knows its child.
CREATE TABLE public.refresh_tokens (
    token_hash   bytea PRIMARY KEY,
    session_id   uuid NOT NULL CONSTRAINT refresh_tokens_session_id_fkey REFERENCES public.sessions (id) ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    rotated_at   timestamptz,
    child_sealed bytea
);
COMMENT ON COLUMN public.refresh_tokens.token_hash IS 'SHA-256 of the token (256 random bits).';
COMMENT ON COLUMN public.refresh_tokens.child_sealed IS 'The child token under a key derived from this one: a retry within the grace gets the same child.';
CREATE INDEX refresh_tokens_session_id_idx ON public.refresh_tokens (session_id);

CREATE TABLE public.password_tokens (
    token_hash bytea PRIMARY KEY,
    user_id    bigint NOT NULL CONSTRAINT password_tokens_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    purpose    text NOT NULL CONSTRAINT password_tokens_purpose_check CHECK (purpose IN ('set', 'reset')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX password_tokens_user_id_idx ON public.password_tokens (user_id);

CREATE TABLE public.companies (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name              text NOT NULL CONSTRAINT companies_name_check CHECK (name <> ''),
    logo              text,
    description       text NOT NULL DEFAULT '',
    address           text NOT NULL DEFAULT '',
    parent_company_id bigint CONSTRAINT companies_parent_company_id_fkey REFERENCES public.companies (id)
                      CONSTRAINT companies_parent_company_id_check CHECK (parent_company_id <> id),
    is_parent_company boolean NOT NULL DEFAULT false,
    status            text NOT NULL DEFAULT 'active' CONSTRAINT companies_status_check
                      CHECK (status IN ('active', 'deactivated', 'deleted')),
    create_by         bigint CONSTRAINT companies_create_by_fkey REFERENCES public.users (id) ON DELETE SET NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    deleted_at        timestamptz,
    is_deleted        boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED
);
CREATE INDEX companies_parent_company_id_idx ON public.companies (parent_company_id);

CREATE TABLE public.company_settings (
    company_id              bigint PRIMARY KEY CONSTRAINT company_settings_company_id_fkey REFERENCES public.companies (id) ON DELETE CASCADE,
    default_language        text NOT NULL DEFAULT 'en',
    default_currency        text NOT NULL DEFAULT 'USD' CONSTRAINT company_settings_currency_check CHECK (default_currency ~ '^[A-Z]{3}$'),
    timezone                text NOT NULL DEFAULT 'UTC',
    fiscal_year_start_month smallint NOT NULL DEFAULT 1 CONSTRAINT company_settings_fiscal_month_check CHECK (fiscal_year_start_month BETWEEN 1 AND 12),
    feature_flags           jsonb NOT NULL DEFAULT '{}',
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.roles (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role           text NOT NULL CONSTRAINT roles_role_check CHECK (role <> ''),
    description    text NOT NULL DEFAULT '',
    company_id     bigint CONSTRAINT roles_company_id_fkey REFERENCES public.companies (id),
    is_system_role boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    is_deleted     boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED
);
COMMENT ON COLUMN public.roles.company_id IS 'NULL: the role is system-wide.';
CREATE UNIQUE INDEX roles_role_key ON public.roles (lower(role), company_id) NULLS NOT DISTINCT WHERE deleted_at IS NULL;
INSERT INTO public.roles (role, description, is_system_role) VALUES
    ('owner', 'Everything in the company', true),
    ('admin', 'Everything but deleting the company', true),
    ('manager', 'Runs the company''s day', true),
    ('employee', 'Reads what colleagues share', true);

CREATE TABLE public.user_companies (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id            bigint NOT NULL CONSTRAINT user_companies_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    company_id         bigint NOT NULL CONSTRAINT user_companies_company_id_fkey REFERENCES public.companies (id) ON DELETE CASCADE,
    is_active          boolean NOT NULL DEFAULT true,
    is_primary_company boolean NOT NULL DEFAULT false,
    joined_at          timestamptz NOT NULL DEFAULT now(),
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_companies_user_company_key UNIQUE (user_id, company_id)
);
CREATE UNIQUE INDEX user_companies_primary_key ON public.user_companies (user_id) WHERE is_primary_company;
CREATE INDEX user_companies_company_id_idx ON public.user_companies (company_id);

CREATE TABLE public.user_company_roles (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_company_id bigint NOT NULL CONSTRAINT user_company_roles_user_company_id_fkey REFERENCES public.user_companies (id) ON DELETE CASCADE,
    role_id         bigint NOT NULL CONSTRAINT user_company_roles_role_id_fkey REFERENCES public.roles (id),
    scope           text NOT NULL DEFAULT 'subtree' CONSTRAINT user_company_roles_scope_check CHECK (scope IN ('self', 'subtree')),
    expires_at      timestamptz,
    assigned_at     timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_company_roles_role_key UNIQUE (user_company_id, role_id)
);
CREATE INDEX user_company_roles_role_id_idx ON public.user_company_roles (role_id);

-- Raised in the transaction that changes who may do what; the first statement
-- of every request reads it.
CREATE TABLE public.authz_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT authz_epoch_singleton_check CHECK (singleton),
    epoch     bigint NOT NULL
);
INSERT INTO public.authz_epoch (epoch) VALUES (1);
REVOKE INSERT, UPDATE, DELETE ON public.authz_epoch FROM ouvira_app;

CREATE FUNCTION ouvira.bump_authz_epoch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.authz_epoch SET epoch = epoch + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER roles_bump_authz_epoch AFTER INSERT OR UPDATE OR DELETE ON public.roles
    FOR EACH STATEMENT EXECUTE FUNCTION ouvira.bump_authz_epoch();
CREATE TRIGGER user_companies_bump_authz_epoch AFTER INSERT OR UPDATE OR DELETE ON public.user_companies
    FOR EACH STATEMENT EXECUTE FUNCTION ouvira.bump_authz_epoch();
CREATE TRIGGER user_company_roles_bump_authz_epoch AFTER INSERT OR UPDATE OR DELETE ON public.user_company_roles
    FOR EACH STATEMENT EXECUTE FUNCTION ouvira.bump_authz_epoch();

CREATE TABLE ledger.security_logs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      bigint,
    user_display text NOT NULL,
    action       text NOT NULL,
    metadata     jsonb NOT NULL DEFAULT '{}',
    ip_address   inet,
    request_id   text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ledger.security_logs IS 'No foreign key: the record outlives the user, with a snapshot of the name.';
GRANT INSERT (user_id, user_display, action, metadata, ip_address, request_id) ON ledger.security_logs TO ouvira_app;
