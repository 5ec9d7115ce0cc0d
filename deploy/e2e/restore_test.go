package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// A dump of a tenant's database is restored on another server, and its audit
// verifies there against the head that was kept outside. A row that somebody
// changes in the copy is named.
func TestADumpRestoresElsewhereAndItsAuditVerifies(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{Env: map[string]map[string]string{
		stack.DataNode(0): {"OUVIRA_AUDIT_SEAL_EVERY": "1s"}, stack.DataNode(1): {"OUVIRA_AUDIT_SEAL_EVERY": "1s"},
	}})
	acme, globex := demo(s, "acme").login(t, s, 0), demo(s, "globex").login(t, s, 1)
	for i := range 5 {
		body := map[string]string{"name": fmt.Sprintf("Company %d", i)}
		must(t, acme.Want(t.Context(), http.StatusCreated, http.MethodPost, "/company", body, nil))
		must(t, globex.Want(t.Context(), http.StatusCreated, http.MethodPost, "/company", body, nil))
	}
	var audit struct {
		Valid     bool   `json:"valid"`
		Unsealed  int64  `json:"unsealed"`
		KeptBatch int64  `json:"kept_batch"`
		KeptHead  string `json:"kept_head"`
	}
	sealed := "SELECT count(*)::bigint FROM ledger.activity_logs WHERE entity_type = 'company' AND id <= (SELECT max(to_id) FROM ledger.seals WHERE kind = 'activity')"
	from, database := tenantDatabase(t, s, "acme")
	eventually(t, 30*time.Second, func() (bool, string) {
		must(t, acme.Want(t.Context(), http.StatusOK, http.MethodGet, "/audit/verify", nil, &audit))
		return audit.Valid && audit.KeptBatch > 0 && column[int64](t, from, sealed)[0] >= 5, fmt.Sprintf("the audit is not sealed yet: %+v", audit)
	})

	// Another server, another name.
	binaries, err := pgserver.Find(t.Context(), 0)
	must(t, err)
	to := ""
	for _, server := range s.Demo().Postgres.Servers {
		if inDatabase(t, server.URL, database, nil) != from {
			to = server.URL
		}
	}
	copied := database + "_copy"
	_, err = sql(t, to).Exec(t.Context(), "CREATE DATABASE "+pgx.Identifier{copied}.Sanitize()+" TEMPLATE template0")
	must(t, err)
	file := filepath.Join(t.TempDir(), "acme.dump")
	restored := inDatabase(t, to, copied, nil)
	shell(t, filepath.Join(binaries.Dir, "pg_dump"), "--format=custom", "--file="+file, "--dbname="+from)
	shell(t, filepath.Join(binaries.Dir, "pg_restore"), "--exit-on-error", "--dbname="+restored, file)

	head := fmt.Sprintf("%d:%s", audit.KeptBatch, audit.KeptHead)
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "dataplane"), "verify-audit", "--dsn", restored, "--head", head).Output()
	if err != nil {
		t.Fatalf("the restored audit does not verify: %v\n%s", err, out)
	}

	var row int64
	must(t, sql(t, restored).QueryRow(t.Context(), `UPDATE ledger.activity_logs SET user_display = 'somebody else'
		WHERE id = (SELECT min(id) FROM ledger.activity_logs WHERE entity_type = 'company') RETURNING id`).Scan(&row))
	out, err = exec.CommandContext(t.Context(), filepath.Join(bin, "dataplane"), "verify-audit", "--dsn", restored, "--head", head).Output()
	var report struct {
		Problems []struct {
			RowID int64 `json:"row_id"`
		} `json:"problems"`
	}
	if jsonErr := json.Unmarshal(out, &report); err == nil || jsonErr != nil || len(report.Problems) == 0 || report.Problems[0].RowID != row {
		t.Errorf("row %d was changed in the copy, and the report says (%v):\n%s", row, err, out)
	}
}

// tenantDatabase is the superuser's address of a tenant's database, and its
// name.
func tenantDatabase(t *testing.T, s *stack.Stack, slug string) (address, name string) {
	t.Helper()
	must(t, sql(t, s.Demo().Postgres.Control).QueryRow(t.Context(),
		"SELECT s.name, t.database_name FROM control.tenants t JOIN control.servers s ON s.id = t.server_id WHERE t.slug = $1", slug).Scan(&address, &name))
	for _, server := range s.Demo().Postgres.Servers {
		if server.Name == address {
			return inDatabase(t, server.URL, name, nil), name
		}
	}
	t.Fatalf("the tenant %s is on the unknown server %s", slug, address)
	return "", ""
}

func shell(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
	}
}
