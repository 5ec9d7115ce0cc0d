package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	tenantload "github.com/ouvira/ouvira/dataplane/internal/load"
	"github.com/ouvira/ouvira/shared/testdb"
)

// line is what a test looks at of a record in the log.
type line struct {
	Msg, Route, Tenant string
	Status             int
	DurationMS         float64 `json:"duration_ms"`
	RequestID          string  `json:"request_id"`
	SlowestStatement   string  `json:"slowest_statement"`
	SlowestMS          float64 `json:"slowest_ms"`
	Phases             *struct {
		DirectoryMS float64 `json:"directory_ms"`
		WaitMS      float64 `json:"wait_ms"`
		ConnectMS   float64 `json:"connect_ms"`
		QueryMS     float64 `json:"query_ms"`
		Queries     int
	}
}

// logged are the records with the message.
func (n *node) logged(t *testing.T, message string) (found []line) {
	t.Helper()
	for text := range strings.Lines(n.log.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if l.Msg == message {
			found = append(found, l)
		}
	}
	return found
}

// A request that is held up by one tenant's database is told with where its time
// went, and counts for that tenant.
func TestASlowRequestTellsWhereItsTimeWent(t *testing.T) {
	t.Parallel()
	const slow = 200 * time.Millisecond
	tenants, err := tenantload.New(5, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(o *httpapi.Options) { o.Slow, o.Load = slow, tenants })
	acme, _ := n.login(t, n.A)
	globex, _ := n.login(t, n.B)

	lock := testdb.Connect(t, n.A.AdminURL)
	if _, err := lock.Exec(t.Context(), "BEGIN; LOCK TABLE public.users"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan answer, 1)
	go func() {
		answered <- n.ask(t, http.MethodGet, hostOf(n.A), "/account/me?canary=1", nil, bearer(acme), header("X-Request-Id", "slow-request-1"))
	}()
	n.lineUp(t, n.A, 1)
	expect(t, "the other tenant", n.ask(t, http.MethodGet, hostOf(n.B), "/account/me", nil, bearer(globex)), http.StatusOK)
	<-time.After(slow) // the lock is held for so long
	if _, err := lock.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	expect(t, "the slow request", <-answered, http.StatusOK)

	var told *line
	for _, l := range n.logged(t, "slow request") {
		if l.DurationMS < slow.Seconds()*1000 {
			t.Errorf("a request of %g ms is called slow", l.DurationMS)
		}
		if l.RequestID == "slow-request-1" {
			told = &l
		}
	}
	if told == nil || told.Phases == nil {
		t.Fatal("the slow request is not told")
	}
	if told.Tenant != "acme" || told.Route != "/account/me" || told.Status != http.StatusOK || told.SlowestStatement != "Authenticate" || told.SlowestMS < slow.Seconds()*1000 ||
		told.Phases.QueryMS < told.SlowestMS || told.Phases.Queries < 1 || told.Phases.QueryMS > told.DurationMS {
		t.Errorf("told %+v, phases %+v", *told, *told.Phases)
	}
	if strings.Contains(n.log.String(), "canary") {
		t.Error("the log holds the query string")
	}
	for _, l := range n.logged(t, "request") {
		if l.Phases == nil || l.Phases.Queries < 1 || l.Phases.DirectoryMS+l.Phases.WaitMS+l.Phases.ConnectMS+l.Phases.QueryMS > l.DurationMS {
			t.Errorf("the line of %s at %s: %+v", l.Route, l.Tenant, l.Phases)
		}
	}

	busiest, exact := tenants.Busiest(tenantload.BySeconds, 5)
	if len(busiest) != 2 || !exact || busiest[0].ID != n.A.ID || busiest[0].Database < slow || busiest[0].Requests != 2 || busiest[1].Slug != "globex" || busiest[1].Requests != 2 {
		t.Errorf("the busiest: %+v, exact %t", busiest, exact)
	}
	if failing, _ := tenants.Busiest(tenantload.ByErrors, 5); len(failing) != 0 {
		t.Errorf("failed: %+v", failing)
	}
}

// What the database refuses is an error of its tenant, and of no other.
func TestErrorsAreCountedForTheirTenant(t *testing.T) {
	t.Parallel()
	tenants, err := tenantload.New(5, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(o *httpapi.Options) { o.Load = tenants })
	acme, _ := n.login(t, n.A)
	globex, _ := n.login(t, n.B)
	exec(t, n.A, "ALTER TABLE public.users RENAME TO gone")
	expect(t, "a broken database", n.ask(t, http.MethodGet, hostOf(n.A), "/account/me", nil, bearer(acme)), http.StatusServiceUnavailable)
	expect(t, "the other one", n.ask(t, http.MethodGet, hostOf(n.B), "/account/me", nil, bearer(globex)), http.StatusOK)
	expect(t, "a bad token", n.ask(t, http.MethodGet, hostOf(n.B), "/account/me", nil, bearer(acme)), http.StatusUnauthorized)
	failing, _ := tenants.Busiest(tenantload.ByErrors, 5)
	if len(failing) != 1 || failing[0].ID != n.A.ID || failing[0].Errors != 1 {
		t.Errorf("failed: %+v", failing)
	}
	if slow := n.logged(t, "slow request"); len(slow) != 0 {
		t.Errorf("nobody wants to know, and %d slow requests are told", len(slow))
	}
}
