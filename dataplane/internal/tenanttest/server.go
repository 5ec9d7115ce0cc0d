package tenanttest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
)

// template is a tenant's database before it is anyone's.
func template(t testing.TB) testdb.Template {
	t.Helper()
	fingerprint, err := migrations.Tenant.Fingerprint()
	must(t, err)
	return testdb.Template{Name: "tenant", Fingerprint: "tenanttest 1 " + fingerprint, Build: build}
}

// build replaces the empty database it is given by a clone of ouvira_base,
// which takes from PUBLIC what tenants must not have, and migrates it. testdb
// lets one build run at a time on a server, so the roles, which all databases
// share, are made once.
func build(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse the template's address: %w", err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	u.Path = "/postgres"
	if err := migrations.PrepareServer(ctx, u.String(), ""); err != nil {
		return fmt.Errorf("prepare the server: %w", err)
	}
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	defer conn.Close(ctx)
	for _, statement := range []string{
		"DROP DATABASE " + name,
		"CREATE DATABASE " + name + " TEMPLATE " + migrations.BaseDatabase + " OWNER " + migrations.OwnerRole,
		"REVOKE ALL ON DATABASE " + name + " FROM PUBLIC",
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	if _, err := migrations.Up(ctx, WithRole(address, migrations.OwnerRole), migrations.Tenant); err != nil {
		return fmt.Errorf("migrate the template: %w", err)
	}
	return nil
}

func latest(t testing.TB) int64 {
	t.Helper()
	version, err := migrations.Tenant.Latest()
	must(t, err)
	return int64(version)
}

func modern(t testing.TB, conn *pgx.Conn) bool {
	t.Helper()
	var yes bool
	must(t, conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int >= 160000").Scan(&yes))
	return yes
}

func execAll(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			words := strings.Fields(statement)
			t.Fatalf("%s …: %v", strings.Join(words[:min(3, len(words))], " "), err)
		}
	}
}

// forget drops the database and its role. The test's context has ended.
func forget(t testing.TB, address, name string) {
	ctx := context.Background()
	if t.Failed() {
		t.Logf("the tenant's database %s and its role of the same name are kept", name)
		return
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		t.Errorf("connect to clean up: %v", err)
		return
	}
	defer conn.Close(ctx)
	for _, statement := range []string{"DROP DATABASE IF EXISTS " + name + " WITH (FORCE)", "DROP ROLE IF EXISTS " + name} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Errorf("clean up: %s: %v", statement, err)
		}
	}
}
