package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/testdb"
)

// desk is a node with the control plane's side of support: a control database,
// and an operator.
type desk struct {
	*node

	control *pgx.Conn // superuser
	asPlane *pgx.Conn // the control plane's role
	asNode  *pgxpool.Pool
	helen   uuid.UUID
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	f := tenanttest.New(t)
	address := f.Control(t, f.A, f.B)
	pool, err := pgxpool.New(t.Context(), tenanttest.WithRole(address, migrations.NodeRole))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	d := &desk{
		node:    nodeOver(t, f, func(o *httpapi.Options) { o.Support = identity.NewControlCodes(pool) }),
		control: testdb.Connect(t, address), asPlane: testdb.Connect(t, tenanttest.WithRole(address, migrations.ControlRole)),
		asNode: pool, helen: uuid.New(),
	}
	_, err = d.control.Exec(t.Context(), "INSERT INTO control.operators (id, email, role, password_hash) VALUES ($1, 'helen@ouvira.example', 'owner', 'x')", d.helen)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// code is made as the control plane makes it.
func (d *desk) code(t *testing.T, tenant tenanttest.Tenant, write, breakGlass bool) string {
	t.Helper()
	code, hash := route.NewSupportCode(tenant.ID)
	if _, err := d.asPlane.Exec(t.Context(), "SELECT control.create_support_code($1, $2, $3, $4, 'Ticket 4711', 15, $5, $6)", uuid.New(), tenant.ID, d.helen, hash, write, breakGlass); err != nil {
		t.Fatal(err)
	}
	return code
}

func (d *desk) redeem(t *testing.T, tenant tenanttest.Tenant, code string) answer {
	t.Helper()
	return d.ask(t, http.MethodPost, hostOf(tenant), "/auth/support-session", object{"code": code})
}

// enter redeems a new code, which must work.
func (d *desk) enter(t *testing.T, write, breakGlass bool) (token string) {
	t.Helper()
	a := d.redeem(t, d.A, d.code(t, d.A, write, breakGlass))
	expect(t, "enter", a, 200)
	return a.text("access")
}

func (d *desk) allow(t *testing.T, token string, write bool) answer {
	t.Helper()
	return d.ask(t, http.MethodPut, hostOf(d.A), "/account/support-access", object{"until": time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339), "write": write}, bearer(token))
}

