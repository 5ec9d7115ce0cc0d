-- Leased shares: the connection budget of each Postgres server, shared out by
-- demand among the processes that live. What holds, whatever is lost on the way:
--
--   the sum of what is granted on a server never exceeds its budget less the
--   margin, and nobody holds more connections than it was granted.
--
-- "granted" is the most that an instance may hold, counting every answer that it
-- may have had. It is raised here, before the instance hears of it, and lowered
-- only by the instance's own word that it keeps to less. So a lost answer or a
-- lost report leaves it too high until the next report, and no clock is relied on.
-- What an instance holds that is not heard of any more stays its own until a
-- worker of the control plane has fenced it at the server.

-- An instance is one run of a process: a stable name (the member) has one after
-- the other, and for a while perhaps two.
CREATE TABLE control.instances (
    id            text PRIMARY KEY CONSTRAINT instances_id_check CHECK (id ~ '^[a-z2-7]{10}$'),
    member_id     text NOT NULL,
    kind          text NOT NULL CONSTRAINT instances_kind_check CHECK (kind IN ('node', 'worker')),
    sequence      bigint NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz NOT NULL,
    expelled_at   timestamptz
) WITH (fillfactor = 50);
COMMENT ON COLUMN control.instances.sequence IS 'Of the last report: one that was overtaken must not lower what a later one was granted.';
COMMENT ON COLUMN control.instances.expelled_at IS 'It is not heard any more, may not come back, and what it holds is being taken back.';
CREATE INDEX instances_member_id_idx ON control.instances (member_id);

CREATE TABLE control.shares (
    server_id   uuid NOT NULL CONSTRAINT shares_server_id_fkey REFERENCES control.servers (id) ON DELETE CASCADE,
    instance_id text NOT NULL CONSTRAINT shares_instance_id_fkey REFERENCES control.instances (id) ON DELETE CASCADE,
    granted     integer NOT NULL CONSTRAINT shares_granted_check CHECK (granted >= 0),
    open        integer NOT NULL CONSTRAINT shares_open_check CHECK (open >= 0),
    wanted      integer NOT NULL CONSTRAINT shares_wanted_check CHECK (wanted >= 0),
    most        integer NOT NULL CONSTRAINT shares_most_check CHECK (most >= 1),
    CONSTRAINT shares_pkey PRIMARY KEY (server_id, instance_id)
) WITH (fillfactor = 50);
CREATE INDEX shares_instance_id_idx ON control.shares (instance_id);
COMMENT ON COLUMN control.shares.granted IS 'The most connections that the instance may hold, counting answers that it may not have had yet.';

-- Which history of the control database the grants belong to. After a restore or
-- a failover they may be older than what the instances were told: nothing is
-- raised until all have had the time to say what they hold.
CREATE TABLE control.share_history (
    singleton         boolean PRIMARY KEY DEFAULT true CONSTRAINT share_history_singleton_check CHECK (singleton),
    system_identifier bigint NOT NULL,
    timeline          integer NOT NULL,
    since             timestamptz NOT NULL
);
INSERT INTO control.share_history (system_identifier, timeline, since)
SELECT s.system_identifier, k.timeline_id, '-infinity' FROM pg_control_system() s, pg_control_checkpoint() k;

-- Who takes back what the dead hold: one worker at a time, for economy. Two at
-- once would do no harm.
CREATE TABLE control.reclaim_lease (
    singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT reclaim_lease_singleton_check CHECK (singleton),
    holder    text NOT NULL,
    until     timestamptz NOT NULL
);
INSERT INTO control.reclaim_lease (holder, until) VALUES ('', '-infinity');

-- Processes of the release before this one hold a fixed share, and say so by
-- node.heartbeat. What is theirs counts until 30 s after their last word.
ALTER TABLE control.members ALTER COLUMN connection_share DROP NOT NULL;
ALTER TABLE control.members ADD COLUMN static_until timestamptz;
UPDATE control.members SET static_until = last_seen_at + interval '30 s';
COMMENT ON COLUMN control.members.static_until IS 'Until when connection_share counts; null where shares are leased.';

