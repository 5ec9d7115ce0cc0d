package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/identity/dbsqlc"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/password"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

const (
	workers = 8 // clients of the benchmarks that do not say otherwise
	rounds  = 9
	each    = 1500 * time.Millisecond
)

// routing is a directory and pools, as a node has them.
type routing struct {
	*directory.Directory

	pools *tenantpool.Pools
}

// newRouting serves the tenants from the fixture's server.
func newRouting(b *testing.B, f *tenanttest.Fixture, tenants ...tenanttest.Tenant) *routing {
	b.Helper()
	return routingOf(b, f, f.Control(b, tenants...), len(tenants))
}

// routingOf serves what the control database knows, so many tenants.
func routingOf(b *testing.B, f *tenanttest.Fixture, control string, tenants int) *routing {
	b.Helper()
	r := &routing{}
	var err error
	// The pools are known to the directory before they know it.
	d := f.DirectoryOf(b, control, tenants, func(e directory.Event) {
		if r.pools != nil {
			r.pools.RouteChanged(e)
		}
	})
	r.Directory = d
	r.pools, err = tenantpool.New(tenantpool.Options{NodeID: "bench", Budget: tenanttest.NewBudget(), Routes: d, Key: f.Key})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.pools.Close(context.Background()); err != nil {
			b.Errorf("close the pools: %v", err)
		}
	})
	return r
}

// fixedPool is what a program with one database has: one connection for each
// client.
func fixedPool(b *testing.B, tenant tenanttest.Tenant, connections int32) *pgxpool.Pool {
	b.Helper()
	u, err := url.Parse(tenant.AdminURL)
	if err != nil {
		b.Fatal(err)
	}
	u.User = url.UserPassword(tenant.Route.Database, tenant.Password)
	// The role's own limit is for the routed pools alone. The bound on
	// statements is for both: Postgres sets a timer for each, and a program with
	// one database would not go without.
	superuser := testdb.Connect(b, tenant.AdminURL)
	for _, set := range []string{"CONNECTION LIMIT 100", fmt.Sprintf("SET statement_timeout = %d", tenant.Route.StatementTimeout.Milliseconds())} {
		if _, err := superuser.Exec(b.Context(), "ALTER ROLE "+tenant.Route.Database+" "+set); err != nil {
			b.Fatal(err)
		}
	}
	pool, err := pg.Open(b.Context(), u.String(), pg.Options{MaxConnections: connections})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}

// serve puts a handler behind a real listener on loopback.
func serve(b *testing.B, handler http.Handler) (address string) {
	b.Helper()
	server := httptest.NewServer(handler)
	b.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// client is one keep-alive connection. It parses no more of an answer than it
// must, so that the time measured is the server's. To a server that closes it,
// it connects anew with the next request.
type client struct {
	b       *testing.B
	address string
	conn    net.Conn
	reader  *bufio.Reader
	body    []byte
}

// clients connects n of them.
func clients(b *testing.B, n int, address func(i int) string) []*client {
	b.Helper()
	all := make([]*client, n)
	for i := range all {
		c := &client{b: b, address: address(i), reader: bufio.NewReader(nil)}
		if err := c.connect(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.conn.Close() })
		all[i] = c
	}
	return all
}

func (c *client) connect() (err error) {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	if c.conn, err = net.Dial("tcp", c.address); err != nil {
		return err
	}
	c.reader.Reset(c.conn)
	return nil
}

// call sends a request and reads the answer to its end.
func (c *client) call(request []byte) {
	if status, err := c.ask(request); err != nil || status != http.StatusOK {
		c.b.Errorf("%d %v %s", status, err, c.body)
	}
}

