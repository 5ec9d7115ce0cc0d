package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) {
	// The guardian of the test server lives as long as the process.
	testdb.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/ouvira/ouvira/shared/testdb/guardian.(*guardian).start.func1"))
	}, neverRecorded)
}

// node is a node of the data plane in this process, with two tenants.
type node struct {
	*tenanttest.Fixture

	handler  http.Handler
	tokens   *identity.AccessTokens
	registry *prometheus.Registry
	log      *lines
	audit    auditing

	mu    sync.Mutex
	calls map[uuid.UUID]*counts
}

// counts is what was asked of one tenant's database.
type counts struct{ leases, roundTrips atomic.Int64 }

func newNode(t *testing.T, changes ...func(*httpapi.Options)) *node {
	t.Helper()
	return nodeOver(t, tenanttest.New(t), changes...)
}

// nodeOver is a node, perhaps one of several, over the fixture's databases.
func nodeOver(t *testing.T, f *tenanttest.Fixture, changes ...func(*httpapi.Options)) *node {
	t.Helper()
	n := &node{Fixture: f, registry: telemetry.NewRegistry(), log: &lines{}, calls: map[uuid.UUID]*counts{}}
	log := telemetry.NewLogger(n.log, slog.LevelDebug, "dataplane")
	pools, err := tenantpool.New(tenantpool.Options{NodeID: "test", Budget: tenanttest.NewBudget(), Routes: n.Table, Key: n.Key, Log: log, Wait: 20 * time.Second, ConnectTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	n.Table.Subscribe(pools.RouteChanged)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the node's log:\n%s", n.log)
		}
		if err := pools.Close(context.Background()); err != nil {
			t.Errorf("close the pools: %v", err)
		}
	})
	n.tokens, err = identity.NewAccessTokens("https", "localhost", "")
	if err != nil {
		t.Fatal(err)
	}
	proxies, err := httpserver.ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	options := httpapi.Options{
		Log: log, Metrics: httpserver.NewMetrics(n.registry), Routes: n.Table, Identity: identity.New(n.tokens, n.Key), Access: access.New(), Sealer: n.Key, Audit: &n.audit,
		Tokens: n.tokens, Proxies: proxies, Scheme: "https",
		Lease: func(ctx context.Context, r *route.Route) (httpapi.Lease, error) {
			c := n.counts(r.TenantID)
			c.leases.Add(1)
			lease, err := pools.Lease(ctx, r)
			if err != nil {
				return nil, err
			}
			return &countedLease{lease, c}, nil
		},
	}
	for _, change := range changes {
		change(&options)
	}
	n.handler, err = httpapi.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// auditing is where the heads are kept; until a test says where, nowhere.
type auditing struct {
	heads  audit.Heads
	served atomic.Int64
}

func (a *auditing) Kept(ctx context.Context, tenant uuid.UUID) ([]audit.Head, error) {
	if a.heads == nil {
		return nil, nil
	}
	return a.heads.Kept(ctx, tenant)
}

func (a *auditing) Served(uuid.UUID) { a.served.Add(1) }

func (n *node) counts(tenant uuid.UUID) *counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.calls[tenant] == nil {
		n.calls[tenant] = &counts{}
	}
	return n.calls[tenant]
}

// leases says how often the tenant's database was asked for.
func (n *node) leases(tenant tenanttest.Tenant) int64 { return n.counts(tenant.ID).leases.Load() }

type countedLease struct {
	httpapi.Lease
	counts *counts
}

func (l *countedLease) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	l.counts.roundTrips.Add(1)
	noteLedger(ctx, sql)
	return l.Lease.Exec(ctx, sql, args...)
}

func (l *countedLease) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	l.counts.roundTrips.Add(1)
	noteLedger(ctx, sql)
	return l.Lease.Query(ctx, sql, args...)
}

func (l *countedLease) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	l.counts.roundTrips.Add(1)
	noteLedger(ctx, sql)
	return l.Lease.QueryRow(ctx, sql, args...)
}

func (l *countedLease) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	l.counts.roundTrips.Add(1)
	tx, err := l.Lease.BeginTx(ctx, opts)
	return watchedTx{tx}, err
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

// at digs into the body: at("tokens", "access").
func (a answer) at(path ...string) any {
	var v any = a.body
	for _, key := range path {
		object, _ := v.(map[string]any)
		v = object[key]
	}
	return v
}

func (a answer) text(path ...string) string {
	s, _ := a.at(path...).(string)
	return s
}

func (a answer) number(path ...string) int64 {
	f, _ := a.at(path...).(float64)
	return int64(f)
}

// edit changes a request before it is sent.
type edit func(*http.Request)

func bearer(token string) edit {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func header(name, value string) edit {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

func peer(address string) edit {
	return func(r *http.Request) { r.RemoteAddr = address }
}

// ask sends a request to a host; body is marshalled unless it is a string.
func (n *node) ask(t *testing.T, method, host, path string, body any, edits ...edit) answer {
	t.Helper()
	payload := ""
	switch b := body.(type) {
	case nil:
	case string:
		payload = b
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(raw)
	}
	ctx, ledger := watchLedger(t.Context())
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(payload))
	r.Host = host
	r.RemoteAddr = "198.51.100.7:40000"
	if payload != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, e := range edits {
		e(r)
	}
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header(), raw: w.Body.String()}
	_ = json.Unmarshal(w.Body.Bytes(), &a.body) // not every answer has a body
	noteRecorded(r, a, ledger)
	return a
}

type object = map[string]any

func hostOf(tenant tenanttest.Tenant) string { return tenant.Route.Slug + ".localhost" }

// login signs the tenant's owner in.
func (n *node) login(t *testing.T, tenant tenanttest.Tenant) (access, refresh string) {
	t.Helper()
	a := n.ask(t, http.MethodPost, hostOf(tenant), "/auth/login", object{"identifier": tenant.OwnerEmail, "password": tenanttest.OwnerPassword})
	if a.status != http.StatusOK {
		t.Fatalf("login at %s: %d %s", hostOf(tenant), a.status, a.raw)
	}
	return a.text("tokens", "access"), a.text("tokens", "refresh")
}

// expect fails the test unless the answer has the status, and the code where
// one is given.
func expect(t *testing.T, what string, a answer, status int, code ...string) {
	t.Helper()
	if a.status != status || (len(code) > 0 && a.text("code") != code[0]) {
		t.Errorf("%s: got %d %s, want %d %v", what, a.status, a.raw, status, code)
	}
	if a.status >= 400 && !strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
		t.Errorf("%s: the refusal is no problem document: %s", what, a.header.Get("Content-Type"))
	}
}

// exec runs a statement as superuser in the tenant's database.
func exec(t *testing.T, tenant tenanttest.Tenant, sql string, args ...any) {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value reads one value as superuser in the tenant's database.
func value[T any](t *testing.T, tenant tenanttest.Tenant, sql string, args ...any) T {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// lineUp waits until so many sessions of the tenant's database wait for locks.
func (n *node) lineUp(t *testing.T, tenant tenanttest.Tenant, sessions int) {
	t.Helper()
	const waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
	for deadline := time.Now().Add(10 * time.Second); value[int](t, tenant, waiting) < sessions; {
		if time.Now().After(deadline) {
			t.Fatal("the callers do not line up")
		}
	}
}
