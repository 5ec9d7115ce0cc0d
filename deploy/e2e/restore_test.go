package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// A tenant is put back to an earlier state by its operator, while another on the same
// server writes on: what came after the backup is gone, tokens of before count no
// more, the audit tells of the restore and verifies, and the neighbour has lost nothing
// and heard of nothing. A sandbox of it is a tenant of its own whose audit verifies too.
func TestRel18ATenantIsRestoredWhileOthersWrite(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{Env: map[string]map[string]string{
		stack.DataNode(0): {"OUVIRA_AUDIT_SEAL_EVERY": "1s"}, stack.DataNode(1): {"OUVIRA_AUDIT_SEAL_EVERY": "1s"},
	}})
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	acme, globex := demo(s, "acme").login(t, s, 0), demo(s, "globex").login(t, s, 1)
	company := func(name string) map[string]string { return map[string]string{"name": name} }
	must(t, acme.Want(t.Context(), http.StatusCreated, http.MethodPost, "/company", company("Before the backup"), nil))
	untilVerified(t, acme, "")
	finished(t, s, operator, "/v1/tenants/acme/backup", nil)
	var backups struct {
		Items []struct {
			ID string `json:"id"`
		} `json:"items"`
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/tenants/acme/backups", nil, &backups))
	must(t, acme.Want(t.Context(), http.StatusCreated, http.MethodPost, "/company", company("After the backup"), nil))
	untilVerified(t, acme, "")

	stop, written := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { written <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := globex.Want(context.Background(), http.StatusCreated, http.MethodPost, "/company", company(fmt.Sprintf("Written %d", n)), nil); err != nil {
				t.Errorf("the neighbour: %v", err)
				return
			}
			n++
		}
	}()
	finished(t, s, operator, "/v1/tenants/acme/restore", map[string]string{"backup_id": backups.Items[0].ID})
	close(stop)
	n := <-written

	must(t, acme.Want(t.Context(), http.StatusUnauthorized, http.MethodGet, "/account/me", nil, nil))
	acme = demo(s, "acme").login(t, s, 0)
	inside, _ := tenantDatabase(t, s, "acme")
	if names := column[string](t, inside, "SELECT name FROM public.companies WHERE name LIKE '%the backup' ORDER BY 1"); len(names) != 1 || names[0] != "Before the backup" {
		t.Errorf("the restored tenant has %q", names)
	}
	untilVerified(t, acme, "RESTORE")
	neighbour, _ := tenantDatabase(t, s, "globex")
	if found := column[int64](t, neighbour, "SELECT count(*) FROM public.companies WHERE name LIKE 'Written %'")[0]; found != int64(n) || n == 0 {
		t.Errorf("of the neighbour's %d writes %d are there", n, found)
	}
	untilVerified(t, globex, "")

	finished(t, s, operator, "/v1/tenants/acme/clone", map[string]any{"slug": "acme-sandbox", "sandbox": true})
	sandbox := demo(s, "acme")
	sandbox.slug = "acme-sandbox"
	untilVerified(t, sandbox.login(t, s, 1), "COPY")
	var report struct {
		Findings []any `json:"findings"`
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/reconcile", nil, &report))
	if len(report.Findings) != 0 {
		t.Errorf("the doctor finds %v", report.Findings)
	}
}

// finished asks for an operation and waits until it has succeeded.
func finished(t *testing.T, s *stack.Stack, operator stack.API, path string, body any) {
	t.Helper()
	var begun struct {
		Operation struct {
			ID string `json:"id"`
		} `json:"operation"`
	}
	must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, path, body, &begun))
	eventually(t, recovery, func() (bool, string) {
		is := column[string](t, s.Demo().Postgres.Control, "SELECT status || ' ' || COALESCE(error::text, '') FROM control.operations WHERE id = $1", begun.Operation.ID)
		return strings.HasPrefix(is[0], "succeeded"), path + ": " + is[0]
	})
}

// untilVerified waits until all of a tenant's audit is sealed, tells of the event ("":
// of none in particular), and verifies.
func untilVerified(t *testing.T, tenant stack.API, event string) {
	t.Helper()
	var audit struct {
		Valid     bool `json:"valid"`
		KeptBatch int  `json:"kept_batch"`
		Events    []struct {
			Detail struct {
				Event string `json:"event"`
			} `json:"detail"`
		} `json:"events"`
		Problems []any `json:"problems"`
	}
	eventually(t, 30*time.Second, func() (bool, string) {
		must(t, tenant.Want(t.Context(), http.StatusOK, http.MethodGet, "/audit/verify", nil, &audit))
		told := event == ""
		for _, e := range audit.Events {
			told = told || e.Detail.Event == event
		}
		return audit.Valid && audit.KeptBatch > 0 && told, fmt.Sprintf("the audit does not verify, or tells of no %s: %+v", event, audit)
	})
}

