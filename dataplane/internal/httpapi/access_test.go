package httpapi_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
)

// as sends requests to tenant A as somebody.
type as struct {
	t     *testing.T
	n     *node
	token string
}

func (a as) get(path string, edits ...edit) answer { return a.ask(http.MethodGet, path, nil, edits...) }

func (a as) ask(method, path string, body any, edits ...edit) answer {
	a.t.Helper()
	return a.n.ask(a.t, method, hostOf(a.n.A), path, body, append(edits, bearer(a.token))...)
}

func (a as) post(path string, body any) answer { return a.ask(http.MethodPost, path, body) }
func (a as) put(path string, body any) answer  { return a.ask(http.MethodPut, path, body) }
func (a as) remove(path string) answer         { return a.ask(http.MethodDelete, path, nil) }

// texts are the values of a field in a list of objects, or a list of texts.
func texts(list any, field string) []string {
	all, _ := list.([]any)
	var out []string
	for _, one := range all {
		if object, ok := one.(map[string]any); ok {
			one = object[field]
		}
		if s, ok := one.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func recorded(t *testing.T, n *node, entity, action string) int {
	t.Helper()
	return value[int](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = $1 AND action = $2", entity, action)
}

const accessControl = "/access-control"

func TestPermissions(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	owner := as{t, n, token}
	const path = accessControl + "/permissions"

	list := owner.get(path + "?page_size=100")
	expect(t, "list", list, 200)
	if list.number("count") != 33 || !slices.Contains(texts(list.at("results"), "code"), "support.consent") {
		t.Errorf("the catalogue is %s", list.raw)
	}
	if module := owner.get(path + "?module=support"); module.number("count") != 1 {
		t.Errorf("one module: %s", module.raw)
	}
	seededOne := path + "/" + itoa(value[int64](t, n.A, "SELECT id FROM public.permissions WHERE code = 'user.read'"))
	expect(t, "seeded", owner.get(seededOne), 200)
	expect(t, "rename a seeded one", owner.put(seededOne, object{"code": "crm.read"}), 409, "system_permission")
	expect(t, "patch a seeded one", owner.ask(http.MethodPatch, seededOne, object{"description": "x"}), 409, "system_permission")
	expect(t, "delete a seeded one", owner.remove(seededOne), 409, "system_permission")

	made := owner.post(path, object{"code": "crm.export", "description": "Take data out"})
	expect(t, "create", made, 201)
	if made.text("module") != "crm" || made.at("is_system") != false || made.text("created_at") == "" {
		t.Errorf("create answers %s", made.raw)
	}
	one := path + "/" + itoa(made.number("id"))
	// Nobody but an owner could give it, had owners not got it.
	mine := owner.get(accessControl + "/explain?company=" + itoa(n.A.CompanyID) + "&permission=crm.export")
	if mine.at("allowed") != true || mine.text("reason") != "granted" {
		t.Errorf("the owner lacks the new permission: %s", mine.raw)
	}
	expect(t, "twice", owner.post(path, object{"code": "crm.export"}), 409, "code_taken")
	expect(t, "in a module of the platform", owner.post(path, object{"code": "user.fly"}), 422)
	expect(t, "in another module", owner.post(path, object{"code": "crm.import", "module": "sales"}), 422)
	expect(t, "no code", owner.post(path, object{"code": "CRM"}), 422)
	patched := owner.ask(http.MethodPatch, one, object{"code": "sales.export"})
	expect(t, "patch", patched, 200)
	if patched.text("module") != "sales" || patched.text("description") != "Take data out" {
		t.Errorf("patch answers %s", patched.raw)
	}
	expect(t, "replace", owner.put(one, object{"code": "sales.export"}), 200)
	if got := owner.get(one); got.text("description") != "" {
		t.Errorf("put leaves %s", got.raw)
	}
	expect(t, "delete", owner.remove(one), 204)
	expect(t, "gone", owner.get(one), 404)
	for _, action := range []string{"CREATE", "UPDATE", "DELETE"} {
		if recorded(t, n, "permission", action) == 0 {
			t.Errorf("no record of %s", action)
		}
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	owner := as{t, n, token}
	const path = accessControl + "/roles"
	child := companyUnder(t, n.A, "Child", n.A.CompanyID)
	elsewhere := companyUnder(t, n.A, "Elsewhere", 0)

	made := owner.post(path, object{"role": "accountant", "desc": "Keeps the books", "company": n.A.CompanyID})
	expect(t, "create", made, 201)
	if made.text("role") != "accountant" || made.number("company") != n.A.CompanyID || made.at("is_system_role") != false || made.header.Get("ETag") == "" {
		t.Errorf("create answers %s", made.raw)
	}
	one := path + "/" + itoa(made.number("id"))
	expect(t, "the same name", owner.post(path, object{"role": "ACCOUNTANT", "company": n.A.CompanyID}), 409, "role_taken")
	expect(t, "system-wide", owner.post(path, object{"role": "accountant", "company": nil}), 201)
	expect(t, "of a company unseen", owner.post(path, object{"role": "x", "company": elsewhere}), 404)
	expect(t, "without a name", owner.post(path, object{"role": "  "}), 422)

	foreign := roleOf(t, n.A, elsewhere, "stranger")
	expect(t, "unseen", owner.get(path+"/"+itoa(foreign)), 404)
	expect(t, "not there", owner.get(path+"/99999"), 404)
	if names := texts(owner.get(path+"?page_size=100").at("results"), "role"); slices.Contains(names, "stranger") || len(names) != 6 {
		t.Errorf("the list has %v", names)
	}
	// A role reaches down: it can be given in a company below.
	if names := texts(owner.get(path+"?company="+itoa(child)).at("results"), "role"); len(names) != 6 {
		t.Errorf("for the company below the list has %v", names)
	}
	expect(t, "for a company unseen", owner.get(path+"?company="+itoa(elsewhere)), 404)

	etag := owner.get(one).header.Get("ETag")
	changed := owner.ask(http.MethodPatch, one, object{"desc": "Closes the month"}, header("If-Match", etag))
	expect(t, "patch", changed, 200)
	expect(t, "patch on what was seen before that", owner.ask(http.MethodPatch, one, object{"desc": "x"}, header("If-Match", etag)), 412)
	expect(t, "put", owner.ask(http.MethodPut, one, object{"role": "bookkeeper", "company": n.A.CompanyID}, header("If-Match", changed.header.Get("ETag"))), 200)
	if got := owner.get(one); got.text("role") != "bookkeeper" || got.text("desc") != "" {
		t.Errorf("put leaves %s", got.raw)
	}
	expect(t, "to another company", owner.put(one, object{"role": "bookkeeper", "company": child}), 422)
	expect(t, "to system-wide", owner.put(one, object{"role": "bookkeeper"}), 422)

	system := path + "/" + itoa(seeded(t, n.A, "manager"))
	expect(t, "rename a seeded one", owner.put(system, object{"role": "boss"}), 409, "system_role")
	expect(t, "patch a seeded one", owner.ask(http.MethodPatch, system, object{"desc": "x"}), 409, "system_role")
	expect(t, "delete a seeded one", owner.remove(system), 409, "system_role")

	ada := n.person(t, n.A, "ada")
	assignment := hold(t, n.A, member(t, n.A, ada.id, n.A.CompanyID), made.number("id"), "self")
	expect(t, "delete what is held", owner.remove(one), 409, "role_in_use")
	expect(t, "take it away", owner.remove(accessControl+"/user-company-roles/"+itoa(assignment)), 204)
	const invite = "INSERT INTO public.invitations (company_id, email, language, role_id, token_hash, expires_at) VALUES ($1, 'new@acme.example', 'en', $2, sha256('x'), now() + interval '1 day')"
	exec(t, n.A, invite, n.A.CompanyID, made.number("id"))
	expect(t, "delete what somebody is invited to", owner.remove(one), 409, "role_in_use")
	exec(t, n.A, "UPDATE public.invitations SET status = 'revoked'")
	expect(t, "delete", owner.remove(one), 204)
	expect(t, "gone", owner.get(one), 404)
	expect(t, "the name is free", owner.post(path, object{"role": "bookkeeper", "company": n.A.CompanyID}), 201)
}

func TestWhatRolesSay(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	owner := as{t, n, token}
	role := roleOf(t, n.A, n.A.CompanyID, "clerk")
	of := accessControl + "/roles/" + itoa(role) + "/permissions"
	id := value[int64](t, n.A, "SELECT id FROM public.permissions WHERE code = 'company.edit'")

	granted := owner.post(of, object{"code": "company.read"})
	expect(t, "by code", granted, 201)
	if granted.at("granted") != true || granted.number("role") != role || granted.text("code") != "company.read" || granted.text("module") != "company" {
		t.Errorf("it answers %s", granted.raw)
	}
	denied := owner.post(of, object{"permission": id, "granted": false})
	expect(t, "by id", denied, 201)
	if denied.at("granted") != false || denied.number("permission") != id {
		t.Errorf("false answers %s", denied.raw)
	}
	expect(t, "both, at odds", owner.post(of, object{"permission": id, "code": "company.read"}), 422)
	expect(t, "neither", owner.post(of, object{}), 422)
	expect(t, "unknown", owner.post(of, object{"code": "no.such"}), 422)
	if again := owner.post(of, object{"permission": id, "granted": true}); again.number("id") != denied.number("id") || again.at("granted") != true {
		t.Errorf("changed to %s", again.raw)
	}
	if list := owner.get(of); list.number("count") != 2 {
		t.Errorf("the list is %s", list.raw)
	}
	expect(t, "remove by code", owner.remove(of+"?permission=company.read"), 204)
	expect(t, "remove by id", owner.remove(of+"?permission="+itoa(id)), 204)
	expect(t, "remove what is not there", owner.remove(of+"?permission=company.read"), 404)

	const path = accessControl + "/role-permissions"
	made := owner.post(path, object{"role": role, "permission": id})
	expect(t, "create", made, 201)
	expect(t, "twice", owner.post(path, object{"role": role, "permission": id, "granted": false}), 409, "grant_exists")
	one := path + "/" + itoa(made.number("id"))
	expect(t, "get", owner.get(one), 200)
	if list := owner.get(path + "?role=" + itoa(role)); list.number("count") != 1 {
		t.Errorf("of the role: %s", list.raw)
	}
	if put := owner.put(one, object{"role": role, "permission": id, "granted": false}); put.status != 200 || put.at("granted") != false {
		t.Errorf("put: %d %s", put.status, put.raw)
	}
	expect(t, "another role", owner.put(one, object{"role": role + 1, "granted": false}), 422)
	expect(t, "delete", owner.remove(one), 204)
	expect(t, "gone", owner.get(one), 404)

	owners := accessControl + "/roles/" + itoa(seeded(t, n.A, "owner")) + "/permissions"
	expect(t, "deny owners", owner.post(owners, object{"permission": id, "granted": false}), 409, "owner_keeps_all")
	expect(t, "take from owners", owner.remove(owners+"?permission="+itoa(id)), 409, "owner_keeps_all")
	exec(t, n.A, "INSERT INTO public.permissions (code, module) VALUES ('crm.export', 'crm')") // a team's migration
	expect(t, "give owners what a team has added", owner.post(owners, object{"code": "crm.export"}), 201)
	admins := accessControl + "/roles/" + itoa(seeded(t, n.A, "admin")) + "/permissions"
	expect(t, "take from admins", owner.remove(admins+"?permission=user.deactivate"), 204)
}

func TestMembershipsAndAssignments(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	owner, ada := as{t, n, token}, n.person(t, n.A, "ada")
	const members, held = accessControl + "/user-companies", accessControl + "/user-company-roles"
	child := companyUnder(t, n.A, "Child", n.A.CompanyID)

	made := owner.post(members, object{"user": ada.id, "company": n.A.CompanyID})
	expect(t, "make a member", made, 201)
	if made.number("user") != ada.id || made.at("is_active") != true || made.at("is_primary_company") != true || made.text("joined_at") == "" {
		t.Errorf("it answers %s", made.raw)
	}
	expect(t, "twice", owner.post(members, object{"user": ada.id, "company": n.A.CompanyID}), 409, "user_taken")
	expect(t, "nobody", owner.post(members, object{"user": 99999, "company": n.A.CompanyID}), 422)
	second := owner.post(members, object{"user": ada.id, "company": child, "is_active": false, "is_primary_company": true})
	expect(t, "in the company below", second, 201)
	if first := owner.get(members + "/" + itoa(made.number("id"))); first.at("is_primary_company") != false || second.at("is_active") != false {
		t.Errorf("two primary companies: %s", first.raw)
	}
	if list := owner.get(members + "?user=" + itoa(ada.id)); list.number("count") != 2 {
		t.Errorf("the list is %s", list.raw)
	}
	if list := owner.get(members + "?company=" + itoa(child)); list.number("count") != 1 {
		t.Errorf("of the company below: %s", list.raw)
	}
	one := members + "/" + itoa(made.number("id"))
	expect(t, "another user", owner.put(one, object{"user": n.A.OwnerID}), 422)
	if off := owner.put(one, object{"user": ada.id, "company": n.A.CompanyID, "is_active": false}); off.at("is_active") != false {
		t.Errorf("turned off: %s", off.raw)
	}
	expect(t, "unseen by a member who is turned off", as{t, n, ada.token}.get("/company/"+itoa(n.A.CompanyID)), 404)
	expect(t, "turned on", owner.put(one, object{"is_active": true}), 200)

	manager := seeded(t, n.A, "manager")
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	given := owner.post(held, object{"user_company": made.number("id"), "role": manager, "scope": "self", "expires_at": later})
	expect(t, "give a role", given, 201)
	if given.number("user_company", "user") != ada.id || given.text("role", "role") != "manager" || given.text("scope") != "self" ||
		given.text("expires_at") != later.Format(time.RFC3339) || given.text("assigned_at") == "" {
		t.Errorf("it answers %s", given.raw)
	}
	expect(t, "twice", owner.post(held, object{"user_company": made.number("id"), "role": manager}), 409, "role_taken")
	expect(t, "over already", owner.post(held, object{"user_company": made.number("id"), "role": seeded(t, n.A, "admin"), "expires_at": "2020-01-01T00:00:00Z"}), 422)
	expect(t, "an owner for an hour", owner.post(held, object{"user_company": made.number("id"), "role": seeded(t, n.A, "owner"), "expires_at": later}), 422)
	expect(t, "no role", owner.post(held, object{"user_company": made.number("id"), "role": 99999}), 422)
	expect(t, "no membership", owner.post(held, object{"user_company": 99999, "role": manager}), 404)
	expect(t, "another company's role", owner.post(held, object{"user_company": made.number("id"), "role": roleOf(t, n.A, child, "childs")}), 422)
	assigned := held + "/" + itoa(given.number("id"))
	if wider := owner.put(assigned, object{"scope": "subtree", "expires_at": nil}); wider.status != 200 || wider.text("scope") != "subtree" || wider.at("expires_at") != nil {
		t.Errorf("wider: %d %s", wider.status, wider.raw)
	}
	if same := owner.put(assigned, object{"user_company": made.number("id"), "role": manager}); same.text("scope") != "subtree" {
		t.Errorf("nothing sent: %s", same.raw)
	}
	if list := owner.get(held + "?role=" + itoa(manager) + "&user_company=" + itoa(made.number("id"))); list.number("count") != 1 {
		t.Errorf("the list is %s", list.raw)
	}
	expect(t, "take it", owner.remove(assigned), 204)
	expect(t, "gone", owner.get(assigned), 404)

	// A company keeps an owner, by whatever road.
	ownership := value[int64](t, n.A, "SELECT a.id FROM public.user_company_roles a JOIN public.user_companies m ON m.id = a.user_company_id WHERE m.company_id = $1 AND m.user_id = $2", n.A.CompanyID, n.A.OwnerID)
	membership := value[int64](t, n.A, "SELECT id FROM public.user_companies WHERE company_id = $1 AND user_id = $2", n.A.CompanyID, n.A.OwnerID)
	expect(t, "the last owner's role", owner.remove(held+"/"+itoa(ownership)), 409, "last_owner")
	expect(t, "the last owner's membership", owner.remove(members+"/"+itoa(membership)), 409, "last_owner")
	expect(t, "the last owner turned off", owner.put(members+"/"+itoa(membership), object{"is_active": false}), 409, "last_owner")

	expect(t, "end it", owner.remove(one), 204)
	expect(t, "ended", owner.get(one), 404)
	for _, entity := range []string{"user_company", "user_company_role"} {
		for _, action := range []string{"CREATE", "UPDATE", "DELETE"} {
			if recorded(t, n, entity, action) == 0 {
				t.Errorf("%s: no record of %s", entity, action)
			}
		}
	}
}

func TestUsersWhomOneDoesNotKnow(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	founder, ada := n.person(t, n.A, "founder"), n.person(t, n.A, "ada")
	f := as{t, n, founder.token}
	own := f.post("/company", object{"name": "Own"}).number("id")
	expect(t, "add a stranger", f.post(accessControl+"/user-companies", object{"user": ada.id, "company": own}), 422)
	shared := companyUnder(t, n.A, "Shared", 0)
	member(t, n.A, ada.id, shared)
	hold(t, n.A, member(t, n.A, founder.id, shared), seeded(t, n.A, "employee"), "self")
	exec(t, n.A, "UPDATE public.user_companies SET is_primary_company = true WHERE user_id = $1", ada.id)
	expect(t, "take over their primary company", f.post(accessControl+"/user-companies", object{"user": ada.id, "company": own, "is_primary_company": true}), 409, "primary_taken")
	expect(t, "add a colleague", f.post(accessControl+"/user-companies", object{"user": ada.id, "company": own}), 201)
}

func TestEffectiveAndExplain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	owner := as{t, n, token}
	child := companyUnder(t, n.A, "Child", n.A.CompanyID)
	grandchild := companyUnder(t, n.A, "Grandchild", child)
	ada := n.person(t, n.A, "ada")
	top, low := member(t, n.A, ada.id, n.A.CompanyID), member(t, n.A, ada.id, grandchild)
	hold(t, n.A, top, seeded(t, n.A, "employee"), "subtree")
	hold(t, n.A, top, roleOf(t, n.A, n.A.CompanyID, "no settings", "-company.settings", "-member.read"), "subtree")
	hold(t, n.A, top, roleOf(t, n.A, n.A.CompanyID, "only here", "audit.read"), "self")
	hold(t, n.A, low, roleOf(t, n.A, grandchild, "settings", "company.settings", "company.edit"), "self")
	about := func(path string, company, user int64, more string) string {
		return accessControl + path + "?company=" + itoa(company) + "&user=" + itoa(user) + more
	}

	effective := owner.get(about("/effective", grandchild, ada.id, ""))
	expect(t, "effective", effective, 200)
	if got := texts(effective.at("permissions"), ""); !slices.Equal(got, []string{"company.edit", "company.read", "organization.read"}) {
		t.Errorf("permissions: %v", got)
	}
	if got := texts(effective.at("denied"), ""); !slices.Equal(got, []string{"company.settings", "member.read"}) {
		t.Errorf("denied: %v", got)
	}
	if got := texts(effective.at("roles"), "role_name"); !slices.Equal(got, []string{"settings", "employee", "no settings"}) {
		t.Errorf("roles: %v", got)
	}
	if recorded(t, n, "effective_permissions", "READ") != 1 {
		t.Error("the look is not recorded")
	}

	denied := owner.get(about("/explain", grandchild, ada.id, "&permission=company.settings"))
	rows, _ := denied.at("rows").([]any)
	if denied.at("allowed") != false || denied.text("reason") != "denied" || len(rows) != 2 {
		t.Fatalf("explained: %s", denied.raw)
	}
	first, _ := rows[0].(map[string]any)
	if first["granted"] != false || first["distance"] != 2.0 || first["company"] != float64(n.A.CompanyID) || first["scope"] != "subtree" || first["role_name"] != "no settings" {
		t.Errorf("the denial is %v", first)
	}
	for permission, reason := range map[string]string{"company.read": "granted", "audit.read": "not_granted", "user.read": "not_granted"} {
		if a := owner.get(about("/explain", grandchild, ada.id, "&permission="+permission)); a.text("reason") != reason {
			t.Errorf("%s: %s", permission, a.raw)
		}
	}
	if a := owner.get(about("/explain", grandchild, n.person(t, n.A, "stranger").id, "&permission=company.read")); a.text("reason") != "not_visible" || a.at("allowed") != false {
		t.Errorf("a stranger: %s", a.raw)
	}
	expect(t, "no permission", owner.get(about("/explain", child, ada.id, "&permission=no.such")), 422)

	asAda := as{t, n, ada.token}
	own := asAda.get(accessControl + "/effective?company=" + itoa(child))
	if own.number("user") != ada.id || !slices.Contains(texts(own.at("permissions"), ""), "company.read") {
		t.Errorf("one's own: %d %s", own.status, own.raw)
	}
	expect(t, "of others, as an employee", asAda.get(about("/effective", child, n.A.OwnerID, "")), 403)
	expect(t, "in a company unseen", asAda.get(accessControl+"/effective?company="+itoa(companyUnder(t, n.A, "Elsewhere", 0))), 404)
	expect(t, "in none", asAda.get(accessControl+"/effective"), 422)

	// What is explained is what is decided.
	expect(t, "denied above", asAda.ask(http.MethodPatch, "/company/"+itoa(grandchild)+"/settings", object{"timezone": "UTC"}), 403, "permission_denied")
	expect(t, "granted here", asAda.get("/company/"+itoa(grandchild)), 200)
}

// TestSec28 nobody gives what they do not hold, whichever way round.
func TestSec28NobodyGivesWhatTheyDoNotHold(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	child := companyUnder(t, n.A, "Child", n.A.CompanyID)
	mallory, bob := n.person(t, n.A, "mallory"), n.person(t, n.A, "bob")
	mine, bobs := member(t, n.A, mallory.id, n.A.CompanyID), member(t, n.A, bob.id, n.A.CompanyID)
	// Mallory may give roles and change them, and is no owner and no admin.
	role := roleOf(t, n.A, n.A.CompanyID, "registrar", "role.read", "role.create", "role.edit", "role.assign", "role.delete", "member.read", "member.edit", "member.remove", "company.read", "permission.read", "company.delete", "-user.edit")
	hold(t, n.A, mine, role, "subtree")
	m := as{t, n, mallory.token}
	const held, grants = accessControl + "/user-company-roles", accessControl + "/role-permissions"
	refused := func(what string, a answer, code string) {
		t.Helper()
		expect(t, what, a, 403, code)
	}
	give := func(membership, role int64, scope string) answer {
		return m.post(held, object{"user_company": membership, "role": role, "scope": scope})
	}
	permission := func(code string) int64 {
		return value[int64](t, n.A, "SELECT id FROM public.permissions WHERE code = $1", code)
	}

	before := value[int64](t, n.A, "SELECT epoch FROM public.authz_epoch")
	refused("ownership for oneself", give(mine, seeded(t, n.A, "owner"), "self"), "owners_only")
	refused("ownership for another", give(bobs, seeded(t, n.A, "owner"), "self"), "owners_only")
	refused("admin", give(bobs, seeded(t, n.A, "admin"), "self"), "not_held")
	refused("a permission into one's own role", m.post(grants, object{"role": role, "permission": permission("audit.read")}), "not_held")
	refused("by the other path", m.post(accessControl+"/roles/"+itoa(role)+"/permissions", object{"code": "audit.read"}), "not_held")
	refused("take a denial off oneself", m.remove(accessControl+"/roles/"+itoa(role)+"/permissions?permission=user.edit"), "not_held")
	denial := value[int64](t, n.A, "SELECT rp.id FROM public.role_permissions rp WHERE rp.role_id = $1 AND NOT rp.granted", role)
	refused("turn a denial round", m.put(grants+"/"+itoa(denial), object{"granted": true}), "not_held")
	refused("delete a denial", m.remove(grants+"/"+itoa(denial)), "not_held")
	own := value[int64](t, n.A, "SELECT id FROM public.user_company_roles WHERE user_company_id = $1", mine)
	refused("shake off the role that denies", m.remove(held+"/"+itoa(own)), "not_held")
	refused("let it expire", m.put(held+"/"+itoa(own), object{"expires_at": "2999-01-01T00:00:00Z"}), "not_held")
	refused("leave with it", m.remove(accessControl+"/user-companies/"+itoa(mine)), "not_held")
	if after := value[int64](t, n.A, "SELECT epoch FROM public.authz_epoch"); after != before {
		t.Error("a refusal has changed something")
	}

	// What is held may be given.
	small := m.post(accessControl+"/roles", object{"role": "reader", "company": n.A.CompanyID})
	expect(t, "make a role", small, 201)
	expect(t, "put in what is held", m.post(grants, object{"role": small.number("id"), "permission": permission("company.read")}), 201)
	expect(t, "give it", give(bobs, small.number("id"), "subtree"), 201)
	// A role that has been filled by somebody else is measured when it is given.
	exec(t, n.A, "INSERT INTO public.role_permissions (role_id, permission_id) VALUES ($1, $2)", small.number("id"), permission("audit.read"))
	inChild := member(t, n.A, bob.id, child)
	refused("give what has grown", give(inChild, small.number("id"), "self"), "not_held")

	// Held for one company is not held for those below.
	eve := n.person(t, n.A, "eve")
	eves := member(t, n.A, eve.id, child)
	hold(t, n.A, eves, roleOf(t, n.A, child, "here", "role.assign", "role.edit", "company.edit", "member.read"), "self")
	e := as{t, n, eve.token}
	editor := roleOf(t, n.A, child, "editor", "company.edit")
	refused("reach below", e.post(held, object{"user_company": eves, "role": editor, "scope": "subtree"}), "not_held")
	expect(t, "here", e.post(held, object{"user_company": eves, "role": editor, "scope": "self"}), 201)
	widened := value[int64](t, n.A, "SELECT max(id) FROM public.user_company_roles")
	refused("then widen it", e.put(held+"/"+itoa(widened), object{"scope": "subtree"}), "not_held")
	refused("or the role", e.post(accessControl+"/roles/"+itoa(editor)+"/permissions", object{"code": "member.read"}), "not_held")

	// Held for the subtree, but denied somewhere in it.
	deep := companyUnder(t, n.A, "Deep", n.A.CompanyID)
	hold(t, n.A, member(t, n.A, mallory.id, deep), roleOf(t, n.A, deep, "not here", "-company.delete"), "self")
	deleter := roleOf(t, n.A, n.A.CompanyID, "deleter", "company.delete")
	refused("what is denied below", give(bobs, deleter, "subtree"), "not_held")
	expect(t, "where it is not", give(bobs, deleter, "self"), 201)

	// An owner is not shut out by those below.
	owners := value[int64](t, n.A, "SELECT id FROM public.user_companies WHERE user_id = $1 AND company_id = $2", n.A.OwnerID, n.A.CompanyID)
	lockout := roleOf(t, n.A, n.A.CompanyID, "lockout", "-role.read")
	refused("deny an owner", give(owners, lockout, "self"), "owners_only")
	harmless := roleOf(t, n.A, n.A.CompanyID, "harmless", "company.read")
	expect(t, "a role that denies nothing", give(owners, harmless, "self"), 201)
	refused("that denies later", m.post(grants, object{"role": harmless, "permission": permission("role.read"), "granted": false}), "owners_only")
	refused("take ownership", m.remove(held+"/"+itoa(value[int64](t, n.A, "SELECT id FROM public.user_company_roles WHERE user_company_id = $1 AND role_id = $2", owners, seeded(t, n.A, "owner")))), "owners_only")
	refused("end an owner's membership", m.remove(accessControl+"/user-companies/"+itoa(owners)), "owners_only")
	refused("turn an owner off", m.put(accessControl+"/user-companies/"+itoa(owners), object{"is_active": false}), "owners_only")
}

// TestSec32 what is not the caller's to say is refused, and nothing is made.
func TestSec32AccessFieldsThatAreNotTheCallers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token, _ := n.login(t, n.A)
	owner, ada := as{t, n, token}, n.person(t, n.A, "ada")
	role := roleOf(t, n.A, n.A.CompanyID, "clerk")
	membership := member(t, n.A, ada.id, n.A.CompanyID)
	tables := []string{"companies", "roles", "permissions", "role_permissions", "user_companies", "user_company_roles"}
	rows := func() string {
		var counts []string
		for _, table := range tables {
			counts = append(counts, itoa(value[int64](t, n.A, "SELECT count(*) FROM public."+table)))
		}
		return strings.Join(counts, " ")
	}
	before := rows()
	for path, c := range map[string]struct {
		body   object
		others []string
	}{
		"/company":                            {object{"name": "X"}, []string{"id", "create_by", "deleted_at", "is_deleted", "tenant", "tenant_id", "settings"}},
		accessControl + "/roles":              {object{"role": "x", "company": n.A.CompanyID}, []string{"id", "is_system_role", "company_id", "created_at", "is_deleted", "tenant"}},
		accessControl + "/permissions":        {object{"code": "crm.export"}, []string{"id", "is_system", "tenant"}},
		accessControl + "/role-permissions":   {object{"role": role, "permission": 1}, []string{"id", "role_id", "created_at"}},
		accessControl + "/user-companies":     {object{"user": n.A.OwnerID, "company": n.A.CompanyID}, []string{"id", "user_id", "role", "created_at"}},
		accessControl + "/user-company-roles": {object{"user_company": membership, "role": role}, []string{"id", "assigned_at", "role_id", "user"}},
	} {
		for _, field := range c.others {
			body := object{field: any(1)}
			if field == "is_system_role" {
				body[field] = true
			}
			maps.Copy(body, c.body)
			a := owner.post(path, body)
			expect(t, path+" with "+field, a, 422)
			if !strings.Contains(a.raw, `"field":"`+field+`"`) {
				t.Errorf("%s: the refusal does not name %s: %s", path, field, a.raw)
			}
		}
	}
	if after := rows(); after != before {
		t.Errorf("rows of %v: %s before, %s after", tables, before, after)
	}
}

// TestSec31 the server does not start with an operation that does not say who
// may call it, or says it twice.
func TestSec31UndeclaredAccessIsRefused(t *testing.T) {
	t.Parallel()
	if err := httpapi.CheckWith("", false); err == nil {
		t.Error("an operation without a declaration was accepted")
	}
	if err := httpapi.CheckWith(access.CompanyRead, true); err == nil {
		t.Error("an operation with two declarations was accepted")
	}
	for _, err := range []error{httpapi.CheckWith(access.CompanyRead, false), httpapi.CheckWith("", true)} {
		if err != nil {
			t.Errorf("the API itself is refused: %v", err)
		}
	}
}
