package httpapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestSec26 what starts after an acknowledged revocation is denied, ten
// thousand times of ten thousand, though the decision before it was cached.
func TestSec26RevokedMeansDeniedAtTheNextRequest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	user := n.person(t, n.A, "ada")
	membership, role := member(t, n.A, user.id, n.A.CompanyID), seeded(t, n.A, "employee")
	path, asAda := "/company/"+itoa(n.A.CompanyID), bearer(user.token)
	conn := testdb.Connect(t, n.A.AdminURL)
	defer conn.Close(t.Context())
	rounds, revoked := 10_000, 0
	if testing.Short() {
		rounds = 1_000
	}
	for i := range rounds {
		if _, err := conn.Exec(t.Context(), "INSERT INTO public.user_company_roles (user_company_id, role_id) VALUES ($1, $2)", membership, role); err != nil {
			t.Fatal(err)
		}
		if a := n.ask(t, http.MethodGet, hostOf(n.A), path, nil, asAda); a.status != 200 {
			t.Fatalf("round %d, with the role: %d %s", i, a.status, a.raw)
		}
		if _, err := conn.Exec(t.Context(), "DELETE FROM public.user_company_roles WHERE user_company_id = $1", membership); err != nil {
			t.Fatal(err)
		}
		if a := n.ask(t, http.MethodGet, hostOf(n.A), path, nil, asAda); a.status == 403 {
			revoked++
		}
	}
	if revoked != rounds {
		t.Errorf("%d of %d were denied", revoked, rounds)
	}
}

// TestSec26 an assignment that expires is over at that moment, by the clock of
// the database, though nothing was written.
func TestSec26AnExpiredAssignmentIsNotRemembered(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	user := n.person(t, n.A, "ada")
	assignment := hold(t, n.A, member(t, n.A, user.id, n.A.CompanyID), seeded(t, n.A, "employee"), "self")
	path, asAda := "/company/"+itoa(n.A.CompanyID), bearer(user.token)
	get := func() answer { return n.ask(t, http.MethodGet, hostOf(n.A), path, nil, asAda) }
	exec(t, n.A, "UPDATE public.user_company_roles SET expires_at = now() + interval '4 seconds' WHERE id = $1", assignment)
	expect(t, "before", get(), 200)
	for value[bool](t, n.A, "SELECT expires_at > now() FROM public.user_company_roles WHERE id = $1", assignment) {
		if a := get(); a.status != 200 && value[bool](t, n.A, "SELECT expires_at > now() FROM public.user_company_roles WHERE id = $1", assignment) {
			t.Fatalf("before the expiry: %d %s", a.status, a.raw)
		}
	}
	expect(t, "after", get(), 403)
}

// TestSec26 what a transaction decides after it has itself changed who may do
// what is not remembered: it may be rolled back.
func TestSec26WhatIsRolledBackIsNotRemembered(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	ada := n.person(t, n.A, "ada")
	membership := member(t, n.A, ada.id, n.A.CompanyID)
	role := seeded(t, n.A, "employee")
	conn := testdb.Connect(t, n.A.AdminURL)
	defer conn.Close(t.Context())
	service, who := access.New(), access.Subject{
		Tenant: n.A.ID, TokenEpoch: 1, UserID: ada.id, At: time.Now(), // the clock of the same machine
		AuthzEpoch: value[int64](t, n.A, "SELECT epoch FROM public.authz_epoch"),
	}
	allowed := func(db pg.Querier) bool {
		t.Helper()
		standing, err := service.Standing(t.Context(), db, who, n.A.CompanyID)
		if err != nil {
			t.Fatal(err)
		}
		return standing.Allows(access.CompanyRead)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO public.user_company_roles (user_company_id, role_id) VALUES ($1, $2)", membership, role); err != nil {
		t.Fatal(err)
	}
	if !allowed(tx) {
		t.Error("the transaction does not see what it has changed")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if allowed(conn) {
		t.Error("what was rolled back is remembered")
	}
}

// A decision that is remembered costs nothing; a new one, one round trip.
func TestAPermissionCheckCostsAtMostOneRoundTrip(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	path := "/company/" + itoa(n.A.CompanyID)
	trips := func() int64 {
		t.Helper()
		before := n.counts(n.A.ID).roundTrips.Load()
		expect(t, path, n.ask(t, http.MethodGet, hostOf(n.A), path, nil, bearer(token)), 200)
		return n.counts(n.A.ID).roundTrips.Load() - before
	}
	if cold, warm := trips(), trips(); cold != 3 || warm != 2 { // who asks, may they, the company
		t.Errorf("%d round trips at first, %d then", cold, warm)
	}
	exec(t, n.A, "UPDATE public.roles SET description = description || '.'")
	if changed := trips(); changed != 3 {
		t.Errorf("%d round trips after a change", changed)
	}
}

// TestSec05 what is remembered of one tenant is not another's, though user,
// company and epochs have the same numbers.
func TestSec05DecisionsOfTenantsDoNotMix(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a, b := n.person(t, n.A, "ada"), n.person(t, n.B, "ada")
	hold(t, n.A, member(t, n.A, a.id, n.A.CompanyID), seeded(t, n.A, "employee"), "self")
	member(t, n.B, b.id, n.B.CompanyID)
	epoch := func(tenant tenanttest.Tenant) int64 {
		return value[int64](t, tenant, "SELECT epoch FROM public.authz_epoch")
	}
	level := max(epoch(n.A), epoch(n.B))
	for _, tenant := range []tenanttest.Tenant{n.A, n.B} {
		exec(t, tenant, "UPDATE public.authz_epoch SET epoch = $1", level)
	}
	if a.id != b.id || n.A.CompanyID != n.B.CompanyID {
		t.Fatal("the numbers differ, so that this proves nothing")
	}
	path := "/company/" + itoa(n.A.CompanyID)
	for range 3 {
		expect(t, "at A", n.ask(t, http.MethodGet, hostOf(n.A), path, nil, bearer(a.token)), 200)
		expect(t, "at B", n.ask(t, http.MethodGet, hostOf(n.B), path, nil, bearer(b.token)), 403)
	}
}
