package directory_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestSec03HostsLeadToTheirTenantOrToNone(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme, globex := c.tenant(t, "acme"), c.tenant(t, "globex")
	c.domain(t, acme, "crm.acme.example", true)
	c.exec(t, `INSERT INTO control.domains (id, tenant_id, hostname, status, challenge) VALUES ($1, $2, 'unproven.example', 'pending', 'x')`, uuid.New(), globex)
	c.publish(t, acme)
	c.publish(t, globex)
	d := run(t, c.options())
	for host, want := range map[string]uuid.UUID{
		"acme.localhost": acme, "acme.localhost:8000": acme, "ACME.LocalHost.": acme, "crm.acme.example": acme,
		"CRM.Acme.Example:443": acme, "globex.localhost": globex,
	} {
		if !finds(d, host, want) {
			t.Errorf("%s does not lead to its tenant", host)
		}
	}
	for host, kind := range map[string]fault.Kind{
		"localhost": fault.KindNotFound, "initech.localhost": fault.KindNotFound, "x.acme.localhost": fault.KindNotFound,
		"acme.example": fault.KindNotFound, "acme": fault.KindNotFound, "acme.localhost.evil.example": fault.KindNotFound,
		"evilacme.localhost": fault.KindNotFound, "unproven.example": fault.KindNotFound,
		"": fault.KindMalformed, "acme..localhost": fault.KindMalformed, "127.0.0.1:8000": fault.KindMalformed,
	} {
		if r, err := d.Lookup(host); r != nil || !fault.Is(err, kind) {
			t.Errorf("Lookup(%q) = %v, %v", host, r, err)
		}
	}
	r, _ := d.ByID(acme)
	if host := d.PrimaryHost(r); host != "crm.acme.example" {
		t.Errorf("the primary host of acme is %s", host)
	}
	r, _ = d.BySlug("globex")
	if host := d.PrimaryHost(r); host != "globex.localhost" {
		t.Errorf("the primary host of globex is %s", host)
	}
}

// What the route says reaches the node whole.
func TestARouteCarriesWhatAConnectionIsMadeFrom(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	id := c.tenant(t, "acme")
	d := run(t, c.options())
	r, ok := d.ByID(id)
	if !ok || r.Server == nil || r.Server.Name != "a" || r.Server.MaxConnections != 40 || r.MaxConnections != 10 ||
		r.StatementTimeout != 30*time.Second || r.Incarnation != 1 || len(r.Credential) != 96 || !strings.HasPrefix(r.Database, "ov_") ||
		len(r.Keys) != 1 || r.Keys[0].Crv != "P-256" || r.TokenEpoch != 1 || r.SchemaVersion != 2 {
		t.Errorf("the route is %+v", r)
	}
}

// Names that change hands within one pull, in either order of the versions.
func TestNamesChangeHandsWithinOnePull(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	a, b := c.tenant(t, "acme"), c.tenant(t, "globex")
	c.domain(t, a, "shop.example", true)
	c.publish(t, a)
	d := run(t, c.options())
	for _, laterWins := range []bool{true, false} {
		eventually(t, "the domain leads to its holder", func() bool { return finds(d, "shop.example", a) })
		order := []uuid.UUID{a, b}
		if !laterWins {
			order = []uuid.UUID{b, a}
		}
		tx, err := c.admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.exec(t, "UPDATE control.domains SET tenant_id = $1", b)
		c.exec(t, "UPDATE control.tenants SET slug = 'between' WHERE id = $1", a)
		c.exec(t, "UPDATE control.tenants SET slug = 'acme' WHERE id = $1", b)
		c.exec(t, "UPDATE control.tenants SET slug = 'globex' WHERE id = $1", a)
		c.publish(t, order[0])
		c.publish(t, order[1])
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all names have changed hands", func() bool {
			return finds(d, "shop.example", b) && finds(d, "acme.localhost", b) && finds(d, "globex.localhost", a)
		})
		a, b = b, a
	}
}

func TestStartupErrorsThatWaitingDoesNotMend(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	for name, spoil := range map[string]func(o *directory.Options){
		"password": func(o *directory.Options) {
			i := strings.LastIndex(o.DSN, "@")
			o.DSN = o.DSN[:i] + "x" + o.DSN[i:]
		},
		"database": func(o *directory.Options) { o.DSN = strings.Replace(o.DSN, c.database, "nowhere", 1) },
		"address":  func(o *directory.Options) { o.DSN = "not a url" },
	} {
		o := c.options()
		spoil(&o)
		d, err := directory.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err = d.Run(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "OUVIRA_NODE_DATABASE_URL") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "not a url") {
			t.Errorf("%s: the error repeats the address", name)
		}
	}
	for name, spoil := range map[string]func(o *directory.Options){
		"no base domain": func(o *directory.Options) { o.BaseDomain = "" },
		"no name":        func(o *directory.Options) { o.NodeID = "" },
	} {
		o := c.options()
		spoil(&o)
		if _, err := directory.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A node may start before its control database is there.
func TestANodeWaitsForAControlDatabaseThatIsNotMigratedYet(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	c.exec(t, "ALTER SCHEMA node RENAME TO node_later")
	o := c.options()
	o.PollEvery = 50 * time.Millisecond
	d, err := directory.New(o)
	if err != nil {
		t.Fatal(err)
	}
	start(t, d)
	if _, err := d.Lookup("acme.localhost"); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("before it is ready: %v", err)
	}
	c.exec(t, "ALTER SCHEMA node_later RENAME TO node")
	eventually(t, "the directory is ready", d.Ready)
}

