package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// vault answers what the commands of backups ask for, and notes it.
type vault struct {
	mu    sync.Mutex
	asked []string
	whole bool // downloads come to their end
}

func (v *vault) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	v.mu.Lock()
	v.asked = append(v.asked, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(body)))
	v.mu.Unlock()
	operation := `{"id":"op-1","kind":"tenant.backup","status":"succeeded","steps":[{"name":"dump","status":"succeeded"}],"progress":1,"error":null,"created_at":"2026-01-02T03:04:05Z"}`
	backup := `{"id":"b-1","operation_id":"op-1","status":"complete","reason":"manual","size":2048,"sha256":"ab","created_at":"2026-01-02T03:04:05Z"}`
	tenant := `{"id":"t-1","slug":"acme-copy","name":"Acme","status":"active","created_at":"2026-01-02T03:04:05Z"}`
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/events"):
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\n", operation)
	case strings.HasSuffix(path, "/backups"):
		fmt.Fprintf(w, `{"items":[%s],"next_cursor":null}`, backup)
	case strings.HasPrefix(path, "/v1/backup-rules"):
		fmt.Fprint(w, `{"items":[{"plan":"standard","interval_hours":6,"keep":3,"keep_days":30}],"next_cursor":null}`)
	case strings.HasSuffix(path, "/archive"):
		fmt.Fprint(w, "half of it, ")
		if !v.whole {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "and the rest")
	case strings.HasPrefix(path, "/v1/operations/"):
		fmt.Fprint(w, operation)
	case path == "/v1/auth/me":
		fmt.Fprint(w, "{}")
	case r.Method == http.MethodGet:
		fmt.Fprint(w, tenant)
	case strings.HasSuffix(path, "/backup"), strings.HasSuffix(path, "/export"), strings.Contains(string(body), `"in-place"`):
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"operation":%s}`, operation)
	default:
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"tenant":%s,"operation":%s}`, tenant, operation)
	}
}

func (v *vault) last(t *testing.T, want string) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Contains(v.asked, want) {
		t.Errorf("nobody asked %q: %q", want, v.asked)
	}
	v.asked = nil
}

func TestBackupCommands(t *testing.T) {
	t.Parallel()
	v := &vault{whole: true}
	p := newPerson(t)
	p.env["OUVIRA_URL"], p.env["OUVIRA_TOKEN"] = serve(t, v.serve), "token"
	dir := t.TempDir()
	upload := filepath.Join(dir, "in.tar")
	if err := os.WriteFile(upload, []byte("archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "out.tar")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	recipient := identity.Recipient().String()
	for _, c := range []struct {
		args  []string
		asked string
		shown string
	}{
		{[]string{"backup", "list", "acme"}, "GET /v1/tenants/acme/backups?limit=100", "2.0 KiB"},
		{[]string{"backup", "rules"}, "GET /v1/backup-rules", "standard"},
		{[]string{"backup", "rule", "standard", "--every-hours", "12"}, `PUT /v1/backup-rules/standard {"interval_hours":12,"keep":3,"keep_days":30}`, "standard"},
		{[]string{"tenant", "backup", "acme", "--wait"}, "POST /v1/tenants/acme/backup", "b-1"},
		{[]string{"tenant", "backup", "acme"}, "POST /v1/tenants/acme/backup", "op-1"},
		{[]string{"tenant", "restore", "acme", "--backup", "in-place", "--wait"}, `POST /v1/tenants/acme/restore {"backup_id":"in-place"}`, "op-1"},
		{[]string{"tenant", "restore", "acme", "--backup", "b-1", "--as", "acme-copy"}, `POST /v1/tenants/acme/restore {"as_slug":"acme-copy","backup_id":"b-1"}`, "acme-copy"},
		{[]string{"tenant", "clone", "acme", "acme-copy", "--sandbox", "--wait"}, `POST /v1/tenants/acme/clone {"sandbox":true,"slug":"acme-copy"}`, "acme-copy"},
		{[]string{"tenant", "import", upload, "--slug", "acme-copy", "--wait"}, "POST /v1/imports?slug=acme-copy archive", "acme-copy"},
		{[]string{"tenant", "export", "acme", "-f", file, "--recipient", recipient}, "GET /v1/backups/b-1/archive?recipient=" + recipient, ""},
	} {
		code, out, errOut := p.run(t, "", c.args...)
		if code != cli.ExitOK || !strings.Contains(out, c.shown) {
			t.Errorf("%v: exit %d, %q, %q", c.args, code, out, errOut)
		}
		v.last(t, c.asked)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "half of it, and the rest" {
		t.Errorf("downloaded %q, %v", content, err)
	}
	if code, _, errOut := p.run(t, "", "tenant", "export", "acme", "-f", file); code != cli.ExitFailure || !strings.Contains(errOut, "is kept") {
		t.Errorf("over a file: exit %d, %q", code, errOut)
	}
	// No backup is taken for a key that is none.
	if code, _, errOut := p.run(t, "", "tenant", "export", "acme", "-f", filepath.Join(dir, "not"), "--recipient", recipient[:20]); code != cli.ExitUsage || !strings.Contains(errOut, "age-keygen") || len(v.asked) > 0 {
		t.Errorf("a key that is none: exit %d, %q; asked %v", code, errOut, v.asked)
	}
	code, out, _ := p.run(t, "", "backup", "list", "acme", "-o", "json")
	var items []map[string]any
	if err := json.Unmarshal([]byte(out), &items); code != cli.ExitOK || err != nil || len(items) != 1 || items[0]["size"] != 2048.0 {
		t.Errorf("JSON: exit %d, %v, %s", code, err, out)
	}
	// A download that breaks off leaves nothing.
	v.whole = false
	broken := filepath.Join(dir, "broken.tar")
	if code, _, errOut := p.run(t, "", "tenant", "export", "acme", "-f", broken, "--backup", "b-1"); code != cli.ExitFailure || !strings.Contains(errOut, "broke off") {
		t.Errorf("a broken download: exit %d, %q", code, errOut)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
