package tenantpool_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func pid(t testing.TB, l *tenantpool.Lease) int {
	t.Helper()
	var id int
	if err := l.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// An LRU of one pool, and queries that outlast their pool's place in it.
func TestInvariant02AnEvictedPoolServesItsLeasesToTheEnd(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20, func(o *tenantpool.Options) { o.MaxPools = 1 })
	var group sync.WaitGroup
	for i := range 6 {
		tenant := []tenanttest.Tenant{n.A, n.B}[i%2]
		group.Go(func() {
			for range 8 {
				l, err := n.pools.Lease(t.Context(), tenant.Route)
				if err != nil {
					t.Error(err)
					return
				}
				var email string
				err = l.QueryRow(t.Context(), "SELECT email FROM users, pg_sleep(0.05) WHERE id = $1", tenant.OwnerID).Scan(&email)
				if err != nil || email != tenant.OwnerEmail {
					t.Errorf("%s: %q, %v", tenant.Route.Slug, email, err)
				}
				l.Release()
			}
		})
	}
	group.Wait()
	// The pool that is out of the LRU is closed: only one tenant's may be left.
	conn := testdb.Connect(t, n.SuperuserDB)
	eventually(t, "the evicted pool is closed", func() bool {
		var databases int
		err := conn.QueryRow(t.Context(), "SELECT count(DISTINCT datname) FROM pg_stat_activity WHERE starts_with(application_name, 'ouvira/' || $1::text || '/')", n.id).Scan(&databases)
		return err == nil && databases <= 1
	})
}

func TestInvariant03ANewDomainDoesNotCostAWarmPool(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	l := n.lease(t, n.A)
	before := pid(t, l)
	l.Release()
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Hosts = []string{"crm.acme.example"} })
	l = n.lease(t, n.A)
	defer l.Release()
	if after := pid(t, l); after != before {
		t.Error("the connection is another one")
	}
	if len(l.Route().Hosts) != 1 {
		t.Error("the lease does not know the newer route")
	}
}

func TestInvariant03AnotherKeyIsAnotherPool(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	old := n.lease(t, n.A)
	idle := n.lease(t, n.A)
	gone := pid(t, idle)
	idle.Release()
	n.Table.Change(n.A.ID, func(r *route.Route) { r.StatementTimeout = 7 * time.Second })
	// Idle connections of the old pool go, what is leased stays.
	conn := testdb.Connect(t, n.SuperuserDB)
	eventually(t, "the idle connection is closed", func() bool {
		var there bool
		err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", gone).Scan(&there)
		return err == nil && !there
	})
	fresh := n.lease(t, n.A)
	defer fresh.Release()
	for l, want := range map[*tenantpool.Lease]string{old: "30s", fresh: "7s"} {
		var timeout string
		if err := l.QueryRow(t.Context(), "SHOW statement_timeout").Scan(&timeout); err != nil || timeout != want {
			t.Errorf("statement_timeout = %q, %v; want %q", timeout, err, want)
		}
	}
	old.Release()
}

// The route that the request was looked up by is superseded before the lease:
// the lease is made by the newer one.
func TestInvariant03ARouteChangedBetweenLookupAndLease(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	if err := n.use(t.Context(), n.A); err != nil {
		t.Fatal(err)
	}
	looked, _ := n.Table.ByID(n.A.ID)
	n.rotate(t, n.A)
	l, err := n.pools.Lease(t.Context(), looked)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if l.Route().Version <= looked.Version {
		t.Error("the lease was made by the old route")
	}
	n.Table.Change(n.B.ID, func(r *route.Route) { r.Status = route.StatusSuspended })
	_, err = n.pools.Lease(t.Context(), n.B.Route)
	wantFault(t, err, fault.KindForbidden, "tenant_suspended")
}

// The route changes in the directory and the news (RouteChanged) is still on
// its way: leases are made by the new route already.
func TestInvariant03ALeaseDoesNotWaitForTheNews(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	pools, err := tenantpool.New(tenantpool.Options{NodeID: n.id, Budget: tenanttest.NewBudget(), Routes: n.Table, Key: n.Key})
	if err != nil {
		t.Fatal(err)
	}
	lease := func(tenant tenanttest.Tenant) string {
		l, err := pools.Lease(t.Context(), tenant.Route)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		var timeout string
		if err := l.QueryRow(t.Context(), "SHOW statement_timeout").Scan(&timeout); err != nil {
			t.Fatal(err)
		}
		return timeout
	}
	before := lease(n.A)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.StatementTimeout = 7 * time.Second })
	if after := lease(n.A); before != "30s" || after != "7s" {
		t.Errorf("statement_timeout was %s, is %s", before, after)
	}
	if other := lease(n.B); other != "30s" {
		t.Errorf("the other tenant's is %s", other)
	}
	if err := pools.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Requests that stand in line when their tenant's mode changes are answered by
