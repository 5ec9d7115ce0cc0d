package httpapi_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
)

func memberPath(companyID, userID int64) string {
	return companyPath(companyID) + "/members/" + itoa(userID)
}

// names are those of the members in a list, in its order.
func names(list answer) string {
	var found []string
	results, _ := list.at("results").([]any)
	for _, r := range results {
		row, _ := r.(map[string]any)
		user, _ := row["user"].(map[string]any)
		name, _ := user["full_name"].(string)
		found = append(found, name)
	}
	return strings.Join(found, " ")
}

func TestMembersAreListed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	ada, bob := n.person(t, n.A, "ada"), n.person(t, n.A, "bob")
	enlist(t, n.A, ada.id, n.A.CompanyID, "employee", "subtree")
	enlist(t, n.A, bob.id, n.A.CompanyID, "manager", "self")
	exec(t, n.A, "UPDATE public.user_companies SET is_active = false WHERE user_id = $1", bob.id)
	path := companyPath(n.A.CompanyID) + "/members"
	for query, want := range map[string]string{
		"": "Owner of acme ada bob", "?is_active=true": "Owner of acme ada", "?is_active=false": "bob", "?q=ADA": "ada", "?q=%25": "", "?page_size=1&page=2": "ada",
	} {
		list := n.ask(t, http.MethodGet, host, path+query, nil, bearer(ada.token))
		expect(t, "members"+query, list, 200)
		if names(list) != want {
			t.Errorf("members%s: %q, want %q", query, names(list), want)
		}
	}
	list := n.ask(t, http.MethodGet, host, path+"?q=bob", nil, bearer(owner))
	for _, part := range []string{`"role":"manager"`, `"scope":"self"`, `"email":"` + bob.email + `"`, `"is_active":false`, `"joined_at":"`} {
		if !strings.Contains(list.raw, part) {
			t.Errorf("the member lacks %s: %s", part, list.raw)
		}
	}
	if looks := value[int64](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE action = 'READ' AND entity_type = 'member' AND company_id = $1", n.A.CompanyID); looks != 7 {
		t.Errorf("%d looks are recorded", looks)
	}
	stranger := n.person(t, n.A, "stranger")
	expect(t, "a stranger", n.ask(t, http.MethodGet, host, path, nil, bearer(stranger.token)), 404)
	foreign, _ := n.login(t, n.B)
	if b := n.ask(t, http.MethodGet, hostOf(n.B), path, nil, bearer(foreign)); names(b) != "Owner of globex" {
		t.Errorf("tenant B's members: %s", b.raw)
	}
}

