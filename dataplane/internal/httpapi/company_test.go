package httpapi_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
)

// enlist makes a user a member of a company, with one of the seeded roles.
func enlist(t *testing.T, tenant tenanttest.Tenant, userID, companyID int64, role, scope string) {
	t.Helper()
	t.Helper()
	hold(t, tenant, member(t, tenant, userID, companyID), seeded(t, tenant, role), scope)
}

// found makes a company, under another when parent is not 0.
func (n *node) found(t *testing.T, tenant tenanttest.Tenant, access, name string, parent int64) int64 {
	t.Helper()
	body := object{"name": name}
	if parent != 0 {
		body["parent_company"] = parent
	}
	made := n.ask(t, http.MethodPost, hostOf(tenant), "/company", body, bearer(access))
	expect(t, "make "+name, made, 201)
	return made.number("id")
}

func companyPath(id int64) string { return "/company/" + itoa(id) }

func TestCompanyIsChanged(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	id := n.found(t, n.A, owner, "Works", n.A.CompanyID)
	before := n.ask(t, http.MethodGet, host, companyPath(id), nil, bearer(owner))

	changed := n.ask(t, http.MethodPatch, host, companyPath(id), object{"description": "makes things", "logo": "https://cdn.example.com/l.png"}, bearer(owner), header("If-Match", before.header.Get("ETag")))
	expect(t, "patch", changed, 200)
	if changed.text("description") != "makes things" || changed.text("name") != "Works" || changed.number("parent_company") != n.A.CompanyID || changed.header.Get("ETag") == before.header.Get("ETag") {
		t.Errorf("patched: %s", changed.raw)
	}
	stale := n.ask(t, http.MethodPatch, host, companyPath(id), object{"name": "Late"}, bearer(owner), header("If-Match", before.header.Get("ETag")))
	expect(t, "patch on what was read before", stale, 412)
	replaced := n.ask(t, http.MethodPut, host, companyPath(id), object{"name": " Mill ", "logo": nil, "is_parent_company": true}, bearer(owner))
	expect(t, "put", replaced, 200)
	if replaced.text("name") != "Mill" || replaced.at("logo") != nil || replaced.at("is_parent_company") != true || replaced.text("description") != "makes things" {
		t.Errorf("replaced: %s", replaced.raw)
	}
	for field, bad := range map[string]any{
		"name": "  ", "logo": "javascript:alert(1)", "status": "deleted", "parent_company": 999999, "is_parent_company": "yes", "description": strings.Repeat("x", 5001),
	} {
		refused := n.ask(t, http.MethodPatch, host, companyPath(id), object{field: bad}, bearer(owner))
		expect(t, "bad "+field, refused, 422)
		if !strings.Contains(refused.raw, `"field":"`+field+`"`) {
			t.Errorf("the refusal does not name %s: %s", field, refused.raw)
		}
	}
	expect(t, "put without a name", n.ask(t, http.MethodPut, host, companyPath(id), object{"description": "x"}, bearer(owner)), 422)

	recorded := value[string](t, n.A, `SELECT string_agg(action || ' ' || COALESCE(new_values->>'description', new_values->>'name', ''), ',' ORDER BY id)
		FROM ledger.activity_logs WHERE entity_type = 'company' AND entity_id = $1 AND company_id = $1 AND user_id = $2`, id, n.A.OwnerID)
	if recorded != "CREATE ,UPDATE makes things,UPDATE Mill" {
		t.Errorf("the audit holds %q", recorded)
	}
	if others := value[int64](t, n.B, "SELECT count(*) FROM ledger.activity_logs"); others != 0 {
		t.Errorf("tenant B's audit has %d records", others)
	}

	employee := n.person(t, n.A, "employee")
	enlist(t, n.A, employee.id, id, "employee", "subtree")
	expect(t, "an employee may not", n.ask(t, http.MethodPatch, host, companyPath(id), object{"name": "X"}, bearer(employee.token)), 403, "permission_denied")
	stranger := n.person(t, n.A, "stranger")
	for _, method := range []string{http.MethodPatch, http.MethodDelete} {
		var body any
		if method == http.MethodPatch {
			body = object{"name": "X"}
		}
		expect(t, method+" of a stranger", n.ask(t, method, host, companyPath(id), body, bearer(stranger.token)), 404)
	}
	foreign, _ := n.login(t, n.B)
	expect(t, "at tenant B the id is nothing", n.ask(t, http.MethodPatch, hostOf(n.B), companyPath(id), object{"name": "X"}, bearer(foreign)), 404)
}

