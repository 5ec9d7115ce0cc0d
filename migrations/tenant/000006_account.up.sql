-- Passwords that a user has had before the one that counts: the last of them
-- are not taken again.
CREATE TABLE public.password_history (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id       bigint NOT NULL CONSTRAINT password_history_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN public.password_history.created_at IS 'When the password was replaced.';
CREATE INDEX password_history_user_id_idx ON public.password_history (user_id, id);

-- One live link for resetting a password at a time: a new one replaces it.
CREATE UNIQUE INDEX password_tokens_reset_key ON public.password_tokens (user_id) WHERE purpose = 'reset' AND used_at IS NULL;
