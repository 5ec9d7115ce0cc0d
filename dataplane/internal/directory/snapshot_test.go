package directory_test

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
)

func dataKey(t testing.TB) *seal.DataKey {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := seal.GenerateDataKey(path, filepath.Join(dir, "public")); err != nil {
		t.Fatal(err)
	}
	key, err := seal.LoadDataKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// away is the node's address of a control database that does not answer.
func (c *control) away(t *testing.T) string {
	t.Helper()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	u, err := url.Parse(c.nodeURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = nobody.Addr().String()
	return u.String()
}

// written runs a node until its snapshot is on disk.
func written(t *testing.T, o directory.Options, ready func(*directory.Directory) bool) {
	t.Helper()
	t.Run("the node that writes", func(t *testing.T) {
		d := run(t, o)
		eventually(t, "the table is as wanted", func() bool { return ready(d) })
	}) // its end writes the last state
	if _, err := os.Stat(o.Snapshot); err != nil {
		t.Fatal(err)
	}
}

// A node that starts while the control database is away serves whom it served
// before, refuses whom it refused, and does not know more than it does.
func TestInvariant10ASnapshotOutlivesTheNode(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme, globex := c.tenant(t, "acme"), c.tenant(t, "globex")
	c.domain(t, acme, "app.acme.example", true)
	c.exec(t, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", globex)
	c.publish(t, acme)
	c.publish(t, globex)
	o := c.options()
	o.Snapshot, o.Sealer = filepath.Join(t.TempDir(), "routes"), dataKey(t)
	written(t, o, func(d *directory.Directory) bool { return d.Len() == 2 })

	o.DSN = c.away(t)
	d := run(t, o)
	if !finds(d, "acme.localhost", acme) || !finds(d, "app.acme.example", acme) {
		t.Error("acme is not known after the restart")
	}
	r, err := d.Lookup("globex.localhost")
	if err != nil || r.TenantID != globex {
		t.Fatalf("globex after the restart: %v", err)
	}
	if err := directory.Refusal(r); !fault.Is(err, fault.KindForbidden) {
		t.Errorf("a suspended tenant is answered with %v", err)
	}
	if r.Server == nil || r.Server.ID != c.server || len(r.Keys) != 1 || len(r.Credential) != 96 {
		t.Errorf("the route has lost something: %+v", r)
	}
	if _, err := d.Lookup("nobody.localhost"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("an unknown host, shortly after: %v, want 404", err)
	}
	o.MaxAge = time.Nanosecond
	if _, err := run(t, o).Lookup("nobody.localhost"); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("an unknown host in an old copy: %v, want 503", err)
	}
}

// A server on which nobody was when the snapshot was written is in it: a tenant
// may have moved there since, and the pull that tells of it does not tell of the
// server, which has not changed.
func TestASnapshotKnowsServersWithoutTenants(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme, globex := c.tenant(t, "acme"), c.tenant(t, "globex")
	empty := uuid.New()
	c.exec(t, `INSERT INTO control.servers (id, name, host, port, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
		VALUES ($1, 'b', '127.0.0.1', 5433, 100, 40, 2, 150000, '')`, empty)
	c.exec(t, "SELECT control.publish_server($1)", empty)
	o := c.options()
	o.Snapshot, o.Sealer = filepath.Join(t.TempDir(), "routes"), dataKey(t)
	written(t, o, func(d *directory.Directory) bool { return d.Len() == 2 })

	c.exec(t, "UPDATE control.tenants SET server_id = $2, incarnation = 2 WHERE id = $1", acme, empty)
	c.publish(t, acme)
	d := run(t, o)
	eventually(t, "the move is known", func() bool {
		r, err := d.Lookup("acme.localhost")
		return err == nil && r.Incarnation == 2
	})
	if r, _ := d.ByID(acme); r.Server.ID != empty || r.Mode != route.ModeServe {
		t.Errorf("acme is at %q and under %q", r.Server.Name, r.Mode)
	}
	if r, _ := d.ByID(globex); r.Server.ID != c.server || r.Mode != route.ModeServe {
		t.Errorf("globex is at %q and under %q", r.Server.Name, r.Mode)
	}
}

// What changed in between arrives when the control database answers.
func TestASnapshotIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme, globex := c.tenant(t, "acme"), c.tenant(t, "globex")
	o := c.options()
	o.Snapshot, o.Sealer = filepath.Join(t.TempDir(), "routes"), dataKey(t)
	written(t, o, func(d *directory.Directory) bool { return d.Len() == 2 })

	c.exec(t, "UPDATE control.tenants SET status = 'suspended' WHERE id = $1", globex)
	c.publish(t, globex)
	initech := c.tenant(t, "initech")
	var told atomic.Int64
	d := run(t, o, func(d *directory.Directory) {
		d.Subscribe(func(directory.Event) { told.Add(1) })
	})
	eventually(t, "the changes have arrived", func() bool {
		r, known := d.ByID(globex)
		return finds(d, "initech.localhost", initech) && known && r.Status == route.StatusSuspended
	})
	if !finds(d, "acme.localhost", acme) {
		t.Error("acme is gone")
	}
	// Two of the snapshot, two of the pull: not everything again. The last is
	// told after it can be found.
	eventually(t, "four changes were told", func() bool { return told.Load() == 4 })
}

// A file that is damaged, or another's, is as good as none.
func TestASnapshotThatDoesNotOpenIsNotUsed(t *testing.T) {
	t.Parallel()
	c := newControl(t)
	acme := c.tenant(t, "acme")
	o := c.options()
	o.Snapshot, o.Sealer = filepath.Join(t.TempDir(), "routes"), dataKey(t)
	written(t, o, func(d *directory.Directory) bool { return d.Len() == 1 })
	good, err := os.ReadFile(o.Snapshot)
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte(nil), good...)
	damaged[len(damaged)/2] ^= 1
	for what, file := range map[string][]byte{"damaged": damaged, "cut": good[:len(good)/2], "empty": {}} {
		if err := os.WriteFile(o.Snapshot, file, 0o600); err != nil {
			t.Fatal(err)
		}
		d := run(t, o)
		if !finds(d, "acme.localhost", acme) {
			t.Errorf("a %s snapshot keeps the node from its routes", what)
		}
	}
	if err := os.WriteFile(o.Snapshot, good, 0o600); err != nil {
		t.Fatal(err)
	}
	o.DSN, o.Sealer = c.away(t), dataKey(t)
	d, err := directory.New(o)
	if err != nil {
		t.Fatal(err)
	}
	start(t, d)
	if _, err := d.Lookup("acme.localhost"); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("a snapshot of another key: %v, want 503", err)
	}
	if info, err := os.Stat(o.Snapshot); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v %v", info.Mode(), err)
	}
}
