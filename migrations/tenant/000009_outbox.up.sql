-- Mail and SMS that leave the tenant: written with the change that causes
-- them, sent by a node after the commit.
CREATE TABLE public.outbox (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id     uuid NOT NULL DEFAULT gen_random_uuid(),
    channel        text NOT NULL CONSTRAINT outbox_channel_check CHECK (channel IN ('email', 'sms')),
    recipient      text NOT NULL,
    template       text NOT NULL,
    language       text NOT NULL DEFAULT '',
    payload_sealed bytea,
    user_id        bigint,
    status         text NOT NULL DEFAULT 'pending' CONSTRAINT outbox_status_check
                   CHECK (status IN ('pending', 'sent', 'dead', 'unknown')),
    attempts       integer NOT NULL DEFAULT 0,
    due_at         timestamptz NOT NULL DEFAULT now(),
    handed_at      timestamptz,
    expires_at     timestamptz,
    last_error     text NOT NULL DEFAULT '',
    finished_at    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_payload_check CHECK (status = 'pending' OR payload_sealed IS NULL)
);
COMMENT ON COLUMN public.outbox.message_id IS 'What a mail''s Message-ID is made of: a mail that is sent twice can be recognized.';
COMMENT ON COLUMN public.outbox.payload_sealed IS 'What the template needs, sealed with the data plane''s key; NULL once the message has left or is given up.';
COMMENT ON COLUMN public.outbox.status IS 'unknown: it was handed over and nobody knows what became of it; it is not sent again.';
COMMENT ON COLUMN public.outbox.due_at IS 'Not to be tried before. Who tries moves it ahead: if they die, another node tries then.';
COMMENT ON COLUMN public.outbox.handed_at IS 'An SMS is being handed over, so that trying again could send it twice.';
COMMENT ON COLUMN public.outbox.expires_at IS 'When it is of no use any more: a code has a lifetime.';
CREATE INDEX outbox_due_idx ON public.outbox (due_at) WHERE status = 'pending';
CREATE INDEX outbox_finished_idx ON public.outbox (finished_at) WHERE status <> 'pending';

-- SMS of a day (UTC), of the tenant (prefix '') and of each prefix: SMS cost
-- money, and whoever makes a tenant send them may share in it.
CREATE TABLE public.sms_counts (
    day    date NOT NULL,
    prefix text NOT NULL,
    sent   integer NOT NULL,
    CONSTRAINT sms_counts_pkey PRIMARY KEY (day, prefix)
);

-- What users read in the app.
CREATE TABLE public.notifications (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    bigint NOT NULL CONSTRAINT notifications_user_id_fkey REFERENCES public.users (id) ON DELETE CASCADE,
    kind       text NOT NULL,
    message    text NOT NULL CONSTRAINT notifications_message_check CHECK (message <> ''),
    read       boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notifications_user_id_idx ON public.notifications (user_id, id DESC);
CREATE INDEX notifications_unread_idx ON public.notifications (user_id) WHERE NOT read;
