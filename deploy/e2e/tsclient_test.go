package e2e

import (
	"context"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/deploy/stack"
)

// The TypeScript client is generated from the document that a node serves,
// compiled against it, and run.
func TestTheTypedClient(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	root, err := stack.Root()
	must(t, err)
	client := t.TempDir()
	must(t, os.CopyFS(client, os.DirFS(filepath.Join(root, "deploy", "tsclient"))))
	must(t, os.RemoveAll(filepath.Join(client, "node_modules")))

	command := func(env []string, name string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir, c.Env = client, append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	command(nil, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	demo := s.Demo()
	command([]string{"OPENAPI=" + demo.DataURLs[0] + "/openapi.json"}, "npm", "run", "generate")
	command(nil, "npm", "run", "build")
	for i, tenant := range demo.Tenants {
		out := command([]string{
			"BASE_URL=" + named(t, demo.DataURLs[i%len(demo.DataURLs)], tenant.Host),
			"IDENTIFIER=" + tenant.OwnerEmail, "PASSWORD=" + tenant.OwnerPassword,
		}, "node", "dist/tour.js")
		if !strings.Contains(out, "of USR-") {
			t.Errorf("the tour at %s says: %s", tenant.Host, out)
		}
	}

	// The compiler knows the document: a field that does not exist is an error.
	wrong := filepath.Join(client, "src", "wrong.ts")
	must(t, os.WriteFile(wrong, []byte(`import { tenantClient } from "./client.js";
await tenantClient("").POST("/company", { body: { nome: "x" } });
`), 0o600))
	c := exec.CommandContext(context.WithoutCancel(t.Context()), "npm", "run", "build")
	c.Dir = client
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "nome") {
		t.Errorf("a wrong field compiles: %v\n%s", err, out)
	}
}

// named is the address of a proxy that asks the node by the tenant's host: not
// every system resolves names below localhost.
func named(t *testing.T, node, host string) string {
	t.Helper()
	target, err := url.Parse(node)
	must(t, err)
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = host
	}})
	t.Cleanup(proxy.Close)
	return proxy.URL
}
