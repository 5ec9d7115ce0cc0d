-- Rate limits that are exact across nodes. Unlogged: after a crash everybody
-- starts afresh, and a limit costs no write-ahead log.
CREATE UNLOGGED TABLE public.rate_limits (
    key     bytea PRIMARY KEY,
    full_at timestamptz NOT NULL
);
COMMENT ON COLUMN public.rate_limits.key IS 'SHA-256 of the limit''s name and of whom it counts.';
COMMENT ON COLUMN public.rate_limits.full_at IS 'When all of the limit is there again: GCRA''s theoretical arrival time. A row of the past is as good as none.';
CREATE INDEX rate_limits_full_at_idx ON public.rate_limits (full_at);
