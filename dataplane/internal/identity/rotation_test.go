package identity

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// Along a rotation each route says which key signs, and a node that is a route behind, or
// a release, takes what the other signs. Nothing of it concerns the neighbour.
func TestSec38NodesARouteApartTakeEachOthersTokens(t *testing.T) {
	t.Parallel()
	now := time.Now()
	opener, sealer := keyPair(t)
	acme, before := newTenant(t, "acme")
	announced, after := newTenant(t, "acme")
	globex, _ := newTenant(t, "globex")
	kids := map[string]*oneValue{}
	for _, key := range []signingKey{before, after} {
		der, err := x509.MarshalPKCS8PrivateKey(key.private)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := sealer.Seal(der, route.SigningKeyContext(acme.TenantID, key.kid))
		if err != nil {
			t.Fatal(err)
		}
		kids[key.kid] = &oneValue{value: sealed}
	}
	along := func(keys ...route.JWK) *route.Route {
		r := *acme
		r.Keys = keys
		return &r
	}
	old, fresh := acme.Keys[0], announced.Keys[0]
	routes := []*route.Route{along(old), along(fresh, old), along(old, fresh), along(fresh)}
	keys, tokens := newSigningKeys(opener), newTokens(t, &now)
	for i, want := range []string{before.kid, before.kid, after.kid, after.kid} {
		key, err := keys.current(t.Context(), routes[i], new(dbsqlc.Queries), kids[want])
		if err != nil || key.kid != want {
			t.Fatalf("route %d signs with %q (%v), want %q", i, key.kid, err, want)
		}
		token, err := tokens.issue(routes[i], key, 7, uuid.New())
		if err != nil {
			t.Fatal(err)
		}
		for node := max(i-1, 0); node <= min(i+1, len(routes)-1); node++ {
			if _, err := tokens.Verify(routes[node], token); err != nil {
				t.Errorf("a node at route %d refuses what one at route %d has signed: %v", node, i, err)
			}
		}
		_, err = tokens.Verify(routes[3], token)
		if retired := want == before.kid; fault.Is(err, fault.KindUnauthenticated) != retired {
			t.Errorf("in the end a token of route %d: %v", i, err)
		}
		if _, err := tokens.Verify(globex, token); !fault.Is(err, fault.KindUnauthenticated) {
			t.Errorf("the neighbour takes it: %v", err)
		}
	}
}
