package httpapi_test

import (
	"context"
	"net/url"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// The data key is rotated while users have second factors: nodes seal their secrets anew,
// two at the same time, as what they are in the tenant's database, and the codes of the
// same app count before and afterwards. A neighbour's stay as they are.
func TestSec38SecondFactorsAreSealedAnew(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	_, secret, _ := n.withApp(t, n.A)
	n.withApp(t, n.B)
	files := seal.KeyFiles{Secret: n.KeyFile, Public: filepath.Join(filepath.Dir(n.KeyFile), "data.pub")}
	if _, err := files.Add(); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted, err := seal.LoadDataKey(n.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(n.A.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(n.A.Route.Database, n.A.Password)
	users := identity.New(n.tokens, promoted)
	var nodes sync.WaitGroup
	for range 2 {
		conn := testdb.Connect(t, address.String())
		nodes.Go(func() {
			err := users.ResealFactors(t.Context(), identity.Tenant{
				Route: n.A.Route, Do: func(_ context.Context, work func(identity.Conn) error) error { return work(conn) },
			}, promoted.Ring().Primary)
			if err != nil {
				t.Error(err)
			}
		})
	}
	nodes.Wait()
	under := func(tenant tenanttest.Tenant) uint32 {
		var sealed []byte
		if err := testdb.Connect(t, tenant.AdminURL).QueryRow(t.Context(), "SELECT secret_sealed FROM public.two_factors").Scan(&sealed); err != nil {
			t.Fatal(err)
		}
		return seal.KeyID(sealed)
	}
	if got := under(n.A); got != promoted.Ring().Primary {
		t.Errorf("the secret is under key %d, want %d", got, promoted.Ring().Primary)
	}
	if got := under(n.B); got != n.Key.Ring().Primary {
		t.Errorf("the neighbour's secret is under key %d, want %d", got, n.Key.Ring().Primary)
	}
	n.Key = promoted // as a node that was restarted with the file
	after := nodeOver(t, n.Fixture)
	expect(t, "a code of the same app", after.secondHalf(t, n.A, after.halfLogin(t, n.A), appCode(t, secret, 0)), 200)
}