func TestCompanyIsDeactivatedAndActivated(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	group := n.found(t, n.A, owner, "Group", 0)
	works := n.found(t, n.A, owner, "Works", group)
	patch := func(id int64, body object) answer {
		return n.ask(t, http.MethodPatch, host, companyPath(id), body, bearer(owner))
	}
	expect(t, "deactivate", patch(group, object{"status": "deactivated"}), 200)
	below := n.ask(t, http.MethodGet, host, companyPath(works), nil, bearer(owner))
	if below.text("status") != "active" || below.text("effective_status") != "deactivated" {
		t.Errorf("below a deactivated one: %s", below.raw)
	}
	list := n.ask(t, http.MethodGet, host, "/company", nil, bearer(owner))
	if strings.Count(list.raw, `"effective_status":"deactivated"`) != 2 {
		t.Errorf("the list: %s", list.raw)
	}
	expect(t, "a change of it", patch(group, object{"name": "X"}), 409, "company_deactivated")
	expect(t, "a change below it", patch(works, object{"name": "X"}), 409, "company_deactivated")
	expect(t, "status below it", patch(works, object{"status": "deactivated"}), 409, "company_deactivated")
	expect(t, "settings below it", n.ask(t, http.MethodPatch, host, companyPath(works)+"/settings", object{"timezone": "UTC"}, bearer(owner)), 409, "company_deactivated")
	expect(t, "a company below it", n.ask(t, http.MethodPost, host, "/company", object{"name": "X", "parent_company": works}, bearer(owner)), 409, "company_deactivated")
	expect(t, "one moved below it", patch(n.found(t, n.A, owner, "Other", 0), object{"parent_company": works}), 409, "company_deactivated")
	expect(t, "moving out of it", patch(works, object{"parent_company": nil}), 409, "company_deactivated")
	expect(t, "activate, and change at once", patch(group, object{"status": "active", "name": "Group again"}), 200)
	expect(t, "a change below it now", patch(works, object{"name": "Works again"}), 200)

	expect(t, "deactivate once more", patch(works, object{"status": "deactivated"}), 200)
	expect(t, "delete what is deactivated", n.ask(t, http.MethodDelete, host, companyPath(works), nil, bearer(owner)), 204)
	if b := value[string](t, n.B, "SELECT string_agg(status, ',') FROM public.companies"); b != "active" {
		t.Errorf("tenant B's companies are %s", b)
	}
}

