package usage_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/usage"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

var actor = &audit.Actor{Kind: audit.KindWorker, ID: "test", Name: "test"}

func exec(t *testing.T, conn pg.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](t *testing.T, conn pg.Querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// tenant is a row of one, without a database.
func tenant(t *testing.T, control controltest.Control) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	exec(t, control.Pool, `INSERT INTO control.tenants (id, slug, name, status, plan_id)
		SELECT $1::uuid, 'a' || right($1::uuid::text, 12), 'A', 'active', id FROM control.plans`, id)
	return id
}

// Sizes and connections come from real servers; a quota is told of once until the
// tenant is below it again, and the neighbour's is its own.
func TestWhatIsSeenOnServers(t *testing.T) {
	t.Parallel()
	w := fleettest.New(t)
	server := fleettest.TenantServer(t, testdb.System)
	w.AddServer(t, "a", server.ProvisionerURL, 1000)
	acme, globex := w.Tenant(t, "acme"), w.Tenant(t, "globex")
	clock := time.Date(2027, time.March, 1, 12, 10, 0, 0, time.UTC)
	s := &usage.Service{DB: w.Pool, Servers: w.Servers, Log: w.Log, Now: func() time.Time { return clock }}

	name := one[string](t, w.Pool, "SELECT database_name FROM control.tenants WHERE id = $1", acme)
	config, err := pgx.ParseConfig(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Database = name
	for range 2 {
		busy, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close(context.Background())
	}
	look := func() {
		t.Helper()
		if err := s.Sample(t.Context(), actor); err != nil {
			t.Fatal(err)
		}
	}
	look()
	hours := func(id uuid.UUID) []usage.Usage {
		t.Helper()
		list, err := s.Of(t.Context(), id, clock.Add(-time.Hour), clock.Add(time.Hour), true)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := hours(acme); len(got) != 1 || got[0].DatabaseBytes < 1<<20 || got[0].Connections != 2 || got[0].From.Minute() != 0 {
		t.Fatalf("%+v", got)
	}
	if got := hours(globex); len(got) != 1 || got[0].DatabaseBytes < 1<<20 || got[0].Connections != 0 {
		t.Errorf("%+v", got)
	}

	exec(t, w.Pool, "UPDATE control.plans SET max_storage_mb = 1")
	exec(t, w.Pool, `INSERT INTO control.plans (id, code, name, max_connections, statement_timeout_ms)
		VALUES ('01900000-0000-7000-8000-000000000002', 'large', 'Large', 10, 1000)`)
	exec(t, w.Pool, "UPDATE control.tenants SET plan_id = '01900000-0000-7000-8000-000000000002' WHERE id = $1", globex)
	told := func(id uuid.UUID) int {
		return one[int](t, w.Pool, "SELECT count(*) FROM control.events WHERE type = 'quota.exceeded' AND tenant_id = $1", id)
	}
	// exceeded is what the nodes hear.
	exceeded := func(id uuid.UUID) bool {
		return one[bool](t, w.Pool, "SELECT COALESCE(settings -> 'limits' ? 'storage_exceeded', false) FROM node.routes_v1 WHERE tenant_id = $1", id)
	}
	version := func(id uuid.UUID) int64 {
		return one[int64](t, w.Pool, "SELECT version FROM node.routes_v1 WHERE tenant_id = $1", id)
	}
	before := version(acme)
	look() // the server is left alone; what was seen of it counts for the plan as it is now
	if visited := one[time.Time](t, w.Pool, "SELECT visited_at FROM control.usage_visits"); !visited.Equal(clock) {
		t.Errorf("the server was looked at again at once: %v", visited)
	}
	for range 2 {
		clock = clock.Add(usage.Every)
		look()
	}
	if told(acme) != 1 || told(globex) != 0 {
		t.Errorf("told %d times, the neighbour %d times", told(acme), told(globex))
	}
	noted := version(acme)
	if exceeded(acme) || noted <= before {
		t.Errorf("a plan that only notifies: exceeded %v, version %d after %d", exceeded(acme), noted, before)
	}
	exec(t, w.Pool, "UPDATE control.plans SET over_quota = 'refuse'")
	if !exceeded(acme) || exceeded(globex) {
		t.Errorf("the nodes hear of it: %v, of the neighbour: %v", exceeded(acme), exceeded(globex))
	}
	exec(t, w.Pool, "UPDATE control.plans SET max_storage_mb = 100000")
	look()
	if exceeded(acme) || version(acme) <= noted {
		t.Errorf("a larger plan: exceeded %v, version %d after %d", exceeded(acme), version(acme), noted)
	}
	exec(t, w.Pool, "UPDATE control.plans SET max_storage_mb = 1 WHERE code = 'standard'")
	clock = clock.Add(usage.Every)
	look()
	if told(acme) != 2 {
		t.Errorf("over the quota again, and told %d times", told(acme))
	}
}

// A node's report counts once, is added to the hour, and is refused when it is not
// one; days are added up, and what is old goes.
func TestWhatNodesReport(t *testing.T) {
	t.Parallel()
	control := controltest.New(t)
	node := testdb.Connect(t, control.NodeURL)
	acme, globex := tenant(t, control), tenant(t, control)
	report := func(instance string, sequence int64, tenants []uuid.UUID, counts ...[]int64) error {
		_, err := node.Exec(t.Context(), "SELECT node.report_usage($1, $2, $3, $4, $5, $6)", instance, sequence, tenants, counts[0], counts[1], counts[2])
		return err
	}
	both := []uuid.UUID{acme, globex}
	for _, r := range []struct {
		instance string
		sequence int64
	}{{"n1", 1}, {"n1", 1}, {"n2", 1}, {"n1", 2}, {"n1", 1}} {
		if err := report(r.instance, r.sequence, both, []int64{10, 1}, []int64{2, 0}, []int64{1, 0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := report("n3", 1, []uuid.UUID{uuid.New(), globex, globex}, []int64{5, 1, 1}, []int64{0, 0, 0}, []int64{0, 0, 0}); err != nil {
		t.Errorf("a tenant that is gone, and one that is there twice: %v", err)
	}
	many := make([]uuid.UUID, 10_001)
	zeros := make([]int64, 10_001)
	for what, err := range map[string]error{
		"lists of different length": report("n4", 1, both, []int64{1}, []int64{1, 1}, []int64{1, 1}),
		"a negative count":          report("n4", 1, both, []int64{1, -1}, []int64{1, 1}, []int64{1, 1}),
		"a count beyond belief":     report("n4", 1, both, []int64{1, 1 << 60}, []int64{1, 1}, []int64{1, 1}),
		"too many tenants":          report("n4", 1, many, zeros, zeros, zeros),
		"no name":                   report("", 1, both, []int64{1, 1}, []int64{1, 1}, []int64{1, 1}),
		"a long name":               report(strings.Repeat("n", 101), 1, both, []int64{1, 1}, []int64{1, 1}, []int64{1, 1}),
	} {
		if pg.Code(err) != "22023" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, denied := range []string{"SELECT * FROM control.usage_hours", "INSERT INTO control.usage_reports VALUES ('x', 1)"} {
		if _, err := node.Exec(t.Context(), denied); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v", denied, err)
		}
	}
	s := &usage.Service{DB: control.Pool}
	now := time.Now().UTC()
	today := now.Truncate(24 * time.Hour)
	exec(t, control.Pool, "INSERT INTO control.usage_hours (tenant_id, hour, requests, connections) VALUES ($1, $2, 7, 3), ($1, $3, 1, 1)",
		acme, today.AddDate(0, 0, -1).Add(time.Hour), today.AddDate(0, 0, -20))
	exec(t, control.Pool, "INSERT INTO control.usage_days VALUES ($1, $2, 0, 0, 1, 0, 0)", acme, today.AddDate(0, 0, -500))
	for range 2 { // adding up twice changes nothing
		if err := s.RollUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	days, err := s.Of(t.Context(), acme, today.AddDate(0, 0, -600), today.AddDate(0, 0, 1), false)
	want := []usage.Usage{
		{From: today.AddDate(0, 0, -1), Connections: 3, Requests: 7},
		{From: today, Requests: 30, Errors: 6, Logins: 3},
	}
	if err != nil || !slices.Equal(days, want) {
		t.Errorf("%+v, want %+v; %v", days, want, err)
	}
	if days, err = s.Of(t.Context(), globex, today, today.AddDate(0, 0, 1), false); err != nil || len(days) != 1 || days[0].Requests != 5 {
		t.Errorf("the neighbour: %+v %v", days, err)
	}
	if n := one[int](t, control.Pool, "SELECT count(*) FROM control.usage_hours WHERE hour < now() - interval '14 days'"); n != 0 {
		t.Errorf("%d old hours are kept", n)
	}
	if _, err := s.Of(t.Context(), acme, today, today, true); err == nil {
		t.Error("a time that ends before it begins")
	}
}
