package httpapi_test

import (
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/route"
)

func invitationPath(id int64, action ...string) string {
	return strings.Join(append([]string{"/access-control/invitations/" + itoa(id)}, action...), "/")
}

const acceptPath = "/access-control/invitations/accept"

func TestSomebodyIsInvitedAndAccepts(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	works := n.found(t, n.A, owner, "Works", n.A.CompanyID)
	ada, bob := n.person(t, n.A, "ada"), n.person(t, n.A, "bob")
	employee := seeded(t, n.A, "employee")
	made := n.ask(t, http.MethodPost, host, companyPath(works)+"/invite", object{"email": strings.ToUpper(ada.email), "role": employee}, bearer(owner))
	expect(t, "invite", made, 201)
	token := made.text("token")
	if made.text("email") != ada.email || made.text("status") != "pending" || made.number("company") != works || made.number("role") != employee ||
		made.number("invited_by") != n.A.OwnerID || made.at("accepted_by") != nil || made.text("language") != "en" {
		t.Errorf("the invitation is %s", made.raw)
	}
	if expires, err := time.Parse(time.RFC3339, made.text("expires_at")); err != nil || time.Until(expires) > 7*24*time.Hour || time.Until(expires) < 7*24*time.Hour-time.Hour {
		t.Errorf("it expires at %s", made.text("expires_at"))
	}
	mail := lastMessage(t, n, n.A, ada.email)
	if mail.Values["link"] != "https://acme.localhost/invitations/accept?token="+token || mail.Values["company"] != "Works" ||
		mail.Values["inviter"] != "Owner of acme" || mail.Values["role"] != "employee" || mail.Values["expires"] == "" || mail.Language != "en" {
		t.Errorf("the mail is %+v", mail)
	}
	shown := n.ask(t, http.MethodGet, host, invitationPath(made.number("id")), nil, bearer(owner))
	expect(t, "get", shown, 200)
	if strings.Contains(shown.raw, token) || shown.at("token") != nil {
		t.Error("the token is shown again")
	}

	accept := func(token string, who person) answer {
		return n.ask(t, http.MethodPost, host, acceptPath, object{"token": token}, bearer(who.token))
	}
	expect(t, "somebody else", accept(token, bob), 403, "invitation_for_another")
	expect(t, "a token that is none", accept("made-up", ada), 404, "invitation_unknown")
	foreign, _ := n.login(t, n.B)
	expect(t, "at tenant B", n.ask(t, http.MethodPost, hostOf(n.B), acceptPath, object{"token": token}, bearer(foreign)), 404)
	done := accept(token, ada)
	expect(t, "accept", done, 200)
	if done.text("detail") == "" || done.number("company") != works {
		t.Errorf("accepted: %s", done.raw)
	}
	expect(t, "the company", n.ask(t, http.MethodGet, host, companyPath(works), nil, bearer(ada.token)), 200)
	expect(t, "the one above", n.ask(t, http.MethodGet, host, companyPath(n.A.CompanyID), nil, bearer(ada.token)), 404)
	expect(t, "once more", accept(token, ada), 409, "invitation_used")
	shown = n.ask(t, http.MethodGet, host, invitationPath(made.number("id")), nil, bearer(owner))
	if shown.text("status") != "accepted" || shown.number("accepted_by") != ada.id || shown.text("accepted_at") == "" {
		t.Errorf("afterwards it is %s", shown.raw)
	}
	if verified := value[bool](t, n.A, "SELECT email_verified FROM public.users WHERE id = $1", ada.id); verified {
		t.Error("the inviter has seen the token: accepting proves no address")
	}
	actions := value[string](t, n.A, "SELECT string_agg(entity_type || ' ' || action, ',' ORDER BY id) FROM ledger.activity_logs WHERE company_id = $1 AND action <> 'READ' AND entity_type <> 'company'", works)
	if actions != "invitation CREATE,user_company CREATE,user_company_role CREATE,invitation UPDATE" {
		t.Errorf("the audit holds %s", actions)
	}
	if leaks := value[int64](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE position($1 IN concat(old_values, new_values)) > 0", token); leaks != 0 {
		t.Error("the token is in the audit")
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.invitations"); b != 0 {
		t.Errorf("tenant B has %d invitations", b)
	}
}

