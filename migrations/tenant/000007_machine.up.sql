-- What acts for a user without the user's password: API keys of machines, and
-- the platform's support, which an owner lets in.
--
-- Neither bears on decisions that are remembered under the authorization epoch:
-- the first statement of each request reads what the key or the consent still
-- allows, and it only ever narrows what the user may do.
CREATE TABLE public.api_keys (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL CONSTRAINT api_keys_name_check CHECK (name <> ''),
    user_id       bigint NOT NULL CONSTRAINT api_keys_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    company_id    bigint NOT NULL CONSTRAINT api_keys_company_id_fkey REFERENCES public.companies (id) ON DELETE CASCADE,
    parent_key_id bigint CONSTRAINT api_keys_parent_key_id_fkey REFERENCES public.api_keys (id) ON DELETE CASCADE,
    prefix        text NOT NULL,
    token_hash    bytea NOT NULL CONSTRAINT api_keys_token_hash_key UNIQUE
                  CONSTRAINT api_keys_token_hash_check CHECK (octet_length(token_hash) = 32),
    permissions   text[] NOT NULL CONSTRAINT api_keys_permissions_check CHECK (cardinality(permissions) > 0),
    token_epoch   bigint NOT NULL,
    expires_at    timestamptz NOT NULL,
    last_used_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz,
    is_deleted    boolean GENERATED ALWAYS AS (deleted_at IS NOT NULL) STORED
);
COMMENT ON COLUMN public.api_keys.user_id IS 'Who made it, and for whom it acts.';
COMMENT ON COLUMN public.api_keys.company_id IS 'It works in this company and in those below it.';
COMMENT ON COLUMN public.api_keys.parent_key_id IS 'The key that made it: revoking that one revokes this one.';
COMMENT ON COLUMN public.api_keys.prefix IS 'The first characters of the key, which are no secret.';
COMMENT ON COLUMN public.api_keys.token_hash IS 'SHA-256 of the key (256 random bits).';
COMMENT ON COLUMN public.api_keys.token_epoch IS 'The tenant''s token epoch when it was made: a restore must not bring back what was revoked since.';
COMMENT ON COLUMN public.api_keys.deleted_at IS 'When it was revoked.';
CREATE INDEX api_keys_company_id_idx ON public.api_keys (company_id);
CREATE INDEX api_keys_user_id_idx ON public.api_keys (user_id);
CREATE INDEX api_keys_parent_key_id_idx ON public.api_keys (parent_key_id);

-- The consent of an owner. At most one is open; one that has ended stays, and
-- is not taken up again.
CREATE TABLE public.support_consents (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    bigint NOT NULL CONSTRAINT support_consents_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    write      boolean NOT NULL,
    until      timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    CONSTRAINT support_consents_until_check CHECK (until <= updated_at + interval '7 days 1 minute')
);
COMMENT ON COLUMN public.support_consents.user_id IS 'The owner who gave it, and for whom support acts.';
CREATE UNIQUE INDEX support_consents_open_key ON public.support_consents ((ended_at IS NULL)) WHERE ended_at IS NULL;

CREATE TABLE public.support_sessions (
    id          uuid PRIMARY KEY,
    consent_id  bigint CONSTRAINT support_sessions_consent_id_fkey REFERENCES public.support_consents (id) ON DELETE CASCADE,
    user_id     bigint NOT NULL CONSTRAINT support_sessions_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    operator_id uuid NOT NULL,
    operator    text NOT NULL,
    reason      text NOT NULL,
    write       boolean NOT NULL,
    break_glass boolean NOT NULL,
    ip_address  inet,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    CONSTRAINT support_sessions_consent_check CHECK (break_glass OR consent_id IS NOT NULL),
    CONSTRAINT support_sessions_break_glass_check CHECK (NOT (write AND break_glass)),
    CONSTRAINT support_sessions_expires_at_check CHECK (expires_at <= created_at + interval '1 hour')
);
COMMENT ON COLUMN public.support_sessions.id IS 'The code that was redeemed: it begins one session.';
COMMENT ON COLUMN public.support_sessions.operator IS 'Address of the operator, as it was.';
CREATE INDEX support_sessions_created_at_idx ON public.support_sessions (created_at DESC);
CREATE INDEX support_sessions_consent_id_idx ON public.support_sessions (consent_id);
CREATE INDEX support_sessions_user_id_idx ON public.support_sessions (user_id);