-- share_margin is the part of a budget that is not given out: for requests to
-- cancel a query, connections that are just being refused, and operators.
CREATE FUNCTION control.share_margin(p_budget integer)
RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN p_budget < 4 THEN 0 WHEN p_budget < 20 THEN 1 ELSE greatest(2, ceil(p_budget * 0.05)::integer) END
$$;

-- static_shares is what processes with a fixed share may hold of a budget, each
-- as it computes it itself.
CREATE FUNCTION control.static_shares(p_budget integer, p_without text DEFAULT NULL)
RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE(sum(greatest(1, floor(p_budget * m.connection_share))), 0)::integer
    FROM control.members m
    WHERE m.static_until > now() AND m.id IS DISTINCT FROM p_without
$$;

-- fair_shares divides a capacity so that nobody gets more than wanted, and whoever
-- gets less than wanted gets as much as any other (max-min fairness).
CREATE FUNCTION control.fair_shares(p_wanted integer[], p_capacity integer)
RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shares    integer[] := p_wanted;
    remaining integer := greatest(p_capacity, 0);
    waiting   integer := cardinality(p_wanted);
    i         integer;
BEGIN
    FOR i IN SELECT w.i FROM unnest(p_wanted) WITH ORDINALITY AS w (wanted, i) ORDER BY w.wanted, w.i LOOP
        shares[i] := least(p_wanted[i], remaining / waiting);
        remaining := remaining - shares[i];
        waiting := waiting - 1;
    END LOOP;
    RETURN shares;
END
$$;

-- share_target is what an instance should have of a server: first of what is
-- needed now (one, at least), then of the connections that are kept open, then of
-- the rest, so that a burst finds room at once.
CREATE FUNCTION control.share_target(p_server uuid, p_instance text, p_capacity integer, p_alive timestamptz)
RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids    text[];
    needed integer[];
    kept   integer[];
    spare  integer[];
    first  integer[];
    then_  integer[];
    last   integer[];
    own    integer;
BEGIN
    SELECT array_agg(s.instance_id), array_agg(least(s.most, greatest(1, s.wanted))), array_agg(least(s.most, s.open)), array_agg(s.most)
    INTO ids, needed, kept, spare
    FROM (SELECT h.* FROM control.shares h JOIN control.instances i ON i.id = h.instance_id
          WHERE h.server_id = p_server AND i.expelled_at IS NULL AND i.last_seen_at > p_alive
          ORDER BY h.instance_id) s;
    own := array_position(ids, p_instance);
    first := control.fair_shares(needed, p_capacity);
    kept := ARRAY (SELECT greatest(0, k.n - first[k.i]) FROM unnest(kept) WITH ORDINALITY AS k (n, i) ORDER BY k.i);
    then_ := control.fair_shares(kept, p_capacity - (SELECT sum(n) FROM unnest(first) n)::integer);
    spare := ARRAY (SELECT greatest(0, k.n - first[k.i] - then_[k.i]) FROM unnest(spare) WITH ORDINALITY AS k (n, i) ORDER BY k.i);
    last := control.fair_shares(spare, p_capacity - (SELECT sum(n) FROM unnest(first || then_) n)::integer);
    RETURN first[own] + then_[own] + last[own];
END
$$;

-- lease_shares is an instance's heartbeat, by which it says what it holds and
-- wants of each server and hears what it may hold from now on. p_reports is an
-- array of {server, limit, open, wanted}: the limit that it keeps to, the
-- connections that it has, and how many it could use. What is not in it is 0.
-- p_share and p_least bound what it gets of a budget.
--
-- The answer: {nodes, members, shares: [{server, name, limit, budget}]}. nodes is how
-- many nodes live, for the caps of tenants; members counts all who share.
--
-- OV002: the instance was expelled; it must close everything and begin anew as
-- another. OV003: a later report has overtaken this one; DETAIL has its number.
CREATE FUNCTION node.lease_shares(p_instance text, p_member text, p_kind text, p_sequence bigint, p_share numeric, p_least integer,
                                  p_schema_min bigint, p_schema_max bigint, p_route_version bigint, p_reports jsonb)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked    timestamptz;
    alive    timestamptz;
    settling boolean;
    known    control.instances;
    s        record;
    held     integer;
    target   integer;
    own      integer;
    answer   jsonb := '[]';
