package main

import (
	"fmt"
	"slices"
)

// measurement is one line of the report. Names are stable: others read them.
type measurement struct {
	name      string
	what      string // ours
	reference string // beside what
	pkg       string
	benchmark string
	unit      unit
	target    float64 // of the ratio; 0: nothing is asked
	atMost    bool    // the ratio has to stay below the target, not above
	bound     string  // what bounds it, told when the target is missed
}

type unit string

const (
	perSecond unit = "/s"
	seconds   unit = "s"
	millis    unit = "ms" // of figures in seconds
	nanos     unit = "ns"
	bytesEach unit = "B"
	count     unit = ""
)

const (
	dataplane    = "github.com/ouvira/ouvira/dataplane/"
	controlplane = "github.com/ouvira/ouvira/controlplane/"
)

// table lists what is measured and what is asked of it.
var table = append([]measurement{
	{
		name: "routed-50-tenants",
		what: "a handler with one indexed SELECT, routed over 50 warm tenants, one client at each, over HTTP", reference: "the same handler on one fixed pool of 50 connections, 50 clients",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkRoutedVersusFixedPool", unit: perSecond, target: 0.95,
		bound: "Fifty databases have fifty sets of caches in Postgres, one pool of one database has one: see routing-alone for what is ours.",
	},
	{
		name: "routing-alone",
		what: "the same routed handler", reference: "a plain pool for each of the 50 tenants in a map by host: what 50 databases cost without directory, budget and LRU",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkRoutedVersusPlainPools", unit: perSecond, target: 0.95,
		bound: "What is left is the lookup, the lease and the check of the socket, in every request.",
	},
	{
		name: "account-me",
		what: "`GET /account/me` with an access token, the whole request over HTTP, at two tenants", reference: "a bare chi handler that knows its user, with the same SQL and the same body",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkAccountMeVersusBareHandler", unit: perSecond, target: 0.80,
		bound: "What is left is what a request needs besides its query: limits, the log line, metrics, the response's headers.",
	},
	{
		name: "login",
		what: "`POST /auth/login`, the whole request over HTTP, at two tenants, 8 clients", reference: "comparing the same passwords with argon2id, nothing else, 8 goroutines",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkLoginVersusHash", unit: perSecond, target: 0.80,
	},
	{
		name: "audit-record",
		what: "a change with its audit record in one transaction, eight clients on rows of their own", reference: "the same change without a record",
		pkg: dataplane + "internal/audit", benchmark: "BenchmarkChangeWithAndWithoutRecord", unit: perSecond, target: 0.50,
	},
	{
		name: "permission-check",
		what: "p50 of `GET /company/{id}`, which asks for a permission, over HTTP", reference: "the same read without the question",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkCheckedVersusUncheckedRead", unit: millis, target: 1.15, atMost: true,
	},
	{
		name: "effective-permissions",
		what: "p50 of `GET /access-control/effective` in a tenant with 2,000 companies, 30,000 memberships and 256 permissions, over HTTP", reference: "10 ms",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkEffectivePermissions", unit: millis, target: 1, atMost: true,
	},
	{
		name: "provision",
		what: "provisioning 24 tenants from the template, 4 at a time, all steps, by a real worker", reference: "24 raw `CREATE DATABASE … TEMPLATE`, 4 at a time, on open connections",
		pkg: controlplane + "internal/provision", benchmark: "BenchmarkProvisionVersusCreateDatabase", unit: seconds, target: 1.5, atMost: true,
		bound: "A tenant is more than a database: role, grants, marker, owner, keys and a fence between the steps, each of them a commit that survives a kill.",
	},
	{
		name: "move-pause",
		what: "how long writes wait while a tenant with 100,000 records moves to another server", reference: "`pg_dump | pg_restore` of the same database, for all of which they would wait",
		pkg: controlplane + "internal/move", benchmark: "BenchmarkMoveVersusDumpRestore/pause", unit: seconds, target: 0.5, atMost: true,
	},
	{
		name: "move",
		what: "the whole move of such a tenant, comparisons included", reference: "`pg_dump | pg_restore` of the same database",
		pkg: controlplane + "internal/move", benchmark: "BenchmarkMoveVersusDumpRestore/total", unit: seconds,
	},
	{
		name: "signup-warm",
		what: "from the code to being signed in, with a database that was kept ready, beyond what signing in takes", reference: "20 ms",
		pkg: "github.com/ouvira/ouvira/deploy/e2e", benchmark: "BenchmarkSignUp/warm", unit: millis, target: 1, atMost: true,
		bound: "Five commits on two servers, two new connections of some 10 ms each (the control plane's and the node's first) whose caches are cold, and the pull of the route between.",
	},
	{
		name: "signup-cold",
		what: "from the code to being signed in, with a database that is made for it, beyond what signing in takes", reference: "one raw `CREATE DATABASE … TEMPLATE` and the seed of its owner",
		pkg: "github.com/ouvira/ouvira/deploy/e2e", benchmark: "BenchmarkSignUp/cold", unit: millis, target: 1.2, atMost: true,
		bound: "A role, rights and a marker are made besides the database, each step a commit that survives a kill; and the node's first login, on a new connection, is counted too.",
	},
	{
		name: "backup",
		what: "a backup of a tenant with 100,000 records: dumped, sealed, stored, read back and checked", reference: "`pg_dump --format=custom` of the same database to a file",
		pkg: controlplane + "internal/backup", benchmark: "BenchmarkBackupVersusBareTools/backup", unit: seconds,
	},
	{
		name: "restore",
		what: "a restore in place of that backup, until the tenant is served by it", reference: "`CREATE DATABASE` and `pg_restore --single-transaction` of the same dump",
		pkg: controlplane + "internal/backup", benchmark: "BenchmarkBackupVersusBareTools/restore", unit: seconds,
	},
	{
		name: "memory-known-tenant",
		what: "heap per known tenant on a node, 10,000 known, none warm", reference: "1 KiB",
		pkg: dataplane + "internal/directory", benchmark: "BenchmarkMemoryPerKnownTenant", unit: bytesEach, target: 1, atMost: true,
	},
	{
		name: "memory-idle-pool",
		what: "resident memory per pool that has had a connection and has none, 1,000 of them", reference: "8 KiB",
		pkg: dataplane + "internal/tenantpool", benchmark: "BenchmarkMemoryPerIdlePool", unit: bytesEach, target: 1, atMost: true,
	},
	{
		name: "routed-1",
		what: "the routed handler at one tenant, 50 clients", reference: "the same handler on one fixed pool of 50 connections, 50 clients",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/routed-1", unit: perSecond, target: 0.95,
		bound: "What is left is the lookup, the lease and the check of the socket, in every request.",
	},
	{
		name: "routed-50-zipf",
		what: "the routed handler over 50 tenants, 8 clients that choose by Zipf's law, budget 200", reference: "the same handler on one fixed pool of 8 connections, 8 clients",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/routed-50-zipf", unit: perSecond, target: 0.95,
		bound: "Fifty databases have fifty sets of caches in Postgres, one pool of 8 has eight: see routing-alone for what is ours.",
	},
	{
		name: "routed-1000",
		what: "the routed handler over 1,000 tenants, 8 clients, all tenants alike, budget 60", reference: "the same handler on one fixed pool of 8 connections, 8 clients",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/routed-1000", unit: perSecond,
	},
	{
		name: "routed-1000-zipf",
		what: "the same with tenants chosen by Zipf's law", reference: "the same fixed pool",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/routed-1000-zipf", unit: perSecond,
	},
	{
		name: "pgbouncer-1",
		what: "the routed handler at one tenant, 50 clients, budget 60", reference: "the same handler with a pool for each tenant at PgBouncer (transaction pooling, an entry for each tenant's database, 60 server connections at the most)",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/pgbouncer-1", unit: perSecond,
	},
	{
		name: "pgbouncer-50",
		what: "the routed handler over 50 tenants, 8 clients, budget 60", reference: "the same through PgBouncer",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/pgbouncer-50", unit: perSecond,
	},
	{
		name: "pgbouncer-50-zipf",
		what: "the same with tenants chosen by Zipf's law", reference: "the same through PgBouncer",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/pgbouncer-50-zipf", unit: perSecond,
	},
	{
		name: "pgbouncer-1000",
		what: "the routed handler over 1,000 tenants, 8 clients, budget 60", reference: "the same through PgBouncer",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/pgbouncer-1000", unit: perSecond,
	},
	{
		name: "pgbouncer-1000-zipf",
		what: "the same with tenants chosen by Zipf's law", reference: "the same through PgBouncer",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/pgbouncer-1000-zipf", unit: perSecond,
	},
	{
		name: "peer-50",
		what: "`GET /account/me` at 50 tenants, 8 clients, budget 50", reference: "a Django service with the same answer that keeps its connections (CONN_MAX_AGE=None)",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/peer-50", unit: perSecond, target: 12,
		bound: "Both share the cores with Postgres and with the clients, which take their part of ours alone: Django is slow enough not to feel it.",
	},
	{
		name: "peer-50-backends",
		what: "backends that serve those 50 tenants", reference: "Django's: processes × tenants",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/peer-50-backends", unit: count, target: 0.25, atMost: true,
	},
	{
		name: "peer-1000",
		what: "`GET /account/me` at 1,000 tenants, all alike, 8 clients, budget 1,000: a connection to each tenant", reference: "the Django service with a connection for each request: keeping them would take 1,000 for each process",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/peer-1000", unit: perSecond, target: 30,
		bound: "A thousand backends that take turns share the caches of few cores.",
	},
	{
		name: "peer-1000-tight",
		what: "the same within a budget of 60, tenants chosen by Zipf's law", reference: "the Django service with a connection for each request",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/peer-1000-tight", unit: perSecond,
	},
	{
		name: "cold-tenant",
		what: "p50 of a tenant's first request, over HTTP: route, pool, connection, marker, query", reference: "connecting and asking the same, nothing else",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/cold-tenant", unit: millis, target: 1.5, atMost: true,
	},
	{
		name: "noisy-neighbour",
		what: "p99 of a quiet tenant (100 requests a second) while another sends 50 times as many, timed from when each was due", reference: "the quiet tenant alone",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkNoisyNeighbour/busy", unit: millis, target: 2, atMost: true,
		bound: "All share the cores, and the clients have their part of them.",
	},
	{
		name: "noisy-neighbour-slow",
		what: "the same while the other tenant asks for more connections than the whole budget, with queries that take 20 ms", reference: "the quiet tenant alone",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkNoisyNeighbour/slow", unit: millis, target: 2, atMost: true,
		bound: "All share the cores, and the clients have their part of them.",
	},
	{
		name: "memory-connection",
		what: "heap per open connection, its statements prepared", reference: "35 KiB",
		pkg: dataplane + "internal/tenantpool", benchmark: "BenchmarkMemoryPerConnection", unit: bytesEach, target: 1, atMost: true,
	},
	{
		name: "fleet-budget",
		what: "the most backends that three nodes ever held on a server, at 500 tenants by Zipf's law", reference: "its budget, 60",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/fleet-budget", unit: count, target: 1, atMost: true,
	},
	{
		name: "fleet-alike",
		what: "three nodes, budget 60, 500 tenants all alike", reference: "the same nodes at 10 tenants, whose connections stay",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/fleet-alike", unit: perSecond,
	},
	{
		name: "fleet-zipf-1.1",
		what: "the same with tenants chosen by Zipf's law, exponent 1.1", reference: "the same nodes at 10 tenants",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/fleet-zipf-1.1", unit: perSecond,
	},
	{
		name: "fleet-zipf-1.5",
		what: "the same, exponent 1.5", reference: "the same nodes at 10 tenants",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/fleet-zipf-1.5", unit: perSecond,
	},
	{
		name: "fleet-zipf-2",
		what: "the same, exponent 2", reference: "the same nodes at 10 tenants",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/fleet-zipf-2", unit: perSecond,
	},
	{
		name: "fleet-zipf-3",
		what: "the same, exponent 3", reference: "the same nodes at 10 tenants",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkFleet/fleet-zipf-3", unit: perSecond,
	},
}, growth()...)