func TestSec40InvitationTokensAreLongAndStoredHashed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	made := n.ask(t, http.MethodPost, hostOf(n.A), companyPath(n.A.CompanyID)+"/invite", object{"email": "ada@people.example", "role": seeded(t, n.A, "employee")}, bearer(owner))
	expect(t, "invite", made, 201)
	token := made.text("token")
	if len(token) < 43 { // 256 bits in base64url
		t.Errorf("the token has %d letters", len(token))
	}
	stored := value[[]byte](t, n.A, "SELECT token_hash FROM public.invitations")
	if want := value[[]byte](t, n.A, "SELECT sha256($1)", []byte(token)); hex.EncodeToString(stored) != hex.EncodeToString(want) {
		t.Error("what is stored is not the SHA-256 of the token")
	}
	if plain := value[int64](t, n.A, "SELECT count(*) FROM public.invitations i WHERE position($1 IN i::text) > 0", token); plain != 0 {
		t.Error("the token is in the table")
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.invitations"); b != 0 {
		t.Errorf("tenant B has %d invitations", b)
	}
}

func TestInvitationsAreRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	home := n.A.CompanyID
	admin, manager, employee := n.person(t, n.A, "admin"), n.person(t, n.A, "manager"), n.person(t, n.A, "employee")
	enlist(t, n.A, admin.id, home, "admin", "subtree")
	enlist(t, n.A, manager.id, home, "manager", "self")
	enlist(t, n.A, employee.id, home, "employee", "subtree")
	works, other := n.found(t, n.A, owner, "Works", home), n.found(t, n.A, owner, "Other", 0)
	ofHome, ofOther := roleOf(t, n.A, home, "reader", "company.read"), roleOf(t, n.A, other, "reader", "company.read")
	employees, managers, owners := seeded(t, n.A, "employee"), seeded(t, n.A, "manager"), seeded(t, n.A, "owner")
	invite := func(company int64, email string, role int64, token string, more ...any) answer {
		body := object{"email": email, "company": company, "role": role}
		for i := 0; i < len(more); i += 2 {
			body[more[i].(string)] = more[i+1]
		}
		return n.ask(t, http.MethodPost, host, "/access-control/invitations", body, bearer(token))
	}
	expect(t, "an employee", invite(home, "a@x.example", employees, employee.token), 403, "permission_denied")
	expect(t, "a company that is not seen", invite(other, "a@x.example", employees, admin.token), 404)
	expect(t, "one that is not there", invite(999999, "a@x.example", employees, owner), 404)
	expect(t, "an admin invites no owner", invite(home, "a@x.example", owners, admin.token), 403, "owners_only")
	expect(t, "a manager of one company, for all below", invite(home, "a@x.example", managers, manager.token), 403, "not_held")
	expect(t, "and for this one", invite(home, "a@x.example", managers, manager.token, "scope", "self"), 201)
	expect(t, "a role of the company above", invite(works, "b@x.example", ofHome, owner), 201)
	for name, refused := range map[string]answer{
		"role: another company's":  invite(works, "c@x.example", ofOther, owner),
		"role: one that is none":   invite(works, "c@x.example", 999999, owner),
		"email: none":              invite(works, "c at x.example", employees, owner),
		"email: a smuggled header": invite(works, "c@x.example\r\nBcc: d@x.example", employees, owner),
		"expires_at: too late":     invite(works, "c@x.example", employees, owner, "expires_at", time.Now().Add(31*24*time.Hour)),
		"expires_at: over":         invite(works, "c@x.example", employees, owner, "expires_at", time.Now().Add(-time.Minute)),
		"language: none":           invite(works, "c@x.example", employees, owner, "language", "xx"),
		"scope: none":              invite(works, "c@x.example", employees, owner, "scope", "all"),
		"invited_by: not theirs":   invite(works, "c@x.example", employees, owner, "invited_by", 1),
		"status: not theirs":       invite(works, "c@x.example", employees, owner, "status", "accepted"),
	} {
		expect(t, name, refused, 422)
		field, _, _ := strings.Cut(name, ":")
		if !strings.Contains(refused.raw, `"field":"`+field+`"`) {
			t.Errorf("%s: the refusal does not name the field: %s", name, refused.raw)
		}
	}
	expect(t, "a member", invite(home, strings.ToUpper(employee.email), employees, owner), 409, "already_member")
	expect(t, "a second one", invite(works, "B@x.example", employees, owner), 409, "invitation_pending")
	expect(t, "to another company", invite(home, "b@x.example", employees, owner), 201)
	exec(t, n.A, "UPDATE public.invitations SET expires_at = now() - interval '1 minute' WHERE company_id = $1", works)
	expect(t, "once the first is over", invite(works, "b@x.example", employees, owner, "language", "de"), 201)
	if got := lastMessage(t, n, n.A, "b@x.example").Language; got != "de" {
		t.Errorf("the mail is in %q", got)
	}
	expect(t, "deactivate", n.ask(t, http.MethodPatch, host, companyPath(works), object{"status": "deactivated"}, bearer(owner)), 200)
	expect(t, "a deactivated company", invite(works, "e@x.example", employees, owner), 409, "company_deactivated")
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.outbox"); b != 0 {
		t.Errorf("tenant B has %d messages", b)
	}
}

func TestInvitationsAreListedRevokedAndSentAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	works, other := n.found(t, n.A, owner, "Works", 0), n.found(t, n.A, owner, "Other", 0)
	manager, ada := n.person(t, n.A, "manager"), n.person(t, n.A, "ada")
	enlist(t, n.A, manager.id, works, "manager", "subtree")
	invite := func(company int64, email string) (int64, string) {
		made := n.ask(t, http.MethodPost, host, companyPath(company)+"/invite", object{"email": email, "role": seeded(t, n.A, "employee")}, bearer(owner))
		expect(t, "invite "+email, made, 201)
		return made.number("id"), made.text("token")
	}
	first, token := invite(works, ada.email)
	second, _ := invite(works, "second@x.example")
	third, _ := invite(other, "third@x.example")
	emails := func(path, token string) string {
		list := n.ask(t, http.MethodGet, host, path, nil, bearer(token))
		expect(t, path, list, 200)
		var found []string
		results, _ := list.at("results").([]any)
		for _, r := range results {
			row, _ := r.(map[string]any)
			email, _ := row["email"].(string)
			name, _, _ := strings.Cut(email, "@")
			found = append(found, name)
		}
		if int(list.number("count")) != len(found) {
			t.Errorf("%s counts %d of %d", path, list.number("count"), len(found))
		}
		return strings.Join(found, " ")
	}
	const all = "/access-control/invitations"
	for _, want := range []struct{ path, token, emails string }{
		{all, owner, "third second ada"},
		{all, manager.token, "second ada"},
		{all + "?company=" + itoa(other), owner, "third"},
		{all + "?status=revoked", owner, ""},
		{companyPath(works) + "/invitations", manager.token, "second ada"},
		{companyPath(works) + "/invitations?status=pending", manager.token, "second ada"},
		{all, ada.token, ""},
	} {
		if got := emails(want.path, want.token); got != want.emails {
			t.Errorf("%s: %q, want %q", want.path, got, want.emails)
		}
	}
	expect(t, "a company that is not seen", n.ask(t, http.MethodGet, host, all+"?company="+itoa(other), nil, bearer(manager.token)), 404)
	for _, call := range [][2]string{{http.MethodGet, ""}, {http.MethodDelete, ""}, {http.MethodPost, "revoke"}, {http.MethodPost, "resend"}} {
		path := strings.TrimSuffix(invitationPath(third, call[1]), "/")
		expect(t, call[0]+call[1]+" of one that is not seen", n.ask(t, call[0], host, path, nil, bearer(manager.token)), 404)
		foreign, _ := n.login(t, n.B)
		expect(t, call[0]+call[1]+" at tenant B", n.ask(t, call[0], hostOf(n.B), path, nil, bearer(foreign)), 404)
	}
	act := func(id int64, action, token string) answer {
		return n.ask(t, http.MethodPost, host, invitationPath(id, action), nil, bearer(token))
	}
	accept := func(token string) answer {
		return n.ask(t, http.MethodPost, host, acceptPath, object{"token": token}, bearer(ada.token))
	}
	expect(t, "revoke", act(second, "revoke", manager.token), 200)
	expect(t, "revoke again", act(second, "revoke", manager.token), 200)
	expect(t, "send what was revoked", act(second, "resend", manager.token), 409, "invitation_revoked")
	if got := emails(all+"?status=revoked", owner); got != "second" {
		t.Errorf("revoked: %q", got)
	}
	expect(t, "revoke ada's", act(first, "revoke", manager.token), 200)
	expect(t, "accept what was revoked", accept(token), 409, "invitation_revoked")

	_, token = invite(works, ada.email)
	exec(t, n.A, "UPDATE public.invitations SET expires_at = now() - interval '1 second' WHERE status = 'pending' AND email = $1", ada.email)
	expect(t, "accept what is over", accept(token), 409, "invitation_expired")
	if got := emails(companyPath(works)+"/invitations?status=expired", owner); got != "ada" {
		t.Errorf("expired: %q", got)
	}
	again := value[int64](t, n.A, "SELECT max(id) FROM public.invitations WHERE email = $1", ada.email)
	sent := act(again, "resend", manager.token)
	expect(t, "send again", sent, 200)
	if sent.text("detail") == "" || sent.text("token") == token || lastMessage(t, n, n.A, ada.email).Values["link"] != "https://acme.localhost/invitations/accept?token="+sent.text("token") {
		t.Errorf("sent again: %s", sent.raw)
	}
	expect(t, "the old token", accept(token), 404, "invitation_unknown")
	expect(t, "the new token", accept(sent.text("token")), 200)
	expect(t, "send what was accepted", act(again, "resend", owner), 409, "invitation_used")
	expect(t, "revoke what was accepted", act(again, "revoke", owner), 409, "invitation_used")
	expect(t, "delete", n.ask(t, http.MethodDelete, host, invitationPath(again), nil, bearer(owner)), 204)
	expect(t, "get what is deleted", n.ask(t, http.MethodGet, host, invitationPath(again), nil, bearer(owner)), 404)

	_, token = invite(other, ada.email)
	expect(t, "delete the company", n.ask(t, http.MethodDelete, host, companyPath(other), nil, bearer(owner)), 204)
	expect(t, "accept into it", accept(token), 409, "invitation_revoked")
}

