// Command bench measures the planes against fixed references and writes the
// figures: .ouvira/bench.json for programs, docs/benchmarks.md for people.
//
// It runs the benchmarks named in table.go with `go test`, on a Postgres server
// of its own. Each benchmark lets the two ways take turns in one process and
// reports the medians; this program only gathers them.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"

	"golang.org/x/perf/benchfmt"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

func main() {
	if err := run(); err != nil {
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
	Target    float64 `json:"target"`
	OK        bool    `json:"ok"`
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, err := stack.Root()
	if err != nil {
		return err
	}
	results := make([]result, 0, len(table))
	missed := 0
	for _, m := range table {
		fmt.Fprintf(os.Stderr, "%s …\n", m.name)
		r, err := measure(ctx, root, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if !r.OK {
			missed++
		}
		fmt.Fprintf(os.Stderr, "  %s, %s: ratio %.2f (%s)\n", m.format(r.Ours), m.format(r.Reference), r.Ratio, m.verdict(r))
		results = append(results, r)
	}
	if err := writeJSON(root, results); err != nil {
		return err
	}
	if err := writeReport(ctx, root, results); err != nil {
		return err
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d missed their target", missed, len(results))
	}
	return nil
}

// measure runs one benchmark.
func measure(ctx context.Context, root string, m measurement) (result, error) {
	command := exec.CommandContext(ctx, "go", "run", "./shared/testdb/cmd/withpg", "--",
		"go", "test", "-run", "^$", "-bench", "^"+regexp.QuoteMeta(m.benchmark)+"$", "-benchtime", "1x", "-timeout", "20m", m.pkg)
	command.Dir = root
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	var out bytes.Buffer
	// One writer for both, which exec knows to share; two would overwrite each
	// other in the buffer.
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		return result{}, fmt.Errorf("%w\n%s", err, out.String())
	}
	reader := benchfmt.NewReader(&out, m.name)
	for reader.Scan() {
		measured, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		ours, a := measured.Value(sidebyside.UnitOurs)
		reference, b := measured.Value(sidebyside.UnitReference)
		ratio, c := measured.Value(sidebyside.UnitRatio)
		if a && b && c {
			return result{Name: m.name, Ours: ours, Reference: reference, Ratio: ratio, Target: m.target, OK: m.holds(ratio)}, nil
		}
	}
	return result{}, errors.Join(errors.New("the benchmark reports no figures"), reader.Err())
}

func writeJSON(root string, results []result) error {
	state := os.Getenv("OUVIRA_STATE")
	if state == "" {
		state = filepath.Join(root, ".ouvira")
	}
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(state, "bench.json"), append(text, '\n'), 0o644)
}
