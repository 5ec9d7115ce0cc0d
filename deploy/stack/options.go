package stack

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The parts of a stack by name. DataNode names the nodes.
const (
	PGControl = "pg-control"
	PGA       = "pg-a"
	PGB       = "pg-b"
	Control   = "control"
	Worker    = "worker"
)

// DataNode is the name of a data-plane node.
func DataNode(i int) string { return fmt.Sprintf("data-%d", i) }

// Options say which stack to run. State and Bin are required.
type Options struct {
	// State is the folder that keeps everything; it is made when missing.
	State string
	// Bin is the folder with the binaries controlplane, dataplane and ouvira;
	// see [Build].
	Bin string
	// PortBase shifts every port.
	PortBase int
	// DataNodes is the number of data-plane nodes, 0 for two.
	DataNodes int
	// PostgresBin is where the Postgres binaries lie; "" finds or fetches them.
	PostgresBin string
	// PostgresSettings are added to those of every Postgres server.
	PostgresSettings map[string]string
	// Disposable is for tests: Postgres does not sync to disk, and data that
	// had to be put outside the state folder goes when this process ends.
	Disposable bool
	// NoTenants leaves the demo tenants out. The operator and the servers a and
	// b are always made.
	NoTenants bool
	// Capacity of each of the servers a and b.
	Capacity Capacity
	// Env adds to a program's environment, by part name; "" is for all of them.
	Env map[string]map[string]string
	// ReadyTimeout is how long one part may take to become ready, 0 for 45 s.
	ReadyTimeout time.Duration
	// Report gets a line for everything a person wants to know; nil is silent.
	Report io.Writer
}

// Capacity of a tenant server, as the control plane's API takes it.
type Capacity struct {
	Databases   int `json:"databases"`
	Connections int `json:"connections"`
}

const (
	defaultReadyTimeout = 45 * time.Second
	// A tenant server of the stack takes more connections than its capacity
	// says: the rest is for provisioning and for people with psql.
	tenantServerConnections = 200
	defaultConnections      = 160
	defaultDatabases        = 500
)

func (o Options) withDefaults() (Options, error) {
	if o.State == "" {
		return o, errors.New("say in which folder the stack keeps its state (OUVIRA_STATE)")
	}
	state, err := filepath.Abs(o.State)
	if err != nil {
		return o, err
	}
	o.State = state
	if o.DataNodes == 0 {
		o.DataNodes = 2
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = defaultReadyTimeout
	}
	if o.Capacity == (Capacity{}) {
		o.Capacity = Capacity{Databases: defaultDatabases, Connections: defaultConnections}
	}
	if o.Report == nil {
		o.Report = io.Discard
	}
	env := map[string]map[string]string{}
	for name, values := range o.Env {
		env[name] = maps.Clone(values)
	}
	o.Env = env
	return o, o.checkBinaries()
}

// Programs that a stack needs in its Bin folder.
const (
	controlplaneProgram = "controlplane"
	dataplaneProgram    = "dataplane"
	cliProgram          = "ouvira"
)

func (o Options) checkBinaries() error {
	for _, program := range []string{controlplaneProgram, dataplaneProgram, cliProgram} {
		if _, err := exec.LookPath(filepath.Join(o.Bin, program)); err != nil {
			return fmt.Errorf("the program %s is missing: build it with `make build` (looked in %s)", program, o.Bin)
		}
	}
	return nil
}

// environment is what every program gets from ours: nothing of OUVIRA_*, which
// may speak of another installation, and nothing that would change how it
// reaches Postgres or its mail server.
func environment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		ours := strings.HasPrefix(name, "OUVIRA_") || strings.HasPrefix(name, "PG") ||
			strings.HasPrefix(name, "EMAIL_") || strings.HasPrefix(name, "TWILIO_") || strings.HasPrefix(name, "TURNSTILE_") ||
			slices.Contains([]string{"TENANT_BASE_DOMAIN", "FRONTEND_URL", "DEFAULT_FROM_EMAIL", "CORS_ALLOWED_ORIGINS"}, name)
		if !ours {
			kept = append(kept, variable)
		}
	}
	return kept
}
