package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// OldestPostgres is the lowest server_version_num that Ouvira runs on.
const OldestPostgres = 150000

// The roles of the control database. Their names are part of the contract:
// grants in the migration files name them.
const (
	ControlOwnerRole = "ouvira_control_owner"
	ControlRole      = "ouvira_control"
	NodeRole         = "ouvira_node"
)

// ControlBootstrap is what a new control database needs from a superuser.
// The verifiers are SCRAM-SHA-256 verifiers: a plain password in a statement
// would reach the server's log.
type ControlBootstrap struct {
	Database        string
	ControlVerifier string
	NodeVerifier    string
}

// BootstrapControl makes the roles and the control database on the server of
// superuserDSN, or brings existing ones to the same state (new verifiers
// replace old ones). It does not migrate: call Up with the control role and
// "role=ouvira_control_owner" afterwards.
func BootstrapControl(ctx context.Context, superuserDSN string, b ControlBootstrap) error {
	conn, err := pgx.Connect(ctx, superuserDSN)
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := checkVersion(ctx, conn); err != nil {
		return err
	}
	database := pgx.Identifier{b.Database}.Sanitize()
	steps := []func() error{
		func() error { return ensureRole(ctx, conn, ControlOwnerRole, "NOLOGIN", "") },
		func() error { return ensureRole(ctx, conn, ControlRole, "LOGIN NOINHERIT", b.ControlVerifier) },
		func() error { return ensureRole(ctx, conn, NodeRole, "LOGIN", b.NodeVerifier) },
		func() error { return exec(ctx, conn, "GRANT "+ControlOwnerRole+" TO "+ControlRole) },
		func() error {
			return ensureDatabase(ctx, conn, b.Database, "CREATE DATABASE "+database+" OWNER "+ControlOwnerRole+" TEMPLATE template0 ENCODING 'UTF8'")
		},
		func() error { return exec(ctx, conn, "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC") },
		func() error {
			return exec(ctx, conn, "GRANT CONNECT ON DATABASE "+database+" TO "+ControlRole+", "+NodeRole)
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("bootstrap the control database: %w", err)
		}
	}
	return nil
}

// PrepareServer makes a Postgres server fit to hold tenants: the owner, app
// and provisioner roles, the closed base database that every template is
// cloned from, and no CONNECT for PUBLIC anywhere. It is idempotent; the
// provisioner gets the new verifier each time. superuserDSN must name the
// database "postgres".
//
// Source: the least-privilege recipe in docs/security.md.
func PrepareServer(ctx context.Context, superuserDSN, provisionerVerifier string) error {
	conn, err := pgx.Connect(ctx, superuserDSN)
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := checkVersion(ctx, conn); err != nil {
		return err
	}
	var modern bool
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int >= 160000").Scan(&modern); err != nil {
		return fmt.Errorf("read the Postgres version: %w", err)
	}
	if err := prepareRoles(ctx, conn, provisionerVerifier, modern); err != nil {
		return fmt.Errorf("prepare the roles of the server: %w", err)
	}
	if err := exec(ctx, conn, watchFunctions); err != nil {
		return fmt.Errorf("prepare what the doctor asks: %w", err)
	}
	if err := prepareBase(ctx, conn, superuserDSN); err != nil {
		return fmt.Errorf("prepare the base database: %w", err)
	}
	return nil
}

// The roles of a tenant server.
const (
	OwnerRole       = "ouvira_owner"
	AppRole         = "ouvira_app"
	ProvisionerRole = "ouvira_provisioner"
	BaseDatabase    = "ouvira_base"
)

func prepareRoles(ctx context.Context, conn *pgx.Conn, provisionerVerifier string, modern bool) error {
	if err := ensureRole(ctx, conn, OwnerRole, "NOLOGIN", ""); err != nil {
		return err
	}
	if err := ensureRole(ctx, conn, AppRole, "NOLOGIN", ""); err != nil {
		return err
	}
	if err := ensureRole(ctx, conn, ProvisionerRole, "LOGIN CREATEDB CREATEROLE", provisionerVerifier); err != nil {
		return err
	}
	statements := []string{
		"REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC",
		"GRANT CONNECT ON DATABASE postgres TO ouvira_provisioner",
		"GRANT pg_signal_backend, pg_read_all_stats, pg_read_all_settings TO ouvira_provisioner",
		"GRANT SET ON PARAMETER log_statement, temp_file_limit TO ouvira_provisioner",
		"GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO ouvira_provisioner",
	}
	if modern {
		statements = append(statements,
			"GRANT ouvira_owner TO ouvira_provisioner WITH ADMIN FALSE, INHERIT TRUE, SET TRUE",
			"GRANT ouvira_app TO ouvira_provisioner WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
			"GRANT pg_create_subscription, pg_use_reserved_connections TO ouvira_provisioner")
	} else {
		statements = append(statements, "GRANT ouvira_owner TO ouvira_provisioner")
	}
	for _, s := range statements {
		if err := exec(ctx, conn, s); err != nil {
			return err
		}
	}
	return nil
}

