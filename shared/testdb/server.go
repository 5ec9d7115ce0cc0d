package testdb

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// The versions that [Server] knows.
const (
	// System is the Postgres of the machine, what a user of it would run on.
	System = "system"
	// PG18 is the newest one, development only where the system has an older.
	PG18 = "18"
)

// Versions are all of them, for tests that loop.
var Versions = []string{System, PG18}

// Server starts a Postgres for this test alone, for tests that kill servers or
// change what all databases of a server share. It ends with the test.
func Server(t testing.TB, version string) *pgserver.Server {
	t.Helper()
	return ServerWith(t, version, nil)
}

// ServerWith is Server with settings of its own on top of
// [pgserver.TestSettings].
func ServerWith(t testing.TB, version string, settings map[string]string) *pgserver.Server {
	t.Helper()
	started, err := pgserver.Start(t.Context(), pgserver.Test(Bin(t, version), settings))
	if err != nil {
		t.Fatalf("start a Postgres (%s) for this test: %v", version, err)
	}
	t.Cleanup(func() {
		if err := started.Close(); err != nil {
			t.Errorf("stop the Postgres of this test: %v", err)
		}
	})
	return started
}

// Bin is the folder with the binaries of the version.
func Bin(t testing.TB, version string) string {
	t.Helper()
	var bin string
	var err error
	switch version {
	case System:
		bin, err = systemBin()
	case PG18:
		bin, err = pg18Bin()
	default:
		t.Fatalf("testdb knows the Postgres versions %v, not %q", Versions, version)
	}
	if err != nil {
		t.Fatalf("find the binaries of Postgres (%s): %v", version, err)
	}
	return bin
}

var systemBin = sync.OnceValues(func() (string, error) {
	found, err := pgserver.Locate(context.Background(), 0, "")
	return found.Dir, err
})

var pg18Bin = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv(PG18Variable); bin != "" {
		return bin, nil
	}
	return pgserver.Fetch18(context.Background(), "")
})
