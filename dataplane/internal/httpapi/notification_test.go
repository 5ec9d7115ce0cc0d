package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/notification"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/testdb"
)

// tell gives the owner of the tenant notifications.
func tell(t *testing.T, tenant tenanttest.Tenant, user int64, messages ...string) {
	t.Helper()
	conn := testdb.Connect(t, tenant.AdminURL)
	defer conn.Close(t.Context())
	for _, m := range messages {
		if err := notification.Add(t.Context(), conn, user, notification.Access, m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNotificationsAreOnesOwn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	other := value[int64](t, n.A, "INSERT INTO public.users (username, full_name) VALUES ('other', 'Other') RETURNING id")
	tell(t, n.A, n.A.OwnerID, "one", "two", "three")
	tell(t, n.A, other, "not for the owner")
	tell(t, n.B, n.B.OwnerID, "of B")
	token, _ := n.login(t, n.A)
	foreign := value[int64](t, n.A, "SELECT id FROM public.notifications WHERE user_id = $1", other)
	first := value[int64](t, n.A, "SELECT min(id) FROM public.notifications WHERE user_id = $1", n.A.OwnerID)
	for _, prefix := range []string{"/notifications", "/audit/notifications"} {
		a := n.ask(t, http.MethodGet, hostOf(n.A), prefix, nil, bearer(token))
		expect(t, prefix, a, http.StatusOK)
		if a.number("count") != 3 || a.number("unread_count") != 3 {
			t.Errorf("%s: %s", prefix, a.raw)
		}
	}
	list := func(query string) answer {
		t.Helper()
		a := n.ask(t, http.MethodGet, hostOf(n.A), "/audit/notifications"+query, nil, bearer(token))
		expect(t, query, a, http.StatusOK)
		return a
	}
	results, _ := list("?page_size=2").at("results").([]any)
	if newest, _ := results[0].(object); len(results) != 2 || newest["message"] != "three" || newest["read"] != false || newest["created_at"] == nil {
		t.Errorf("the first page: %v", results)
	}
	mark := func(path string, body any) answer {
		return n.ask(t, http.MethodPost, hostOf(n.A), path, body, bearer(token))
	}
	marked := mark("/audit/notifications/mark-read", object{"notification_id": first})
	expect(t, "mark one", marked, http.StatusOK)
	if marked.text("detail") == "" {
		t.Errorf("mark one: %s", marked.raw)
	}
	expect(t, "mark it again", mark("/notifications/mark-read", object{"notification_id": first}), http.StatusOK)
	if a := list("?unread=true"); a.number("count") != 2 || a.number("unread_count") != 2 {
		t.Errorf("after one: %s", a.raw)
	}
	expect(t, "somebody else's", mark("/notifications/mark-read", object{"notification_id": foreign}), http.StatusNotFound)
	expect(t, "neither", mark("/notifications/mark-read", object{}), http.StatusUnprocessableEntity)
	expect(t, "both", mark("/notifications/mark-read", object{"notification_id": first, "all": true}), http.StatusUnprocessableEntity)
	expect(t, "all", mark("/notifications/mark-read", object{"all": true}), http.StatusOK)
	if a := list(""); a.number("count") != 3 || a.number("unread_count") != 0 {
		t.Errorf("after all: %s", a.raw)
	}
	if unread := value[int64](t, n.A, "SELECT count(*) FROM public.notifications WHERE NOT read"); unread != 1 {
		t.Errorf("%d of the other user's are unread", unread)
	}
	if unread := value[int64](t, n.B, "SELECT count(*) FROM public.notifications WHERE NOT read"); unread != 1 {
		t.Errorf("%d of B's are unread", unread)
	}
}

func TestTheOutboxIsShownWithoutWhatItSays(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for i, tenant := range []tenanttest.Tenant{n.A, n.B} {
		conn := testdb.Connect(t, tenant.AdminURL)
		m := outbox.Message{Channel: outbox.Email, To: fmt.Sprintf("x%d@example.com", i), Template: outbox.TemplateSecurity, Values: map[string]string{"event": "canary-event"}}
		if err := outbox.NewQueue(tenant.Route, n.Key).Add(t.Context(), conn, m); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close(t.Context())
	}
	exec(t, n.A, "UPDATE public.outbox SET status = 'dead', payload_sealed = NULL, attempts = 12, last_error = 'refused', finished_at = now()")
	token, _ := n.login(t, n.A)
	a := n.ask(t, http.MethodGet, hostOf(n.A), "/notifications/outbox?status=dead", nil, bearer(token))
	expect(t, "dead letters", a, http.StatusOK)
	results, _ := a.at("results").([]any)
	if len(results) != 1 {
		t.Fatalf("dead letters: %s", a.raw)
	}
	if m, _ := results[0].(object); m["recipient"] != "x0@example.com" || m["last_error"] != "refused" || m["status"] != "dead" {
		t.Errorf("the dead letter: %v", m)
	}
	if looks := value[int64](t, n.A, "SELECT count(*) FROM ledger.activity_logs WHERE entity_type = 'outbox' AND action = 'READ'"); looks != 1 {
		t.Errorf("%d looks are recorded", looks)
	}
	if a := n.ask(t, http.MethodGet, hostOf(n.A), "/notifications/outbox?status=pending", nil, bearer(token)); a.number("count") != 0 {
		t.Errorf("pending: %s", a.raw)
	}
	employee, _ := n.member(t, n.A, "employee@example.com", "employee", n.A.CompanyID)
	expect(t, "an employee", n.ask(t, http.MethodGet, hostOf(n.A), "/notifications/outbox", nil, bearer(employee)), http.StatusForbidden)
}

// told are the user's notifications, the oldest first.
func told(t *testing.T, tenant tenanttest.Tenant, user int64) []string {
	t.Helper()
	return value[[]string](t, tenant, "SELECT COALESCE(array_agg(kind || ': ' || message ORDER BY id), '{}') FROM public.notifications WHERE user_id = $1", user)
}

func TestWhoIsConcernedIsTold(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	owner, _ := n.login(t, n.A)
	ada, joe := n.person(t, n.A, "ada"), n.person(t, n.A, "joe")
	manager, employee := seeded(t, n.A, "manager"), seeded(t, n.A, "employee")
	home := n.A.CompanyID
	ask := func(method, path string, body any, token string, status int) answer {
		t.Helper()
		a := n.ask(t, method, hostOf(n.A), path, body, bearer(token))
		expect(t, method+" "+path, a, status)
		return a
	}
	membership := member(t, n.A, ada.id, home)
	given := ask(http.MethodPost, "/access-control/user-company-roles", object{"user_company": membership, "role": manager}, owner, 201)
	ask(http.MethodDelete, "/access-control/user-company-roles/"+itoa(given.number("id")), nil, owner, 204)
	members := companyPath(home) + "/members/" + itoa(ada.id)
	ask(http.MethodPatch, members, object{"roles": []int64{employee}}, owner, 200)
	ask(http.MethodPatch, members, object{"roles": []int64{manager}}, owner, 200)
	want := []string{
		"access: You were given the role manager in acme Ltd.", "access: You no longer have the role manager in acme Ltd.",
		"access: You were given the role employee in acme Ltd.",
		"access: You were given the role manager in acme Ltd.", "access: You no longer have the role employee in acme Ltd.",
	}
	if got := told(t, n.A, ada.id); !slices.Equal(got, want) {
		t.Errorf("ada was told %q", got)
	}
	invited := ask(http.MethodPost, companyPath(home)+"/invite", object{"email": joe.email, "role": employee}, owner, 201)
	ask(http.MethodPost, acceptPath, object{"token": invited.text("token")}, joe.token, 200)
	if got := told(t, n.A, joe.id); len(got) != 0 {
		t.Errorf("joe was told of what he did himself: %q", got)
	}
	expect(t, "change the password", n.changePassword(t, owner, tenanttest.OwnerPassword, goodPassword), http.StatusOK)
	name := value[string](t, n.A, "SELECT full_name FROM public.users WHERE id = $1", joe.id)
	if got := told(t, n.A, n.A.OwnerID); !slices.Equal(got, []string{"invitation: " + name + " has accepted your invitation to acme Ltd.", "security: Your password was changed."}) {
		t.Errorf("the owner was told %q", got)
	}
	if count := value[int64](t, n.B, "SELECT count(*) FROM public.notifications"); count != 0 {
		t.Errorf("%d notifications at B", count)
	}
}
