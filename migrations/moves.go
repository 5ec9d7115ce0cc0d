package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MoverRole reads a tenant's database for another server, by logical
// replication, while the tenant moves there.
const MoverRole = "ouvira_mover"

// PrepareMoves makes a server that PrepareServer has prepared fit to be left and
// to be moved to: the mover's role, and before Postgres 16 the functions by which
// the provisioner makes subscriptions, which there only a superuser may. It is
// idempotent; the mover gets the new verifier each time.
//
// wal_level is the server's own: it takes a restart to change, and only a server
// that tenants leave needs "logical".
func PrepareMoves(ctx context.Context, superuserDSN, moverVerifier string) error {
	conn, err := pgx.Connect(ctx, superuserDSN)
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := ensureRole(ctx, conn, MoverRole, "LOGIN REPLICATION", moverVerifier); err != nil {
		return fmt.Errorf("prepare the mover's role: %w", err)
	}
	for _, s := range []string{
		"GRANT pg_read_all_data TO ouvira_mover",
		"GRANT CONNECT ON DATABASE postgres TO ouvira_mover", // from where it drops slots; tenants' databases open for it one by one
		// A subscription's statement holds a password, which a failure would log.
		"GRANT SET ON PARAMETER log_min_error_statement, log_min_duration_statement TO ouvira_provisioner",
	} {
		if err := exec(ctx, conn, s); err != nil {
			return fmt.Errorf("prepare the server for moves: %w", err)
		}
	}
	var modern bool
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int >= 160000").Scan(&modern); err != nil {
		return fmt.Errorf("read the Postgres version: %w", err)
	}
	if modern {
		return nil
	}
	if err := prepareSubscriptions(ctx, conn, superuserDSN); err != nil {
		return fmt.Errorf("prepare the functions for subscriptions: %w", err)
	}
	return nil
}

// subscriptionFunctions do in a tenant's database what only a superuser may, and
// nothing else: the names are those of moves, and only the provisioner may call
// them. What they run holds a password: it is not logged, whatever comes of it.
// Slots are made and dropped by the mover, as a function cannot.
const subscriptionFunctions = `
CREATE SCHEMA IF NOT EXISTS ouvira_move;
REVOKE ALL ON SCHEMA ouvira_move FROM PUBLIC;
GRANT USAGE ON SCHEMA ouvira_move TO ouvira_provisioner;

CREATE OR REPLACE FUNCTION ouvira_move.subscribe(p_name text, p_source text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET log_min_messages = fatal SET log_min_error_statement = panic SET log_min_duration_statement = -1
AS $$
BEGIN
    IF p_name !~ '^ouvira_move_[0-9a-f]{32}$' OR current_database() !~ '^ov_[0-9a-f]{20}$' THEN
        RAISE EXCEPTION 'this is no subscription of a move' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('CREATE SUBSCRIPTION %1$I CONNECTION %2$L PUBLICATION %1$I WITH (slot_name = %1$L, create_slot = false, disable_on_error = true)', p_name, p_source);
END
$$;

CREATE OR REPLACE FUNCTION ouvira_move.resume(p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_name !~ '^ouvira_move_[0-9a-f]{32}$' THEN
        RAISE EXCEPTION 'this is no subscription of a move' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('ALTER SUBSCRIPTION %I ENABLE', p_name);
END
$$;

CREATE OR REPLACE FUNCTION ouvira_move.unsubscribe(p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_name !~ '^ouvira_move_[0-9a-f]{32}$' THEN
        RAISE EXCEPTION 'this is no subscription of a move' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('ALTER SUBSCRIPTION %I DISABLE', p_name);
    EXECUTE format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', p_name);
    EXECUTE format('DROP SUBSCRIPTION %I', p_name);
END
$$;
REVOKE ALL ON FUNCTION ouvira_move.subscribe(text, text), ouvira_move.resume(text), ouvira_move.unsubscribe(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ouvira_move.subscribe(text, text), ouvira_move.resume(text), ouvira_move.unsubscribe(text) TO ouvira_provisioner;
`

// prepareSubscriptions puts the functions into the base database and into the
// templates that were made of it before: each is opened for the moment, and a
// clone that is made of it just then is tried again.
func prepareSubscriptions(ctx context.Context, conn *pgx.Conn, superuserDSN string) error {
	rows, err := conn.Query(ctx, `
		SELECT datname FROM pg_database
		WHERE datistemplate AND (datname = $1 OR datname ~ '^ouvira_template_[0-9a-f]+$') ORDER BY datname`, BaseDatabase)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		quoted := pgx.Identifier{name}.Sanitize()
		if err := exec(ctx, conn, "ALTER DATABASE "+quoted+" ALLOW_CONNECTIONS true"); err != nil {
			return err
		}
		failed := execIn(ctx, superuserDSN, name, subscriptionFunctions)
		if err := exec(ctx, conn, "ALTER DATABASE "+quoted+" ALLOW_CONNECTIONS false"); err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}
