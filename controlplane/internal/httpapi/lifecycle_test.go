package httpapi_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// Deleting takes the route off at once and leaves the rest to an operation; whoever
// wants something else of the tenant meanwhile is told who was first.
func TestDeleting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	id := w.active(t, "acme")
	bad := w.want(t, 422, token, "POST", "/v1/tenants/acme/delete", map[string]string{"confirm_slug": "globex"})
	if bad.fields()[0] != "confirm_slug" || strings.Contains(bad.raw, "globex") {
		t.Errorf("the wrong slug is refused with %s", bad.raw)
	}
	if got := w.want(t, 200, token, "GET", "/v1/tenants/acme", nil); got.text("status") != "active" {
		t.Errorf("the wrong slug has deleted: %s", got.raw)
	}
	before := w.routeVersion(t, id)
	a := w.want(t, 202, token, "POST", "/v1/tenants/acme/delete", map[string]string{"confirm_slug": "acme"})
	if a.text("operation.kind") != "tenant.delete" || a.text("operation.steps.1.name") != "backup" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if !one[bool](t, w, "SELECT deleted FROM node.routes_v1 WHERE tenant_id = $1 AND version > $2", id, before) {
		t.Error("no tombstone")
	}
	if got := w.want(t, 200, token, "GET", "/v1/tenants/acme", nil); got.text("status") != "deleted" || got.field("purge_at") != nil {
		t.Errorf("unexpected tenant: %s", got.raw)
	}
	other := w.operator(t, operator.RoleOwner)
	for path, body := range map[string]any{
		"suspend": map[string]string{"reason": "Unpaid."}, "resume": nil, "delete": nil, "undelete": nil, "purge": nil, "sign-out-everyone": nil,
		"rotate": map[string]any{"what": "signing-key"},
	} {
		a := w.want(t, 409, other, "POST", "/v1/tenants/acme/"+path, body)
		if !strings.Contains(a.text("detail"), "tenant.delete, started by operator-") {
			t.Errorf("%s: the refusal does not say who was first: %s", path, a.raw)
		}
	}
	w.exec(t, "UPDATE control.operations SET status = 'succeeded', finished_at = now()")
	for path, body := range map[string]any{"suspend": map[string]string{"reason": "Unpaid."}, "resume": nil, "delete": nil, "sign-out-everyone": nil, "rotate": map[string]any{"what": "signing-key"}} {
		a := w.want(t, 409, other, "POST", "/v1/tenants/acme/"+path, body)
		if a.text("code") != "tenant_deleted" || !strings.Contains(a.text("detail"), "undelete") {
			t.Errorf("%s: the refusal does not say what is allowed: %s", path, a.raw)
		}
	}
	if a := w.want(t, 202, token, "POST", "/v1/tenants/acme/undelete", nil); a.text("operation.kind") != "tenant.undelete" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	log := w.want(t, 200, other, "GET", "/v1/tenants/acme/audit", nil)
	if log.text("items.0.action") != "tenant.undelete" || log.text("items.1.action") != "tenant.delete" || log.text("items.1.detail.from") != "active" {
		t.Errorf("unexpected audit log: %s", log.raw)
	}
}

// TestSec56 dropping a tenant asks for a fresh login, and purging one for an owner of
// the platform.
func TestSec56DroppingATenantWantsAFreshLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner, staff := w.operator(t, operator.RoleOwner), w.operator(t, operator.RoleOperator)
	w.active(t, "acme")
	w.exec(t, "UPDATE control.operator_sessions SET authenticated_at = now() - interval '16 minutes'")
	for _, path := range []string{"delete", "purge"} {
		if a := w.want(t, 403, owner, "POST", "/v1/tenants/acme/"+path, nil); a.text("code") != "fresh_login_required" {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	w.exec(t, "UPDATE control.operator_sessions SET authenticated_at = now()")
	w.want(t, 409, owner, "POST", "/v1/tenants/acme/purge", nil) // what is not deleted is not purged
	w.want(t, 202, staff, "POST", "/v1/tenants/acme/delete", nil)
	w.exec(t, "UPDATE control.operations SET status = 'succeeded', finished_at = now()")
	w.want(t, 403, staff, "POST", "/v1/tenants/acme/purge", nil)
	w.want(t, 422, owner, "POST", "/v1/tenants/acme/purge", map[string]string{"confirm_slug": "globex"})
	w.want(t, 202, owner, "POST", "/v1/tenants/acme/purge", map[string]string{"confirm_slug": "acme"})
}

// Two operators suspend and delete the same tenant at the same time. Either the
// suspension came first, or it is refused and says whose deletion it was.
func TestSuspendingAndDeletingRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bob := w.operator(t, operator.RoleOwner), w.operator(t, operator.RoleOperator)
	for _, slug := range []string{"acme", "globex", "initech", "hooli"} {
		w.active(t, slug)
		var suspended, deleted answer
		var racing sync.WaitGroup
		racing.Go(func() {
			suspended = w.call(t, ada, "POST", "/v1/tenants/"+slug+"/suspend", map[string]string{"reason": "Unpaid."})
		})
		racing.Go(func() { deleted = w.call(t, bob, "POST", "/v1/tenants/"+slug+"/delete", nil) })
		racing.Wait()
		if deleted.status != 202 {
			t.Fatalf("%s: nothing forbids to delete it: %s", slug, deleted.raw)
		}
		first := "active"
		switch {
		case suspended.status == 200:
			first = "suspended"
		case suspended.status != 409 || !strings.Contains(suspended.text("detail"), "tenant.delete, started by operator-"):
			t.Errorf("%s: the suspension hears %s", slug, suspended.raw)
		}
		if got := one[string](t, w, "SELECT status || ' before ' || status_before FROM control.tenants WHERE slug = $1", slug); got != "deleted before "+first {
			t.Errorf("%s is %s", slug, got)
		}
	}
}

func TestSigningEveryoneOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	id, other := w.active(t, "acme"), w.active(t, "globex")
	before := w.routeVersion(t, id)
	w.want(t, 403, w.operator(t, operator.RoleSupport), "POST", "/v1/tenants/acme/sign-out-everyone", nil)
	for want := range 2 {
		w.want(t, 200, token, "POST", "/v1/tenants/acme/sign-out-everyone", nil)
		if got := one[int](t, w, "SELECT token_epoch FROM node.routes_v1 WHERE tenant_id = $1 AND version > $2", id, before); got != want+2 {
			t.Errorf("the route has epoch %d", got)
		}
		w.want(t, 200, token, "POST", "/v1/tenants/acme/suspend", map[string]string{"reason": "Stolen tokens."})
		w.want(t, 200, token, "POST", "/v1/tenants/acme/resume", nil)
	}
	if got := one[int](t, w, "SELECT token_epoch FROM node.routes_v1 WHERE tenant_id = $1", other); got != 1 {
		t.Errorf("the other tenant's route has epoch %d", got)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.events WHERE type = 'tenant.signed_out'"); n != 2 {
		t.Errorf("%d events", n)
	}
}
