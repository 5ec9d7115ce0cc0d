package migrations

// watchFunctions tell the provisioner two things that only a superuser may look up:
// who is let in over the network without a password, and which tenants' roles have
// another password than the one that was set last. A tenant's role can change its own;
// the comment on the role is the digest of the verifier that it was given.
const watchFunctions = `
CREATE SCHEMA IF NOT EXISTS ouvira_watch;
REVOKE ALL ON SCHEMA ouvira_watch FROM PUBLIC;
GRANT USAGE ON SCHEMA ouvira_watch TO ouvira_provisioner;

CREATE OR REPLACE FUNCTION ouvira_watch.trusted() RETURNS TABLE (line integer, rule text, loopback boolean)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT line_number, concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','), address, netmask),
           address IN ('127.0.0.1', '::1', 'localhost', 'samehost')
    FROM pg_hba_file_rules WHERE type LIKE 'host%' AND auth_method = 'trust'
$$;

CREATE OR REPLACE FUNCTION ouvira_watch.changed_passwords() RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rolname::text FROM (
        SELECT rolname, shobj_description(oid, 'pg_authid') AS mark, 'sha256:' || encode(sha256(convert_to(COALESCE(rolpassword, ''), 'UTF8')), 'hex') AS digest
        FROM pg_authid WHERE rolname ~ '^ov_[0-9a-f]{20}$') r
    WHERE mark LIKE 'sha256:%' AND mark <> digest
$$;
REVOKE ALL ON FUNCTION ouvira_watch.trusted(), ouvira_watch.changed_passwords() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ouvira_watch.trusted(), ouvira_watch.changed_passwords() TO ouvira_provisioner;
`
