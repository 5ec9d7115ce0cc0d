package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const printed = `goos: linux
goarch: amd64
pkg: github.com/ouvira/ouvira/dataplane/internal/httpapi
cpu: some processor
BenchmarkFleet
BenchmarkFleet/routed-1
BenchmarkFleet/routed-1-2         	       1	      6781 ours	        50.00 ours-backends	         0.9990 ours-hit-rate	         0.006505 ours-p50	         0.02438 ours-p99	         1.117 ratio	      6069 reference	         0.007589 reference-p50	         0.02121 reference-p99
BenchmarkFleet/routed-1000
BenchmarkFleet/routed-1000-2      	       1	       614.0 ours	         0.06324 ratio	      9708 reference
BenchmarkFleet/pgbouncer-1
    peertest.go:40: PgBouncer is not installed: apt-get install pgbouncer
--- SKIP: BenchmarkFleet/pgbouncer-1
BenchmarkFleet/peer-50
    fleet_bench_test.go:99: no such luck
    fleet_bench_test.go:99: and more of it
--- FAIL: BenchmarkFleet/peer-50
--- FAIL: BenchmarkFleet
BenchmarkRoutedVersusPlainPools
BenchmarkRoutedVersusPlainPools-2 	       1	     32104 ours	         0.9700 ratio	     32687 reference
FAIL
exit status 1
`

func TestResultsAreReadFromWhatGoPrints(t *testing.T) {
	t.Parallel()
	failure := errors.New("exit status 1")
	for name, want := range map[string]result{
		"routed-1": {
			Name: "routed-1", Ours: 6781, Reference: 6069, Ratio: 1.117, Target: 0.95, OK: true,
			Figures: map[string]float64{
				"ours-backends": 50, "ours-hit-rate": 0.999, "ours-p50": 0.006505, "ours-p99": 0.02438,
				"reference-p50": 0.007589, "reference-p99": 0.02121,
			},
		},
		"routed-1000":   {Name: "routed-1000", Ours: 614, Reference: 9708, Ratio: 0.06324, OK: true},
		"routing-alone": {Name: "routing-alone", Ours: 32104, Reference: 32687, Ratio: 0.97, Target: 0.95, OK: true},
		"pgbouncer-1":   {Name: "pgbouncer-1", NotMeasured: "PgBouncer is not installed: apt-get install pgbouncer"},
		"peer-50":       {Name: "peer-50", Target: 12, NotMeasured: "no such luck"},
		"cold-tenant":   {Name: "cold-tenant", Target: 1.5, NotMeasured: "exit status 1: BenchmarkRoutedVersusPlainPools-2 \t       1\t     32104 ours\t         0.9700 ratio\t     32687 reference"},
	} {
		got := named(name).result(printed, failure)
		x, _ := json.Marshal(got)
		y, _ := json.Marshal(want)
		if string(x) != string(y) {
			t.Errorf("%s:\n%s, want\n%s", name, x, y)
		}
	}
}

func TestAWholeBenchmarkThatWasSkippedSpeaksForItsParts(t *testing.T) {
	t.Parallel()
	out := "BenchmarkFleet\n    world.go:3: no disk\n--- SKIP: BenchmarkFleet\nPASS\n"
	if got := named("routed-1").result(out, nil).NotMeasured; got != "no disk" {
		t.Errorf("%q", got)
	}
	if got := named("routed-1").result("PASS\n", nil).NotMeasured; got != "the benchmark reports no figures" {
		t.Errorf("%q", got)
	}
}

func TestTheTableNamesEachLineOnceAndEachBenchmarkThatThereIs(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, m := range table {
		if names[m.name] {
			t.Errorf("%s is there twice", m.name)
		}
		names[m.name] = true
		if m.what == "" || m.reference == "" || (m.atMost && m.target == 0) {
			t.Errorf("%s does not say what it compares, or asks for 0 at most", m.name)
		}
		function, _, _ := strings.Cut(m.benchmark, "/")
		if !defined(t, strings.TrimPrefix(m.pkg, "github.com/ouvira/ouvira/"), function) {
			t.Errorf("%s: %s has no %s", m.name, m.pkg, function)
		}
	}
	for _, name := range []string{
		"routed-50-tenants", "routing-alone", "account-me", "login", "audit-record", "permission-check",
		"effective-permissions", "provision", "memory-known-tenant", "memory-idle-pool",
	} {
		if !names[name] {
			t.Errorf("%s is gone, which others read", name)
		}
	}
}

func defined(t *testing.T, folder, function string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "func "+function+"(b *testing.B)")
	})
}

