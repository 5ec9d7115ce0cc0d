// Command bench measures the planes against fixed references and writes the
// figures: .ouvira/bench.json for programs, docs/benchmarks.md for people.
//
//	bench [-only name,…] [-quick]
//
// It runs the benchmarks named in table.go with `go test`, on a Postgres server
// of its own. Each benchmark lets the two ways take turns in one process and
// reports the medians; this program only gathers them. With -only, the report
// keeps what an earlier run has found of the rest. With -quick, everything is
// small and short and nothing is written: it shows that the benchmarks work.
//
// A benchmark that fails, or misses a program of the system's packages, costs
// its own lines: they are reported as not measured, with the reason.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ouvira/ouvira/deploy/stack"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// result is one line of bench.json.
type result struct {
	Name      string  `json:"name"`
	Ours      float64 `json:"ours"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	Target    float64 `json:"target"` // 0: none
	OK        bool    `json:"ok"`
	// Figures are what else the benchmark reports, by unit.
	Figures map[string]float64 `json:"figures,omitempty"`
	// NotMeasured is why the other fields say nothing.
	NotMeasured string `json:"not_measured,omitempty"`
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	only := flags.String("only", "", "names of the lines to measure, separated by commas; all others keep their figures")
	quick := flags.Bool("quick", false, "small and short, to see that everything works; nothing is written")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, err := stack.Root()
	if err != nil {
		return err
	}
	wanted, err := choose(*only)
	if err != nil {
		return err
	}
	results, err := readJSON(root)
	if err != nil {
		return err
	}
	for _, g := range groups(wanted) {
		fmt.Fprintf(os.Stderr, "%s …\n", g.title())
		for _, r := range g.measure(ctx, root, *quick) {
			m := named(r.Name)
			fmt.Fprintf(os.Stderr, "  %s: %s\n", r.Name, m.summary(r))
			results[r.Name] = r
		}
		if ctx.Err() != nil {
			return errors.New("interrupted; nothing of the group that was running is kept")
		}
		if *quick {
			continue
		}
		// After each group, so that a later one cannot cost what is found.
		if err := errors.Join(writeJSON(root, results), writeReport(ctx, root, results)); err != nil {
			return err
		}
	}
	return verdict(wanted, results)
}

// choose is the part of the table that is asked for.
func choose(only string) ([]measurement, error) {
	if only == "" {
		return table, nil
	}
	var wanted []measurement
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(table, func(m measurement) bool { return m.name == strings.TrimSpace(name) })
		if i < 0 {
			all := make([]string, len(table))
			for i, m := range table {
				all[i] = m.name
			}
			return nil, fmt.Errorf("there is no benchmark %q; there are %s", name, strings.Join(all, ", "))
		}
		wanted = append(wanted, table[i])
	}
	return wanted, nil
}

// verdict is an error that counts what was missed of what was asked for.
func verdict(wanted []measurement, results map[string]result) error {
	var missed, unmeasured []string
	for _, m := range wanted {
		switch r, ok := results[m.name]; {
		case !ok || r.NotMeasured != "":
			unmeasured = append(unmeasured, m.name)
		case !r.OK:
			missed = append(missed, m.name)
		}
	}
	var errs []error
	if len(missed) > 0 {
		errs = append(errs, fmt.Errorf("%d of %d missed their target: %s", len(missed), len(wanted), strings.Join(missed, ", ")))
	}
	if len(unmeasured) > 0 {
		errs = append(errs, fmt.Errorf("%d of %d are not measured: %s", len(unmeasured), len(wanted), strings.Join(unmeasured, ", ")))
	}
	return errors.Join(errs...)
}

func statePath(root string) string {
	state := os.Getenv("OUVIRA_STATE")
	if state == "" {
		state = filepath.Join(root, ".ouvira")
	}
	return filepath.Join(state, "bench.json")
}

// readJSON is what an earlier run has found, by name.
func readJSON(root string) (map[string]result, error) {
	results := map[string]result{}
	text, err := os.ReadFile(statePath(root))
	if errors.Is(err, fs.ErrNotExist) {
		return results, nil
	}
	if err != nil {
		return nil, err
	}
	var all []result
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w. Remove it to begin anew", statePath(root), err)
	}
	for _, r := range all {
		results[r.Name] = r
	}
	return results, nil
}

// writeJSON writes the results in the order of the table, as far as there are
// any.
func writeJSON(root string, results map[string]result) error {
	all := []result{}
	for _, m := range table {
		if r, ok := results[m.name]; ok {
			all = append(all, r)
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	path := statePath(root)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
