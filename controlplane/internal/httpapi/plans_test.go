package httpapi_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// A plan is made, given to a tenant, changed for all who have it, and stays while
// anybody has it.
func TestPlans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	acme, globex := w.active(t, "acme"), w.active(t, "globex")
	w.want(t, 403, w.operator(t, operator.RoleSupport), "POST", "/v1/plans", map[string]any{"code": "team"})
	a := w.want(t, 201, token, "POST", "/v1/plans", map[string]any{
		"code": "team", "name": "Team", "max_connections": 20, "max_users": 50, "max_storage_mb": 2048, "over_quota": "refuse",
		"grace_days": 3, "lapse_action": "suspend", "limits": map[string]any{"login_per_address": 600},
	})
	if a.text("name") != "Team" || a.field("max_users") != 50.0 || a.field("statement_timeout_ms") != 30000.0 || a.field("trial_days") != 14.0 || len(a.field("limits").(map[string]any)) != 1 {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 409, token, "POST", "/v1/plans", map[string]any{"code": "team"}); a.text("code") != "plan_taken" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"plan": "team"})
	limits := func(tenant string) string {
		return one[string](t, w, "SELECT coalesce(settings ->> 'limits', '') FROM node.routes_v1 WHERE tenant_id = $1", tenant)
	}
	if got := limits(acme); got != `{"users": 50, "login_per_address": 600}` || limits(globex) != "" {
		t.Errorf("the routes carry %s and %s", got, limits(globex))
	}
	before := w.routeVersion(t, acme)
	w.want(t, 200, token, "PATCH", "/v1/plans/team", map[string]any{"name": "The team", "grace_days": 10, "max_storage_mb": 0})
	if w.routeVersion(t, acme) != before {
		t.Error("what no route carries published routes")
	}
	a = w.want(t, 200, token, "PATCH", "/v1/plans/team", map[string]any{"over_quota": "notify", "max_connections": 5})
	if a.text("name") != "The team" || a.field("max_users") != 50.0 || limits(acme) != `{"login_per_address": 600}` || w.routeVersion(t, acme) != before+1 {
		t.Errorf("the route carries %s after %s", limits(acme), a.raw)
	}
	bad := w.want(t, 422, token, "PATCH", "/v1/plans/team", map[string]any{
		"max_connections": 0, "trial_days": -1, "grace_days": 366, "max_users": -1, "limits": map[string]any{"users": 5},
	})
	if want := []string{"max_connections", "trial_days", "grace_days", "max_users", "limits"}; !slices.Equal(bad.fields(), want) {
		t.Errorf("named %v", bad.fields())
	}
	for _, code := range []string{"", "Team", "a", "1up", "-x", "x-", "a b"} {
		w.want(t, 422, token, "POST", "/v1/plans", map[string]any{"code": code})
	}
	if a := w.want(t, 409, token, "DELETE", "/v1/plans/team", nil); a.text("code") != "plan_in_use" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	if a := w.want(t, 409, token, "DELETE", "/v1/plans/standard", nil); a.text("code") != "plan_default" {
		t.Errorf("unexpected answer: %s", a.raw)
	}
	w.want(t, 200, token, "PATCH", "/v1/tenants/acme", map[string]any{"plan": "standard"})
	w.want(t, 204, token, "DELETE", "/v1/plans/team", nil)
	w.want(t, 404, token, "DELETE", "/v1/plans/team", nil)
	w.want(t, 404, token, "GET", "/v1/plans/team", nil)
	log := w.want(t, 200, token, "GET", "/v1/audit?limit=20", nil)
	for _, action := range []string{"plan.create", "plan.update", "plan.delete"} {
		if !strings.Contains(log.raw, action) {
			t.Errorf("%s is not in the audit log", action)
		}
	}
}