func TestSupportEntersOnlyWhileAnOwnerAllowsIt(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	owner, _ := d.login(t, d.A)
	second, _ := d.member(t, d.A, "second@example.com", "owner", d.A.CompanyID)
	none := d.code(t, d.A, false, false)
	expect(t, "without consent", d.redeem(t, d.A, none), 403, "no_consent")
	allowed := d.allow(t, owner, false)
	expect(t, "allow", allowed, 200)
	if allowed.at("active") != true || allowed.at("write") != false || allowed.number("granted_by") != d.A.OwnerID {
		t.Errorf("allowed: %s", allowed.raw)
	}
	expect(t, "the code is used up", d.redeem(t, d.A, none), 401, "invalid_support_code")

	code := d.code(t, d.A, true, false)
	expect(t, "A's code at B", d.redeem(t, d.B, code), 401, "invalid_support_code")
	leases := d.leases(d.B)
	a := d.redeem(t, d.A, code)
	expect(t, "enter", a, 200)
	if a.at("write") != false || a.number("expires_in") != 900 {
		t.Errorf("entered: %s", a.raw)
	}
	expect(t, "once", d.redeem(t, d.A, code), 401, "invalid_support_code")
	token := a.text("access")
	home := "/company/" + itoa(d.A.CompanyID)
	expect(t, "look", d.get(t, d.A, home, token), 200)
	expect(t, "look at companies", d.get(t, d.A, "/company", token), 200)
	expect(t, "look at members", d.get(t, d.A, home+"/members", token), 200)
	expect(t, "at B", d.get(t, d.B, home, token), 401, "invalid_token")
	if d.leases(d.B) != leases {
		t.Error("B's database was asked")
	}
	expect(t, "change", d.ask(t, http.MethodPatch, hostOf(d.A), home, object{"name": "X"}, bearer(token)), 403, "support_reads_only")

	seen := d.get(t, d.A, "/account/support-access", second)
	expect(t, "the other owner sees it", seen, 200)
	if !strings.Contains(seen.raw, "helen@ouvira.example") || !strings.Contains(seen.raw, "Ticket 4711") || seen.at("active") != true {
		t.Errorf("seen: %s", seen.raw)
	}
	events := map[string]int{}
	for _, m := range messages(t, d.node, d.A) {
		if strings.Contains(m.Values["event"], "support") {
			events[m.To]++
		}
	}
	if len(events) != 2 || events[d.A.OwnerEmail] != 2 || events["second@example.com"] != 2 {
		t.Errorf("the owners got %v", events)
	}
	if n := value[int](t, d.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = 'support_access' AND action = 'ENTER' AND on_behalf = 'helen@ouvira.example' AND user_id = $1", d.A.OwnerID); n != 1 {
		t.Errorf("%d records in the activity log", n)
	}
	if n := value[int](t, d.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'support_allowed' OR (action = 'support_entered' AND metadata ->> 'on_behalf' = 'helen@ouvira.example')"); n != 2 {
		t.Errorf("%d records in the security log", n)
	}
	var recorded int
	if err := d.control.QueryRow(t.Context(), "SELECT count(*) FROM control.audit_log WHERE action = 'support.enter' AND tenant_id = $1 AND actor_id = $2", d.A.ID, d.helen.String()).Scan(&recorded); err != nil || recorded != 2 {
		t.Errorf("%d records in the control plane's audit (%v)", recorded, err)
	}

	expect(t, "the other owner ends it", d.ask(t, http.MethodDelete, hostOf(d.A), "/account/support-access", nil, bearer(second)), 204)
	expect(t, "the next request", d.get(t, d.A, home, token), 401, "invalid_token")
	expect(t, "allow again", d.allow(t, owner, false), 200)
	expect(t, "what has ended stays so", d.get(t, d.A, home, token), 401)
}

func TestSupportNeverGainsPower(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	owner, _ := d.login(t, d.A)
	_, member := d.member(t, d.A, "m@example.com", "employee", d.A.CompanyID)
	expect(t, "allow", d.allow(t, owner, true), 200)
	reader, writer := d.enter(t, false, false), d.enter(t, true, false)
	home := "/company/" + itoa(d.A.CompanyID)
	rename := func(token, name string) answer {
		return d.ask(t, http.MethodPatch, hostOf(d.A), home, object{"name": name}, bearer(token))
	}
	expect(t, "a code that only looks", rename(reader, "X"), 403, "support_reads_only")
	expect(t, "one that changes", rename(writer, "Renamed"), 200)
	if by := value[string](t, d.A, "SELECT user_id || ' ' || on_behalf FROM ledger.activity_logs WHERE entity_type = 'company' ORDER BY id DESC LIMIT 1"); by != itoa(d.A.OwnerID)+" helen@ouvira.example" {
		t.Errorf("recorded as %q", by)
	}
	for token, code := range map[string]string{reader: "support_reads_only", writer: "not_for_support"} {
		expect(t, "switch a member off", d.ask(t, http.MethodPatch, hostOf(d.A), home+"/members/"+itoa(member), object{"is_active": false}, bearer(token)), 403, code)
		expect(t, "make a role", d.ask(t, http.MethodPost, hostOf(d.A), "/access-control/roles", object{"role": "helpers"}, bearer(token)), 403, code)
		expect(t, "make a key", d.ask(t, http.MethodPost, hostOf(d.A), "/account/api-keys", object{"name": "k", "permissions": []string{"company.read"}}, bearer(token)), 403, "not_for_support")
		expect(t, "let itself in", d.allow(t, token, true), 403, "not_for_support")
		expect(t, "the owner's profile", d.get(t, d.A, "/account/me", token), 403, "not_for_support")
	}
	d.everyOperation(t, func(method, path string, tags []any) {
		for _, token := range []string{reader, writer} {
			a := d.ask(t, method, hostOf(d.A), path, nil, bearer(token))
			account := slices.Contains(tags, any("account")) || slices.Contains(tags, any("auth"))
			power := strings.HasPrefix(path, "/access-control") && method != http.MethodGet
			if (account || power || (token == reader && method != http.MethodGet)) && a.status < 400 {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.raw)
			}
			if a.status == 401 || a.status >= 500 {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.raw)
			}
		}
	})
	expect(t, "narrow the consent", d.allow(t, owner, false), 200)
	expect(t, "it narrows who is in", rename(writer, "Y"), 403, "support_reads_only")
	exec(t, d.A, "UPDATE public.support_consents SET until = now()")
	expect(t, "when its time is over", d.get(t, d.A, home, reader), 401)
	expect(t, "a new consent", d.allow(t, owner, true), 200)
	expect(t, "does not revive it", d.get(t, d.A, home, reader), 401)
	reader = d.enter(t, false, false)
	exec(t, d.A, "UPDATE public.support_sessions SET expires_at = now()")
	expect(t, "its own time is over", d.get(t, d.A, home, reader), 401)
}

