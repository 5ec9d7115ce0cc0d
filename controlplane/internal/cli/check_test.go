package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/controlplane/internal/cli"
)

// What a script sends whose variable is not set is refused before anything is asked: with
// an empty --as a restore would replace the database that it was to leave alone.
func TestWhatIsEmptyOrMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"tenant", "restore", "acme", "--backup", "b-1", "--as", ""}, "--as is empty"},
		{[]string{"tenant", "restore", "acme", "--backup", "b-1", "--as", " "}, "--as is empty"},
		{[]string{"tenant", "show", ""}, "argument 1 is empty"},
		{[]string{"domain", "add", "acme", " "}, "argument 2 is empty"},
		{[]string{"plan", "delete", ""}, "argument 1 is empty"},
		{[]string{"webhook", "remove", ""}, "argument 1 is empty"},
		{[]string{"tenant", "list", "--status", ""}, "--status is empty"},
		{[]string{"tenant", "list", "--limit", "-1"}, "--limit"},
		{[]string{"server", "set", "a", "--databases", "many"}, "--databases must be a whole number"},
		{[]string{"apikey", "create", "k", "--scope", "tenant.read", "--days", "-1"}, "--days"},
		{[]string{"apikey", "create", "k", "--scope", "tenant.read", "--days", "0"}, "--days"},
		{[]string{"tenant", "rotate", "acme", "--at-once"}, "--signing-key"},
		{[]string{"tenant", "shwo", "acme"}, "did you mean show?"},
		{[]string{"tenat", "show"}, "did you mean tenant?"},
	} {
		p := newPerson(t)
		p.env["OUVIRA_URL"] = serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%v asked %s", c.args, r.URL) })
		code, _, errOut := p.run(t, "", c.args...)
		if code != cli.ExitUsage || !strings.Contains(errOut, c.says) || strings.Contains(errOut, "strconv") {
			t.Errorf("%v: exit %d: %s", c.args, code, errOut)
		}
	}
}

// What was given is sent as it is, also where it clears a value or is to be refused.
func TestServerSetSendsWhatWasSaid(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sent string
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPatch {
			sent = string(body)
		}
		_, _ = w.Write([]byte(`{"name":"a"}`))
	})
	for want, args := range map[string][]string{
		`{"capacity":{"databases":-1}}`:                    {"--databases", "-1"},
		`{"capacity":{"connections":0,"storage_mb":-5}}`:   {"--connections", "0", "--storage-mb", "-5"},
		`{"capacity":{"storage_mb":0},"region":""}`:        {"--region", "", "--storage-mb", "0"},
		`{"capacity":{"databases":9,"storage_mb":200000}}`: {"--databases", "9", "--storage-mb", "200000"},
	} {
		code, _, errOut := p.run(t, "", append([]string{"server", "set", "a"}, args...)...)
		mu.Lock()
		if code != cli.ExitOK || sent != want {
			t.Errorf("%v: exit %d, sent %s: %s", args, code, sent, errOut)
		}
		mu.Unlock()
	}
}

// Nobody takes a backup for a file that cannot be written, and a login that has ended is
// told in the words of the command line.
func TestExportLooksAtTheFileFirst(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked %s", r.URL) })
	code, _, errOut := p.run(t, "", "tenant", "export", "acme", "-f", filepath.Join(t.TempDir(), "nowhere", "acme.tar"))
	if code != cli.ExitFailure || !strings.Contains(errOut, "write the archive") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

func TestRefusalsAreInTheWordsOfTheCommandLine(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"status":401,"code":"unauthenticated","detail":"Sign in first: POST /v1/auth/login."}`))
	})
	code, _, errOut := p.run(t, "", "tenant", "list")
	if code != cli.ExitRefused || strings.Contains(errOut, "POST") || !strings.Contains(errOut, "ouvira login") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	p.env["OUVIRA_URL"] = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = w.Write([]byte(`{"status":422,"detail":"The field status is not right: expected one of two.","errors":[{"field":"status","message":"Expected one of two."}]}`))
	})
	if _, _, errOut = p.run(t, "", "tenant", "list", "--status", "odd"); strings.Count(strings.ToLower(errOut), "expected one of two") != 1 {
		t.Errorf("said twice: %s", errOut)
	}
	_, out, _ := p.run(t, "", "version", "-o", "json")
	var v struct{ Version string }
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Version == "" {
		t.Errorf("%v: %s", err, out)
	}
}