// the new one, not served and not left waiting.
func TestInvariant05WhoWaitsHearsOfAnotherMode(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(r *route.Route)
		kind   fault.Kind
		code   string
	}{
		"suspended":   {func(r *route.Route) { r.Status = route.StatusSuspended }, fault.KindForbidden, "tenant_suspended"},
		"maintenance": {func(r *route.Route) { r.Mode = route.ModeMaintenance }, fault.KindUnavailable, "maintenance"},
		"held":        {func(r *route.Route) { r.Mode = route.ModeHold }, fault.KindUnavailable, "tenant_held"},
		"deleted":     {func(r *route.Route) { r.Deleted = true }, fault.KindNotFound, "unknown_host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, 20, func(o *tenantpool.Options) { o.Wait = time.Minute })
			n.Table.Change(n.A.ID, func(r *route.Route) { r.MaxConnections = 1 })
			held := n.lease(t, n.A)
			defer held.Release()
			answers := make(chan error, 20)
			for range cap(answers) {
				go func() {
					_, err := n.pools.Lease(t.Context(), n.A.Route)
					answers <- err
				}()
			}
			eventually(t, "they wait", func() bool { return n.pools.Waiting(n.Server.ID) == cap(answers) })
			n.Table.Change(n.A.ID, c.change)
			for range cap(answers) { // the connection is not given back before
				if f := wantFault(t, <-answers, c.kind, c.code); c.kind == fault.KindUnavailable && f.Wait <= 0 {
					t.Error("Retry-After is missing")
				}
			}
			if pid(t, held) == 0 {
				t.Error("the lease that was out was lost")
			}
			if err := n.use(t.Context(), n.B); err != nil {
				t.Errorf("the other tenant: %v", err)
			}
		})
	}
}

// rotate gives the tenant's role a new password and publishes it.
func (n *node) rotate(t testing.TB, tenant tenanttest.Tenant) string {
	t.Helper()
	password := pg.NewPassword()
	verifier, err := pg.SCRAMVerifier(password)
	if err != nil {
		t.Fatal(err)
	}
	n.exec(t, "ALTER ROLE "+tenant.Route.Database+" PASSWORD '"+verifier+"'")
	n.Table.Change(tenant.ID, func(r *route.Route) { r.Credential = n.Seal(t, tenant.ID, 1, password) })
	return password
}

// The name of a dropped database was given to another tenant, with a role and
// password that still fit: the marker says no.
func TestInvariant04ADatabaseNameReusedByAnotherTenant(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	inside := testdb.Connect(t, n.A.AdminURL)
	if _, err := inside.Exec(t.Context(), "UPDATE ouvira.marker SET tenant_id = $1", n.B.ID); err != nil {
		t.Fatal(err)
	}
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	wantFault(t, err, fault.KindUnavailable, "database_unavailable")
	if n.Table.Refreshes.Load() == 0 {
		t.Error("the route was not read again")
	}
	n.none(t)
}

// The same with a database and a role that really are another's: dropped under
// warm connections, made for a stranger, named as before, by the same password.
func TestAdversarial08ADroppedDatabasesNameServesAStranger(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	if err := n.use(t.Context(), n.A); err != nil {
		t.Fatal(err)
	}
	name := n.A.Route.Database
	another := n.Database(t, uuid.New(), 1, n.A.Password, 10)
	n.exec(
		t,
		"DROP DATABASE "+name+" WITH (FORCE)", "DROP ROLE "+name,
		"ALTER DATABASE "+another+" RENAME TO "+name, "ALTER ROLE "+another+" RENAME TO "+name,
	)
	for range 5 {
		_, err := n.pools.Lease(t.Context(), n.A.Route)
		wantFault(t, err, fault.KindUnavailable, "database_unavailable")
	}
	if err := n.use(t.Context(), n.B); err != nil {
		t.Errorf("the other tenant: %v", err)
	}
	n.exec(t, "ALTER DATABASE "+name+" RENAME TO "+another, "ALTER ROLE "+name+" RENAME TO "+another)
}

func TestInvariant04AnotherIncarnationIsAnotherDatabase(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	n.Table.Change(n.A.ID, func(r *route.Route) {
		r.Incarnation = 2
		r.Credential = n.Seal(t, n.A.ID, 2, n.A.Password)
	})
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	wantFault(t, err, fault.KindUnavailable, "database_unavailable")
}

// The tenant has moved, and this node hears of it only when the old database
// refuses it.
func TestInvariant05ARefusalIsTriedAgainByANewerRoute(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	password := pg.NewPassword()
	moved := n.Database(t, n.A.ID, 2, password, 10)
	inside := testdb.Connect(t, n.A.AdminURL)
	if _, err := inside.Exec(t.Context(), "UPDATE ouvira.marker SET tenant_id = $1", n.B.ID); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	n.Table.OnRefresh = func() {
		once.Do(func() {
			n.Table.Change(n.A.ID, func(r *route.Route) {
				r.Incarnation, r.Database, r.Credential = 2, moved, n.Seal(t, n.A.ID, 2, password)
			})
		})
	}
	l, err := n.pools.Lease(t.Context(), n.A.Route)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if l.Route().Database != moved {
		t.Error("the lease is for the old database")
	}
}