func TestSec28WhoInvitedMustStillBeEntitled(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	ada := n.person(t, n.A, "ada")
	accept := func(token string) answer {
		return n.ask(t, http.MethodPost, host, acceptPath, object{"token": token}, bearer(ada.token))
	}
	for name, sql := range map[string]string{
		"demoted":  "UPDATE public.user_company_roles a SET role_id = (SELECT id FROM public.roles WHERE role = 'employee') FROM public.user_companies m WHERE m.id = a.user_company_id AND m.user_id = $1",
		"removed":  "DELETE FROM public.user_companies WHERE user_id = $1",
		"disabled": "UPDATE public.users SET is_active = false WHERE id = $1",
		"denied":   "INSERT INTO public.role_permissions (role_id, permission_id, granted) SELECT r.id, p.id, false FROM public.roles r, public.permissions p WHERE r.role = 'denies' AND p.code = 'audit.read' AND $1 > 0",
	} {
		id := n.found(t, n.A, owner, name, 0)
		inviter := n.person(t, n.A, name)
		enlist(t, n.A, inviter.id, id, "manager", "subtree")
		if name == "denied" {
			hold(t, n.A, value[int64](t, n.A, "SELECT id FROM public.user_companies WHERE user_id = $1", inviter.id), roleOf(t, n.A, id, "denies"), "subtree")
		}
		made := n.ask(t, http.MethodPost, host, companyPath(id)+"/invite", object{"email": ada.email, "role": seeded(t, n.A, "manager")}, bearer(inviter.token))
		expect(t, "invite by one who will be "+name, made, 201)
		exec(t, n.A, sql, inviter.id)
		expect(t, "accept from one who is "+name, accept(made.text("token")), 409, "invitation_void")
		sent := n.ask(t, http.MethodPost, host, invitationPath(made.number("id"), "resend"), nil, bearer(owner))
		expect(t, "the owner sends it again", sent, 200)
		expect(t, "accept from the owner", accept(sent.text("token")), 200)
	}
	works := n.found(t, n.A, owner, "Works", 0)
	made := n.ask(t, http.MethodPost, host, companyPath(works)+"/invite", object{"email": ada.email, "role": seeded(t, n.A, "employee")}, bearer(owner))
	expect(t, "deactivate", n.ask(t, http.MethodPatch, host, companyPath(works), object{"status": "deactivated"}, bearer(owner)), 200)
	expect(t, "accept into a deactivated company", accept(made.text("token")), 409, "company_deactivated")
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_companies"); b != 1 {
		t.Errorf("tenant B has %d memberships", b)
	}
}

