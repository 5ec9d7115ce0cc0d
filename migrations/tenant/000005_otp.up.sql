-- One-time codes, accounts by phone, second factors.

-- At most one code lives for a purpose and a recipient: a new one takes its
-- place. Six digits are guessed from any digest, so the code is sealed with the
-- data plane's key instead.
CREATE TABLE public.one_time_codes (
    purpose     text NOT NULL CONSTRAINT one_time_codes_purpose_check CHECK (purpose ~ '^[a-z_]+$'),
    recipient   text NOT NULL,
    code_sealed bytea NOT NULL,
    data        jsonb NOT NULL DEFAULT '{}',
    attempts    integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    CONSTRAINT one_time_codes_pkey PRIMARY KEY (purpose, recipient)
);
COMMENT ON COLUMN public.one_time_codes.attempts IS 'Guesses that were compared; counted before they are.';
COMMENT ON COLUMN public.one_time_codes.data IS 'What the purpose needs once the code has come back.';
COMMENT ON COLUMN public.one_time_codes.created_at IS 'When the purpose began; a code sent again leaves it.';
CREATE INDEX one_time_codes_expires_at_idx ON public.one_time_codes (expires_at);

-- A number whose code came back, until its account is made or the time is up.
CREATE TABLE public.signups (
    primary_mobile text PRIMARY KEY,
    full_name      text NOT NULL,
    token_hash     bytea NOT NULL,
    ip_address     inet,
    verified_at    timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL
);
COMMENT ON COLUMN public.signups.ip_address IS 'From where the code came back: who shows no token must come from there.';
CREATE INDEX signups_expires_at_idx ON public.signups (expires_at);

-- A user has at most one factor that counts, and one that waits for its first
-- code to take its place.
CREATE TABLE public.two_factors (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id       bigint NOT NULL CONSTRAINT two_factors_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    method        text NOT NULL CONSTRAINT two_factors_method_check CHECK (method IN ('totp', 'sms')),
    secret_sealed bytea NOT NULL,
    mobile        text CONSTRAINT two_factors_mobile_check CHECK ((mobile IS NOT NULL) = (method = 'sms')),
    last_step     bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now(),
    confirmed_at  timestamptz
);
COMMENT ON COLUMN public.two_factors.secret_sealed IS 'Of the authenticator app; the backup codes'' digests are keyed from it. Sealed with the data plane''s key.';
COMMENT ON COLUMN public.two_factors.mobile IS 'Where codes go: the number that was proved, whatever the profile says later.';
COMMENT ON COLUMN public.two_factors.last_step IS 'The newest time step whose code was accepted: none up to it is accepted again.';
CREATE UNIQUE INDEX two_factors_confirmed_key ON public.two_factors (user_id) WHERE confirmed_at IS NOT NULL;
CREATE UNIQUE INDEX two_factors_pending_key ON public.two_factors (user_id) WHERE confirmed_at IS NULL;

CREATE TABLE public.backup_codes (
    two_factor_id bigint NOT NULL CONSTRAINT backup_codes_two_factor_id_fkey REFERENCES public.two_factors (id) ON DELETE CASCADE,
    code_hash     bytea NOT NULL,
    used_at       timestamptz,
    CONSTRAINT backup_codes_pkey PRIMARY KEY (two_factor_id, code_hash)
);
COMMENT ON COLUMN public.backup_codes.code_hash IS 'HMAC-SHA-256 under a key derived from the factor''s sealed secret.';

-- A login whose password was right and whose second factor is still awaited.
CREATE TABLE public.login_challenges (
    session_hash    bytea PRIMARY KEY,
    user_id         bigint NOT NULL CONSTRAINT login_challenges_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    password_digest bytea NOT NULL,
    remember        boolean NOT NULL DEFAULT false,
    code_sealed     bytea,
    code_expires_at timestamptz,
    attempts        integer NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    used_at         timestamptz
);
COMMENT ON COLUMN public.login_challenges.password_digest IS 'Of the stored password hash: another password ends the challenge.';
COMMENT ON COLUMN public.login_challenges.code_sealed IS 'Sent by SMS, where that is the factor.';
CREATE INDEX login_challenges_user_id_idx ON public.login_challenges (user_id);
CREATE INDEX login_challenges_expires_at_idx ON public.login_challenges (expires_at);

-- Turnstile tokens that were accepted, until they could not be any more.
CREATE TABLE public.turnstile_tokens (
    token_hash bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX turnstile_tokens_expires_at_idx ON public.turnstile_tokens (expires_at);
