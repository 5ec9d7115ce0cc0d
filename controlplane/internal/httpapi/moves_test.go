package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// places adds servers that nobody connects to, and puts the tenant on the first.
func (w *world) places(t *testing.T, tenantID string, names ...string) {
	t.Helper()
	for i, name := range names {
		w.exec(t, `INSERT INTO control.servers (id, name, host, port, max_databases, max_connections, system_identifier, postgres_version, provisioner_credential)
			VALUES ($1, $2, '127.0.0.1', 1, 10, 50, $3, 150000, '')`, uuid.Must(uuid.NewV7()), name, i+1)
	}
	w.exec(t, "UPDATE control.tenants SET server_id = (SELECT id FROM control.servers WHERE name = $2), database_name = 'ov_' || left(md5($1), 20) WHERE id::text = $1", tenantID, names[0])
}

func TestMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.active(t, "acme")
	w.places(t, id, "a", "b", "closed")
	w.exec(t, "UPDATE control.servers SET status = 'offline' WHERE name = 'closed'")
	token := w.operator(t, operator.RoleOperator)
	const path = "/v1/tenants/acme/move"

	w.want(t, http.StatusForbidden, w.operator(t, operator.RoleSupport), http.MethodPost, path, map[string]string{"server": "b"})
	w.want(t, http.StatusNotFound, token, http.MethodPost, "/v1/tenants/nobody/move", map[string]string{"server": "b"})
	for server, want := range map[string]struct {
		status int
		code   string
	}{
		"a":       {http.StatusConflict, "same_server"},
		"closed":  {http.StatusConflict, "server_not_active"},
		"nowhere": {http.StatusUnprocessableEntity, "invalid"},
		"":        {http.StatusUnprocessableEntity, ""},
	} {
		got := w.want(t, want.status, token, http.MethodPost, path, map[string]string{"server": server})
		if want.code != "" && got.text("code") != want.code {
			t.Errorf("to %q: %s", server, got.raw)
		}
	}
	started := w.want(t, http.StatusAccepted, token, http.MethodPost, path, map[string]string{"server": "b"})
	if started.text("operation.kind") != "tenant.move" || started.text("operation.steps.0.name") != "preflight" {
		t.Errorf("%s", started.raw)
	}
	again := w.want(t, http.StatusConflict, token, http.MethodPost, path, map[string]string{"server": "b"})
	if again.text("code") != "operation_in_progress" || !strings.Contains(again.text("detail"), "tenant.move") || !strings.Contains(again.text("detail"), "@ouvira.test") {
		t.Errorf("%s", again.raw)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.audit_log WHERE action = 'tenant.move' AND tenant_id = $1", id); n != 1 {
		t.Errorf("%d audit rows", n)
	}
}

func TestServersAreChangedAndDrained(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.places(t, w.active(t, "acme"), "a", "b")
	token := w.operator(t, operator.RoleOperator)

	if got := w.want(t, http.StatusOK, token, http.MethodPatch, "/v1/servers/a", map[string]any{"region": "eu", "capacity": map[string]int{"databases": 3}}); got.text("region") != "eu" || got.field("free") != 2.0 {
		t.Errorf("%s", got.raw)
	}
	w.want(t, http.StatusUnprocessableEntity, token, http.MethodPatch, "/v1/servers/a", map[string]any{"status": "tired"})
	w.want(t, http.StatusNotFound, token, http.MethodGet, "/v1/servers/nowhere", nil)

	drain := w.want(t, http.StatusAccepted, token, http.MethodPost, "/v1/servers/a/drain", nil)
	if drain.text("operation.kind") != "server.drain" {
		t.Errorf("%s", drain.raw)
	}
	if again := w.want(t, http.StatusConflict, token, http.MethodPost, "/v1/servers/a/drain", nil); again.text("code") != "operation_in_progress" {
		t.Errorf("%s", again.raw)
	}
	if got := w.want(t, http.StatusOK, token, http.MethodGet, "/v1/servers/a", nil); got.text("status") != "draining" || got.field("tenants") != 1.0 {
		t.Errorf("%s", got.raw)
	}
	if got := w.want(t, http.StatusOK, token, http.MethodPost, "/v1/servers/a/activate", nil); got.text("status") != "active" {
		t.Errorf("%s", got.raw)
	}
	w.want(t, http.StatusForbidden, w.operator(t, operator.RoleSupport), http.MethodPost, "/v1/servers/a/drain", nil)
}