// grown are the numbers of tenants at which the growth of cost is measured.
var grown = []int{10, 100, 1000, 5000}

// growth has the lines of each of them.
func growth() []measurement {
	var lines []measurement
	for _, n := range grown {
		lines = append(lines, measurement{
			name: fmt.Sprintf("known-%d", n),
			what: fmt.Sprintf("finding one tenant of %d by its host", n), reference: "finding one of 10",
			pkg: dataplane + "internal/directory", benchmark: fmt.Sprintf("BenchmarkGrowth/known-%d", n), unit: nanos,
		})
	}
	for _, n := range grown {
		lines = append(lines, measurement{
			name: fmt.Sprintf("warm-%d", n),
			what: fmt.Sprintf("p50 of the routed handler at 10 warm tenants, on a node that knows %d (all but these 10 have a route and no database)", n), reference: "the same on a node that knows these 10 alone",
			pkg: dataplane + "internal/httpapi", benchmark: fmt.Sprintf("BenchmarkGrowth/warm-%d", n), unit: millis, target: 1.25, atMost: true,
			bound: "The tables of routes compete with everything else for the processor's cache.",
		})
	}
	return lines
}

// named is the line of that name; the caller knows that there is one.
func named(name string) measurement {
	return table[slices.IndexFunc(table, func(m measurement) bool { return m.name == name })]
}

