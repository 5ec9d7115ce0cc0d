package httpapi_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/dataplane/internal/usage"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// usageLedger keeps what is reported to the control database.
type usageLedger struct {
	pg.Querier

	sums map[uuid.UUID]usage.Sum
}

func (l *usageLedger) Exec(_ context.Context, _ string, args ...any) (pgconn.CommandTag, error) {
	for i, id := range args[2].([]uuid.UUID) {
		l.sums[id] = usage.Sum{Requests: args[3].([]int64)[i], Errors: args[4].([]int64)[i], Logins: args[5].([]int64)[i]}
	}
	return pgconn.CommandTag{}, nil
}

// Requests, errors and sign-ins are counted for the tenant that they are of.
func TestUsageIsCounted(t *testing.T) {
	t.Parallel()
	ledger := &usageLedger{sums: map[uuid.UUID]usage.Sum{}}
	counter := usage.New(ledger, "n", slog.New(slog.DiscardHandler))
	n := newNode(t, func(o *httpapi.Options) { o.Usage = counter })
	access, _ := n.login(t, n.A)
	expect(t, "me", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(access)), 200)
	expect(t, "a wrong password", n.ask(t, http.MethodPost, hostOf(n.B), "/auth/login", object{"identifier": n.B.OwnerEmail, "password": "not the password"}), 401)
	expect(t, "nobody's", n.ask(t, http.MethodGet, "nobody.localhost", "/account/me", nil), 404)
	n.Table.Change(n.B.ID, func(r *route.Route) { r.Mode = route.ModeMaintenance })
	expect(t, "maintenance", n.ask(t, http.MethodGet, hostOf(n.B), "/account/me", nil), 503)
	if err := counter.Report(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := (usage.Sum{Requests: 2, Logins: 1}); ledger.sums[n.A.ID] != want {
		t.Errorf("A: %+v, want %+v", ledger.sums[n.A.ID], want)
	}
	if want := (usage.Sum{Requests: 2, Errors: 1}); ledger.sums[n.B.ID] != want || len(ledger.sums) != 2 {
		t.Errorf("B: %+v, want %+v", ledger.sums[n.B.ID], want)
	}
}

// A tenant gets as many users as its plan grants and no more, however many register
// at once; its neighbour has a quota of its own.
func TestAQuotaOfUsers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Limits[route.QuotaUsers] = 4 })
	var number, made, refused atomic.Int64
	register := func(host string) answer {
		return n.ask(t, http.MethodPost, host, "/account/register", object{
			"full_name": "Jane", "email": fmt.Sprintf("jane-%d@example.com", number.Add(1)), "password": "a long enough password",
		})
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			switch a := register(hostOf(n.A)); {
			case a.status == 201:
				made.Add(1)
			case a.status == 403 && a.text("code") == "user_quota":
				refused.Add(1)
			default:
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	group.Wait()
	if made.Load() != 3 || refused.Load() != 5 { // and the owner
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
	if users := value[int](t, n.A, "SELECT count(*) FROM public.users"); users != 4 {
		t.Errorf("%d users", users)
	}
	expect(t, "the neighbour", register(hostOf(n.B)), 201)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Limits[route.QuotaUsers] = 5 })
	expect(t, "a larger plan", register(hostOf(n.A)), 201)
}

// Who has more data than the plan grants adds nothing; signing in, changing, removing
// and reading go on, and so does the neighbour.
func TestAQuotaOfStorage(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a, _ := n.login(t, n.A)
	b, _ := n.login(t, n.B)
	create := func(tenant tenanttest.Tenant, token string) answer {
		return n.ask(t, http.MethodPost, hostOf(tenant), "/company", object{"name": "Another"}, bearer(token))
	}
	company := fmt.Sprintf("/company/%d", n.found(t, n.A, a, "One more", 0))
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Limits["storage_exceeded"] = 1 })
	expect(t, "over it", create(n.A, a), 403, "storage_quota")
	expect(t, "a new account", n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{
		"full_name": "Jane", "email": "jane@example.com", "password": "a long enough password",
	}), 403, "storage_quota")
	expect(t, "without a login", create(n.A, "nobody"), 401)
	expect(t, "the neighbour", create(n.B, b), 201)
	expect(t, "reading", n.ask(t, http.MethodGet, hostOf(n.A), "/company", nil, bearer(a)), 200)
	expect(t, "changing", n.ask(t, http.MethodPatch, hostOf(n.A), company, object{"name": "The same"}, bearer(a)), 200)
	expect(t, "removing", n.ask(t, http.MethodDelete, hostOf(n.A), company, nil, bearer(a)), 204)
	a, _ = n.login(t, n.A)
	n.Table.Change(n.A.ID, func(r *route.Route) { delete(r.Settings.Limits, "storage_exceeded") })
	expect(t, "below it again", create(n.A, a), 201)
}

// The last place is not given out twice: who makes a user waits for others who do.
func TestTheLastPlaceOfAQuota(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Settings.Limits[route.QuotaUsers] = 2 })
	other := testdb.Connect(t, n.A.AdminURL)
	exec := func(sql string) {
		t.Helper()
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("BEGIN")
	exec("INSERT INTO public.users (username, full_name, email) VALUES ('other', 'Other', 'other@example.com')")
	answered := make(chan answer, 1)
	go func() {
		answered <- n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{"full_name": "Jane", "email": "jane@example.com", "password": "a long enough password"})
	}()
	n.lineUp(t, n.A, 1)
	exec("COMMIT")
	expect(t, "the second of two", <-answered, 403, "user_quota")
}
