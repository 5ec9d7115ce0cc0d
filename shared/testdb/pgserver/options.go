package pgserver

import (
	"maps"
	"slices"
)

// Options say which server to start. The zero value is a temporary server with
// Postgres's own settings on a free port.
type Options struct {
	// Bin is the folder with the binaries; "" finds or fetches them.
	Bin string
	// Dir keeps the server for the next run: its data, its password and its
	// log. "" makes a temporary folder that goes with the server. Use what
	// [Place] returns when this process may be root.
	Dir string
	// Port to listen on; 0 takes a free one.
	Port int
	// Settings are given on the command line, which beats the configuration
	// files and ALTER SYSTEM.
	Settings map[string]string
	// Disposable skips the syncs of initdb: for data that no one will miss.
	Disposable bool
	// LogFile gets what the server writes; "" is postgres.log in Dir.
	LogFile string
}

// TestSettings are for servers whose data may be lost with the machine: nothing
// is synced, and many test binaries fit on one server. What was committed still
// survives a kill of the server, because the kernel has it by then;
// synchronous_commit=off would break that, and with it every test of a crash.
func TestSettings() map[string]string {
	return map[string]string{
		"fsync":                      "off",
		"full_page_writes":           "off",
		"max_connections":            "500",
		"shared_buffers":             "32MB",
		"wal_level":                  "logical",
		"max_wal_size":               "512MB", // often in memory
		"checkpoint_timeout":         "30min",
		"autovacuum":                 "off",
		"jit":                        "off", // no query of a test is worth a compiler
		"max_locks_per_transaction":  "256",
		"log_min_duration_statement": "-1",
	}
}

// Test are the options of a temporary server for tests, with the given
// settings on top of [TestSettings].
func Test(bin string, settings map[string]string) Options {
	all := TestSettings()
	maps.Copy(all, settings)
	return Options{Bin: bin, Settings: all, Disposable: true}
}

func (o Options) arguments() []string {
	var arguments []string
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		arguments = append(arguments, "-c", name+"="+o.Settings[name])
	}
	return arguments
}
