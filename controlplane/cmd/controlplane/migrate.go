package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/pg"
)

func migrate(ctx context.Context, s settings, bootstrapURL string, out io.Writer) error {
	if s.ControlDatabaseURL == "" {
		return config.Missing("OUVIRA_CONTROL_DATABASE_URL")
	}
	if bootstrapURL != "" {
		if err := bootstrap(ctx, s, bootstrapURL); err != nil {
			return err
		}
	}
	owner, err := asOwner(s.ControlDatabaseURL)
	if err != nil {
		return err
	}
	version, err := migrations.Up(ctx, owner, migrations.Control)
	if err != nil {
		return explained(err)
	}
	if err := job.Migrate(ctx, s.ControlDatabaseURL); err != nil {
		return explained(err)
	}
	_, err = fmt.Fprintf(out, "The control database is at schema version %d.\n", version)
	return err
}

// bootstrap makes the roles and the database that the two URLs name.
func bootstrap(ctx context.Context, s settings, superuserURL string) error {
	if s.NodeDatabaseURL == "" {
		return config.Missing("OUVIRA_NODE_DATABASE_URL")
	}
	control, database, err := verifierOf("OUVIRA_CONTROL_DATABASE_URL", s.ControlDatabaseURL, migrations.ControlRole)
	if err != nil {
		return err
	}
	node, nodeDatabase, err := verifierOf("OUVIRA_NODE_DATABASE_URL", s.NodeDatabaseURL, migrations.NodeRole)
	if err != nil {
		return err
	}
	if database != nodeDatabase {
		return errors.New("OUVIRA_CONTROL_DATABASE_URL and OUVIRA_NODE_DATABASE_URL must name the same database")
	}
	err = migrations.BootstrapControl(ctx, superuserURL, migrations.ControlBootstrap{
		Database: database, ControlVerifier: control, NodeVerifier: node,
	})
	return explained(err)
}

// verifierOf is what Postgres shall keep of the password in a URL (or in the
// pgpass file that it names), and the database.
func verifierOf(name, address, role string) (verifier, database string, err error) {
	parsed, err := pgx.ParseConfig(address)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("%s: must be a postgres:// URL", name)
	case parsed.User != role:
		return "", "", fmt.Errorf("%s: the user must be %s", name, role)
	case parsed.Password == "":
		return "", "", fmt.Errorf("%s: has no password, and no pgpass file names one", name)
	case parsed.Database == "":
		return "", "", fmt.Errorf("%s: names no database", name)
	}
	verifier, err = pg.SCRAMVerifier(parsed.Password)
	if err != nil {
		return "", "", fmt.Errorf("%s: the password must be printable ASCII without spaces", name)
	}
	return verifier, parsed.Database, nil
}

// asOwner is the URL with the role that owns the schema.
func asOwner(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(u.Scheme, "postgres") {
		return "", errors.New("OUVIRA_CONTROL_DATABASE_URL: must be a postgres:// URL")
	}
	q := u.Query()
	q.Set("role", migrations.ControlOwnerRole)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String(), nil
}

// explained makes one sentence of a failure to connect.
func explained(err error) error {
	if err != nil && pg.IsConnect(err) {
		return fmt.Errorf("control database: %s", pg.Explain(err))
	}
	return err
}

// checkSchema refuses to run on a database that is older than this release.
// A newer one is fine: migrations expand before they contract.
func checkSchema(ctx context.Context, q pg.Querier) error {
	want, err := migrations.Control.Latest()
	if err != nil {
		return err
	}
	const wayOut = "run `controlplane migrate` of this release first"
	var have uint
	var jobs bool
	err = q.QueryRow(ctx, "SELECT COALESCE(max(version), 0), to_regclass('river.river_job') IS NOT NULL FROM control.schema_migrations WHERE NOT dirty").Scan(&have, &jobs)
	switch code := pg.Code(err); {
	case code == pg.CodeUndefinedTable || code == pg.CodeInsufficientRights || code == "3F000":
		return errors.New("the control database has no schema yet: " + wayOut)
	case err != nil:
		return fmt.Errorf("read the schema version: %w", err)
	case have < want:
		return fmt.Errorf("the control database is at schema version %d and this release needs %d: %s", have, want, wayOut)
	case !jobs:
		return errors.New("the control database has no job tables yet: " + wayOut)
	}
	return nil
}