func TestCompanyIsDeleted(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	founder := n.person(t, n.A, "founder")
	group := n.found(t, n.A, founder.token, "Group", 0) // the founder's first, and so primary
	other := n.found(t, n.A, founder.token, "Other", 0)
	works := n.found(t, n.A, founder.token, "Works", group)
	admin := n.person(t, n.A, "admin")
	enlist(t, n.A, admin.id, group, "admin", "subtree")
	remove := func(id int64, token string) answer {
		return n.ask(t, http.MethodDelete, host, companyPath(id), nil, bearer(token))
	}
	expect(t, "an admin may not", remove(works, admin.token), 403)
	expect(t, "with a subsidiary", remove(group, founder.token), 409, "has_subsidiaries")
	expect(t, "the home company", remove(n.A.CompanyID, owner), 409, "home_company")
	expect(t, "the subsidiary", remove(works, founder.token), 204)
	expect(t, "the group", remove(group, founder.token), 204)
	expect(t, "again", remove(group, founder.token), 404)
	expect(t, "what is deleted is gone", n.ask(t, http.MethodGet, host, companyPath(group), nil, bearer(founder.token)), 404)
	if list := n.ask(t, http.MethodGet, host, "/company", nil, bearer(founder.token)); list.number("count") != 1 {
		t.Errorf("the founder still sees %s", list.raw)
	}
	expect(t, "nothing comes under it", n.ask(t, http.MethodPost, host, "/company", object{"name": "X", "parent_company": group}, bearer(founder.token)), 422)
	if primary := value[int64](t, n.A, "SELECT company_id FROM public.user_companies WHERE user_id = $1 AND is_primary_company", founder.id); primary != other {
		t.Errorf("the primary company is %d, not %d", primary, other)
	}
	if row := value[string](t, n.A, "SELECT status || is_deleted FROM public.companies WHERE id = $1", group); row != "deletedtrue" {
		t.Errorf("the row is %s", row)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.companies WHERE deleted_at IS NULL"); b != 1 {
		t.Errorf("tenant B has %d companies", b)
	}
}

func TestCompanyIsMoved(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	group := n.found(t, n.A, owner, "Group", 0)
	works := n.found(t, n.A, owner, "Works", group)
	mill := n.found(t, n.A, owner, "Mill", works)
	manager := n.person(t, n.A, "manager")
	enlist(t, n.A, manager.id, works, "manager", "subtree")
	own := n.found(t, n.A, manager.token, "Own", 0)
	move := func(id int64, to any, token string) answer {
		return n.ask(t, http.MethodPatch, host, companyPath(id), object{"parent_company": to}, bearer(token))
	}
	expect(t, "under itself", move(works, works, owner), 409, "company_cycle")
	expect(t, "under what is below it", move(group, mill, owner), 409, "company_cycle")
	// A manager who may change the company, and owns another, would own both.
	expect(t, "under the manager's own", move(works, own, manager.token), 403)
	expect(t, "out of the group", move(works, nil, manager.token), 403)
	alone := n.found(t, n.A, owner, "Alone", 0)
	hold(t, n.A, member(t, n.A, manager.id, alone), seeded(t, n.A, "manager"), "subtree")
	expect(t, "one that stands alone, under the manager's own", move(alone, own, manager.token), 403, "permission_denied")
	expect(t, "the home company", move(n.A.CompanyID, group, owner), 409, "home_company")
	expect(t, "under one that is not seen", move(group, own, owner), 422)

	// An owner of the subsidiary alone: it is not theirs to take out of the group.
	exec(t, n.A, "UPDATE public.user_company_roles SET role_id = (SELECT id FROM public.roles WHERE role = 'owner') WHERE user_company_id = (SELECT id FROM public.user_companies WHERE user_id = $1 AND company_id = $2)", manager.id, works)
	expect(t, "out of the group, by an owner of it alone", move(works, nil, manager.token), 403)
	enlist(t, n.A, manager.id, group, "manager", "self")
	expect(t, "by who may change the group too", move(works, own, manager.token), 200)
	expect(t, "its owner is there no more", n.ask(t, http.MethodGet, host, companyPath(mill), nil, bearer(manager.token)), 200)
	paths := value[string](t, n.A, "SELECT string_agg(ancestor_id || ':' || depth, ' ' ORDER BY depth) FROM public.company_paths WHERE descendant_id = $1", mill)
	if paths != itoa(mill)+":0 "+itoa(works)+":1 "+itoa(own)+":2" {
		t.Errorf("above the mill: %s", paths)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.company_paths"); b != 1 {
		t.Errorf("tenant B has %d paths", b)
	}
}

