package httpapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
)

// person is a user of a tenant who is signed in.
type person struct {
	id    int64
	email string
	token string
}

// person makes a user of the tenant and signs them in. They are a member of
// nothing.
func (n *node) person(t *testing.T, tenant tenanttest.Tenant, name string) person {
	t.Helper()
	p := person{email: name + "@" + tenant.Route.Slug + ".example"}
	p.id = value[int64](t, tenant, `INSERT INTO public.users (username, full_name, email, password_hash)
		SELECT $1, $2, $1, password_hash FROM public.users WHERE id = $3 RETURNING id`, p.email, name, tenant.OwnerID)
	login := n.ask(t, http.MethodPost, hostOf(tenant), "/auth/login", object{"identifier": p.email, "password": tenanttest.OwnerPassword})
	expect(t, "login of "+name, login, 200)
	p.token = login.text("tokens", "access")
	return p
}

// companyUnder makes a company, under another one or (0) under none.
func companyUnder(t *testing.T, tenant tenanttest.Tenant, name string, parent int64) int64 {
	t.Helper()
	return value[int64](t, tenant, `WITH made AS (
			INSERT INTO public.companies (name, parent_company_id, create_by) VALUES ($1, NULLIF($2::bigint, 0), $3) RETURNING id
		), settings AS (INSERT INTO public.company_settings (company_id) SELECT id FROM made)
		SELECT id FROM made`, name, parent, tenant.OwnerID)
}

// member makes a user a member of a company.
func member(t *testing.T, tenant tenanttest.Tenant, user, company int64) (membership int64) {
	t.Helper()
	return value[int64](t, tenant, "INSERT INTO public.user_companies (user_id, company_id) VALUES ($1, $2) RETURNING id", user, company)
}

// hold gives a membership a role.
func hold(t *testing.T, tenant tenanttest.Tenant, membership, role int64, scope string) (assignment int64) {
	t.Helper()
	return value[int64](t, tenant, "INSERT INTO public.user_company_roles (user_company_id, role_id, scope) VALUES ($1, $2, $3) RETURNING id", membership, role, scope)
}

// seeded is the id of a seeded role.
func seeded(t *testing.T, tenant tenanttest.Tenant, role string) int64 {
	t.Helper()
	return value[int64](t, tenant, "SELECT id FROM public.roles WHERE role = $1 AND is_system_role AND company_id IS NULL", role)
}

// roleOf makes a role of a company (0: system-wide) that grants and denies;
// a permission to deny has a minus before it.
func roleOf(t *testing.T, tenant tenanttest.Tenant, company int64, name string, says ...string) int64 {
	t.Helper()
	role := value[int64](t, tenant, "INSERT INTO public.roles (role, company_id) VALUES ($1, NULLIF($2::bigint, 0)) RETURNING id", name, company)
	for _, code := range says {
		granted := code[0] != '-'
		if !granted {
			code = code[1:]
		}
		exec(t, tenant, "INSERT INTO public.role_permissions (role_id, permission_id, granted) SELECT $1, id, $3 FROM public.permissions WHERE code = $2", role, code, granted)
	}
	return role
}

// waitForLock returns when the backend waits for a lock.
func waitForLock(t *testing.T, tenant tenanttest.Tenant, pid int64) {
	t.Helper()
	const waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')"
	for deadline := time.Now().Add(20 * time.Second); !value[bool](t, tenant, waits, pid); {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
}
