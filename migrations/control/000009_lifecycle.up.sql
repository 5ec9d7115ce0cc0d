-- The life of a tenant after it was made: its role is fenced while it is suspended
-- or deleted, a deleted one can come back for a while, a purged one is gone.
ALTER TABLE control.plans ADD COLUMN retention_days integer NOT NULL DEFAULT 30
    CONSTRAINT plans_retention_days_check CHECK (retention_days BETWEEN 1 AND 3650);
COMMENT ON COLUMN control.plans.retention_days IS 'How long a deleted tenant of the plan can be undeleted.';

ALTER TABLE control.tenants ADD COLUMN fence text NOT NULL DEFAULT '';
ALTER TABLE control.tenants ADD COLUMN status_before text NOT NULL DEFAULT ''
    CONSTRAINT tenants_status_before_check CHECK (status_before IN ('', 'active', 'suspended', 'failed'));
COMMENT ON COLUMN control.tenants.fence IS 'Where the role is known to be fenced: <server>/<incarnation>; empty: nowhere. The status says whether it should be.';
COMMENT ON COLUMN control.tenants.status_before IS 'Of a deleted tenant: what undeleting it brings back.';

-- For the sweeps: both look at what is left to do, of which there is little.
CREATE INDEX tenants_fence_idx ON control.tenants (id) WHERE status IN ('suspended', 'deleted');
CREATE INDEX tenants_purge_idx ON control.tenants (purge_at) WHERE status = 'deleted';
