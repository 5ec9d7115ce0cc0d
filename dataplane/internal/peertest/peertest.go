// Package peertest runs what benchmarks compare the data plane with: PgBouncer
// in front of the tenants' server, and a Django service that does the same work
// (deploy/bench/peers/django). Both come from the system's packages; where they
// are missing, a benchmark is skipped and says which to install.
//
// It is for tests only.
package peertest

import (
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// PgBouncer runs one in front of the server, with an entry for each tenant's
// database, pooling by transaction. All clients log in as one role, because only
// then can it keep to a budget over all databases, and take an idle connection
// from one for another. (It counts by role, and a role that an entry forces is
// counted for this entry alone.) It returns where a tenant's database is reached
// through it.
func PgBouncer(b testing.TB, server *route.Server, tenants []tenanttest.Tenant, budget int) (address func(tenant tenanttest.Tenant) string) {
	b.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		b.Skip("PgBouncer is not installed: apt-get install pgbouncer")
	}
	var config strings.Builder
	config.WriteString("[databases]\n")
	for _, t := range tenants {
		fmt.Fprintf(&config, "%s = host=%s port=%d dbname=%s\n",
			t.Route.Database, server.Host, server.Port, t.Route.Database)
	}
	port := freePort(b)
	fmt.Fprintf(&config, `[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {dir}/users.txt
pool_mode = transaction
max_client_conn = 8000
default_pool_size = %d
max_user_connections = %d
`, port, min(budget, 20), budget)
	run(b, port, map[string]string{
		"pgbouncer.ini": config.String(),
		"users.txt":     fmt.Sprintf("%q %q\n", tenanttest.SharedRole, testdb.RolePassword),
	}, nil, program, "-q", "{dir}/pgbouncer.ini")
	return func(t tenanttest.Tenant) string {
		return (&url.URL{
			Scheme: "postgres", User: url.UserPassword(tenanttest.SharedRole, testdb.RolePassword),
			Host: local(port), Path: "/" + t.Route.Database, RawQuery: "sslmode=disable",
		}).String()
	}
}

// run starts a program and waits until it listens; it ends with the benchmark.
func run(b testing.TB, port int, files map[string]string, environment []string, program string, arguments ...string) {
	b.Helper()
	c, err := pgserver.StartCompanion(files, environment, program, arguments...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Errorf("stop %s: %v", program, err)
		}
	})
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", local(port))
		if err == nil {
			_ = conn.Close()
			return
		}
		if ended := c.Running(); ended != nil || time.Now().After(deadline) {
			b.Fatalf("%s does not listen: %v, %v", program, err, ended)
		}
		<-tick.C
	}
}

func freePort(b testing.TB) int {
	b.Helper()
	port, err := pgserver.FreePort()
	if err != nil {
		b.Fatal(err)
	}
	return port
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