BEGIN
    -- One at a time, over all servers: a call takes a millisecond or two.
    PERFORM pg_advisory_xact_lock(hashtextextended('control.members', 0));
    asked := clock_timestamp();
    alive := asked - interval '15 s';

    UPDATE control.share_history h
    SET system_identifier = c.system_identifier, timeline = c.timeline_id, since = asked
    FROM (SELECT i.system_identifier, k.timeline_id FROM pg_control_system() i, pg_control_checkpoint() k) c
    WHERE (h.system_identifier, h.timeline) IS DISTINCT FROM (c.system_identifier, c.timeline_id);
    SELECT h.since > alive INTO settling FROM control.share_history h;

    SELECT * INTO known FROM control.instances i WHERE i.id = p_instance FOR UPDATE;
    IF known.expelled_at IS NOT NULL OR (known.id IS NULL AND NOT settling AND EXISTS (
        SELECT FROM jsonb_to_recordset(p_reports) AS r ("limit" integer, open integer) WHERE r."limit" > 0 OR r.open > 0)) THEN
        RAISE EXCEPTION 'instance % was not heard of for too long, and what it held is given to others', p_instance
            USING ERRCODE = 'OV002', HINT = 'Close all connections and begin as another instance.';
    END IF;
    IF known.sequence >= p_sequence THEN
        RAISE EXCEPTION 'a later report has overtaken this one' USING ERRCODE = 'OV003', DETAIL = known.sequence::text;
    END IF;
    INSERT INTO control.members AS m (id, kind, schema_min, schema_max, route_version, last_seen_at)
    VALUES (p_member, p_kind, p_schema_min, p_schema_max, p_route_version, asked)
    ON CONFLICT (id) DO UPDATE
    SET kind = EXCLUDED.kind, schema_min = EXCLUDED.schema_min, schema_max = EXCLUDED.schema_max,
        route_version = EXCLUDED.route_version, last_seen_at = asked,
        started_at = CASE WHEN known.id IS NULL THEN asked ELSE m.started_at END;
    INSERT INTO control.instances AS i (id, member_id, kind, sequence, last_seen_at)
    VALUES (p_instance, p_member, p_kind, p_sequence, asked)
    ON CONFLICT (id) DO UPDATE SET sequence = p_sequence, last_seen_at = asked;

    -- What it says that it keeps to is the truth from here on.
    INSERT INTO control.shares AS h (server_id, instance_id, granted, open, wanted, most)
    SELECT v.id, p_instance, greatest(0, r."limit", r.open), greatest(0, r.open), greatest(0, r.wanted),
           greatest(1, p_least, floor(v.max_connections * p_share))
    FROM control.servers v LEFT JOIN jsonb_to_recordset(p_reports) AS r (server uuid, "limit" integer, open integer, wanted integer) ON r.server = v.id
    ON CONFLICT (server_id, instance_id) DO UPDATE
    SET granted = EXCLUDED.granted, open = EXCLUDED.open, wanted = EXCLUDED.wanted, most = EXCLUDED.most;

    FOR s IN
        SELECT v.id, v.name, v.max_connections AS budget,
               v.max_connections - control.share_margin(v.max_connections) - control.static_shares(v.max_connections) AS capacity,
               sum(h.granted)::integer AS granted,
               COALESCE(sum(h.granted) FILTER (WHERE i.expelled_at IS NOT NULL OR i.last_seen_at <= alive), 0)::integer AS lost,
               sum(h.granted) FILTER (WHERE i.id = p_instance)::integer AS own
        FROM control.servers v JOIN control.shares h ON h.server_id = v.id JOIN control.instances i ON i.id = h.instance_id
        GROUP BY v.id ORDER BY v.id
    LOOP
        target := control.share_target(s.id, p_instance, s.capacity - s.lost, alive);
        held := s.own;
        IF target > held AND NOT settling THEN
            held := held + least(target - held, greatest(0, s.capacity - s.granted));
            UPDATE control.shares h SET granted = held WHERE h.server_id = s.id AND h.instance_id = p_instance;
        END IF;
        answer := answer || jsonb_build_object('server', s.id, 'name', s.name, 'limit', least(target, held), 'budget', s.budget);
    END LOOP;
    RETURN jsonb_build_object('shares', answer,
        'nodes', (SELECT count(*) FROM (
            SELECT i.member_id FROM control.instances i WHERE i.kind = 'node' AND i.expelled_at IS NULL AND i.last_seen_at > alive
            UNION SELECT m.id FROM control.members m WHERE m.kind = 'node' AND m.static_until > asked) n),
        'members', (SELECT count(*) FROM control.instances i WHERE i.expelled_at IS NULL AND i.last_seen_at > alive));
