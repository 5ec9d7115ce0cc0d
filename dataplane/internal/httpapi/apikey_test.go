package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// newKey makes an API key in A, which must work.
func (n *node) newKey(t *testing.T, token string, body object) (key string, id int64) {
	t.Helper()
	if body["name"] == nil {
		body["name"] = "Test"
	}
	a := n.ask(t, http.MethodPost, hostOf(n.A), "/account/api-keys", body, bearer(token))
	if a.status != http.StatusCreated || a.text("key") == "" {
		t.Fatalf("make an API key: %d %s", a.status, a.raw)
	}
	return a.text("key"), a.number("id")
}

func (n *node) get(t *testing.T, tenant tenanttest.Tenant, path, token string) answer {
	t.Helper()
	return n.ask(t, http.MethodGet, hostOf(tenant), path, nil, bearer(token))
}

func TestAnAPIKeyActsForItsMakerWithinItsPermissions(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	key, id := n.newKey(t, owner, object{"name": "Export", "permissions": []string{"company.read", "company.read"}})
	home := "/company/" + itoa(n.A.CompanyID)
	expect(t, "what is on the key", n.get(t, n.A, home, key), 200)
	expect(t, "who am I", n.get(t, n.A, "/account/me", key), 200)
	if list := n.get(t, n.A, "/account/api-keys", key); list.number("count") != 0 {
		t.Errorf("a key without apikey.read lists %s", list.raw)
	}
	expect(t, "of one company", n.get(t, n.A, "/account/api-keys?company="+itoa(n.A.CompanyID), key), 403, "permission_denied")
	expect(t, "revoke itself", n.ask(t, http.MethodDelete, hostOf(n.A), "/account/api-keys/"+itoa(id), nil, bearer(key)), 403, "permission_denied")
	expect(t, "what is a person's", n.ask(t, http.MethodPost, hostOf(n.A), "/auth/logout", nil, bearer(key)), 403, "not_for_api_keys")

	list := n.get(t, n.A, "/account/api-keys", owner)
	expect(t, "list", list, 200)
	results, _ := list.at("results").([]any)
	if len(results) != 1 || strings.Contains(list.raw, key) {
		t.Fatalf("the list is %s", list.raw)
	}
	row, _ := results[0].(map[string]any)
	prefix, _ := row["prefix"].(string)
	if row["name"] != "Export" || !strings.HasPrefix(key, prefix) || len(prefix) < 20 || row["last_used_at"] == nil || row["user_display"] != "Owner of "+n.A.Route.Slug {
		t.Errorf("the list is %s", list.raw)
	}
	if at, err := time.Parse(time.RFC3339, row["expires_at"].(string)); err != nil || time.Until(at) < 364*24*time.Hour || time.Until(at) > 366*24*time.Hour {
		t.Errorf("it expires at %v", row["expires_at"])
	}
	if seen := n.get(t, n.B, "/account/api-keys", first(n.login(t, n.B))); seen.number("count") != 0 {
		t.Errorf("B sees %s", seen.raw)
	}

	// The maker loses the permission: so does the key, at once.
	exec(t, n.A, "UPDATE public.role_permissions rp SET granted = false FROM public.permissions p WHERE p.id = rp.permission_id AND p.code = 'company.read'")
	expect(t, "what the maker lost", n.get(t, n.A, home, key), 403, "permission_denied")
	if logged := value[int](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = 'api_key' AND action = 'CREATE' AND user_id = $1", n.A.OwnerID); logged != 1 {
		t.Errorf("%d records of its making", logged)
	}
}

func first[A, B any](a A, _ B) A { return a }