func (m measurement) holds(ratio float64) bool {
	switch {
	case m.target == 0:
		return true
	case m.atMost:
		return ratio <= m.target
	default:
		return ratio >= m.target
	}
}

func (m measurement) asked() string {
	switch {
	case m.target == 0:
		return "–"
	case m.atMost:
		return fmt.Sprintf("≤ %.2f", m.target)
	default:
		return fmt.Sprintf("≥ %.2f", m.target)
	}
}

// summary is one line for the terminal.
func (m measurement) summary(r result) string {
	if r.NotMeasured != "" {
		return "not measured: " + r.NotMeasured
	}
	verdict := "nothing is asked"
	switch {
	case m.target == 0:
	case r.OK:
		verdict = "asked " + m.asked() + ": holds"
	default:
		verdict = "asked " + m.asked() + ": missed"
	}
	return fmt.Sprintf("%s, %s: ratio %.2f (%s)", m.format(r.Ours), m.format(r.Reference), r.Ratio, verdict)
}

func (m measurement) format(value float64) string {
	switch m.unit {
	case perSecond:
		return fmt.Sprintf("%.0f/s", value)
	case millis:
		return fmt.Sprintf("%.2f ms", value*1000)
	case nanos:
		return fmt.Sprintf("%.0f ns", value)
	case seconds:
		return fmt.Sprintf("%.2f s", value)
	case bytesEach:
		return fmt.Sprintf("%.0f B", value)
	default:
		return fmt.Sprintf("%.0f", value)
	}
}
