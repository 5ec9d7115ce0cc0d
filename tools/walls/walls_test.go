package walls

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWalls looks at every package of every module.
func TestWalls(t *testing.T) {
	t.Parallel()
	for _, module := range modules {
		for _, tags := range []string{"", "failpoints"} {
			t.Run(module+" "+tags, func(t *testing.T) {
				t.Parallel()
				for _, p := range list(t, module, tags) {
					for _, v := range violations(p) {
						t.Error(v)
					}
				}
			})
		}
	}
}

// TestEveryModuleIsNamed fails when a module joins the workspace without a
// place on the map.
func TestEveryModuleIsNamed(t *testing.T) {
	t.Parallel()
	work, err := os.ReadFile(filepath.Join("..", "..", "go.work"))
	if err != nil {
		t.Fatal(err)
	}
	var joined []string
	for line := range strings.Lines(string(work)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "./"); ok {
			joined = append(joined, name)
		}
	}
	named := slices.Sorted(slices.Values(modules))
	slices.Sort(joined)
	if !slices.Equal(joined, named) {
		t.Errorf("go.work joins %v, rules.go knows %v", joined, named)
	}
	for _, m := range modules {
		if _, ok := mayImport[m]; !ok {
			t.Errorf("rules.go does not say what %s may import", m)
		}
	}
}

// TestRules proves that each wall stands: an arrow through it is found, and
// the allowed one beside it is not.
func TestRules(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		from, to string
		inTest   bool
		wrong    bool
	}{
		{name: "shared is a leaf", from: "shared/pg", to: "migrations", wrong: true},
		{name: "migrations is a leaf", from: "migrations", to: "shared/pg", wrong: true},
		{name: "shared's tests are no exception", from: "shared/pg", to: "migrations", inTest: true, wrong: true},
		{name: "control may use migrations", from: "controlplane/internal/provision", to: "migrations"},
		{name: "data may not use control", from: "dataplane/internal/identity", to: "controlplane/internal/tenant", wrong: true},
		{name: "nor in a test", from: "dataplane/internal/identity", to: "controlplane/internal/tenant", inTest: true, wrong: true},
		{name: "data may not contain migrations", from: "dataplane/cmd/dataplane", to: "migrations", wrong: true},
		{name: "data's tests make tenant databases", from: "dataplane/internal/identity", to: "migrations", inTest: true},
		{name: "deploy runs binaries, not packages", from: "deploy/local", to: "dataplane/internal/identity", wrong: true},
		{name: "deploy may use shared", from: "deploy/local", to: "shared/testdb/pgserver"},
		{name: "rooms know no HTTP", from: "dataplane/internal/identity", to: "net/http", wrong: true},
		{name: "nor what wraps it", from: "controlplane/internal/tenant", to: "github.com/danielgtaylor/huma/v2", wrong: true},
		{name: "tests of a room may", from: "dataplane/internal/identity", to: "net/http", inTest: true},
		{name: "httpapi does", from: "dataplane/internal/httpapi", to: "net/http"},
		{name: "rooms do not call httpapi", from: "dataplane/internal/identity", to: "dataplane/internal/httpapi", wrong: true},
		{name: "httpapi calls rooms", from: "dataplane/internal/httpapi", to: "dataplane/internal/identity"},
		{name: "queries of another room", from: "dataplane/internal/company", to: "dataplane/internal/identity/dbsqlc", wrong: true},
		{name: "own queries", from: "dataplane/internal/identity", to: "dataplane/internal/identity/dbsqlc"},
		{name: "the engine runs nothing by name", from: "controlplane/internal/operation", to: "controlplane/internal/provision", wrong: true},
		{name: "what it runs does not know River", from: "controlplane/internal/provision", to: "controlplane/internal/job", wrong: true},
		{name: "jobs wake operations", from: "controlplane/internal/job", to: "controlplane/internal/provision"},
		{name: "the test kit stays out of programs", from: "controlplane/cmd/controlplane", to: "shared/testdb", wrong: true},
		{name: "also its lower floors", from: "dataplane/internal/directory", to: "shared/testdb/pgserver", wrong: true},
		{name: "a fixture may use it", from: "controlplane/internal/controltest", to: "shared/testdb"},
		{name: "a fixture makes tenant databases", from: "dataplane/internal/tenanttest", to: "migrations"},
		{name: "a fixture is no way to the other plane", from: "dataplane/internal/tenanttest", to: "controlplane/internal/tenant", wrong: true},
		{name: "programs contain no fixture", from: "dataplane/internal/httpapi", to: "dataplane/internal/tenanttest", wrong: true},
		{name: "tests use fixtures", from: "dataplane/internal/httpapi", to: "dataplane/internal/tenanttest", inTest: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			to := tt.to
			if slices.Contains(modules, moduleOf(prefix+to)) {
				to = prefix + to
			}
			p := pkg{path: prefix + tt.from}
			if tt.inTest {
				p.tests = []string{to}
			} else {
				p.imports = []string{to}
			}
			if found := violations(p); (len(found) > 0) != tt.wrong {
				t.Errorf("found %q, want a violation: %v", found, tt.wrong)
			}
		})
	}
}

// list asks go for the packages of a module with their direct imports.
func list(t *testing.T, module, tags string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-tags="+tags,
		"-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = filepath.Join("..", "..", module)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v\n%s", module, err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, pkg{path: p.ImportPath, imports: p.Imports, tests: append(p.TestImports, p.XTestImports...)})
	}
	if len(pkgs) == 0 {
		t.Fatalf("go list finds no package in %s: the walls would hold for nothing", module)
	}
	return pkgs
}