func TestAnOldMembershipComesBackWithTheInvitedRoleAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	ada := n.person(t, n.A, "ada")
	enlist(t, n.A, ada.id, n.A.CompanyID, "owner", "subtree")
	expect(t, "switch it off", n.ask(t, http.MethodPatch, host, memberPath(n.A.CompanyID, ada.id), object{"is_active": false}, bearer(owner)), 200)
	made := n.ask(t, http.MethodPost, host, companyPath(n.A.CompanyID)+"/invite", object{"email": ada.email, "role": seeded(t, n.A, "employee")}, bearer(owner))
	expect(t, "invite", made, 201)
	expect(t, "accept", n.ask(t, http.MethodPost, host, acceptPath, object{"token": made.text("token")}, bearer(ada.token)), 200)
	list := n.ask(t, http.MethodGet, host, companyPath(n.A.CompanyID)+"/members?q=ada", nil, bearer(owner))
	if list.number("count") != 1 || !strings.Contains(list.raw, `"role":"employee"`) || strings.Contains(list.raw, `"role":"owner"`) {
		t.Errorf("the membership is %s", list.raw)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_companies"); b != 1 {
		t.Errorf("tenant B has %d memberships", b)
	}
}

func TestInvitationsUnderConcurrency(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	owner, _ := n.login(t, n.A)
	ada := n.person(t, n.A, "ada")
	const callers = 8
	all := func(call func() answer) (done int, token string) {
		answers := make([]answer, callers)
		var group sync.WaitGroup
		for i := range callers {
			group.Go(func() { answers[i] = call() })
		}
		group.Wait()
		for _, a := range answers {
			switch a.status {
			case 200, 201:
				done++
				token = a.text("token")
			case 409:
			default:
				t.Errorf("%d %s", a.status, a.raw)
			}
		}
		return done, token
	}
	done, token := all(func() answer {
		return n.ask(t, http.MethodPost, host, companyPath(n.A.CompanyID)+"/invite", object{"email": ada.email, "role": 4}, bearer(owner))
	})
	if done != 1 {
		t.Fatalf("%d invitations for one address", done)
	}
	done, _ = all(func() answer {
		return n.ask(t, http.MethodPost, host, acceptPath, object{"token": token}, bearer(ada.token))
	})
	if done != 1 {
		t.Errorf("a token worked %d times", done)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.user_companies"); b != 1 {
		t.Errorf("tenant B has %d memberships", b)
	}
}