func TestMemberIsChanged(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	home := n.A.CompanyID
	ada, admin, manager := n.person(t, n.A, "ada"), n.person(t, n.A, "admin"), n.person(t, n.A, "manager")
	enlist(t, n.A, ada.id, home, "employee", "self")
	enlist(t, n.A, admin.id, home, "admin", "subtree")
	enlist(t, n.A, manager.id, home, "manager", "subtree")
	employee, managers, owners := seeded(t, n.A, "employee"), seeded(t, n.A, "manager"), seeded(t, n.A, "owner")
	patch := func(user int64, body object, token string) answer {
		return n.ask(t, http.MethodPatch, host, memberPath(home, user), body, bearer(token))
	}
	both := patch(ada.id, object{"roles": []int64{employee, managers, managers}}, admin.token)
	expect(t, "one role more", both, 200)
	if !strings.Contains(both.raw, `"role":"employee","scope":"self"`) || !strings.Contains(both.raw, `"role":"manager","scope":"subtree"`) {
		t.Errorf("with one role more: %s", both.raw)
	}
	expect(t, "one role", patch(ada.id, object{"roles": []int64{managers}}, admin.token), 200)
	expect(t, "what a manager does", n.ask(t, http.MethodPatch, host, companyPath(home), object{"description": "x"}, bearer(ada.token)), 200)

	expect(t, "a manager may not", patch(ada.id, object{"is_active": false}, manager.token), 403, "permission_denied")
	expect(t, "an admin makes no owner", patch(admin.id, object{"roles": []int64{owners}}, admin.token), 403, "owners_only")
	expect(t, "nor unmakes one", patch(n.A.OwnerID, object{"roles": []int64{employee}}, admin.token), 403, "owners_only")
	expect(t, "nor switches one off", patch(n.A.OwnerID, object{"is_active": false}, admin.token), 403, "owners_only")
	expect(t, "nor removes one", n.ask(t, http.MethodDelete, host, memberPath(home, n.A.OwnerID), nil, bearer(admin.token)), 403, "owners_only")
	unknown := patch(ada.id, object{"roles": []int64{999999}}, owner)
	expect(t, "a role that is not there", unknown, 422)
	if !strings.Contains(unknown.raw, `"field":"roles"`) {
		t.Errorf("the refusal names another field: %s", unknown.raw)
	}
	expect(t, "somebody who is no member", patch(n.person(t, n.A, "stranger").id, object{"is_active": false}, owner), 404)

	exec(t, n.A, "UPDATE public.user_company_roles SET expires_at = now() - interval '1 minute' WHERE role_id = $1 AND user_company_id = (SELECT id FROM public.user_companies WHERE user_id = $2 AND company_id = $3)", managers, ada.id, home)
	expect(t, "nothing is held any more", n.ask(t, http.MethodPatch, host, companyPath(home), object{"description": "x"}, bearer(ada.token)), 403)
	expect(t, "what has expired is given again", patch(ada.id, object{"roles": []int64{managers}}, admin.token), 200)
	expect(t, "and is held", n.ask(t, http.MethodPatch, host, companyPath(home), object{"description": "x"}, bearer(ada.token)), 200)
	denies := roleOf(t, n.A, home, "denies", "-company.read")
	expect(t, "an admin denies an owner nothing", patch(n.A.OwnerID, object{"roles": []int64{owners, denies}}, admin.token), 403)

	expect(t, "off", patch(ada.id, object{"is_active": false}, admin.token), 200)
	expect(t, "and so nothing is left", n.ask(t, http.MethodGet, host, companyPath(home), nil, bearer(ada.token)), 404)
	expect(t, "on", patch(ada.id, object{"is_active": true}, admin.token), 200)
	expect(t, "and it is back", n.ask(t, http.MethodGet, host, companyPath(home), nil, bearer(ada.token)), 200)

	expect(t, "the last owner stays", patch(n.A.OwnerID, object{"is_active": false}, owner), 409, "last_owner")
	expect(t, "with the role", patch(n.A.OwnerID, object{"roles": []int64{}}, owner), 409, "last_owner")
	expect(t, "another owner", patch(ada.id, object{"roles": []int64{owners}}, owner), 200)
	expect(t, "and the first may go", patch(n.A.OwnerID, object{"roles": []int64{}}, owner), 200)
	events := value[string](t, n.A, "SELECT string_agg(action || ' ' || (metadata->>'member'), ',' ORDER BY id) FROM ledger.security_logs WHERE action LIKE 'owner%'")
	if events != "owner_added "+itoa(ada.id)+",owner_removed "+itoa(n.A.OwnerID) {
		t.Errorf("the security log holds %q", events)
	}
	records := value[string](t, n.A, "SELECT string_agg(entity_type || ' ' || action, ',' ORDER BY id) FROM ledger.activity_logs WHERE entity_type LIKE 'user_company%'")
	if records != "user_company_role CREATE,user_company_role DELETE,user_company_role DELETE,user_company_role CREATE,user_company UPDATE,user_company UPDATE,user_company_role CREATE,user_company_role DELETE,user_company_role DELETE" {
		t.Errorf("the audit holds %s", records)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_company_roles"); b != 1 {
		t.Errorf("tenant B has %d assignments", b)
	}
}

func TestMemberIsRemoved(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	ada := n.person(t, n.A, "ada")
	enlist(t, n.A, ada.id, n.A.CompanyID, "employee", "subtree")
	exec(t, n.A, "UPDATE public.user_companies SET is_primary_company = true WHERE user_id = $1", ada.id)
	own := n.found(t, n.A, ada.token, "Own", 0)
	remove := func(user int64, token string) answer {
		return n.ask(t, http.MethodDelete, host, memberPath(n.A.CompanyID, user), nil, bearer(token))
	}
	expect(t, "an employee may not", remove(n.A.OwnerID, ada.token), 403, "permission_denied")
	expect(t, "the last owner", remove(n.A.OwnerID, owner), 409, "last_owner")
	expect(t, "remove", remove(ada.id, owner), 204)
	expect(t, "again", remove(ada.id, owner), 404)
	expect(t, "the next request", n.ask(t, http.MethodGet, host, companyPath(n.A.CompanyID), nil, bearer(ada.token)), 404)
	if primary := value[int64](t, n.A, "SELECT company_id FROM public.user_companies WHERE user_id = $1 AND is_primary_company", ada.id); primary != own {
		t.Errorf("the primary company is %d, not %d", primary, own)
	}
	if kept := value[string](t, n.A, "SELECT old_values->>'user' FROM ledger.activity_logs WHERE entity_type = 'user_company' AND action = 'DELETE'"); kept != itoa(ada.id) {
		t.Errorf("the audit keeps %q", kept)
	}
	foreign, _ := n.login(t, n.B)
	expect(t, "at tenant B", n.ask(t, http.MethodDelete, hostOf(n.B), memberPath(n.B.CompanyID, ada.id), nil, bearer(foreign)), 404)
}

