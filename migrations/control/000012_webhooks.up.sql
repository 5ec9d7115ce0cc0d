-- Webhooks: who hears of events, and what was sent to whom. Events of before are
-- not sent.
ALTER TABLE control.events ADD COLUMN fanned_out boolean NOT NULL DEFAULT true;
ALTER TABLE control.events ALTER COLUMN fanned_out SET DEFAULT false;
COMMENT ON COLUMN control.events.fanned_out IS 'Deliveries to those who wanted it were written, in the same transaction.';
CREATE INDEX events_fanned_out_idx ON control.events (created_at, id) WHERE NOT fanned_out;

CREATE TABLE control.webhook_endpoints (
    id              uuid CONSTRAINT webhook_endpoints_pkey PRIMARY KEY,
    url             text NOT NULL,
    description     text NOT NULL DEFAULT '',
    events          text[] NOT NULL CONSTRAINT webhook_endpoints_events_check CHECK (cardinality(events) > 0),
    secret          bytea NOT NULL,
    status          text NOT NULL DEFAULT 'active' CONSTRAINT webhook_endpoints_status_check CHECK (status IN ('active', 'disabled')),
    disabled_reason text NOT NULL DEFAULT '',
    failing_since   timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.webhook_endpoints.secret IS 'Signs what is sent. Sealed with the control key, for this endpoint.';
COMMENT ON COLUMN control.webhook_endpoints.failing_since IS 'When it first failed after it last worked; NULL while it works.';

CREATE TABLE control.webhook_deliveries (
    id              uuid CONSTRAINT webhook_deliveries_pkey PRIMARY KEY,
    endpoint_id     uuid NOT NULL CONSTRAINT webhook_deliveries_endpoint_id_fkey REFERENCES control.webhook_endpoints (id) ON DELETE CASCADE,
    event_id        uuid NOT NULL CONSTRAINT webhook_deliveries_event_id_fkey REFERENCES control.events (id),
    status          text NOT NULL DEFAULT 'pending' CONSTRAINT webhook_deliveries_status_check CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    lease_until     timestamptz,
    last_status     integer,
    last_error      text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    CONSTRAINT webhook_deliveries_event_key UNIQUE (endpoint_id, event_id)
);
COMMENT ON COLUMN control.webhook_deliveries.lease_until IS 'A worker is sending it; after this it is somebody else''s to send.';
CREATE INDEX webhook_deliveries_due_idx ON control.webhook_deliveries (endpoint_id, next_attempt_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_created_at_idx ON control.webhook_deliveries (endpoint_id, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_event_id_idx ON control.webhook_deliveries (event_id);
CREATE INDEX webhook_deliveries_finished_at_idx ON control.webhook_deliveries (finished_at) WHERE finished_at IS NOT NULL;
