package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
)

func results(a answer) []object {
	raw, _ := a.at("results").([]any)
	out := make([]object, len(raw))
	for i, r := range raw {
		out[i], _ = r.(object)
	}
	return out
}

// emails are the addresses of a list of users, in order.
func emails(a answer) string {
	all := []string{}
	for _, user := range results(a) {
		email, _ := user["email"].(string)
		all = append(all, email)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func userPath(id int64) string { return "/account/users/" + itoa(id) }

func TestSessionsAreListedAndEnded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	mine, _ := n.login(t, n.A)
	other, otherRefresh := n.login(t, n.A)
	n.login(t, n.B)
	stranger, _ := n.member(t, n.A, "s@example.com", "employee", n.A.CompanyID)
	n.login(t, n.A)
	exec(t, n.A, "UPDATE public.refresh_tokens SET expires_at = now() WHERE session_id = (SELECT id FROM public.sessions WHERE user_id = $1 ORDER BY created_at DESC LIMIT 1)", n.A.OwnerID)

	list := n.get(t, n.A, "/auth/sessions", mine)
	expect(t, "list", list, 200)
	if list.number("count") != 2 || len(results(list)) != 2 {
		t.Fatalf("the sessions are %s, want the two that live", list.raw)
	}
	var current, elsewhere string
	for _, session := range results(list) {
		for _, field := range []string{"user_agent", "ip_address", "created_at", "last_used_at", "expires_at"} {
			if _, there := session[field]; !there {
				t.Errorf("%s is missing", field)
			}
		}
		id, _ := session["id"].(string)
		if session["current"] == true {
			current = id
		} else {
			elsewhere = id
		}
	}
	if current == "" || elsewhere == "" {
		t.Fatalf("which one asks? %s", list.raw)
	}
	end := func(token, id string) answer {
		return n.ask(t, http.MethodDelete, host, "/auth/sessions/"+id, nil, bearer(token))
	}
	expect(t, "somebody else's", end(stranger, elsewhere), 404)
	expect(t, "nobody's", end(mine, uuid.NewString()), 404)
	expect(t, "no id", end(mine, "1"), 422)
	expect(t, "still signed in", n.get(t, n.A, "/account/me", other), 200)
	expect(t, "end", end(mine, elsewhere), 204)
	expect(t, "signed out at once", n.get(t, n.A, "/account/me", other), 401, "invalid_token")
	expect(t, "its refresh token", n.refresh(t, otherRefresh), 401)
	expect(t, "twice", end(mine, elsewhere), 404)
	expect(t, "this one", end(mine, current), 204)
	expect(t, "is over as well", n.get(t, n.A, "/account/me", mine), 401)
	if rows := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'session_ended' AND user_id = $1", n.A.OwnerID); rows != 2 {
		t.Errorf("%d rows in the security log", rows)
	}
	if live := value[int](t, n.B, "SELECT count(*) FROM public.sessions WHERE revoked_at IS NULL"); live != 1 {
		t.Errorf("B has %d sessions", live)
	}
}

func TestLoginActivityAndSessionTest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	expect(t, "a wrong guess", n.loginAs(t, n.A, n.A.OwnerEmail, "a wrong guess"), 401)
	access, _ := n.login(t, n.A)
	stranger, _ := n.member(t, n.A, "s@example.com", "employee", n.A.CompanyID)
	expect(t, "change", n.changePassword(t, access, tenanttest.OwnerPassword, goodPassword), 200)
	activity := n.get(t, n.A, "/account/login-activity?page_size=1", access)
	expect(t, "activity", activity, 200)
	if activity.number("count") != 2 || len(results(activity)) != 1 || results(activity)[0]["action"] != "login" || activity.text("next") == "" {
		t.Errorf("the activity is %s", activity.raw)
	}
	if theirs := n.get(t, n.A, "/account/login-activity", stranger); strings.Contains(theirs.raw, `"user":`+itoa(n.A.OwnerID)+",") {
		t.Errorf("a stranger reads %s", theirs.raw)
	}
	for _, path := range []string{"/account/session-test", "/account/session-tests"} {
		a := n.get(t, n.A, path, access)
		expect(t, path, a, 200)
		if a.number("user", "id") != n.A.OwnerID || a.text("token_expires_at") == "" {
			t.Errorf("%s answers %s", path, a.raw)
		}
	}
}