func TestCompanyTreeShowsWhatOneSees(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	group := n.found(t, n.A, owner, "Group", 0)
	works := n.found(t, n.A, owner, "Works", group)
	n.found(t, n.A, owner, "Shop", group)
	mill := n.found(t, n.A, owner, "Mill", works)

	tree := n.ask(t, http.MethodGet, host, companyPath(group)+"/tree", nil, bearer(owner))
	expect(t, "the owner's tree", tree, 200)
	children, _ := tree.at("children").([]any)
	if len(children) != 2 || !strings.Contains(tree.raw, `"name":"Mill"`) || strings.Contains(tree.raw, "acme Ltd") {
		t.Errorf("the owner sees %s", tree.raw)
	}
	employee := n.person(t, n.A, "employee")
	enlist(t, n.A, employee.id, group, "employee", "self")
	enlist(t, n.A, employee.id, mill, "employee", "self")
	tree = n.ask(t, http.MethodGet, host, companyPath(group)+"/tree", nil, bearer(employee.token))
	expect(t, "the employee's tree", tree, 200)
	children, _ = tree.at("children").([]any)
	if len(children) != 1 || !strings.Contains(tree.raw, `"name":"Mill"`) || strings.Contains(tree.raw, "Works") || strings.Contains(tree.raw, "Shop") {
		t.Errorf("the employee sees %s", tree.raw)
	}
	expect(t, "of what they do not see", n.ask(t, http.MethodGet, host, companyPath(works)+"/tree", nil, bearer(employee.token)), 404)
	foreign, _ := n.login(t, n.B)
	expect(t, "at tenant B", n.ask(t, http.MethodGet, hostOf(n.B), companyPath(group)+"/tree", nil, bearer(foreign)), 404)
}

func TestCompanySettings(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	path := companyPath(n.A.CompanyID) + "/settings"
	before := n.ask(t, http.MethodGet, host, path, nil, bearer(owner))
	expect(t, "get", before, 200)
	if before.number("company") != n.A.CompanyID || before.number("id") != n.A.CompanyID || before.text("default_language") != "en" {
		t.Errorf("the settings are %s", before.raw)
	}
	changed := n.ask(t, http.MethodPatch, host, path, object{
		"default_language": "DE", "default_currency": "eur", "timezone": "Europe/Berlin", "fiscal_year_start_month": 4,
		"feature_flags": object{"beta": true, "limit_2": 12.5, "theme": "dark"},
	}, bearer(owner), header("If-Match", before.header.Get("ETag")))
	expect(t, "patch", changed, 200)
	if changed.text("default_language") != "de" || changed.text("default_currency") != "EUR" || changed.number("fiscal_year_start_month") != 4 || changed.at("feature_flags", "limit_2") != 12.5 {
		t.Errorf("changed to %s", changed.raw)
	}
	expect(t, "a stale one", n.ask(t, http.MethodPut, host, path, object{"timezone": "UTC"}, bearer(owner), header("If-Match", before.header.Get("ETag"))), 412)
	flags := n.ask(t, http.MethodPut, host, path, object{"feature_flags": object{"other": false}}, bearer(owner))
	expect(t, "put", flags, 200)
	if flags.at("feature_flags", "beta") != nil || flags.at("feature_flags", "other") != false || flags.text("timezone") != "Europe/Berlin" {
		t.Errorf("replaced: %s", flags.raw)
	}
	many := object{}
	for i := range 101 {
		many["f"+itoa(int64(i))] = true
	}
	for field, wrong := range map[string][]any{
		"default_language":        {"xx", "english", "", "e"},
		"default_currency":        {"XYZ", "EURO", "XXX"},
		"timezone":                {"Local", "", "Europe/Nowhere", "../etc/passwd", "/etc/localtime", "posix/Europe/Berlin", "localtime"},
		"fiscal_year_start_month": {0, 13, "4"},
		"feature_flags":           {many, object{"Bad Name": true}, object{"a": object{}}, object{"a": []any{1}}, object{"a": nil}, []any{}},
	} {
		for _, bad := range wrong {
			refused := n.ask(t, http.MethodPatch, host, path, object{field: bad}, bearer(owner))
			expect(t, "bad "+field, refused, 422)
			if !strings.Contains(refused.raw, `"field":"`+field) {
				t.Errorf("the refusal does not name %s: %s", field, refused.raw)
			}
		}
	}
	manager := n.person(t, n.A, "manager")
	enlist(t, n.A, manager.id, n.A.CompanyID, "manager", "subtree")
	expect(t, "a manager reads", n.ask(t, http.MethodGet, host, path, nil, bearer(manager.token)), 200)
	expect(t, "and may not write", n.ask(t, http.MethodPatch, host, path, object{"timezone": "UTC"}, bearer(manager.token)), 403)
	foreign, _ := n.login(t, n.B)
	if b := n.ask(t, http.MethodGet, hostOf(n.B), path, nil, bearer(foreign)); b.text("default_currency") != "USD" {
		t.Errorf("tenant B's settings are %s", b.raw)
	}
	if recorded := value[string](t, n.A, "SELECT (old_values->>'timezone') || (new_values->>'timezone') FROM ledger.activity_logs WHERE entity_type = 'company_settings' ORDER BY id LIMIT 1"); recorded != "UTCEurope/Berlin" {
		t.Errorf("the audit holds %q", recorded)
	}
}

