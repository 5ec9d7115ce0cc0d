-- What was answered to requests that came with a key of the client's: such a request
-- can be sent again without being done again.
CREATE TABLE control.idempotency_keys (
    key_hash   bytea PRIMARY KEY,
    request    bytea NOT NULL,
    answer     jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN control.idempotency_keys.key_hash IS 'SHA-256 of whose the key is and of the key, which nobody can ask for again who has not sent it.';
COMMENT ON COLUMN control.idempotency_keys.request IS 'HMAC of what was asked, under the key: it may hold a password, and this database does not hold the key.';
COMMENT ON COLUMN control.idempotency_keys.answer IS 'Without its secrets. NULL while the request is under way, or when it broke off.';
CREATE INDEX idempotency_keys_created_at_idx ON control.idempotency_keys (created_at);

-- served_before gives a node that was killed and started again the tenants that it served: it
-- lives, so no other looks after what those still have to send.
CREATE FUNCTION node.served_before(p_node text)
RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.tenant_id FROM control.served s WHERE s.node_id = p_node AND s.served_at > now() - interval '1 hour' $$;
GRANT EXECUTE ON FUNCTION node.served_before(text) TO ouvira_node;