func TestOwnersRemoveEachOtherAtOnceOverTheAPI(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	for range 8 {
		ada, bob := n.person(t, n.A, "ada"), n.person(t, n.A, "bob")
		id := n.found(t, n.A, ada.token, "Works", 0)
		enlist(t, n.A, bob.id, id, "owner", "subtree")
		calls := []struct {
			victim int64
			token  string
		}{{bob.id, ada.token}, {ada.id, bob.token}}
		answers := make([]answer, len(calls))
		var removers sync.WaitGroup
		for i, call := range calls {
			removers.Go(func() {
				answers[i] = n.ask(t, http.MethodDelete, hostOf(n.A), memberPath(id, call.victim), nil, bearer(call.token))
			})
		}
		removers.Wait()
		done := 0
		for _, a := range answers {
			switch a.status {
			case 204:
				done++
			case 404, 409: // removed before they asked, or while
			default:
				t.Errorf("remove: %d %s", a.status, a.raw)
			}
		}
		left := value[int64](t, n.A, "SELECT count(*) FROM public.user_companies WHERE company_id = $1", id)
		if done != 1 || left != 1 {
			t.Errorf("%d of 2 were removed, %d is left", done, left)
		}
		exec(t, n.A, "UPDATE public.users SET email = NULL, username = account_uid WHERE id = ANY($1)", []int64{ada.id, bob.id})
	}
	expect(t, "the owner of the tenant", n.ask(t, http.MethodGet, hostOf(n.A), companyPath(n.A.CompanyID), nil, bearer(owner)), 200)
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_companies"); b != 1 {
		t.Errorf("tenant B has %d memberships", b)
	}
}

func TestRolesOfACompany(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	group := n.found(t, n.A, owner, "Group", 0)
	works, shop := n.found(t, n.A, owner, "Works", group), n.found(t, n.A, owner, "Shop", group)
	create := func(id int64, body object, token string) answer {
		return n.ask(t, http.MethodPost, host, companyPath(id)+"/roles", body, bearer(token))
	}
	made := create(group, object{"role": "auditor", "desc": "Looks"}, owner)
	expect(t, "make", made, 201)
	if made.text("role") != "auditor" || made.text("desc") != "Looks" || made.number("company") != group || made.at("is_system_role") != false {
		t.Errorf("made %s", made.raw)
	}
	expect(t, "make another", create(shop, object{"role": "clerk"}, owner), 201)
	expect(t, "without a name", create(shop, object{"role": " "}, owner), 422)
	expect(t, "of another company", create(shop, object{"role": "x", "company": group}, owner), 422)
	list := n.ask(t, http.MethodGet, host, companyPath(works)+"/roles", nil, bearer(owner))
	expect(t, "list", list, 200)
	if list.number("count") != 5 || !strings.Contains(list.raw, `"auditor"`) || strings.Contains(list.raw, `"clerk"`) || !strings.Contains(list.raw, `"owner"`) {
		t.Errorf("the list is %s", list.raw)
	}
	manager := n.person(t, n.A, "manager")
	enlist(t, n.A, manager.id, works, "manager", "subtree")
	expect(t, "a manager reads", n.ask(t, http.MethodGet, host, companyPath(works)+"/roles", nil, bearer(manager.token)), 200)
	expect(t, "and makes none", create(works, object{"role": "x"}, manager.token), 403, "permission_denied")
	expect(t, "elsewhere they see nothing", n.ask(t, http.MethodGet, host, companyPath(shop)+"/roles", nil, bearer(manager.token)), 404)
	foreign, _ := n.login(t, n.B)
	if b := n.ask(t, http.MethodGet, hostOf(n.B), companyPath(n.B.CompanyID)+"/roles", nil, bearer(foreign)); b.number("count") != 4 {
		t.Errorf("tenant B's roles are %s", b.raw)
	}
}