// everyOperation walks the operations that want a token.
func (n *node) everyOperation(t *testing.T, visit func(method, path string, tags []any)) {
	t.Helper()
	document := n.ask(t, http.MethodGet, "any.example", "/openapi.json", nil)
	paths, _ := document.at("paths").(map[string]any)
	visited := 0
	for path, item := range paths {
		operations, _ := item.(map[string]any)
		for method, described := range operations {
			operation, _ := described.(map[string]any)
			if _, open := operation["security"]; open {
				continue
			}
			tags, _ := operation["tags"].([]any)
			visited++
			visit(strings.ToUpper(method), strings.NewReplacer("{id}", "1", "{user_id}", "1").Replace(path), tags)
		}
	}
	if visited < 20 {
		t.Fatalf("only %d operations", visited)
	}
}

func TestSupportBreaksTheGlassInTheOpen(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	owner, _ := d.login(t, d.A)
	d.member(t, d.A, "second@example.com", "owner", d.A.CompanyID)
	token := d.enter(t, false, true)
	home := "/company/" + itoa(d.A.CompanyID)
	expect(t, "look", d.get(t, d.A, home, token), 200)
	expect(t, "change", d.ask(t, http.MethodPatch, hostOf(d.A), home, object{"name": "X"}, bearer(token)), 403, "support_reads_only")
	told := 0
	for _, m := range messages(t, d.node, d.A) {
		if strings.Contains(m.Values["event"], "Without an owner's consent") && strings.Contains(m.Values["event"], "Ticket 4711") {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d owners were told", told)
	}
	expect(t, "an owner ends it", d.ask(t, http.MethodDelete, hostOf(d.A), "/account/support-access", nil, bearer(owner)), 204)
	expect(t, "the next request", d.get(t, d.A, home, token), 401)
	_, err := d.asPlane.Exec(t.Context(), "SELECT control.create_support_code($1, $2, $3, $4, 'r', 15, true, true)", uuid.New(), d.A.ID, d.helen, make([]byte, 32))
	if pg.Constraint(err) != "support_codes_break_glass_check" {
		t.Errorf("an emergency that writes: %v", err)
	}
}

func TestOnlyOwnersLetSupportIn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	owner, _ := d.login(t, d.A)
	admin, _ := d.member(t, d.A, "admin@example.com", "admin", d.A.CompanyID)
	expect(t, "an admin", d.allow(t, admin, false), 403, "permission_denied")
	expect(t, "an admin looks", d.get(t, d.A, "/account/support-access", admin), 403, "permission_denied")
	key, _ := d.newKey(t, owner, object{"permissions": []string{"support.consent"}})
	expect(t, "a key", d.allow(t, key, false), 403, "not_for_api_keys")
	for name, until := range map[string]time.Duration{"in the past": -time.Minute, "in eight days": 8 * 24 * time.Hour} {
		a := d.ask(t, http.MethodPut, hostOf(d.A), "/account/support-access", object{"until": time.Now().Add(until).Format(time.RFC3339)}, bearer(owner))
		expect(t, name, a, 422)
	}
	expect(t, "there is nothing to end", d.ask(t, http.MethodDelete, hostOf(d.A), "/account/support-access", nil, bearer(owner)), 204)
	if a := d.get(t, d.A, "/account/support-access", owner); a.at("active") != false || a.at("until") != nil {
		t.Errorf("it is %s", a.raw)
	}
}

