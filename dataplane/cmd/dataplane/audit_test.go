package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A dump carries its proof: restored under another name on any server, with
// other settings, and without the control database, it verifies against a head
// that was written down before.
func TestTheAuditOfARestoredDumpVerifies(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	control := f.Control(t, f.A, f.B)
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	must(t, err)
	node, err := pgxpool.New(t.Context(), tenanttest.WithRole(control, migrations.NodeRole))
	must(t, err)
	defer node.Close()
	heads := audit.NewControlHeads(node)
	database, err := pgxpool.New(t.Context(), f.A.AdminURL)
	must(t, err)
	defer database.Close()
	_, err = database.Exec(t.Context(), `
		INSERT INTO ledger.activity_logs (user_id, user_display, company_id, entity_type, entity_id, action, old_values, new_values, ip_address)
		SELECT n, E'Jane\n\tDoe \\N', 1, 'thing', n, 'DO', '{"b": 1.50, "a": [null, "ü\n"]}', '{}', '2001:db8::1' FROM generate_series(1, 20) n`)
	must(t, err)
	_, err = audit.NewSealer(heads, identity.New(tokens, f.Key)).Seal(t.Context(), audit.Tenant{Route: f.A.Route, Do: func(_ context.Context, work func(audit.Conn) error) error {
		return work(database)
	}})
	must(t, err)
	kept, err := heads.Kept(t.Context(), f.A.ID)
	must(t, err)
	head := fmt.Sprintf("%d:%s", kept[0].Batch, hex.EncodeToString(kept[0].Hash))
	keys := filepath.Join(t.TempDir(), "jwks.json")
	raw, err := json.Marshal(map[string]any{"keys": f.A.Route.Keys})
	must(t, err)
	must(t, os.WriteFile(keys, raw, 0o600))

	elsewhere := f.Tenant(t, "elsewhere")
	dump(t, f.A.AdminURL, elsewhere.AdminURL, "ouvira.signing_keys", "ledger.activity_logs", "ledger.security_logs", "ledger.seals")
	dsn := elsewhere.AdminURL + "&" + url.Values{"timezone": {"Asia/Tokyo"}, "datestyle": {"German"}, "bytea_output": {"escape"}}.Encode()
	for _, args := range [][]string{
		{"--dsn", dsn, "--head", head, "--keys", keys},
		{"--dsn", dsn, "--head", head},
		{"--dsn", dsn},
	} {
		out, err := try(t, nil, append([]string{"verify-audit"}, args...)...)
		if err != nil || !strings.Contains(out, `"valid": true`) || !strings.Contains(out, `"rows": 2`) || !strings.Contains(out, f.A.ID.String()) {
			t.Errorf("%d arguments: %v\n%s", len(args), err, out)
		}
	}

	restored := testdb.Connect(t, elsewhere.AdminURL)
	_, err = restored.Exec(t.Context(), "UPDATE ledger.activity_logs SET action = 'X' WHERE id = 3")
	must(t, err)
	out, err := try(t, nil, "verify-audit", "--dsn", dsn, "--head", head)
	if err == nil || !strings.Contains(out, `"row_id": 3`) || !strings.Contains(out, `"valid": false`) {
		t.Errorf("a changed dump: %v\n%s", err, out)
	}
	_, err = restored.Exec(t.Context(), "TRUNCATE ledger.seals, ledger.activity_logs, ledger.security_logs")
	must(t, err)
	if out, err := try(t, nil, "verify-audit", "--dsn", dsn, "--head", head); err == nil || !strings.Contains(out, "are gone") {
		t.Errorf("an emptied dump: %v\n%s", err, out)
	}
	for _, wrong := range [][]string{{"--head", "1"}, {"--head", "0:" + strings.Repeat("0", 64)}, {"--head", "1:abc"}, {"x"}, {"--keys", "/nowhere"}, {"--dsn", "postgres://127.0.0.1:1/x"}, {"--dsn", "::"}} {
		if _, err := try(t, nil, append([]string{"verify-audit"}, wrong...)...); err == nil {
			t.Errorf("%v was accepted", wrong)
		}
	}
}

// A node seals what requests have recorded, and its role may tell the head.
func TestANodeSealsWhatItServes(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t)
	nodeURL, control := controlDatabase(t, f)
	n := start(t, f, nodeURL)
	status, body := get(t, http.MethodPost, n.public+"/auth/login", "acme.localhost", loginBody(f.A))
	if status != http.StatusOK {
		t.Fatalf("login: %d %s", status, body)
	}
	superuser := testdb.Connect(t, control)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		var slugs []string
		must(t, superuser.QueryRow(t.Context(), "SELECT COALESCE(array_agg(t.slug), '{}') FROM control.audit_heads h JOIN control.tenants t ON t.id = h.tenant_id").Scan(&slugs))
		if len(slugs) == 1 && slugs[0] == "acme" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("sealed: %v", slugs)
		}
	}
	if _, metrics := get(t, http.MethodGet, n.internal+"/metrics", "", ""); !strings.Contains(metrics, "ouvira_audit_sealed_rows_total") {
		t.Error("no metric of sealing")
	}
	n.stop()
	must(t, <-n.ended)
}

// What this node looks after for others is sealed as well.
func TestTenantsOfDeadNodesAreSealedToo(t *testing.T) {
	t.Parallel()
	noted := map[uuid.UUID]int{}
	fleet := sealedToo{&deadNodes{orphan: uuid.New(), unswept: uuid.New()}, func(tenant uuid.UUID) { noted[tenant]++ }}
	for _, ask := range []func(context.Context, int) ([]uuid.UUID, error){fleet.Orphaned, fleet.Unswept} {
		tenants, err := ask(t.Context(), 1)
		if err != nil || len(tenants) != 1 || noted[tenants[0]] != 1 {
			t.Errorf("%v, %v; noted %v", tenants, err, noted)
		}
	}
	if len(noted) != 2 {
		t.Errorf("noted %v", noted)
	}
}

// deadNodes is a fleet that has left two tenants behind.
type deadNodes struct {
	outbox.Fleet

	orphan, unswept uuid.UUID
}

func (d *deadNodes) Orphaned(context.Context, int) ([]uuid.UUID, error) {
	return []uuid.UUID{d.orphan}, nil
}

func (d *deadNodes) Unswept(context.Context, int) ([]uuid.UUID, error) {
	return []uuid.UUID{d.unswept}, nil
}

// dump copies tables as pg_dump and pg_restore do: in text, over what is there.
func dump(t *testing.T, from, to string, tables ...string) {
	t.Helper()
	source, target := testdb.Connect(t, from), testdb.Connect(t, to)
	for _, table := range tables {
		var text bytes.Buffer
		_, err := source.PgConn().CopyTo(t.Context(), &text, "COPY "+table+" TO STDOUT")
		must(t, err)
		_, err = target.Exec(t.Context(), "TRUNCATE "+table)
		must(t, err)
		_, err = target.PgConn().CopyFrom(t.Context(), &text, "COPY "+table+" FROM STDIN")
		must(t, err)
	}
	for _, log := range []string{"activity_logs", "security_logs"} {
		_, err := target.Exec(t.Context(), "SELECT setval('ledger."+log+"_id_seq', greatest(max(id), 1)) FROM ledger."+log)
		must(t, err)
	}
}
