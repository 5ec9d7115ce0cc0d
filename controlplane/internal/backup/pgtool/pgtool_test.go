package pgtool_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/backup/pgtool"
)

// A script that chooses among releases is passed over: what it says of its version
// need not be what it runs the next time.
func TestDebiansWrapperIsNotTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := []byte("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.1'\n")
	for _, name := range []string{"pg_wrapper", "pg_itself"} {
		bin := filepath.Join(dir, name, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, name), script, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"pg_dump", "pg_restore"} {
			if err := os.Symlink(filepath.Join(dir, name, name), filepath.Join(bin, program)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, taken := range map[string]bool{"pg_wrapper": false, "pg_itself": true} {
		bin := filepath.Join(dir, name, "bin")
		found, err := pgtool.Find(t.Context(), func(variable string) string {
			if variable == "OUVIRA_PG_BIN" {
				return bin
			}
			return ""
		}, 15)
		if (err == nil && found.Dir == bin) != taken {
			t.Errorf("%s: found %+v, %v", name, found, err)
		}
	}
}