func TestPartsOfOneBenchmarkAreMeasuredTogether(t *testing.T) {
	t.Parallel()
	wanted, err := choose("routed-1, peer-50,login,routed-1000")
	if err != nil {
		t.Fatal(err)
	}
	all := groups(wanted)
	if len(all) != 2 || len(all[0].lines) != 3 || all[1].pattern() != "^BenchmarkLoginVersusHash$" {
		t.Fatalf("%+v", all)
	}
	// go test matches each part of a name by itself.
	parts := strings.Split(all[0].pattern(), "/")
	if parts[0] != "^BenchmarkFleet$" {
		t.Error(parts[0])
	}
	for name, want := range map[string]bool{"routed-1": true, "routed-1000": true, "peer-50": true, "routed-1000-zipf": false, "peer-50-backends": false} {
		if regexp.MustCompile(parts[1]).MatchString(name) != want {
			t.Errorf("%s matches %s: want %v", parts[1], name, want)
		}
	}
	if _, err := choose("routed-2"); err == nil || !strings.Contains(err.Error(), "routed-50-tenants") {
		t.Errorf("an unknown name: %v", err)
	}
	if whole, err := choose(""); err != nil || len(whole) != len(table) {
		t.Errorf("all: %d, %v", len(whole), err)
	}
}

func TestAResultStaysUntilItIsMeasuredAgain(t *testing.T) {
	root := t.TempDir()
	t.Setenv("OUVIRA_STATE", filepath.Join(root, "state"))
	if results, err := readJSON(root); err != nil || len(results) != 0 {
		t.Fatalf("before the first run: %v %v", results, err)
	}
	first := map[string]result{"login": {Name: "login", Ratio: 0.9, OK: true}, "account-me": {Name: "account-me", Ratio: 0.7}}
	if err := writeJSON(root, first); err != nil {
		t.Fatal(err)
	}
	again, err := readJSON(root)
	if err != nil || len(again) != 2 || again["login"].Ratio != 0.9 || again["account-me"].OK {
		t.Fatalf("%v %v", again, err)
	}
	err = verdict([]measurement{named("login"), named("account-me"), named("provision")}, again)
	if err == nil || !strings.Contains(err.Error(), "1 of 3 missed their target: account-me") || !strings.Contains(err.Error(), "1 of 3 are not measured: provision") {
		t.Errorf("the verdict is %v", err)
	}
	if err := verdict([]measurement{named("login")}, again); err != nil {
		t.Errorf("all is well, and the verdict is %v", err)
	}
}

func TestTheReportSaysWhatIsMissedAndWhatIsNotMeasured(t *testing.T) {
	t.Parallel()
	results := map[string]result{
		"routed-1": {Name: "routed-1", Ours: 100, Reference: 200, Ratio: 0.5, Target: 0.95, Figures: map[string]float64{"ours-p50": 0.001, "ours-p99": 0.002, "ours-hit-rate": 0.5}},
		"login":    {Name: "login", Ours: 90, Reference: 100, Ratio: 0.9, Target: 0.8, OK: true},
		"peer-50":  {Name: "peer-50", NotMeasured: "Django is not installed: apt-get install it"},
		"known-5000": {
			Name: "known-5000", Ours: 120, Reference: 100, Ratio: 1.2, OK: true,
			Figures: map[string]float64{"heap-bytes": 5e6, "pull-seconds": 0.5, "snapshot-seconds": 0.01, "snapshot-bytes": 250_000},
		},
	}
	text := string(report("a machine", results))
	for _, want := range []string{
		"Measured on a machine.",
		"| routed-1 | **0.50** | ≥ 0.95 **missed** | 100/s | 200/s |",
		"- **routed-1**: 0.50 instead of ≥ 0.95. What is left",
		"| login | **0.90** | ≥ 0.80 | 90/s | 100/s |",
		"| peer-50 | not measured | ≥ 12.00 | | |",
		"- **peer-50**: Django is not installed: apt-get install it",
		"- **provision**: it has not been run",
		"| routed-1 | 1.00 ms | 2.00 ms | 50.0 % |",
		"| 5000 | 5.00 MB | 0.50 s | 10.0 ms | 250 kB | 120 ns |",
		"would hold 100 MB of routes",
		`x-axis ["5000"]`, "bar [5.000]",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	for _, m := range table {
		if !strings.Contains(text, "- **"+m.name+"**: "+m.what) {
			t.Errorf("the report does not say what %s is", m.name)
		}
	}
}

func TestFewFiguresMakeAReport(t *testing.T) {
	t.Parallel()
	if text := string(report("a machine", nil)); strings.Contains(text, "mermaid") || strings.Contains(text, "NaN") || strings.Contains(text, "%!") {
		t.Error(text)
	}
}