// The control database and the keys are lost, and come back by the steps of
// docs/operations.md: tenants log in again, and one that signed up since the backup is
// taken in by the marker in its database.
func TestRel18TheControlDatabaseIsLostAndRestored(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	superuser, database := s.PostgresURL(stack.PGControl), s.Demo().Postgres.Control
	programs, err := pgserver.Find(t.Context(), 0)
	must(t, err)
	env := append(os.Environ(), "PATH="+programs.Dir+":"+bin+":"+os.Getenv("PATH"), "SUPERUSER_DATABASE="+database, "SUPERUSER_URL="+superuser, "KEPT="+t.TempDir())
	for name, value := range s.Env(stack.Control) {
		env = append(env, name+"="+value)
	}
	env = append(env, "OUVIRA_NODE_DATABASE_URL="+s.Env(stack.DataNode(0))["OUVIRA_NODE_DATABASE_URL"])
	script := func(lines string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", lines)
		c.Env = env
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", lines, err, out)
		}
	}
	// The backup: the database sealed, and the keys apart.
	script(`pg_dump --format=custom --dbname="$SUPERUSER_DATABASE" | controlplane archive seal > "$KEPT/control.dump.age"
		cp "$OUVIRA_CONTROL_KEY_FILE" "$KEPT/control.key"; cp "$OUVIRA_DATA_PUBLIC_KEY_FILE" "$KEPT/data.pub"`)
	late := signUp(t, s, "late")
	eventually(t, recovery, func() (bool, string) { got := late.state(t.Context(), s); return got.Status == "active", got.Status })
	late.login(t, s, 0)
	id := column[string](t, database, "SELECT id::text FROM control.tenants WHERE slug = 'late'")[0]

	must(t, s.Kill9(stack.Control))
	must(t, s.Kill9(stack.Worker))
	_, err = sql(t, superuser).Exec(t.Context(), "DROP DATABASE ouvira WITH (FORCE)")
	must(t, err)
	script(`rm "$OUVIRA_CONTROL_KEY_FILE" "$OUVIRA_DATA_PUBLIC_KEY_FILE"`)
	demo(s, "acme").login(t, s, 0) // meanwhile, from the nodes' memory

	script(`cp "$KEPT/control.key" "$OUVIRA_CONTROL_KEY_FILE"; cp "$KEPT/data.pub" "$OUVIRA_DATA_PUBLIC_KEY_FILE"
		controlplane archive open < "$KEPT/control.dump.age" > "$KEPT/control.dump"
		controlplane migrate --bootstrap-url "$SUPERUSER_URL"
		dropdb --maintenance-db="$SUPERUSER_URL" --force ouvira
		createdb --maintenance-db="$SUPERUSER_URL" --template=template0 --owner=ouvira_control_owner ouvira
		pg_restore --exit-on-error --dbname="$SUPERUSER_DATABASE" "$KEPT/control.dump"
		controlplane migrate --bootstrap-url "$SUPERUSER_URL"`)
	public := column[bool](t, database, "SELECT has_database_privilege('public', current_database(), 'CONNECT')")[0]
	if public {
		t.Error("everybody may connect to the restored control database")
	}
	must(t, s.Start(t.Context(), stack.Control))
	must(t, s.Start(t.Context(), stack.Worker))
	for node := range 2 {
		for _, slug := range []string{"acme", "globex"} {
			demo(s, slug).login(t, s, node)
		}
		eventually(t, recovery, func() (bool, string) {
			answer, err := s.TenantAPI(node, "late").Call(t.Context(), http.MethodGet, "/auth/me", nil)
			return err == nil && answer.Status == http.StatusNotFound, fmt.Sprint("a tenant that the control database does not know is answered with ", answer.Status, err)
		})
	}

	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	var report struct {
		Findings []struct {
			Code   string `json:"code"`
			Server string `json:"server"`
			Action string `json:"action"`
		} `json:"findings"`
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/reconcile", nil, &report))
	if len(report.Findings) != 1 || report.Findings[0].Code != "tenant_unknown" || !strings.Contains(report.Findings[0].Action, id) {
		t.Fatalf("the doctor finds %+v", report.Findings)
	}
	var started struct {
		Operation moving `json:"operation"`
	}
	body := map[string]string{"tenant_id": id, "slug": "late"}
	must(t, operator.Want(t.Context(), http.StatusAccepted, http.MethodPost, "/v1/servers/"+report.Findings[0].Server+"/adopt", body, &started))
	succeeds(t, operator, started.Operation.ID, recovery)
	for node := range 2 {
		late.login(t, s, node)
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/reconcile", nil, &report))
	if len(report.Findings) != 0 {
		t.Errorf("the doctor finds %+v", report.Findings)
	}
}
