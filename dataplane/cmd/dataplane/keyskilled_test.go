//go:build failpoints

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

// nodeEnvironment makes this test binary a node with that environment.
const nodeEnvironment = "OUVIRA_TEST_NODE_ENVIRONMENT"

// TestNodeProcess is the child of the tests that kill it.
func TestNodeProcess(t *testing.T) { //nolint:paralleltest // it is a process of its own
	environ := os.Getenv(nodeEnvironment)
	if environ == "" {
		return // an ordinary run
	}
	must(t, run(context.Background(), []string{"serve"}, strings.Split(environ, "\n"), os.Stderr))
}

// A node gets kill -9 while it seals second factors anew: some are under the new key and
// some under the one before. After the minute that it has for it another node does the
// rest, and what each of them has sealed opens without the key before.
func TestSec38ANodeIsKilledWhileItSealsAnew(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, controlURL := controlDatabase(t, f)
	control := testdb.Connect(t, controlURL)
	a := testdb.Connect(t, f.A.AdminURL)
	var user int64
	must(t, a.QueryRow(t.Context(), "SELECT min(id) FROM public.users").Scan(&user))
	bound := fmt.Appendf(nil, "second-factor/%s/%d", f.A.ID, user)
	for _, confirmed := range []*time.Time{nil, new(time.Now())} { // one that counts, and one that is about to replace it
		sealed, err := f.Key.Seal([]byte("secret"), bound)
		must(t, err)
		_, err = a.Exec(t.Context(), "INSERT INTO public.two_factors (user_id, method, secret_sealed, confirmed_at) VALUES ($1, 'totp', $2, $3)", user, sealed, confirmed)
		must(t, err)
	}
	old := f.Key.Ring().Primary
	fresh := rotates(t, f, control)
	under := func() (n map[uint32]int) {
		t.Helper()
		n = map[uint32]int{}
		for _, sealed := range secrets(t, a) {
			n[seal.KeyID(sealed)]++
		}
		return n
	}
	until := func(what string, reached func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !reached(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s; secrets by key: %v, the key before is %d, the new one %d", what, under(), old, fresh)
			}
		}
	}

	armed := filepath.Join(t.TempDir(), "reseal.factor")
	must(t, os.WriteFile(armed, nil, 0o600))
	child := exec.Command(os.Args[0], "-test.run=^TestNodeProcess$")
	child.Env = append(os.Environ(), "OUVIRA_FAILPOINT_DIR="+filepath.Dir(armed), nodeEnvironment+"="+strings.Join([]string{
		"OUVIRA_NODE_DATABASE_URL=" + nodeURL, "OUVIRA_DATA_KEY_FILE=" + f.KeyFile,
		"OUVIRA_LISTEN=127.0.0.1:0", "OUVIRA_INTERNAL_LISTEN=127.0.0.1:0", "OUVIRA_NODE_ID=killed", "OUVIRA_CONNECTION_SHARE=0.5", // what it holds comes back when a worker takes it
	}, "\n"))
	must(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	until("the node does not begin", func() bool { _, err := os.Stat(armed + ".hit"); return err == nil })
	must(t, child.Process.Kill())
	_ = child.Wait()
	if n := under(); n[old] != 1 || n[fresh] != 1 {
		t.Errorf("the killed node leaves %v", n)
	}

	n := start(t, f, nodeURL)
	tag, err := control.Exec(t.Context(), "UPDATE control.database_looks SET resealing_until = now() WHERE resealing_until > now() + interval '30 seconds'") // a minute passes
	must(t, err)
	if tag.RowsAffected() != 1 {
		t.Error("the database was not the killed node's for a while")
	}
	until("the other node does not go on", func() bool { return under()[fresh] == 2 })
	files := seal.KeyFiles{Secret: f.KeyFile, Public: filepath.Join(filepath.Dir(f.KeyFile), "data.pub")}
	must(t, files.Remove(old))
	key, err := seal.LoadDataKey(f.KeyFile)
	must(t, err)
	for _, sealed := range secrets(t, a) {
		if plain, err := key.Unseal(sealed, bound); err != nil || string(plain) != "secret" {
			t.Errorf("a second factor opens as %q: %v", plain, err)
		}
	}
	n.stop()
	must(t, <-n.ended)
}

func secrets(t *testing.T, tenant *pgx.Conn) [][]byte {
	t.Helper()
	rows, err := tenant.Query(t.Context(), "SELECT secret_sealed FROM public.two_factors")
	must(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	must(t, err)
	return all
}