// ask is call for answers of any status.
func (c *client) ask(request []byte) (status int, err error) {
	if _, err := c.conn.Write(request); err != nil {
		return 0, err
	}
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if status, err = strconv.Atoi(string(line[len("HTTP/1.1 "):][:3])); err != nil {
		return 0, err
	}
	length, closed := 0, false
	for len(line) > 2 {
		if line, err = c.reader.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
		closed = closed || bytes.EqualFold(bytes.TrimSpace(line), []byte("connection: close"))
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	if _, err = io.ReadFull(c.reader, c.body); err == nil && closed {
		err = c.connect()
	}
	return status, err
}

func get(host, path, token string) []byte {
	request := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\n"
	if token != "" {
		request += "Authorization: Bearer " + token + "\r\n"
	}
	return []byte(request + "\r\n")
}

// warm is how many tenants the routed benchmarks serve, one client at each.
const warm = 50

// BenchmarkRoutedVersusFixedPool: what it costs to serve 50 tenants from their
// databases instead of one program's database. 50 clients, each at a tenant of
// its own, beside 50 clients of one pool of 50 connections: as many backends
// work on both sides.
func BenchmarkRoutedVersusFixedPool(b *testing.B) {
	f, tenants := fleet(b)
	pool := fixedPool(b, f.A, warm)
	fixed := smallAPI(direct(func(string) *pgxpool.Pool { return pool }))
	same := get("localhost", fmt.Sprintf("/users/%d", f.A.OwnerID), "")
	compareRouted(b, f, tenants, fixed, func(tenanttest.Tenant) []byte { return same })
}

// BenchmarkRoutedVersusPlainPools: what of that is routing. The reference has a
// plain pool for each tenant in a map by host: no directory, no budget, no LRU.
func BenchmarkRoutedVersusPlainPools(b *testing.B) {
	f, tenants := fleet(b)
	pools := map[string]*pgxpool.Pool{}
	for _, t := range tenants {
		pools[hostOf(t)] = fixedPool(b, t, 4)
	}
	compareRouted(b, f, tenants, smallAPI(direct(func(host string) *pgxpool.Pool { return pools[host] })), ownRequest)
}

// fleet has the tenants of the routed benchmarks.
func fleet(b *testing.B) (*tenanttest.Fixture, []tenanttest.Tenant) {
	b.Helper()
	f := tenanttest.New(b)
	f.Server.MaxConnections = 4 * warm
	tenants := []tenanttest.Tenant{f.A, f.B}
	for i := len(tenants); i < warm; i++ {
		tenants = append(tenants, f.Tenant(b, fmt.Sprintf("tenant-%02d", i)))
	}
	return f, tenants
}

func ownRequest(t tenanttest.Tenant) []byte {
	return get(hostOf(t), fmt.Sprintf("/users/%d", t.OwnerID), "")
}

// compareRouted measures the routed handler beside another.
func compareRouted(b *testing.B, f *tenanttest.Fixture, tenants []tenanttest.Tenant, other http.Handler, request func(tenanttest.Tenant) []byte) {
	b.Helper()
	routedAt, otherAt := serve(b, routedAPI(newRouting(b, f, tenants...))), serve(b, other)
	ours := clients(b, warm, func(int) string { return routedAt })
	reference := clients(b, warm, func(int) string { return otherAt })
	mine, theirs := make([][]byte, warm), make([][]byte, warm)
	for i, t := range tenants {
		mine[i], theirs[i] = ownRequest(t), request(t)
	}
	sidebyside.Throughput(b, warm, rounds, each,
		func(worker int) { ours[worker].call(mine[worker]) },
		func(worker int) { reference[worker].call(theirs[worker]) })
}

// routedAPI takes the connection by the route of the request's host.
func routedAPI(node *routing) http.Handler { return smallAPI(leased(node)) }

func leased(node *routing) func(*http.Request, func(pg.Querier) error) error {
	return func(r *http.Request, work func(pg.Querier) error) error {
		found, err := node.Lookup(r.Host)
		if err != nil {
			return err
		}
		if found, err = node.Admit(r.Context(), found); err != nil {
			return err
		}
		lease, err := node.pools.Lease(r.Context(), found)
		if err != nil {
			return err
		}
		defer lease.Release()
		return work(lease)
	}
}

// direct takes the connection from a plain pool.
func direct(of func(host string) *pgxpool.Pool) func(*http.Request, func(pg.Querier) error) error {
	return func(r *http.Request, work func(pg.Querier) error) error {
		conn, err := of(r.Host).Acquire(r.Context())
		if err != nil {
			return err
		}
		defer conn.Release()
		return work(conn)
	}
}

// smallAPI is a handler with one indexed SELECT.
func smallAPI(do func(r *http.Request, work func(pg.Querier) error) error) http.Handler {
	type user struct {
		ID       int64  `json:"id"`
		FullName string `json:"full_name"`
		Email    string `json:"email"`
	}
	router := chi.NewRouter()
	router.Get("/users/{id}", func(w http.ResponseWriter, r *http.Request) {
		var u user
		err := do(r, func(db pg.Querier) error {
			return db.QueryRow(r.Context(), "SELECT id, full_name, email FROM public.users WHERE id = $1::text::bigint", chi.URLParam(r, "id")).
				Scan(&u.ID, &u.FullName, &u.Email)
		})
		if err != nil {
			problem.Write(w, r, fault.From(err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(u)
	})
	return router
}

// BenchmarkAccountMeVersusBareHandler: what a whole authenticated request costs
// beside a handler that knows its tenant, its user and its database, asks the
// same of the database and writes the same.
func BenchmarkAccountMeVersusBareHandler(b *testing.B) {
	f := tenanttest.New(b)
	node := newRouting(b, f, f.A, f.B)
	handler, tokens := wholeNode(b, f, node)

	sessions := make([]uuid.UUID, workers)
	requests := make([][]byte, workers)
	tenants := [2]tenanttest.Tenant{f.A, f.B}
	for worker := range workers {
		tenant := tenants[worker%2]
		token := signIn(b, handler, tenant)
		verified, err := tokens.Verify(tenant.Route, token)
		if err != nil {
			b.Fatal(err)
		}
		sessions[worker] = verified.SessionID
		requests[worker] = get(hostOf(tenant), "/account/me", token)
	}

	pools := [2]*pgxpool.Pool{fixedPool(b, f.A, workers/2), fixedPool(b, f.B, workers/2)}
	bare := make([]string, workers)
	for worker := range workers {
		tenant := tenants[worker%2]
		router := chi.NewRouter()
		router.Get("/account/me", bareMe(pools[worker%2], dbsqlc.AuthenticateParams{SessionID: sessions[worker], UserID: tenant.OwnerID}))
		bare[worker] = serve(b, router)
	}
	whole := serve(b, handler)
	ours := clients(b, workers, func(int) string { return whole })
	reference := clients(b, workers, func(i int) string { return bare[i] })
	for worker, c := range reference {
		c.call(requests[worker])
		ours[worker].call(requests[worker])
		if x, y := bytes.TrimSpace(ours[worker].body), bytes.TrimSpace(c.body); !bytes.Equal(x, y) {
			b.Fatalf("the answers differ:\n%s\n%s", x, y)
		}
	}
	sidebyside.Throughput(b, workers, rounds, each,
		func(worker int) { ours[worker].call(requests[worker]) },
		func(worker int) { reference[worker].call(requests[worker]) })
}

// BenchmarkLoginVersusHash: how many logins a node gets out of its cores,
// beside what the hash by itself allows: nothing else of a login should count.
func BenchmarkLoginVersusHash(b *testing.B) {
	f := tenanttest.New(b)
	handler, _ := wholeNode(b, f, newRouting(b, f, f.A, f.B))
	requests, hashes := make([][]byte, workers), make([]string, workers)
	for worker := range workers {
		tenant := [2]tenanttest.Tenant{f.A, f.B}[worker%2]
		body := fmt.Sprintf(`{"identifier": %q, "password": %q}`, tenant.OwnerEmail, tenanttest.OwnerPassword)
		requests[worker] = fmt.Appendf(nil, "POST /auth/login HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			hostOf(tenant), len(body), body)
		conn := testdb.Connect(b, tenant.AdminURL)
		if err := conn.QueryRow(b.Context(), "SELECT password_hash FROM public.users WHERE id = $1", tenant.OwnerID).Scan(&hashes[worker]); err != nil {
			b.Fatal(err)
		}
		_ = conn.Close(b.Context())
	}
	address := serve(b, handler)
	ours := clients(b, workers, func(int) string { return address })
	sidebyside.Throughput(b, workers, rounds, each,
		func(worker int) { ours[worker].call(requests[worker]) },
		func(worker int) {
			if ok, _, err := password.Verify(b.Context(), hashes[worker], tenanttest.OwnerPassword); !ok || err != nil {
				b.Errorf("verify: %v %v", ok, err)
			}
		})
}

// wholeNode is the public listener's handler with everything that belongs to
// it.
func wholeNode(b *testing.B, f *tenanttest.Fixture, node *routing) (http.Handler, *identity.AccessTokens) {
	b.Helper()
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	if err != nil {
		b.Fatal(err)
	}
	handler, err := httpapi.New(nodeOptions(f, node, tokens, access.New()))
	if err != nil {
		b.Fatal(err)
	}
	return handler, tokens
}

func nodeOptions(f *tenanttest.Fixture, node *routing, tokens *identity.AccessTokens, who *access.Service) httpapi.Options {
	return httpapi.Options{
		Log: telemetry.NewLogger(io.Discard, slog.LevelInfo, "dataplane"), Metrics: httpserver.NewMetrics(telemetry.NewRegistry()),
		Routes: node, Identity: identity.New(tokens, f.Key), Tokens: tokens, Access: who, Sealer: f.Key, Scheme: "https",
		Lease: func(ctx context.Context, r *route.Route) (httpapi.Lease, error) { return node.pools.Lease(ctx, r) },
	}
}

func signIn(b *testing.B, handler http.Handler, tenant tenanttest.Tenant) (access string) {
	b.Helper()
	body := fmt.Sprintf(`{"identifier": %q, "password": %q}`, tenant.OwnerEmail, tenanttest.OwnerPassword)
	r := httptest.NewRequest(http.MethodPost, "/auth/login", strings.NewReader(body))
	r.Host = hostOf(tenant)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	var answer struct {
		Tokens struct {
			Access string `json:"access"`
		} `json:"tokens"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Tokens.Access == "" {
		b.Errorf("login: %d %s", w.Code, w.Body) // not Fatal: several may sign in at once
	}
	return answer.Tokens.Access
}

func bareMe(pool *pgxpool.Pool, who dbsqlc.AuthenticateParams) http.HandlerFunc {
	queries := dbsqlc.New()
	return func(w http.ResponseWriter, r *http.Request) {
		row, err := queries.Authenticate(r.Context(), pool, who)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var lastLogin *time.Time
		if row.LastLogin != nil {
			at := row.LastLogin.UTC()
			lastLogin = &at
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(httpapi.User{
			ID: row.ID, Username: row.Username, FullName: row.FullName, Email: row.Email, PrimaryMobile: row.PrimaryMobile,
			EmailVerified: row.EmailVerified, PhoneVerified: row.PhoneVerified, AccountUID: row.AccountUID,
			Is2FAEnabled: row.Is2FAEnabled, TwoFAType: row.TwoFAType, DateJoined: row.DateJoined.UTC(), LastLogin: lastLogin,
			Entity: httpapi.Entity{CreatedAt: row.CreatedAt.UTC(), UpdatedAt: row.UpdatedAt.UTC()},
		})
	}
}
