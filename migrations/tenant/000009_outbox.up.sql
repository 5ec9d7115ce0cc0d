-- Mail and SMS that leave the tenant: written with the change that causes
-- them, sent by a node after the commit.
CREATE TABLE public.outbox (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel        text NOT NULL CONSTRAINT outbox_channel_check CHECK (channel IN ('email', 'sms')),
    recipient      text NOT NULL,
    template       text NOT NULL,
    language       text NOT NULL DEFAULT '',
    payload_sealed bytea,
    user_id        bigint,
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN public.outbox.payload_sealed IS 'What the template needs, sealed with the data plane''s key; NULL once the message has left.';
