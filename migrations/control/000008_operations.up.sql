-- Operations that must not meet: of those that are exclusive, a tenant has one at
-- a time. Long ones have workers of their own, so that moves and backups do not
-- keep sign-ups waiting.
ALTER TABLE control.operations ADD COLUMN exclusive boolean NOT NULL DEFAULT false;
ALTER TABLE control.operations ADD COLUMN long boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN control.operations.exclusive IS 'Works on the tenant''s database as a whole: no other such operation of the tenant may be unfinished.';
COMMENT ON COLUMN control.operations.long IS 'May take minutes or hours: it waits in a queue of its own.';
CREATE UNIQUE INDEX operations_exclusive_key ON control.operations (tenant_id) WHERE exclusive AND status IN ('queued', 'running');
