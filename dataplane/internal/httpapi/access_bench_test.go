package httpapi_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// BenchmarkCheckedVersusUncheckedRead: what it costs to ask for a permission.
func BenchmarkCheckedVersusUncheckedRead(b *testing.B) { checkedRead(b, func(*access.Service) {}) }

// BenchmarkColdCheckVersusUncheckedRead: the same when nothing is remembered,
// as after each change of who may do what.
func BenchmarkColdCheckVersusUncheckedRead(b *testing.B) {
	checkedRead(b, func(s *access.Service) { *s = *access.New() })
}

func checkedRead(b *testing.B, before func(*access.Service)) {
	b.Helper()
	f := tenanttest.New(b)
	large(b, f.A)
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	if err != nil {
		b.Fatal(err)
	}
	service := access.New()
	handler, err := httpapi.NewWithUnchecked(nodeOptions(f, newRouting(b, f, f.A, f.B), tokens, service))
	if err != nil {
		b.Fatal(err)
	}
	token := signIn(b, handler, f.A)
	address := serve(b, handler)
	c := clients(b, 2, func(int) string { return address })
	checked := get(hostOf(f.A), fmt.Sprintf("/company/%d", f.A.CompanyID), token)
	unchecked := get(hostOf(f.A), fmt.Sprintf("/unchecked/company/%d", f.A.CompanyID), token)
	sidebyside.Latency(b, rounds, 400,
		func() { before(service); c[0].call(checked) },
		func() { c[1].call(unchecked) })
}

// BenchmarkEffectivePermissions: what somebody may do, in a tenant with 2,000
// companies, 30,000 memberships and 256 permissions. They are a member of the
// company and of every one above it.
func BenchmarkEffectivePermissions(b *testing.B) {
	f := tenanttest.New(b)
	deepest := large(b, f.A)
	handler, _ := wholeNode(b, f, newRouting(b, f, f.A, f.B))
	// The answer is long, and comes in chunks: that takes a whole client.
	address := fmt.Sprintf("http://%s/access-control/effective?company=%d", serve(b, handler), deepest)
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, address, nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Host = hostOf(f.A)
	request.Header.Set("Authorization", "Bearer "+signIn(b, handler, f.A))
	var took []float64
	for i := range 1200 {
		start := time.Now()
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		length, err := io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || length < 1000 {
			b.Fatalf("%s, %d bytes: %v", answer.Status, length, err)
		}
		if i >= 200 {
			took = append(took, time.Since(start).Seconds())
		}
	}
	const limit = 0.010
	sidebyside.Against(b, sidebyside.Median(took), limit)
}

// large fills a tenant and returns the company that is deepest down.
func large(b *testing.B, tenant tenanttest.Tenant) (deepest int64) {
	b.Helper()
	conn := testdb.Connect(b, tenant.AdminURL)
	defer conn.Close(b.Context())
	for _, statement := range []string{
		`INSERT INTO public.permissions (code, module) SELECT 'team' || i % 16 || '.action' || i, 'team' || i % 16
			FROM generate_series(1, 256 - (SELECT count(*) FROM public.permissions)) i`,
		// Each role grants half of the catalogue and denies a little.
		`INSERT INTO public.roles (role) SELECT 'role' || i FROM generate_series(1, 20) i`,
		`INSERT INTO public.role_permissions (role_id, permission_id, granted)
			SELECT r.id, p.id, (r.id + p.id) % 50 <> 0 FROM public.roles r CROSS JOIN public.permissions p
			WHERE NOT r.is_system_role AND (r.id + p.id) % 2 = 0 AND NOT p.is_system`,
		// A tree: six below each, five levels.
		`DO $$ BEGIN FOR i IN 1..1999 LOOP
			INSERT INTO public.companies (name, parent_company_id) SELECT 'company ' || i, id FROM public.companies ORDER BY id OFFSET (i - 1) / 6 LIMIT 1;
		 END LOOP; END $$`,
		`INSERT INTO public.users (username, full_name) SELECT 'user' || i, 'User ' || i FROM generate_series(1, 1500) i`,
		`INSERT INTO public.user_companies (user_id, company_id)
			SELECT u.id, c.id FROM (SELECT id, row_number() OVER (ORDER BY id) n FROM public.users WHERE username LIKE 'user%') u
			JOIN (SELECT id, row_number() OVER (ORDER BY id) n FROM public.companies) c ON (c.n + u.n) % 100 = 0`,
		fmt.Sprintf(`INSERT INTO public.user_companies (user_id, company_id)
			SELECT %d, p.ancestor_id FROM public.company_paths p WHERE p.descendant_id = (SELECT max(id) FROM public.companies)
			ON CONFLICT DO NOTHING`, tenant.OwnerID),
		`INSERT INTO public.user_company_roles (user_company_id, role_id)
			SELECT m.id, r.id FROM public.user_companies m
			JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 n FROM public.roles WHERE NOT is_system_role) r ON r.n = m.id % 20
			ON CONFLICT DO NOTHING`,
		`ANALYZE`,
	} {
		if _, err := conn.Exec(b.Context(), statement); err != nil {
			b.Fatalf("%s: %v", statement, err)
		}
	}
	var companies, memberships, permissions int
	err := conn.QueryRow(b.Context(), `SELECT max(id), (SELECT count(*) FROM public.companies), (SELECT count(*) FROM public.user_companies), (SELECT count(*) FROM public.permissions)
		FROM public.companies`).Scan(&deepest, &companies, &memberships, &permissions)
	if err != nil || companies != 2000 || memberships < 30000 || permissions != 256 {
		b.Fatalf("%d companies, %d memberships, %d permissions: %v", companies, memberships, permissions, err)
	}
	return deepest
}
