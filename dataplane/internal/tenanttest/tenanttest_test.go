package tenanttest_test

import (
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// login is a URL of the tenant's own role, leading to any database.
func login(t *testing.T, tenant tenanttest.Tenant, database string) string {
	t.Helper()
	u, err := url.Parse(tenant.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(tenant.Route.Database, tenant.Password)
	u.Path = "/" + database
	return u.String()
}

func TestSec45ARoleConnectsToItsOwnDatabaseAlone(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	for _, tenant := range []tenanttest.Tenant{f.A, f.B} {
		conn := testdb.Connect(t, login(t, tenant, tenant.Route.Database))
		var owner int64
		if err := conn.QueryRow(t.Context(), "SELECT id FROM users WHERE email = $1", tenant.OwnerEmail).Scan(&owner); err != nil || owner != tenant.OwnerID {
			t.Errorf("the owner is %d (%v), want %d", owner, err, tenant.OwnerID)
		}
	}
	for _, database := range []string{f.A.Route.Database, "postgres", "template1"} {
		conn, err := pgx.Connect(t.Context(), login(t, f.B, database))
		if pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("the role of B connects to %s: %v", database, err)
		}
		if conn != nil {
			_ = conn.Close(t.Context())
		}
	}
}

func TestSec37TheCredentialOpensForItsOwnTenantAlone(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	opened, err := f.Key.Open(f.A.Route.Credential, route.CredentialContext(f.A.ID, 1))
	if err != nil || string(opened) != f.A.Password {
		t.Errorf("the credential of A does not open: %v", err)
	}
	if _, err := f.Key.Open(f.A.Route.Credential, route.CredentialContext(f.B.ID, 1)); err == nil {
		t.Error("the credential of A opens as B's")
	}
}
