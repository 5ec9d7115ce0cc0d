package reconcile_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// found are the findings of a look, as "code object".
func (f *fleet) found(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, x := range f.look(t).Findings {
		all = append(all, x.Code+" "+x.Object)
	}
	return all
}

// The provisioner makes databases and roles, and is no superuser; from 16 on it gives
// no role more than it has been given itself.
func TestSec49TheProvisionerIsNoSuperuser(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, version)
			var modern bool
			err := f.admin.QueryRow(t.Context(), `
				SELECT current_setting('server_version_num')::int >= 160000 FROM pg_roles
				WHERE rolname = 'ouvira_provisioner' AND NOT rolsuper AND NOT rolreplication AND NOT rolbypassrls`).Scan(&modern)
			if err != nil {
				t.Fatal(err)
			}
			for statement, refused := range map[string]bool{
				"ALTER ROLE ouvira_provisioner SUPERUSER":                true,
				"CREATE ROLE evil_role SUPERUSER":                        true,
				"GRANT pg_execute_server_program TO ouvira_provisioner":  modern,
				"GRANT pg_read_server_files TO " + tenantdb.Name(f.a, 1): modern,
			} {
				conn := testdb.Connect(t, f.pgServer.URL())
				_, err := conn.Exec(t.Context(), "BEGIN; SET SESSION AUTHORIZATION ouvira_provisioner; "+statement)
				if got := pg.Code(err) == pg.CodeInsufficientRights; got != refused {
					t.Errorf("%s: %v", statement, err)
				}
				_ = conn.Close(t.Context())
			}
		})
	}
}

// What reaches elsewhere, fires by itself or is not ours, in a tenant's database, is
// found; and who is let in by the network without a password.
func TestSec50TheDoctorFindsForeignCodeAndTrust(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, version)
			a := tenantdb.Name(f.a, 1)
			for _, c := range [][2]string{
				{"CREATE FOREIGN DATA WRAPPER evil", "DROP FOREIGN DATA WRAPPER evil"},
				{"CREATE LANGUAGE evil HANDLER plpgsql_call_handler", "DROP LANGUAGE evil"},
				{"CREATE FUNCTION public.evil() RETURNS int LANGUAGE sql RETURN 1", "DROP FUNCTION public.evil()"},
				{"CREATE FUNCTION public.evil(text) RETURNS int LANGUAGE internal AS 'textlen'; ALTER FUNCTION public.evil(text) OWNER TO ouvira_owner", "DROP FUNCTION public.evil(text)"},
				{"CREATE TABLE public.evil ()", "DROP TABLE public.evil"},
			} {
				f.exec(t, a, c[0])
				if found := f.found(t); !slices.Equal(found, []string{"foreign_code " + a}) {
					t.Errorf("%s: %v", c[0], found)
				}
				f.exec(t, a, c[1])
			}
			var file string
			if err := f.admin.QueryRow(t.Context(), "SELECT current_setting('hba_file')").Scan(&file); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(filepath.Clean(file))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Count(string(before), "\n")
			rules := "host all all 192.0.2.0/24 trust\nhostssl all all 127.0.0.1/32 trust\nlocal all all trust\nhost all all 192.0.2.1/32 scram-sha-256\n"
			if err := os.WriteFile(file, append(before, rules...), 0o600); err != nil {
				t.Fatal(err)
			}
			want := []string{fmt.Sprintf("trust_authentication pg_hba.conf:%d", lines+1), fmt.Sprintf("trust_authentication pg_hba.conf:%d", lines+2)}
			if found := f.found(t); !slices.Equal(found, want) {
				t.Errorf("%v, want %v", found, want)
			}
			if err := os.WriteFile(file, before, 0o600); err != nil {
				t.Fatal(err)
			}
			f.exec(t, "postgres", "DROP SCHEMA ouvira_watch CASCADE")
			if found := f.found(t); !slices.Equal(found, []string{"server_not_watched a"}) {
				t.Errorf("%v", found)
			}
		})
	}
}

// A tenant's role can change its own settings and password. Both are noticed and put
// back: nodes get a new password.
func TestSec51WhatARoleChangedOfItselfIsPutBack(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, version)
			a := tenantdb.Name(f.a, 1)
			f.exec(t, "postgres", fmt.Sprintf(`
				SET SESSION AUTHORIZATION %[1]s;
				ALTER ROLE %[1]s SET statement_timeout = 0;
				ALTER ROLE %[1]s IN DATABASE %[1]s SET lock_timeout = 0;
				ALTER ROLE %[1]s PASSWORD 'known'`, a))
			if found := f.found(t); !slices.Equal(found, []string{"role_settings " + a, "role_password " + a}) {
				t.Errorf("%v", found)
			}
			if n := f.repair(t); n != 1 {
				t.Errorf("%d tenants are mended", n)
			}
			if found := f.found(t); len(found) != 0 {
				t.Errorf("%v", found)
			}
			var credential []byte
			if err := f.control.Pool.QueryRow(t.Context(), "SELECT credential FROM node.routes_v1 WHERE tenant_id = $1", f.a).Scan(&credential); err != nil {
				t.Fatal(err)
			}
			password, err := f.keys.Data.Open(credential, route.CredentialContext(f.a, 1))
			if err != nil {
				t.Fatal(err)
			}
			address, err := url.Parse(f.pgServer.DatabaseURL(a))
			if err != nil {
				t.Fatal(err)
			}
			address.User = url.UserPassword(a, string(password))
			mended := testdb.Connect(t, address.String())
			var timeouts string
			if err := mended.QueryRow(t.Context(), "SELECT current_setting('temp_file_limit')").Scan(&timeouts); err != nil || timeouts != "256MB" {
				t.Errorf("%s %v", timeouts, err)
			}
			address.User = url.UserPassword(a, "known")
			if _, err := pgx.Connect(t.Context(), address.String()); pg.Code(err) != "28P01" {
				t.Errorf("the password that the role gave itself: %v", err)
			}
		})
	}
}