func TestAnAPIKeyWorksInItsCompanyAndBelow(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	company := func(name string, parent int64) int64 {
		a := n.ask(t, http.MethodPost, hostOf(n.A), "/company", object{"name": name, "parent_company": parent}, bearer(owner))
		expect(t, "create "+name, a, 201)
		return a.number("id")
	}
	works := company("Works", n.A.CompanyID)
	shop := company("Shop", works)
	sibling := company("Sibling", n.A.CompanyID)
	key, _ := n.newKey(t, owner, object{"permissions": []string{"company.read", "apikey.read"}, "company": works})
	n.newKey(t, owner, object{"permissions": []string{"company.read"}, "company": sibling})
	for id, status := range map[int64]int{works: 200, shop: 200, sibling: 404, n.A.CompanyID: 404} {
		expect(t, "company "+itoa(id), n.get(t, n.A, "/company/"+itoa(id), key), status)
	}
	list := n.get(t, n.A, "/account/api-keys", key)
	if list.status != 200 || list.number("count") != 1 {
		t.Errorf("the key sees the keys %s", list.raw)
	}
	if list := n.get(t, n.A, "/company", key); list.status != 200 || list.number("count") != 2 {
		t.Errorf("the key sees the companies %s", list.raw)
	}
	blind, _ := n.newKey(t, owner, object{"permissions": []string{"apikey.read"}})
	if list := n.get(t, n.A, "/company", blind); list.status != 200 || list.number("count") != 0 {
		t.Errorf("a key without company.read sees the companies %s", list.raw)
	}
	if all := n.get(t, n.A, "/account/api-keys", owner); all.number("count") != 3 {
		t.Errorf("the owner sees %s", all.raw)
	}
}

func TestSec01KeyOfAAtB(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	key, _ := n.newKey(t, owner, object{"permissions": []string{"company.read"}})
	expect(t, "at home", n.get(t, n.A, "/account/me", key), 200)
	for _, token := range []string{key, "ouk_", key[:len(key)-1], key + "a", strings.ToUpper(key), strings.Repeat("ouk_", 1000)} {
		expect(t, "at B", n.get(t, n.B, "/account/me", token), 401, "invalid_token")
	}
	if asked := n.leases(n.B); asked != 0 {
		t.Errorf("B's database was asked %d times", asked)
	}
	asked := n.leases(n.A)
	for _, token := range []string{"ouk_", key[:len(key)-1], key + "a", strings.ToUpper(key)} {
		expect(t, "misshapen", n.get(t, n.A, "/account/me", token), 401, "invalid_token")
	}
	if n.leases(n.A) != asked {
		t.Error("a misshapen key reached the database")
	}
}

func TestSec17AKeyIsDeadAtTheNextCall(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	n.member(t, n.A, "second@example.com", "owner", n.A.CompanyID) // the last owner cannot be disabled
	for name, end := range map[string]func(id int64){
		"revoked": func(id int64) {
			expect(t, "revoke", n.ask(t, http.MethodDelete, hostOf(n.A), "/account/api-keys/"+itoa(id), nil, bearer(owner)), 204)
			expect(t, "again", n.ask(t, http.MethodDelete, hostOf(n.A), "/account/api-keys/"+itoa(id), nil, bearer(owner)), 404)
		},
		"expired":       func(id int64) { exec(t, n.A, "UPDATE public.api_keys SET expires_at = now() WHERE id = $1", id) },
		"disabled":      func(int64) { exec(t, n.A, "UPDATE public.users SET is_active = false WHERE id = $1", n.A.OwnerID) },
		"deleted":       func(int64) { exec(t, n.A, "UPDATE public.users SET deleted_at = now() WHERE id = $1", n.A.OwnerID) },
		"epoch raised":  func(int64) { n.Table.Change(n.A.ID, func(r *route.Route) { r.TokenEpoch++ }) },
		"none, control": nil,
	} {
		key, id := n.newKey(t, owner, object{"permissions": []string{"company.read"}})
		expect(t, name+", before", n.get(t, n.A, "/account/me", key), 200)
		if end == nil {
			continue
		}
		end(id)
		expect(t, name, n.get(t, n.A, "/account/me", key), 401, "invalid_token")
		exec(t, n.A, "UPDATE public.users SET is_active = true, deleted_at = NULL")
		owner, _ = n.login(t, n.A)
	}
}

