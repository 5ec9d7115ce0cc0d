package httpapi_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/operator"
)

// backup writes one that counts, without a file.
func (w *world) backup(t *testing.T, tenantID, status string) string {
	t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	w.exec(t, `INSERT INTO control.backups (id, tenant_id, reason, status, object, incarnation, sha256, manifest, size)
		VALUES ($1::uuid, $2, 'manual', $3, 'tenants/x/' || $1::text, 1, '\xab', '{"slug": "acme"}', 42)`, id, tenantID, status)
	return id
}

func TestBackupsAtTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOperator)
	acme, globex := w.active(t, "acme"), w.active(t, "globex")
	first, second := w.backup(t, acme, "complete"), w.backup(t, acme, "complete")
	foreign, failed := w.backup(t, globex, "complete"), w.backup(t, acme, "failed")

	list := w.want(t, 200, token, "GET", "/v1/tenants/acme/backups?limit=2", nil)
	if list.text("items.0.id") != failed || list.text("items.1.id") != second || list.text("next_cursor") == "" {
		t.Errorf("the first page: %s", list.raw)
	}
	rest := w.want(t, 200, token, "GET", "/v1/tenants/acme/backups?limit=2&cursor="+list.text("next_cursor"), nil)
	if rest.text("items.0.id") != first || rest.field("items.1") != nil || rest.field("items.0.size") != 42.0 || rest.text("items.0.sha256") != "ab" {
		t.Errorf("the second page: %s", rest.raw)
	}

	for name, c := range map[string]struct {
		path   string
		body   any
		status int
		code   string
	}{
		"another tenant's backup": {"restore", map[string]any{"backup_id": foreign}, 404, "backup_missing"},
		"no such backup":          {"restore", map[string]any{"backup_id": uuid.NewString()}, 404, "backup_missing"},
		"one that failed":         {"restore", map[string]any{"backup_id": failed}, 409, "backup_failed"},
		"no backup named":         {"restore", map[string]any{}, 422, ""},
		"as a slug that is taken": {"restore", map[string]any{"backup_id": first, "as_slug": "globex"}, 409, "slug_taken"},
		"as what is no slug":      {"restore", map[string]any{"backup_id": first, "as_slug": "No Slug"}, 422, "slug_characters"},
		"as nothing at all":       {"restore", map[string]any{"backup_id": first, "as_slug": ""}, 422, "slug_required"},
		"a clone of that name":    {"clone", map[string]any{"slug": "globex"}, 409, "slug_taken"},
	} {
		a := w.want(t, c.status, token, "POST", "/v1/tenants/acme/"+c.path, c.body)
		if c.code != "" && a.text("code") != c.code {
			t.Errorf("%s: %s", name, a.raw)
		}
	}

	started := w.want(t, 202, token, "POST", "/v1/tenants/acme/restore", map[string]any{"backup_id": first})
	if started.text("operation.kind") != "tenant.restore" || started.field("tenant") != nil {
		t.Errorf("a restore in place: %s", started.raw)
	}
	// One works on the tenant: the others are told who.
	for _, path := range []string{"backup", "export"} {
		a := w.want(t, 409, token, "POST", "/v1/tenants/acme/"+path, nil)
		if a.text("code") != "operation_in_progress" || !strings.Contains(a.text("detail"), "tenant.restore") || !strings.Contains(a.text("detail"), "operator-") {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	copied := w.want(t, 202, token, "POST", "/v1/tenants/acme/restore", map[string]any{"backup_id": first, "as_slug": "acme-copy"})
	if copied.text("tenant.slug") != "acme-copy" || copied.text("tenant.status") != "provisioning" || copied.text("operation.kind") != "tenant.restore_as" {
		t.Errorf("a restore as new: %s", copied.raw)
	}
	sandbox := w.want(t, 202, token, "POST", "/v1/tenants/globex/clone", map[string]any{"slug": "globex-sandbox", "sandbox": true})
	if sandbox.field("tenant.settings.sandbox") != true {
		t.Errorf("a sandbox: %s", sandbox.raw)
	}
	for status, verb := range map[string]string{"provisioning": "clone", "failed": "backup", "deleted": "restore"} {
		id := w.active(t, "is-"+status)
		w.exec(t, "UPDATE control.tenants SET status = $2 WHERE id = $1", id, status)
		a := w.want(t, 409, token, "POST", "/v1/tenants/is-"+status+"/"+verb, map[string]map[string]any{
			"clone": {"slug": "other"}, "backup": {}, "restore": {"backup_id": w.backup(t, id, "complete")},
		}[verb])
		if a.text("code") != "tenant_"+status || !strings.Contains(a.text("detail"), "active or suspended") {
			t.Errorf("%s of one that is %s: %s", verb, status, a.raw)
		}
	}
	if a := w.want(t, 422, token, "GET", "/v1/backups/"+first+"/archive?recipient=nobody", nil); a.fields()[0] != "recipient" {
		t.Errorf("no key: %s", a.raw)
	}
	if a := w.want(t, 422, token, "POST", "/v1/imports?slug=imported", "this is no archive"); a.text("code") != "archive_corrupted" {
		t.Errorf("no archive: %s", a.raw)
	}
	if n := one[int](t, w, "SELECT count(*) FROM control.tenants WHERE slug = 'imported'"); n != 0 {
		t.Error("a tenant was made of no archive")
	}
	w.want(t, 403, w.operator(t, operator.RoleSupport), "POST", "/v1/tenants/globex/backup", nil)
}

func TestBackupRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.operator(t, operator.RoleOwner)
	if a := w.want(t, 200, token, "GET", "/v1/backup-rules", nil); a.field("items.0.interval_hours") != 24.0 {
		t.Errorf("the default: %s", a.raw)
	}
	body := map[string]int{"interval_hours": 6, "keep": 40, "keep_days": 7}
	if a := w.want(t, 200, token, "PUT", "/v1/backup-rules/standard", body); a.field("items.0.interval_hours") != 6.0 || a.field("items.0.keep") != 40.0 {
		t.Errorf("changed: %s", a.raw)
	}
	w.want(t, 404, token, "PUT", "/v1/backup-rules/none", body)
	body["keep"] = 0
	if a := w.want(t, 422, token, "PUT", "/v1/backup-rules/standard", body); a.fields()[0] != "keep" {
		t.Errorf("refused: %s", a.raw)
	}
}