// Each way in which a database can refuse, and nothing newer to try: the route
// is read again, there is no second attempt, 503.
func TestInvariant05WithoutANewerRouteARefusalIs503(t *testing.T) {
	t.Parallel()
	for name, fence := range map[string]func(t *testing.T, n *node){
		"no login":     func(t *testing.T, n *node) { n.exec(t, "ALTER ROLE "+n.A.Route.Database+" NOLOGIN") },
		"password":     func(t *testing.T, n *node) { n.exec(t, "ALTER ROLE "+n.A.Route.Database+" PASSWORD 'another'") },
		"not a member": func(t *testing.T, n *node) { n.exec(t, "REVOKE ouvira_app FROM "+n.A.Route.Database) },
		"no connect": func(t *testing.T, n *node) {
			n.exec(t, "REVOKE CONNECT ON DATABASE "+n.A.Route.Database+" FROM "+n.A.Route.Database)
		},
		"closed": func(t *testing.T, n *node) {
			n.exec(t, "ALTER DATABASE "+n.A.Route.Database+" ALLOW_CONNECTIONS false")
		},
		"dropped": func(t *testing.T, n *node) { n.exec(t, "DROP DATABASE "+n.A.Route.Database+" WITH (FORCE)") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, 20)
			fence(t, n)
			_, err := n.pools.Lease(t.Context(), n.A.Route)
			f := wantFault(t, err, fault.KindUnavailable, "database_unavailable")
			if f.Wait <= 0 {
				t.Error("Retry-After is missing")
			}
			if again := n.Table.Refreshes.Load(); again < 1 || again > 3 {
				t.Errorf("the route was read again %d times, want one to three", again)
			}
			if err := n.use(t.Context(), n.B); err != nil {
				t.Errorf("the other tenant: %v", err)
			}
		})
	}
}

// A fence reaches the node before the news of the suspension: the answer is
// 403, also with connections that were warm when they were terminated.
func TestSec06ASuspendedTenantIsRefusedAlsoByAFence(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	l := n.lease(t, n.A)
	victim := pid(t, l)
	l.Release()
	role := n.A.Route.Database
	n.exec(t, "REVOKE ouvira_app FROM "+role, "ALTER ROLE "+role+" NOLOGIN CONNECTION LIMIT 0")
	conn := testdb.Connect(t, n.SuperuserDB)
	eventually(t, "the warm connection is terminated", func() bool {
		_, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend($1)", victim)
		var there bool
		_ = conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", victim).Scan(&there)
		return err == nil && !there
	})
	n.Table.OnRefresh = func() {
		n.Table.Change(n.A.ID, func(r *route.Route) { r.Status = route.StatusSuspended })
	}
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	wantFault(t, err, fault.KindForbidden, "tenant_suspended")
	// Resumed: the same node serves it again.
	n.exec(t, "GRANT ouvira_app TO "+role, "ALTER ROLE "+role+" LOGIN CONNECTION LIMIT 10")
	n.Table.OnRefresh = nil
	n.Table.Change(n.A.ID, func(r *route.Route) { r.Status = route.StatusActive })
	if err := n.use(t.Context(), n.A); err != nil {
		t.Errorf("after resuming: %v", err)
	}
}

// Connections that the server has ended while they were idle are not leased.
func TestIdleConnectionsThatTheServerEndedAreNotLeased(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	held := []*tenantpool.Lease{n.lease(t, n.A), n.lease(t, n.A), n.lease(t, n.A)}
	for _, l := range held {
		l.Release()
	}
	released := time.Now()
	conn := testdb.Connect(t, n.SuperuserDB)
	if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'ouvira/' || $1::text || '/')", n.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the backends are gone", func() bool {
		count, err := n.backends(t.Context(), conn)
		return err == nil && count == 0
	})
	// What was used a moment ago is not looked at.
	eventually(t, "the connections count as idle", func() bool { return time.Since(released) > 20*time.Millisecond })
	for range 3 {
		if err := n.use(t.Context(), n.A); err != nil {
			t.Error(err)
		}
	}
}

func TestSec38APasswordRotatesUnderLoad(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := n.use(ctx, n.A); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
					t.Errorf("during the rotation: %v", err)
				}
			}
		})
	}
	for range 5 {
		n.rotate(t, n.A)
		if err := n.use(t.Context(), n.A); err != nil {
			t.Errorf("after a rotation: %v", err)
		}
	}
	cancel()
	load.Wait()
}

func TestCloseWaitsForLeasesAndRefusesNewOnes(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	l := n.lease(t, n.A)
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.pools.Close(soon); err == nil {
		t.Error("closed with a lease out")
	}
	_, err := n.pools.Lease(t.Context(), n.A.Route)
	wantFault(t, err, fault.KindUnavailable, "stopping")
	if pid(t, l) == 0 {
		t.Error("the lease does not work any more")
	}
	l.Release()
	if err := n.pools.Close(t.Context()); err != nil {
		t.Error(err)
	}
	n.none(t)
}