func TestSupportCodesEndAndAreTheNodesToRedeemAlone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	owner, _ := d.login(t, d.A)
	expect(t, "allow", d.allow(t, owner, false), 200)
	for _, change := range []string{ // the second one lasts
		"UPDATE control.support_codes SET expires_at = now()",
		"UPDATE control.operators SET is_active = false",
	} {
		code := d.code(t, d.A, false, false)
		if _, err := d.control.Exec(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		expect(t, change, d.redeem(t, d.A, code), 401, "invalid_support_code")
	}
	_, err := d.asPlane.Exec(t.Context(), "SELECT control.create_support_code($1, $2, $3, $4, 'r', 15, false, false)", uuid.New(), d.A.ID, d.helen, make([]byte, 32))
	if pg.Code(err) != pg.CodeInsufficientRights {
		t.Errorf("a disabled operator asks for a code: %v", err)
	}
	for _, statement := range []string{
		"SELECT FROM control.support_codes",
		"SELECT control.create_support_code(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '', '', 1, false, false)",
	} {
		if _, err := d.asNode.Exec(t.Context(), statement); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("a node may %s: %v", statement, err)
		}
	}
	for _, statement := range []string{
		"INSERT INTO control.support_codes SELECT",
		"UPDATE control.support_codes SET redeemed_at = NULL",
		"SELECT FROM node.redeem_support_code(gen_random_uuid(), '')",
	} {
		if _, err := d.asPlane.Exec(t.Context(), statement); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("the control plane may %s: %v", statement, err)
		}
	}
	if a := newNode(t).ask(t, http.MethodPost, "acme.localhost", "/auth/support-session", object{"code": "x"}); a.status != 503 {
		t.Errorf("a node without a control database: %d %s", a.status, a.raw)
	}
}

func TestSec40SupportCodesAreStoredHashed(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	code := d.code(t, d.A, false, true)
	a := d.redeem(t, d.A, code)
	expect(t, "enter", a, 200)
	secret := code[strings.LastIndex(code, "_")+1:]
	if len(secret) != 52 { // 256 bits in base32
		t.Errorf("the secret has %d characters", len(secret))
	}
	notStored(t, d.A, code, secret, a.text("access"))
	var there bool
	if err := d.control.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM control.support_codes c WHERE strpos(c::text, $1) > 0 OR strpos(c::text, encode($1::bytea, 'hex')) > 0)", code).Scan(&there); err != nil || there {
		t.Errorf("the code is in the control database as it is (%v)", err)
	}
	d.neverLogged(t, code, secret, a.text("access"))
}

func TestSec55OperatorsTokensAreNoneHere(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	text, _ := route.NewSupportCode(n.A.ID)
	for _, token := range []string{"ovoa_" + strings.Repeat("A", 43), "ovoc_" + strings.Repeat("A", 43), "ovok_" + strings.Repeat("A", 43), "ovr_" + strings.Repeat("A", 65), text} {
		expect(t, token[:4], n.get(t, n.A, "/account/me", token), 401, "invalid_token")
	}
	if n.leases(n.A) != 0 {
		t.Error("an operator's token reached a tenant's database")
	}
}
