package httpapi_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
)

// Types of columns change under load, at one of two tenants, and the node is not
// told: every request is answered as ever, whether it reads or writes.
func TestInvariant12AMigrationFailsNoRequest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	var load sync.WaitGroup
	var served, over atomic.Int64
	for _, tenant := range []tenanttest.Tenant{n.A, n.B} {
		access, _ := n.login(t, tenant)
		company := "/company/" + itoa(tenant.CompanyID)
		for worker := range 6 {
			load.Go(func() {
				for i := worker; over.Load() == 0; i++ {
					var a answer
					switch i % 3 {
					case 0:
						a = n.ask(t, http.MethodGet, hostOf(tenant), "/account/me", nil, bearer(access))
					case 1:
						a = n.ask(t, http.MethodGet, hostOf(tenant), company, nil, bearer(access))
					case 2:
						a = n.ask(t, http.MethodPatch, hostOf(tenant), company, object{"description": "round " + itoa(int64(i))}, bearer(access))
					}
					if a.status != http.StatusOK {
						t.Errorf("%s: %d %s", tenant.Route.Slug, a.status, a.raw)
						return
					}
					served.Add(1)
				}
			})
		}
	}
	conn := testdb.Connect(t, tenanttest.WithRole(n.A.AdminURL, migrations.OwnerRole))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range 8 {
		before := served.Load()
		for deadline := time.Now().Add(30 * time.Second); served.Load() <= before+30 && !t.Failed(); <-tick.C {
			if time.Now().After(deadline) {
				over.Store(1)
				t.Fatal("requests are not served")
			}
		}
		to := []string{"varchar(2000)", "text"}[i%2]
		_, err := conn.Exec(t.Context(), "ALTER TABLE public.users ALTER COLUMN full_name TYPE "+to+"; ALTER TABLE public.companies ALTER COLUMN description TYPE "+to)
		if err != nil {
			over.Store(1)
			t.Fatal(err)
		}
	}
	over.Store(1)
	load.Wait()
}