func TestSec28NobodyPutsOnAKeyWhatTheyDoNotHold(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	create := func(token string, body object) answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), "/account/api-keys", body, bearer(token))
	}
	admin, _ := n.member(t, n.A, "admin@example.com", "admin", n.A.CompanyID)
	expect(t, "what admins hold", create(admin, object{"name": "k", "permissions": []string{"company.edit"}}), 201)
	expect(t, "what only owners hold", create(admin, object{"name": "k", "permissions": []string{"company.edit", "company.delete"}}), 403, "permission_not_held")
	expect(t, "what there is not", create(admin, object{"name": "k", "permissions": []string{"company.fly"}}), 422)
	employee, _ := n.member(t, n.A, "employee@example.com", "employee", n.A.CompanyID)
	expect(t, "without apikey.create", create(employee, object{"name": "k", "permissions": []string{"company.read"}}), 403, "permission_denied")
	stranger := n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{"full_name": "S", "email": "s@example.com", "password": goodPassword}).text("tokens", "access")
	expect(t, "in a company that one does not see", create(stranger, object{"name": "k", "permissions": []string{"company.read"}}), 404)

	// A key makes no key beyond itself, and its keys go with it.
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	parent, id := n.newKey(t, owner, object{"permissions": []string{"apikey.create", "company.read"}, "expires_at": soon})
	expect(t, "beyond the key", create(parent, object{"name": "k", "permissions": []string{"company.edit"}}), 403, "permission_not_held")
	child := create(parent, object{"name": "child", "permissions": []string{"company.read"}})
	expect(t, "within the key", child, 201)
	if child.text("expires_at") != soon {
		t.Errorf("the child expires at %s, its parent at %s", child.text("expires_at"), soon)
	}
	expect(t, "the child works", n.get(t, n.A, "/account/me", child.text("key")), 200)
	if maker := value[string](t, n.A, "SELECT on_behalf FROM ledger.activity_logs WHERE entity_type = 'api_key' ORDER BY id DESC LIMIT 1"); maker != "API key Test" {
		t.Errorf("the record names %q", maker)
	}
	expect(t, "revoke the parent", n.ask(t, http.MethodDelete, hostOf(n.A), "/account/api-keys/"+itoa(id), nil, bearer(owner)), 204)
	expect(t, "the child is dead too", n.get(t, n.A, "/account/me", child.text("key")), 401)

	for name, body := range map[string]object{
		"in the past":         {"name": "k", "permissions": []string{"company.read"}, "expires_at": time.Now().Add(-time.Hour).Format(time.RFC3339)},
		"in two years":        {"name": "k", "permissions": []string{"company.read"}, "expires_at": time.Now().Add(2 * 365 * 24 * time.Hour).Format(time.RFC3339)},
		"without permissions": {"name": "k", "permissions": []string{}},
		"without a name":      {"name": "  ", "permissions": []string{"company.read"}},
		"for somebody else":   {"name": "k", "permissions": []string{"company.read"}, "user": 2},
	} {
		expect(t, name, create(owner, body), 422)
	}
}

func TestSec40APIKeysAreLongAndStoredHashed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	key, _ := n.newKey(t, owner, object{"permissions": []string{"company.read"}})
	expect(t, "it works", n.get(t, n.A, "/account/me", key), 200)
	secret := key[strings.LastIndex(key, "_")+1:]
	if len(secret) != 52 { // 256 bits in base32
		t.Errorf("the secret has %d characters", len(secret))
	}
	notStored(t, n.A, key, secret)
	if strings.Contains(n.log.String(), secret) {
		t.Error("the key is in the log")
	}
}

func TestAnAPIKeyCostsOneRoundTripAndAWriteAMinute(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	key, id := n.newKey(t, owner, object{"permissions": []string{"company.read"}})
	counts, row := n.counts(n.A.ID), ""
	for range 3 {
		trips := counts.roundTrips.Load()
		expect(t, "me", n.get(t, n.A, "/account/me", key), 200)
		if asked := counts.roundTrips.Load() - trips; asked != 1 {
			t.Errorf("%d round trips", asked)
		}
		now := value[string](t, n.A, "SELECT ctid::text || xmin::text FROM public.api_keys WHERE id = $1 AND last_used_at IS NOT NULL", id)
		if row != "" && row != now {
			t.Error("each request writes")
		}
		row = now
	}
	exec(t, n.A, "UPDATE public.api_keys SET last_used_at = now() - interval '61 s'")
	expect(t, "a minute later", n.get(t, n.A, "/account/me", key), 200)
	if !value[bool](t, n.A, "SELECT last_used_at > now() - interval '30 s' FROM public.api_keys WHERE id = $1", id) {
		t.Error("its last use is not noted")
	}
}