func TestProfile(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	access, _ := n.login(t, n.A)
	n.member(t, n.A, "taken@example.com", "employee", n.A.CompanyID)
	exec(t, n.A, "UPDATE public.users SET primary_mobile = '+4915100000001', username = 'taken' WHERE email = 'taken@example.com'")
	change := func(method string, body object, edits ...edit) answer {
		return n.ask(t, method, hostOf(n.A), "/account/profile", body, append(edits, bearer(access))...)
	}
	before := n.get(t, n.A, "/account/profile", access)
	tag := before.header.Get("ETag")
	expect(t, "forgot", n.forgot(t, n.A, object{"email": n.A.OwnerEmail}), 200)

	expect(t, "nothing", change(http.MethodPatch, object{}), 200)
	if after := n.get(t, n.A, "/account/profile", access); after.header.Get("ETag") != tag {
		t.Error("nothing was changed, and the ETag is another")
	}
	moved := change(http.MethodPatch, object{"email": "New@Example.com", "primary_mobile": "+4915112345678"}, header("If-Match", tag))
	expect(t, "another address", moved, 200)
	if moved.text("email") != "new@example.com" || moved.at("email_verified") != false || moved.text("username") != "new@example.com" ||
		moved.text("primary_mobile") != "+4915112345678" || moved.text("full_name") != before.text("full_name") || moved.header.Get("ETag") == tag {
		t.Errorf("the profile is %s", moved.raw)
	}
	if told := lastMessage(t, n, n.A, n.A.OwnerEmail); told.Template != outbox.TemplateSecurity || told.Values["event"] == "" {
		t.Errorf("the old address was told %+v", told)
	}
	if live := value[int](t, n.A, "SELECT count(*) FROM public.password_tokens WHERE used_at IS NULL"); live != 0 {
		t.Error("the link that was mailed to the old address is still good")
	}
	expect(t, "a stale condition", change(http.MethodPatch, object{"full_name": "X"}, header("If-Match", tag)), 412)
	expect(t, "of before", n.loginAs(t, n.A, n.A.OwnerEmail, tenanttest.OwnerPassword), 401)
	expect(t, "the new address", n.loginAs(t, n.A, "new@example.com", tenanttest.OwnerPassword), 200)

	for name, c := range map[string]struct {
		body   object
		status int
		code   string
		field  string
	}{
		"address of another":   {object{"email": "TAKEN@example.com"}, 409, "email_taken", "email"},
		"number of another":    {object{"primary_mobile": "+4915100000001"}, 409, "mobile_taken", "primary_mobile"},
		"name of another":      {object{"username": "Taken"}, 409, "username_taken", "username"},
		"no address":           {object{"email": "a@b@c"}, 422, "", "email"},
		"no number":            {object{"primary_mobile": "0151"}, 422, "", "primary_mobile"},
		"another's address":    {object{"username": "someone@example.com"}, 422, "", "username"},
		"a number as name":     {object{"username": "4915199999999"}, 422, "", "username"},
		"neither":              {object{"email": nil, "primary_mobile": nil}, 422, "", "email"},
		"blank":                {object{"full_name": "  "}, 422, "", "full_name"},
		"what is not theirs":   {object{"is_active": false}, 422, "", ""},
		"verified by asking":   {object{"email_verified": true}, 422, "", ""},
		"replace without name": {nil, 0, "", ""},
	} {
		if c.body == nil {
			expect(t, name, change(http.MethodPut, object{"email": "x@example.com"}), 422)
			continue
		}
		a := change(http.MethodPatch, c.body)
		if a.status != c.status || (c.code != "" && a.text("code") != c.code) || !strings.Contains(a.raw, `"field":"`+c.field) {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	put := change(http.MethodPut, object{"full_name": "Jane Doe", "username": "jane.doe"})
	expect(t, "put", put, 200)
	if put.text("full_name") != "Jane Doe" || put.text("username") != "jane.doe" || put.text("email") != "new@example.com" {
		t.Errorf("the profile is %s", put.raw)
	}
	expect(t, "no number any more", change(http.MethodPatch, object{"primary_mobile": nil}), 200)
	exec(t, n.A, "UPDATE public.users SET is_2fa_enabled = true, two_fa_type = 'sms', primary_mobile = '+4915112345678' WHERE id = $1", n.A.OwnerID)
	expect(t, "the number that codes go to", change(http.MethodPatch, object{"primary_mobile": "+4915112345679"}), 409, "number_in_use")
	audited := value[string](t, n.A, "SELECT old_values->>'email' || ' ' || (new_values->>'email') FROM ledger.activity_logs WHERE entity_type = 'user' AND action = 'UPDATE' AND new_values ? 'email'")
	if audited != n.A.OwnerEmail+" new@example.com" {
		t.Errorf("the audit says %s", audited)
	}
}

func TestUsersAreSeenByThoseWhoMay(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	north := n.found(t, n.A, owner, "North", n.A.CompanyID)
	south := n.found(t, n.A, owner, "South", 0)
	manager, _ := n.member(t, n.A, "manager@example.com", "manager", north)
	employee, employeeID := n.member(t, n.A, "employee@example.com", "employee", north)
	_, southerner := n.member(t, n.A, "south@example.com", "employee", south)
	lone := n.ask(t, http.MethodPost, hostOf(n.A), "/account/register", object{"full_name": "L", "email": "lone@example.com", "password": goodPassword})
	users := func(token, query string) answer { return n.get(t, n.A, "/account/users"+query, token) }

	expect(t, "all", users(owner, ""), 200)
	if got := emails(users(owner, "")); got != "employee@example.com lone@example.com manager@example.com "+n.A.OwnerEmail+" south@example.com" {
		t.Errorf("the owner of the home company sees %s", got)
	}
	if got := emails(users(manager, "")); got != "employee@example.com manager@example.com "+n.A.OwnerEmail {
		t.Errorf("a manager sees %s", got)
	}
	if got := users(employee, ""); got.status != 200 || got.number("count") != 0 {
		t.Errorf("an employee sees %d %s", got.status, got.raw)
	}
	if got := emails(users(owner, "?company="+itoa(south))); got != n.A.OwnerEmail+" south@example.com" {
		t.Errorf("of the south the owner sees %s", got)
	}
	expect(t, "a company that one does not see", users(manager, "?company="+itoa(south)), 404)
	expect(t, "a company of which one only is", users(employee, "?company="+itoa(north)), 403, "permission_denied")
	page := users(owner, "?page_size=2&page=2")
	if page.number("count") != 5 || len(results(page)) != 2 || page.text("next") == "" || page.text("previous") == "" {
		t.Errorf("the second page is %s", page.raw)
	}
	for _, field := range []string{"id", "username", "full_name", "email", "primary_mobile", "is_active", "date_joined"} {
		if _, there := results(page)[0][field]; !there {
			t.Errorf("%s is missing", field)
		}
	}

	expect(t, "one", n.get(t, n.A, userPath(employeeID), manager), 200)
	expect(t, "of another company", n.get(t, n.A, userPath(southerner), manager), 404)
	expect(t, "of no company", n.get(t, n.A, userPath(lone.number("user", "id")), manager), 404)
	expect(t, "of no company, from home", n.get(t, n.A, userPath(lone.number("user", "id")), owner), 200)
	expect(t, "a colleague", n.get(t, n.A, userPath(n.A.OwnerID), employee), 403, "permission_denied")
	expect(t, "nobody", n.get(t, n.A, userPath(999), owner), 404)
	exec(t, n.A, "UPDATE public.users SET deleted_at = now() WHERE id = $1", southerner)
	expect(t, "who is deleted", n.get(t, n.A, userPath(southerner), owner), 404)
	if looks := value[int](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = 'user' AND action = 'READ' AND entity_id = $1 AND company_id = $2", employeeID, north); looks != 1 {
		t.Errorf("%d looks are on record", looks)
	}
	if looks := value[int](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = 'user' AND action = 'READ' AND entity_id IS NULL AND company_id = $1", south); looks != 1 {
		t.Errorf("%d looks at the list are on record", looks)
	}
	foreign, _ := n.login(t, n.B)
	if got := emails(n.get(t, n.B, "/account/users", foreign)); got != n.B.OwnerEmail {
		t.Errorf("B's owner sees %s", got)
	}
}

func TestUsersAreChangedByThoseWhoMay(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	north := n.found(t, n.A, owner, "North", n.A.CompanyID)
	south := n.found(t, n.A, owner, "South", 0)
	admin, adminID := n.member(t, n.A, "admin@example.com", "admin", north)
	manager, _ := n.member(t, n.A, "manager@example.com", "manager", north)
	_, employeeID := n.member(t, n.A, "employee@example.com", "employee", north)
	_, bossID := n.member(t, n.A, "boss@example.com", "owner", north)
	_, bothID := n.member(t, n.A, "both@example.com", "employee", north)
	enlist(t, n.A, bothID, south, "employee", "self")
	change := func(token string, id int64, body object, edits ...edit) answer {
		return n.ask(t, http.MethodPatch, hostOf(n.A), userPath(id), body, append(edits, bearer(token))...)
	}

	tag := n.get(t, n.A, userPath(employeeID), admin).header.Get("ETag")
	changed := change(admin, employeeID, object{"full_name": "Emma", "email": "emma@example.com"}, header("If-Match", tag))
	expect(t, "change", changed, 200)
	if changed.text("full_name") != "Emma" || changed.text("email") != "emma@example.com" || changed.at("email_verified") != false || changed.header.Get("ETag") == tag {
		t.Errorf("the user is %s", changed.raw)
	}
	expect(t, "a stale condition", change(admin, employeeID, object{"full_name": "E"}, header("If-Match", tag)), 412)
	expect(t, "without the permission", change(manager, employeeID, object{"full_name": "E"}), 403, "permission_denied")
	expect(t, "in one of two companies only", change(admin, bothID, object{"full_name": "E"}), 403, "permission_denied")
	expect(t, "from home", change(owner, bothID, object{"full_name": "Bo"}), 200)
	expect(t, "who may do more", change(admin, bossID, object{"email": "mine@example.com"}), 403, "user_above")
	expect(t, "who may as much", change(admin, adminID, object{"full_name": "Adele"}), 200)
	expect(t, "an owner by the home company's", change(owner, bossID, object{"full_name": "Boss"}), 200)
	expect(t, "nobody", change(owner, 999, object{"full_name": "E"}), 404)

	homeAdmin, _ := n.member(t, n.A, "home@example.com", "admin", n.A.CompanyID)
	expect(t, "the owner, by an admin at home", change(homeAdmin, n.A.OwnerID, object{"email": "mine@example.com"}), 403, "user_above")
	expect(t, "somebody below, by an admin at home", change(homeAdmin, bothID, object{"full_name": "Bob"}), 200)
	key, _ := n.newKey(t, owner, object{"name": "Sync", "permissions": []string{"user.read", "user.edit", "company.read", "member.read", "organization.read"}})
	expect(t, "somebody below, by a key", change(key, bothID, object{"full_name": "Bot"}), 200)
	expect(t, "its maker, by a key", change(key, n.A.OwnerID, object{"email": "mine@example.com"}), 403, "user_above")
	expect(t, "an admin, by a key", change(key, adminID, object{"email": "mine@example.com"}), 403, "user_above")
	row := value[string](t, n.A, "SELECT user_display || ' ' || (old_values->>'full_name') || ' ' || (new_values->>'full_name') FROM ledger.activity_logs WHERE entity_type = 'user' AND entity_id = $1 AND company_id = $2 AND action = 'UPDATE'", employeeID, north)
	if !strings.HasSuffix(row, " Emma") {
		t.Errorf("the audit says %s", row)
	}
}

func TestSec17ADisabledUserIsSignedOutAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	north := n.found(t, n.A, owner, "North", n.A.CompanyID)
	admin, adminID := n.member(t, n.A, "admin@example.com", "admin", north)
	manager, managerID := n.member(t, n.A, "manager@example.com", "manager", north)
	victim := n.loginAs(t, n.A, "manager@example.com", goodPassword)
	expect(t, "login", victim, 200)
	disable := func(token string, id int64) answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), userPath(id)+"/deactivate", nil, bearer(token))
	}
	expect(t, "without the permission", disable(manager, adminID), 403, "permission_denied")
	expect(t, "oneself", disable(admin, adminID), 409, "own_account")
	expect(t, "who may do more", disable(admin, n.A.OwnerID), 403)

	disabled := disable(admin, managerID)
	expect(t, "disable", disabled, 200)
	if disabled.at("is_active") != false {
		t.Errorf("the user is %s", disabled.raw)
	}
	expect(t, "next call", n.get(t, n.A, "/account/me", manager), 401, "invalid_token")
	expect(t, "another session", n.get(t, n.A, "/account/me", victim.text("tokens", "access")), 401, "invalid_token")
	expect(t, "refresh", n.refresh(t, victim.text("tokens", "refresh")), 401)
	expect(t, "login looks like a wrong password", n.loginAs(t, n.A, "manager@example.com", goodPassword), 401, "invalid_credentials")
	expect(t, "again", disable(admin, managerID), 200)

	enable := func(token string) answer {
		return n.ask(t, http.MethodPatch, hostOf(n.A), userPath(managerID), object{"is_active": true}, bearer(token))
	}
	expect(t, "let in again", enable(admin), 200)
	expect(t, "the sessions of before stay ended", n.get(t, n.A, "/account/me", manager), 401)
	expect(t, "login", n.loginAs(t, n.A, "manager@example.com", goodPassword), 200)

	exec(t, n.A, `INSERT INTO public.role_permissions (role_id, permission_id, granted) SELECT r.id, p.id, false FROM public.roles r, public.permissions p
		WHERE r.role = 'admin' AND p.code = 'user.deactivate' ON CONFLICT (role_id, permission_id) DO UPDATE SET granted = false`)
	expect(t, "change without the right to disable", n.ask(t, http.MethodPatch, hostOf(n.A), userPath(managerID), object{"is_active": false}, bearer(admin)), 403, "permission_denied")

	_, second := n.member(t, n.A, "second@example.com", "owner", n.A.CompanyID)
	secondToken := n.loginAs(t, n.A, "second@example.com", goodPassword).text("tokens", "access")
	exec(t, n.A, "DELETE FROM public.user_companies WHERE user_id = $1 AND company_id = $2", second, north)
	expect(t, "the last owner of the north", disable(secondToken, n.A.OwnerID), 409, "last_owner")
	expect(t, "is still signed in", n.get(t, n.A, "/account/me", owner), 200)
	if rows := value[int](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'user_deactivated'"); rows != 1 {
		t.Errorf("%d rows in the security log", rows)
	}
}
