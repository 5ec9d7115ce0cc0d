-- Operators: a second factor, invitations, forgotten passwords, API keys. Tokens
-- are derived or random, of 256 bits; only their SHA-256 is kept.
ALTER TABLE control.operator_sessions ADD COLUMN second_factor_at timestamptz;
COMMENT ON COLUMN control.operator_sessions.authenticated_at IS 'When the credentials were last shown; refreshing shows none.';
COMMENT ON COLUMN control.operator_sessions.second_factor_at IS 'When the second factor was last shown in this session.';

CREATE TABLE control.operator_factors (
    operator_id  uuid CONSTRAINT operator_factors_pkey PRIMARY KEY
                 CONSTRAINT operator_factors_operator_id_fkey REFERENCES control.operators (id) ON DELETE CASCADE,
    secret       bytea NOT NULL,
    confirmed_at timestamptz,
    last_step    bigint NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.operator_factors.secret IS 'Of an authenticator app; sealed with the control key, for this operator.';
COMMENT ON COLUMN control.operator_factors.confirmed_at IS 'NULL: it waits for its first code, and does not count yet.';
COMMENT ON COLUMN control.operator_factors.last_step IS 'The time step of the last code that was accepted: no code counts twice.';

CREATE TABLE control.operator_backup_codes (
    operator_id uuid NOT NULL CONSTRAINT operator_backup_codes_operator_id_fkey REFERENCES control.operator_factors (operator_id) ON DELETE CASCADE,
    code_hash   bytea NOT NULL CONSTRAINT operator_backup_codes_code_hash_check CHECK (length(code_hash) = 32),
    CONSTRAINT operator_backup_codes_pkey PRIMARY KEY (operator_id, code_hash)
);
COMMENT ON TABLE control.operator_backup_codes IS 'One that was used is deleted.';

CREATE TABLE control.operator_invitations (
    id          uuid CONSTRAINT operator_invitations_pkey PRIMARY KEY,
    email       text NOT NULL CONSTRAINT operator_invitations_email_check CHECK (email = lower(email)),
    full_name   text NOT NULL DEFAULT '',
    role        text NOT NULL CONSTRAINT operator_invitations_role_check CHECK (role IN ('owner', 'operator', 'support', 'auditor')),
    token_hash  bytea NOT NULL CONSTRAINT operator_invitations_token_hash_key UNIQUE
                CONSTRAINT operator_invitations_token_hash_check CHECK (length(token_hash) = 32),
    invited_by  uuid NOT NULL CONSTRAINT operator_invitations_invited_by_fkey REFERENCES control.operators (id),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    accepted_at timestamptz,
    revoked_at  timestamptz
);
CREATE UNIQUE INDEX operator_invitations_open_key ON control.operator_invitations (email) WHERE accepted_at IS NULL AND revoked_at IS NULL;
CREATE INDEX operator_invitations_invited_by_idx ON control.operator_invitations (invited_by);

CREATE TABLE control.operator_password_resets (
    id          uuid CONSTRAINT operator_password_resets_pkey PRIMARY KEY,
    operator_id uuid NOT NULL CONSTRAINT operator_password_resets_operator_id_fkey REFERENCES control.operators (id) ON DELETE CASCADE,
    token_hash  bytea NOT NULL CONSTRAINT operator_password_resets_token_hash_key UNIQUE
                CONSTRAINT operator_password_resets_token_hash_check CHECK (length(token_hash) = 32),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz
);
CREATE INDEX operator_password_resets_operator_id_idx ON control.operator_password_resets (operator_id, created_at DESC);

CREATE TABLE control.operator_api_keys (
    id           uuid CONSTRAINT operator_api_keys_pkey PRIMARY KEY,
    operator_id  uuid NOT NULL CONSTRAINT operator_api_keys_operator_id_fkey REFERENCES control.operators (id) ON DELETE CASCADE,
    name         text NOT NULL,
    prefix       text NOT NULL,
    token_hash   bytea NOT NULL CONSTRAINT operator_api_keys_token_hash_key UNIQUE
                 CONSTRAINT operator_api_keys_token_hash_check CHECK (length(token_hash) = 32),
    scopes       text[] NOT NULL CONSTRAINT operator_api_keys_scopes_check CHECK (cardinality(scopes) > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
COMMENT ON COLUMN control.operator_api_keys.operator_id IS 'For whom the key acts; it may do what both its scopes and their role allow.';
COMMENT ON COLUMN control.operator_api_keys.prefix IS 'The part that lists show, by which people and scanners know the key.';
CREATE INDEX operator_api_keys_operator_id_idx ON control.operator_api_keys (operator_id);
