package peertest

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/route"
)

// DjangoPackages are what Django needs on Debian.
const DjangoPackages = "python3-django python3-djangorestframework python3-djangorestframework-simplejwt python3-psycopg2 gunicorn"

// DjangoWorkers is how many processes serve: what gunicorn recommends.
func DjangoWorkers() int { return 2*runtime.NumCPU() + 1 }

// Django runs the service for the tenants, which answer at <slug>.localhost to
// tokens of the issuer, and returns its address. Persistent connections are
// kept for good, by each worker to each tenant; else every request makes one.
func Django(b testing.TB, server *route.Server, tenants []tenanttest.Tenant, issuer func(*route.Route) string, persistent bool) (address string) {
	b.Helper()
	python := djangoPython(b)
	files := sources(b)
	type tenant struct {
		Host     string    `json:"host"`
		Database string    `json:"database"`
		User     string    `json:"user"`
		Password string    `json:"password"`
		Issuer   string    `json:"issuer"`
		Audience string    `json:"audience"`
		Key      route.JWK `json:"key"`
	}
	all := make([]tenant, len(tenants))
	for i, t := range tenants {
		all[i] = tenant{
			t.Route.Slug + ".localhost", t.Route.Database, t.Route.Database, t.Password,
			issuer(t.Route), t.ID.String(), t.Route.Keys[0],
		}
	}
	text, err := json.Marshal(all) //nolint:gosec // passwords of test databases, which the service needs
	if err != nil {
		b.Fatal(err)
	}
	files["tenants.json"] = string(text)
	port := freePort(b)
	environment := []string{"PEER_TENANTS=tenants.json", "PEER_POSTGRES=" + server.Host + ":" + strconv.Itoa(int(server.Port))}
	if persistent {
		environment = append(environment, "PEER_PERSISTENT=1")
	}
	run(b, port, files, environment, python, "-m", "gunicorn", "--workers", strconv.Itoa(DjangoWorkers()),
		"--bind", local(port), "--timeout", "120", "--worker-tmp-dir", "{dir}", "--log-level", "warning", "wsgi:application")
	return local(port)
}

// djangoPython is an interpreter that has what the service imports: the
// system's, where another one comes first.
func djangoPython(b testing.TB) string {
	b.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(python)
		if err != nil {
			continue
		}
		const imports = "import django, rest_framework, rest_framework_simplejwt, psycopg2, cryptography, gunicorn"
		if exec.CommandContext(b.Context(), path, "-c", imports).Run() == nil { //nolint:gosec // one of the two above
			return path
		}
	}
	b.Skip("Django is not installed: apt-get install " + DjangoPackages)
	return ""
}

// sources is the service, which lies beside the program that runs benchmarks.
func sources(b testing.TB) map[string]string {
	b.Helper()
	service := os.DirFS(filepath.Join("..", "..", "..", "deploy", "bench", "peers", "django"))
	files := map[string]string{}
	err := fs.WalkDir(service, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(name) != ".py" {
			return err
		}
		text, err := fs.ReadFile(service, name)
		files[name] = string(text)
		return err
	})
	if err != nil {
		b.Fatalf("read the service: %v", err)
	}
	return files
}
