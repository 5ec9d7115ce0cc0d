-- Verified domains are looked at again: whoever has lost a name at its registrar
-- must not keep it here. A failure counts when the DNS has said that the proof is
-- not there, not when it could not be asked.
ALTER TABLE control.domains
    ADD COLUMN checked_at    timestamptz,
    ADD COLUMN next_check_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN failures      integer NOT NULL DEFAULT 0 CONSTRAINT domains_failures_check CHECK (failures >= 0),
    ADD COLUMN failing_since timestamptz;
COMMENT ON COLUMN control.domains.checked_at IS 'When the DNS has last given an answer about the proof.';
COMMENT ON COLUMN control.domains.failures IS 'Answers without the proof, one after the other; since failing_since.';
CREATE INDEX domains_next_check_at_idx ON control.domains (next_check_at) WHERE status IN ('verified', 'lost');
CREATE INDEX domains_pending_idx ON control.domains (created_at) WHERE status = 'pending';