func TestRegisterWithAnInvitation(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	host := hostOf(n.A)
	closed := false
	for _, tenant := range []route.Route{*n.A.Route, *n.B.Route} {
		n.Table.Change(tenant.TenantID, func(r *route.Route) {
			r.Settings.SelfRegistration = &closed
			r.Settings.InviteURL = "https://app." + tenant.Slug + ".example/join?from=mail"
		})
	}
	owner, _ := n.login(t, n.A)
	made := n.ask(t, http.MethodPost, host, companyPath(n.A.CompanyID)+"/invite", object{"email": "ada@people.example", "role": seeded(t, n.A, "owner")}, bearer(owner))
	expect(t, "invite", made, 201)
	token := made.text("token")
	if link := lastMessage(t, n, n.A, "ada@people.example").Values["link"]; link != "https://app.acme.example/join?from=mail&token="+token {
		t.Errorf("the link is %s", link)
	}
	register := func(at, email, token string) answer {
		body := object{"full_name": "Ada", "email": email, "password": goodPassword}
		if token != "" {
			body["invitation_token"] = token
		}
		return n.ask(t, http.MethodPost, at, "/account/register", body)
	}
	expect(t, "without", register(host, "ada@people.example", ""), 403, "registration_closed")
	for what, refused := range map[string]answer{
		"a token that is none":    register(host, "ada@people.example", "made-up"),
		"another address":         register(host, "eve@people.example", token),
		"the token at tenant B":   register(hostOf(n.B), "ada@people.example", token),
		"an address that is none": register(host, "ada", token),
	} {
		expect(t, what, refused, 422)
	}
	if users := value[int64](t, n.A, "SELECT count(*) FROM public.users"); users != 1 {
		t.Errorf("%d users after what was refused", users)
	}
	joined := register(host, "Ada@People.example", token)
	expect(t, "with the token", joined, 201)
	access := joined.text("tokens", "access")
	expect(t, "the company", n.ask(t, http.MethodGet, host, companyPath(n.A.CompanyID), nil, bearer(access)), 200)
	if !value[bool](t, n.A, "SELECT is_primary_company FROM public.user_companies WHERE user_id = $1", joined.number("user", "id")) {
		t.Error("it is not their primary company")
	}
	if events := value[int64](t, n.A, "SELECT count(*) FROM ledger.security_logs WHERE action = 'owner_added' AND user_id = $1", joined.number("user", "id")); events != 1 {
		t.Errorf("%d owners in the security log", events)
	}
	used := register(host, "ada@people.example", token)
	expect(t, "the token again", used, 422, "invitation_used")
	if !strings.Contains(used.raw, `"field":"invitation_token"`) {
		t.Errorf("the refusal does not name the field: %s", used.raw)
	}

	// What fails when the user is made already takes the user back too.
	late := n.ask(t, http.MethodPost, host, companyPath(n.A.CompanyID)+"/invite", object{"email": "bob@people.example", "role": seeded(t, n.A, "owner")}, bearer(access))
	expect(t, "invite by ada", late, 201)
	exec(t, n.A, "UPDATE public.users SET is_active = false WHERE email = 'ada@people.example'")
	expect(t, "by one who is disabled", register(host, "bob@people.example", late.text("token")), 422, "invitation_void")
	if users := value[int64](t, n.A, "SELECT count(*) FROM public.users"); users != 2 {
		t.Errorf("%d users, the refused one among them", users)
	}
	if b := value[int64](t, n.B, "SELECT count(*) FROM public.users"); b != 1 {
		t.Errorf("tenant B has %d users", b)
	}
}
