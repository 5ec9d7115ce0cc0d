-- Rate limits that are exact across nodes. Unlogged: after a crash everybody
-- starts afresh, and a limit costs no write-ahead log.
CREATE UNLOGGED TABLE public.rate_limits (
    key     bytea PRIMARY KEY,
    full_at timestamptz NOT NULL
);
COMMENT ON COLUMN public.rate_limits.key IS 'SHA-256 of the limit''s name and of whom it counts.';
COMMENT ON COLUMN public.rate_limits.full_at IS 'When all of the limit is there again: GCRA''s theoretical arrival time. A row of the past is as good as none.';
CREATE INDEX rate_limits_full_at_idx ON public.rate_limits (full_at);

-- The answers to POST requests that came with an Idempotency-Key.
CREATE TABLE public.idempotency_keys (
    user_id    bigint NOT NULL CONSTRAINT idempotency_keys_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    key_hash   bytea NOT NULL,
    request    bytea NOT NULL,
    answer     jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, key_hash)
);
COMMENT ON COLUMN public.idempotency_keys.key_hash IS 'SHA-256 of the key, which nobody can ask for again who has not sent it.';
COMMENT ON COLUMN public.idempotency_keys.request IS 'HMAC of what was asked, under the key: it may hold a password, and this database does not hold the key.';
COMMENT ON COLUMN public.idempotency_keys.answer IS 'Without its secrets. NULL while the request is under way, or when it broke off.';
CREATE INDEX idempotency_keys_created_at_idx ON public.idempotency_keys (created_at);
