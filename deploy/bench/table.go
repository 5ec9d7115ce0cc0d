package main

import "fmt"

// measurement is one line of the report. Names are stable: others read them.
type measurement struct {
	name      string
	what      string // ours
	reference string // beside what
	pkg       string
	benchmark string
	unit      unit
	target    float64
	atMost    bool // the ratio has to stay below the target, not above
}

type unit string

const (
	perSecond unit = "/s"
	seconds   unit = "s"
	millis    unit = "ms" // of figures in seconds
	bytesEach unit = "B"
)

const (
	dataplane    = "github.com/ouvira/ouvira/dataplane/"
	controlplane = "github.com/ouvira/ouvira/controlplane/"
)

// table lists what is measured and what is asked of it.
var table = []measurement{
	{
		name: "routed-50-tenants",
		what: "a handler with one indexed SELECT, routed over 50 warm tenants, one client at each, over HTTP", reference: "the same handler on one fixed pool of 50 connections, 50 clients",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkRoutedVersusFixedPool", unit: perSecond, target: 0.95,
	},
	{
		name: "routing-alone",
		what: "the same routed handler", reference: "a plain pool for each of the 50 tenants in a map by host: what 50 databases cost without directory, budget and LRU",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkRoutedVersusPlainPools", unit: perSecond, target: 0.95,
	},
	{
		name: "account-me",
		what: "`GET /account/me` with an access token, the whole request over HTTP, at two tenants", reference: "a bare chi handler that knows its user, with the same SQL and the same body",
		pkg: dataplane + "internal/httpapi", benchmark: "BenchmarkAccountMeVersusBareHandler", unit: perSecond, target: 0.80,
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
}

func (m measurement) holds(ratio float64) bool {
	if m.atMost {
		return ratio <= m.target
	}
	return ratio >= m.target
}

func (m measurement) asked() string {
	if m.atMost {
		return fmt.Sprintf("≤ %.2f", m.target)
	}
	return fmt.Sprintf("≥ %.2f", m.target)
}

func (m measurement) verdict(r result) string {
	if r.OK {
		return "asked " + m.asked() + ": holds"
	}
	return "asked " + m.asked() + ": missed"
}

func (m measurement) format(value float64) string {
	switch m.unit {
	case perSecond:
		return fmt.Sprintf("%.0f/s", value)
	case millis:
		return fmt.Sprintf("%.2f ms", value*1000)
	case seconds:
		return fmt.Sprintf("%.2f s", value)
	default:
		return fmt.Sprintf("%.0f B", value)
	}
}
