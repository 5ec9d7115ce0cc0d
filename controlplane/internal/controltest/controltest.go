// Package controltest gives every test of the control plane a control database
// of its own: migrated, with River's schema, used as the role ouvira_control
// like the real one.
package controltest

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// riverVersion changes the template when River's own migrations change.
const riverVersion = "river 0.51.1"

// Control is one test's control database.
type Control struct {
	// Pool works as ouvira_control.
	Pool *pgxpool.Pool
	// URL leads to the database as ouvira_control (a superuser who has become
	// it from the start).
	URL string
	// NodeURL is the same for ouvira_node.
	NodeURL string
	// SuperuserURL leads to the database as the superuser, to look behind the
	// scenes.
	SuperuserURL string
}

// New makes the database.
func New(t testing.TB) Control {
	t.Helper()
	fingerprint, err := migrations.Control.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	address := testdb.New(t, testdb.Template{Name: "control", Fingerprint: fingerprint + riverVersion, Build: build})
	c := Control{
		URL:          WithRole(address, migrations.ControlRole),
		NodeURL:      WithRole(address, migrations.NodeRole),
		SuperuserURL: address,
	}
	c.Pool, err = pg.Open(t.Context(), c.URL, pg.Options{ApplicationName: "ouvira/test", MaxConnections: 8})
	if err != nil {
		t.Fatalf("open the control database: %v", err)
	}
	t.Cleanup(c.Pool.Close)
	return c
}

// WithRole makes the sessions of a superuser's URL start as the role.
func WithRole(address, role string) string {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + "role=" + url.QueryEscape(role)
}

func build(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse the template's address: %w", err)
	}
	// The roles are those of the whole server, on which other packages' tests log in.
	verifier, err := pg.SCRAMVerifier(testdb.RolePassword)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(u.Path, "/")
	err = migrations.BootstrapControl(ctx, address, migrations.ControlBootstrap{
		Database: name, ControlVerifier: verifier, NodeVerifier: verifier,
	})
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return fmt.Errorf("connect to the template: %w", err)
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+pgx.Identifier{name}.Sanitize()+" OWNER TO "+migrations.ControlOwnerRole)
	_ = conn.Close(ctx)
	if err != nil {
		return fmt.Errorf("give the template to its owner: %w", err)
	}
	if _, err := migrations.Up(ctx, WithRole(address, migrations.ControlOwnerRole), migrations.Control); err != nil {
		return err
	}
	return job.Migrate(ctx, address)
}

// Keys are the key files of both planes, made for one test.
type Keys struct {
	Control *seal.ControlKey
	Public  *seal.PublicKey
	Data    *seal.DataKey
	// Where they lie.
	ControlFile, PublicFile, DataFile string
}

// NewKeys makes the keys.
func NewKeys(t testing.TB) Keys {
	t.Helper()
	dir := t.TempDir()
	k := Keys{
		ControlFile: filepath.Join(dir, "control.key"),
		PublicFile:  filepath.Join(dir, "data.pub"),
		DataFile:    filepath.Join(dir, "data.key"),
	}
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatalf("make the keys: %v", err)
		}
	}
	check(seal.GenerateDataKey(k.DataFile, k.PublicFile))
	check(seal.GenerateControlKey(k.ControlFile))
	var err error
	k.Data, err = seal.LoadDataKey(k.DataFile)
	check(err)
	k.Public, err = seal.LoadPublicKey(k.PublicFile)
	check(err)
	k.Control, err = seal.LoadControlKey(k.ControlFile)
	check(err)
	return k
}
