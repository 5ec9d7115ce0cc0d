package server_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/testdb"
)

// TestTLSModes: verify-full accepts the server with its CA, and nothing else.
func TestTLSModes(t *testing.T) {
	pgServer := testdb.Server(t, testdb.System)
	conn := testdb.Connect(t, pgServer.URL())
	certificate, key := controltest.SelfSigned(t)
	stranger, _ := controltest.SelfSigned(t)
	var dir string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('data_directory')").Scan(&dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	for name, content := range map[string][]byte{"server.crt": certificate, "server.key": key} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	for _, statement := range []string{"ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		var on string
		fresh, err := pgx.Connect(t.Context(), pgServer.URL())
		if err == nil {
			err = fresh.QueryRow(t.Context(), "SELECT current_setting('ssl')").Scan(&on)
			_ = fresh.Close(t.Context())
		}
		if err == nil && on == "on" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not speak TLS: %v", err)
		}
	}

	s, _ := newService(t, server.Options{Production: true})
	t.Setenv("TMPDIR", t.TempDir()) // where the CA goes for the time of a connect
	in := spec("a", pgServer.URL())
	in.TLS = server.TLS{Mode: "verify-full"}
	_, err = s.Add(t.Context(), in, nil)
	expectField(t, err, "tls.ca", "untrusted")
	in.TLS.CA = string(stranger)
	_, err = s.Add(t.Context(), in, nil)
	expectField(t, err, "tls.ca", "untrusted")
	in.TLS.CA = string(certificate)
	added, err := s.Add(t.Context(), in, nil)
	if err != nil {
		t.Fatal(err)
	}
	access, err := s.Open(t.Context(), added.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer access.Close()
	inside, err := access.Connect(t.Context(), server.Target{})
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close(t.Context())
	var encrypted bool
	if err := inside.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted); err != nil || !encrypted {
		t.Errorf("encrypted: %v %v", encrypted, err)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "ouvira-ca-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("CA files left: %v %v", left, err)
	}
}