// closeBase takes from PUBLIC what a tenant could use against its neighbours
// (advisory locks without number fill the server's shared lock table) or to
// hide data from backups and audits (large objects, DO blocks). Function ACLs
// are cloned with the database.
const closeBase = `
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND proname ~ '^(pg_(try_)?advisory_|lo_creat|lo_create|lo_from_bytea|pg_logical_emit_message)'
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO ouvira_owner', f);
    END LOOP;
END
$$;
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO ouvira_owner;
`

func prepareBase(ctx context.Context, conn *pgx.Conn, superuserDSN string) error {
	var ready bool
	err := conn.QueryRow(ctx, "SELECT COALESCE((SELECT datistemplate FROM pg_database WHERE datname = $1), false)", BaseDatabase).Scan(&ready)
	if err != nil {
		return err
	}
	if ready { // PrepareMoves may have died while it was open
		return exec(ctx, conn, "ALTER DATABASE ouvira_base ALLOW_CONNECTIONS false")
	}
	// It becomes a template last: a base database that is none was left half-made.
	statements := []string{
		"DROP DATABASE IF EXISTS ouvira_base WITH (FORCE)",
		"CREATE DATABASE ouvira_base TEMPLATE template0 OWNER ouvira_owner ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
		"REVOKE ALL ON DATABASE ouvira_base FROM PUBLIC",
	}
	for _, s := range statements {
		if err := exec(ctx, conn, s); err != nil {
			return err
		}
	}
	if err := execIn(ctx, superuserDSN, BaseDatabase, closeBase); err != nil {
		return err
	}
	return exec(ctx, conn, "ALTER DATABASE ouvira_base IS_TEMPLATE true ALLOW_CONNECTIONS false")
}

func execIn(ctx context.Context, dsn, database, statement string) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("the server's address is not a postgres:// URL")
	}
	config.Database = database
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", database, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return exec(ctx, conn, statement)
}

func ensureRole(ctx context.Context, conn *pgx.Conn, name, attributes, verifier string) error {
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name).Scan(&exists); err != nil {
		return fmt.Errorf("look up role %s: %w", name, err)
	}
	verb := "CREATE"
	if exists {
		verb = "ALTER"
	}
	statement := verb + " ROLE " + name + " " + attributes
	if verifier != "" {
		// A malformed verifier would be hashed as if it were a plain password.
		if !strings.HasPrefix(verifier, "SCRAM-SHA-256$") || strings.ContainsAny(verifier, `'\`) {
			return fmt.Errorf("role %s: the password must be given as a SCRAM-SHA-256 verifier", name)
		}
		statement += " PASSWORD '" + verifier + "'"
	}
	return exec(ctx, conn, statement)
}

func ensureDatabase(ctx context.Context, conn *pgx.Conn, name, create string) error {
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists); err != nil {
		return fmt.Errorf("look up database %s: %w", name, err)
	}
	if exists {
		return nil
	}
	return exec(ctx, conn, create)
}

func checkVersion(ctx context.Context, conn *pgx.Conn) error {
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("read the Postgres version: %w", err)
	}
	if version < OldestPostgres {
		return fmt.Errorf("Postgres %d is too old: Ouvira runs on 15 and later", version/10000)
	}
	return nil
}

func exec(ctx context.Context, conn *pgx.Conn, statement string) error {
	_, err := conn.Exec(ctx, statement)
	if _, ok := errors.AsType[*pgconn.PgError](err); ok {
		// The statement may carry a verifier: name its first words only.
		words := strings.Fields(statement)
		return fmt.Errorf("%s …: %w", strings.Join(words[:min(3, len(words))], " "), err)
	}
	return err
}
