package walls

import (
	"fmt"
	"slices"
	"strings"
)

const prefix = "github.com/ouvira/ouvira/"

// modules are the modules of the workspace, by the folder that holds them.
var modules = []string{"shared", "migrations", "controlplane", "dataplane", "deploy"}

// mayImport is the map of the house: module → siblings it may import.
var mayImport = map[string][]string{
	"shared":       {},
	"migrations":   {},
	"controlplane": {"shared", "migrations"},
	"dataplane":    {"shared"},
	"deploy":       {"shared"}, // it runs the planes' binaries as processes, never as packages
}

// testsMayImport is what test files and fixtures may import on top of it. A
// fixture is a room whose name ends in "test"; only tests and other fixtures
// may import one.
var testsMayImport = map[string][]string{
	"dataplane": {"migrations"}, // to make tenant databases
}

// testOnly are packages that no program of a plane may contain.
var testOnly = []string{prefix + "shared/testdb", prefix + "shared/tracing/tracetest"}

// web are the packages that rooms do without: a room is called with an actor
// and a transaction, and answers with a fault; only httpapi speaks HTTP.
var web = []string{
	"net/http",
	"github.com/go-chi/chi/v5",
	"github.com/danielgtaylor/huma/v2",
}

// webExceptions are the packages below internal/ that may import some of web.
var webExceptions = map[string]string{
	"controlplane/internal/httpapi": "this is the HTTP surface",
	"dataplane/internal/httpapi":    "this is the HTTP surface",
	"controlplane/internal/cli":     "the CLI is a client of that surface",
	"controlplane/internal/webhook": "webhooks are sent over HTTP",
	"dataplane/internal/sms":        "Twilio's API is spoken over HTTP",
}

// engine is the part of the control plane that runs long work, outermost
// first: a package may import those after it, never those before.
var engine = [][]string{
	{"job"},
	{"provision", "lifecycle", "rollout", "move", "backup", "reconcile"},
	{"operation"},
}

// pkg is what the rules need to know of a package.
type pkg struct {
	path    string // import path
	imports []string
	tests   []string // imports of its test files, inside and outside the package
}

// violations returns one sentence for each arrow that crosses a wall.
func violations(p pkg) []string {
	var found []string
	report := func(to, why string) {
		found = append(found, fmt.Sprintf("%s imports %s: %s",
			strings.TrimPrefix(p.path, prefix), strings.TrimPrefix(to, prefix), why))
	}
	for _, to := range p.imports {
		extra := map[string][]string(nil)
		if fixture(p.path) {
			extra = testsMayImport
		}
		if why := moduleWall(p.path, to, extra); why != "" {
			report(to, why)
		}
		if why := roomWall(p.path, to); why != "" {
			report(to, why)
		}
		if why := testWall(p.path, to); why != "" {
			report(to, why)
		}
	}
	for _, to := range p.tests {
		if why := moduleWall(p.path, to, testsMayImport); why != "" {
			report(to, why+" (in a test)")
		}
	}
	return found
}

// moduleWall keeps the arrows between modules.
func moduleWall(from, to string, extra map[string][]string) string {
	if !strings.HasPrefix(to, prefix) {
		return ""
	}
	fromModule, toModule := moduleOf(from), moduleOf(to)
	if fromModule == toModule {
		return ""
	}
	if slices.Contains(mayImport[fromModule], toModule) || slices.Contains(extra[fromModule], toModule) {
		return ""
	}
	return fmt.Sprintf("%s may not depend on %s", fromModule, toModule)
}

// roomWall keeps the arrows inside a plane: cmd → httpapi → rooms → queries.
func roomWall(from, to string) string {
	room := roomOf(from)
	if room == "" {
		return ""
	}
	target := roomOf(to)
	switch {
	case within(to, web) && !excused(from):
		return "rooms know nothing of HTTP"
	case target == "httpapi" && room != "httpapi":
		return "httpapi calls the rooms, never the other way round"
	case target != "" && target != room && isQueries(to):
		return "generated queries belong to the room beside them"
	case storey(target) >= 0 && storey(room) > storey(target):
		return "the engine of operations knows nothing of what it runs, and that nothing of River"
	}
	return ""
}

// testWall keeps the test kit and the fixtures out of the planes' programs.
func testWall(from, to string) string {
	m := moduleOf(from)
	if (m != "controlplane" && m != "dataplane") || fixture(from) {
		return ""
	}
	if within(to, testOnly) || fixture(to) {
		return "the test kit belongs into _test files"
	}
	return ""
}

// fixture tells whether the package is a room that only serves tests.
func fixture(path string) bool {
	room := roomOf(path)
	return strings.HasSuffix(room, "test") && room != "test"
}

// moduleOf is the folder of the module: controlplane for
// github.com/ouvira/ouvira/controlplane/internal/tenant.
func moduleOf(path string) string {
	m, _, _ := strings.Cut(strings.TrimPrefix(path, prefix), "/")
	return m
}

// roomOf is the folder below internal/ of a plane: tenant in the example
// above, empty for everything that is no room.
func roomOf(path string) string {
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return ""
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 || parts[1] != "internal" || (parts[0] != "controlplane" && parts[0] != "dataplane") {
		return ""
	}
	return parts[2]
}

// isQueries tells whether the package is what sqlc generates for a room.
func isQueries(path string) bool {
	return strings.HasSuffix(path, "/dbsqlc")
}

// storey is where a room stands in the engine, -1 for the others.
func storey(room string) int {
	return slices.IndexFunc(engine, func(rooms []string) bool { return slices.Contains(rooms, room) })
}

func excused(from string) bool {
	short := strings.TrimPrefix(from, prefix)
	for path := range webExceptions {
		if short == path || strings.HasPrefix(short, path+"/") {
			return true
		}
	}
	return false
}

// within reports whether path is one of the roots or lies below one.
func within(path string, roots []string) bool {
	for _, root := range roots {
		if path == root || strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}