func TestSec30ConcurrentMovesIntoACycle(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	const rounds = 10
	for range rounds {
		a, b, c := n.found(t, n.A, owner, "A", 0), n.found(t, n.A, owner, "B", 0), n.found(t, n.A, owner, "C", 0)
		moves := [][2]int64{{a, b}, {b, c}, {c, a}}
		answers := make([]answer, len(moves))
		var movers sync.WaitGroup
		for i, m := range moves {
			movers.Go(func() {
				answers[i] = n.ask(t, http.MethodPatch, hostOf(n.A), companyPath(m[0]), object{"parent_company": m[1]}, bearer(owner))
			})
		}
		movers.Wait()
		done := 0
		for _, a := range answers {
			switch a.status {
			case 200:
				done++
			case 409:
				expect(t, "the one that closes the circle", a, 409, "company_cycle")
			default:
				t.Errorf("a move: %d %s", a.status, a.raw)
			}
		}
		if done != 2 {
			t.Errorf("%d of 3 moves into a circle were done", done)
		}
	}
	if above := value[int64](t, n.A, "SELECT count(*) FROM public.company_paths p JOIN public.company_paths q ON q.ancestor_id = p.descendant_id AND q.descendant_id = p.ancestor_id WHERE p.depth > 0"); above != 0 {
		t.Errorf("%d companies are above and below each other", above)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.companies"); b != 1 {
		t.Errorf("tenant B has %d companies", b)
	}
}

func TestSec32FieldsThatAreNotTheCallers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	id := n.found(t, n.A, owner, "Works", 0)
	for field, forged := range map[string]any{
		"id": 1, "create_by": 1, "created_at": "2020-01-01T00:00:00Z", "updated_at": "2020-01-01T00:00:00Z", "deleted_at": nil, "is_deleted": false, "effective_status": "active", "settings": object{}, "company_id": 1,
	} {
		for _, call := range []struct{ method, path string }{
			{http.MethodPost, "/company"}, {http.MethodPut, companyPath(id)}, {http.MethodPatch, companyPath(id)}, {http.MethodPatch, companyPath(id) + "/settings"},
		} {
			body := object{field: forged}
			if !strings.HasSuffix(call.path, "settings") {
				body["name"] = "X"
			}
			refused := n.ask(t, call.method, hostOf(n.A), call.path, body, bearer(owner))
			expect(t, call.method+" "+call.path+" with "+field, refused, 422)
		}
	}
	if name := value[string](t, n.A, "SELECT name FROM public.companies WHERE id = $1", id); name != "Works" {
		t.Errorf("the company is %s", name)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.companies"); b != 1 {
		t.Errorf("tenant B has %d companies", b)
	}
}