END
$$;

-- release_shares ends an instance in order: its connections are closed, and what
-- it held is free at once.
CREATE FUNCTION node.release_shares(p_instance text)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM control.instances i WHERE i.id = p_instance AND i.expelled_at IS NULL
$$;

-- heartbeat, for processes of the release before: as it was, but leased shares
-- count too, and a fixed one that they leave no room for is refused.
CREATE OR REPLACE FUNCTION node.heartbeat(p_id text, p_kind text, p_share numeric, p_schema_min bigint, p_schema_max bigint, p_route_version bigint)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken numeric;
BEGIN
    UPDATE control.members
    SET last_seen_at = now(), static_until = now() + interval '30 s', route_version = p_route_version
    WHERE id = p_id AND kind = p_kind AND connection_share = p_share
      AND schema_min IS NOT DISTINCT FROM p_schema_min AND schema_max IS NOT DISTINCT FROM p_schema_max
      AND static_until > now();
    IF FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('control.members', 0));
    SELECT COALESCE(sum(connection_share), 0) INTO taken
    FROM control.members WHERE id <> p_id AND static_until > now();
    IF taken + p_share > 1 THEN
        RAISE EXCEPTION 'live processes already hold % of every connection budget; a share of % is more than what is left', taken, p_share
            USING ERRCODE = 'OV001', HINT = 'Lower OUVIRA_CONNECTION_SHARE, or wait until a stopped process is forgotten (30 s).';
    END IF;
    IF EXISTS (SELECT FROM control.servers v
               WHERE control.static_shares(v.max_connections, p_id) + greatest(1, floor(v.max_connections * p_share))
                     + (SELECT sum(h.granted) FROM control.shares h WHERE h.server_id = v.id) > v.max_connections) THEN
        RAISE EXCEPTION 'processes of a newer release hold leased shares that leave no room for a fixed share of %', p_share
            USING ERRCODE = 'OV001', HINT = 'Stop one of them first: its share is free at once.';
    END IF;
    INSERT INTO control.members AS m (id, kind, connection_share, schema_min, schema_max, route_version, static_until)
    VALUES (p_id, p_kind, p_share, p_schema_min, p_schema_max, p_route_version, now() + interval '30 s')
    ON CONFLICT (id) DO UPDATE
    SET kind = EXCLUDED.kind, connection_share = EXCLUDED.connection_share, schema_min = EXCLUDED.schema_min,
        schema_max = EXCLUDED.schema_max, route_version = EXCLUDED.route_version, static_until = EXCLUDED.static_until,
        started_at = now(), last_seen_at = now();
END
$$;

GRANT EXECUTE ON FUNCTION node.lease_shares(text, text, text, bigint, numeric, integer, bigint, bigint, bigint, jsonb), node.release_shares(text)
    TO ouvira_node, ouvira_control;