// The node's role reads the contract and nothing else.
func TestTheNodesRoleSeesTheContractAlone(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	conn := testdb.Connect(t, c.nodeURL)
	for _, sql := range []string{
		"SELECT 1 FROM control.tenants", "SELECT provisioner_credential FROM control.servers", "UPDATE control.route_clock SET version = 0",
		"SELECT control.publish_server(gen_random_uuid())", "CREATE TABLE public.x (a int)", "DELETE FROM control.members",
	} {
		if _, err := conn.Exec(t.Context(), sql); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Requests of a held tenant wait for the hold to end, and not longer than the
// bound; the other states answer at once.
func TestAdmit(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme, globex := c.tenant(t, "acme"), c.tenant(t, "globex")
	o := c.options()
	o.HoldFor = time.Second
	d := run(t, o)
	mode := func(tenant uuid.UUID, to string) *route.Route {
		c.exec(t, "UPDATE control.tenants SET route_mode = $2 WHERE id = $1", tenant, to)
		c.publish(t, tenant)
		var r *route.Route
		eventually(t, "the mode is known", func() bool { r, _ = d.ByID(tenant); return string(r.Mode) == to })
		return r
	}
	if _, err := d.Admit(t.Context(), mode(acme, "maintenance")); !fault.Is(err, fault.KindUnavailable) || fault.From(err).Wait <= 0 {
		t.Errorf("maintenance: %v", err)
	}
	held := mode(acme, "hold")
	begun := time.Now()
	if _, err := d.Admit(t.Context(), held); !fault.Is(err, fault.KindUnavailable) || time.Since(begun) < time.Second {
		t.Errorf("a hold that does not end: %v after %v", err, time.Since(begun))
	}
	r, _ := d.ByID(globex)
	if got, err := d.Admit(t.Context(), r); err != nil || got != r {
		t.Errorf("the other tenant: %v", err)
	}
	var done atomic.Bool
	result := make(chan error, 1)
	go func() {
		got, err := d.Admit(t.Context(), held)
		if err == nil && (!done.Load() || got.Version <= held.Version) {
			err = errors.New("admitted while held")
		}
		result <- err
	}()
	c.exec(t, "UPDATE control.tenants SET route_mode = 'serve' WHERE id = $1", acme)
	done.Store(true)
	c.publish(t, acme)
	if err := <-result; err != nil {
		t.Errorf("a hold that ends: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	held = mode(acme, "hold")
	if _, err := d.Admit(ended, held); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
}

// Only so many requests wait for a hold to end, of one tenant and of all; the
// others hear at once when to come again.
func TestInvariant07HeldRequestsAreBounded(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	o := c.options()
	o.HoldFor, o.HoldEach, o.HoldAll = time.Minute, 3, 5
	tenants := []uuid.UUID{c.tenant(t, "acme"), c.tenant(t, "globex")}
	d := run(t, o)
	set := func(mode string) {
		for _, tenant := range tenants {
			c.exec(t, "UPDATE control.tenants SET route_mode = $2 WHERE id = $1", tenant, mode)
			c.publish(t, tenant)
			eventually(t, "the mode is known", func() bool { r, ok := d.ByID(tenant); return ok && string(r.Mode) == mode })
		}
	}
	set("hold")
	var waiting sync.WaitGroup
	var admitted, refused [2]atomic.Int64
	ask := func(i, n int) {
		r, _ := d.ByID(tenants[i])
		for range n {
			waiting.Go(func() {
				_, err := d.Admit(t.Context(), r)
				switch f := fault.From(err); {
				case err == nil:
					admitted[i].Add(1)
				case f.EffectiveCode() != "tenant_held" || f.Wait <= 0:
					t.Errorf("refused with %v", err)
				default:
					refused[i].Add(1)
				}
			})
		}
	}
	ask(0, 10)
	eventually(t, "seven of ten are refused", func() bool { return refused[0].Load() == 7 })
	ask(1, 10)
	eventually(t, "eight of ten are refused", func() bool { return refused[1].Load() == 8 })
	set("serve")
	waiting.Wait()
	if admitted[0].Load() != 3 || admitted[1].Load() != 2 {
		t.Errorf("%d and %d were admitted", admitted[0].Load(), admitted[1].Load())
	}
	set("hold")
	ask(1, 3)
	set("serve") // those who have left made room
	waiting.Wait()
	if admitted[1].Load() != 5 {
		t.Errorf("%d were admitted", admitted[1].Load())
	}
}

// A database that is behind, or ahead, is not touched; its neighbour is served.
func TestASchemaOutsideTheRangeIsRefused(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme, globex := c.tenant(t, "acme"), c.tenant(t, "globex")
	o := c.options()
	o.SchemaMin, o.SchemaMax = 2, 3
	d := run(t, o)
	for version, served := range map[int]bool{1: false, 2: true, 3: true, 4: false} {
		c.exec(t, "UPDATE control.tenants SET schema_version = $2 WHERE id = $1", acme, version)
		c.publish(t, acme)
		var r *route.Route
		eventually(t, "the version is known", func() bool { r, _ = d.ByID(acme); return r.SchemaVersion == int64(version) })
		_, err := d.Admit(t.Context(), r)
		if served && err != nil {
			t.Errorf("schema %d: %v", version, err)
		}
		if refused := fault.From(err); !served && (err == nil || refused.EffectiveCode() != "schema_not_served" || refused.Wait <= 0) {
			t.Errorf("schema %d: %v, want 503 with Retry-After", version, err)
		}
		other, _ := d.ByID(globex)
		if _, err := d.Admit(t.Context(), other); err != nil {
			t.Errorf("the other tenant: %v", err)
		}
	}
}
