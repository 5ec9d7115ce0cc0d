package move_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/testdb"
)

// place writes a file as the user that the server runs as.
func place(t *testing.T, s *fleettest.Prepared, content []byte, parts ...string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(s.Dir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	path := filepath.Join(append([]string{s.Dir()}, parts...)...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
}

// Between servers with verify-full the target's Postgres checks the source by the CA
// that lies in the home of its own user: a move without it is refused and says where it
// belongs, with another's too, and goes through with the right one.
func TestAMoveBetweenServersThatDemandTLS(t *testing.T) {
	t.Parallel()
	a, b := fleettest.OwnServer(t, testdb.System, nil), fleettest.OwnServer(t, testdb.System, nil)
	w := newWorld(t, a, b, move.Options{Budget: patient, Chunk: 20})
	tenant := w.tenant(t, "acme")
	certificate, key := controltest.SelfSigned(t)
	strangers, _ := controltest.SelfSigned(t)
	place(t, a, certificate, "data", "server.crt")
	place(t, a, key, "data", "server.key")
	conn := testdb.Connect(t, a.URL())
	for _, statement := range []string{"ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	w.Exec(t, "UPDATE control.servers SET tls_mode = 'verify-full', tls_ca = $1 WHERE name = 'a'", string(certificate))
	for _, wrong := range [][]byte{nil, strangers} {
		if wrong != nil {
			place(t, b, wrong, ".postgresql", "root.crt")
		}
		o := w.finish(t, w.runner, w.mustAsk(t, tenant, "b"), operation.Failed)
		if o.Error.Code != "source_untrusted" || !strings.Contains(o.Error.NextAction, "root.crt") {
			t.Fatalf("%+v", o.Error)
		}
		if p := w.placed(t, tenant); p.Server != "a" || p.Mode != "serve" || left(t, b, tenant, 2) != 0 {
			t.Fatalf("%+v", p)
		}
	}
	place(t, b, certificate, ".postgresql", "root.crt")
	op := w.mustAsk(t, tenant, "b")
	encrypted := w.spied(&fleettest.Spy{Before: func(_ context.Context, step string) error {
		if step == move.StepSwitch && !fleettest.One[bool](t, conn, "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid)") {
			t.Error("the copy is not encrypted")
		}
		return nil
	}})
	w.finish(t, encrypted, op, operation.Succeeded)
	if p := w.placed(t, tenant); p.Server != "b" || p.Mode != "serve" {
		t.Errorf("%+v", p)
	}
}
