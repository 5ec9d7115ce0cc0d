package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/perf/benchfmt"

	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// group is what one `go test` measures: a benchmark, or several that share
// their preparation because they are parts of one.
type group struct {
	pkg, benchmark string
	lines          []measurement
}

// groupTimeout is for a machine on which something has gone wrong: Go's own
// timeout does not count for benchmarks.
const groupTimeout = 30 * time.Minute

// groups keeps the order of the table.
func groups(wanted []measurement) []group {
	var all []group
	for _, m := range wanted {
		benchmark, _, _ := strings.Cut(m.benchmark, "/")
		i := slices.IndexFunc(all, func(g group) bool { return g.pkg == m.pkg && g.benchmark == benchmark })
		if i < 0 {
			i = len(all)
			all = append(all, group{pkg: m.pkg, benchmark: benchmark})
		}
		all[i].lines = append(all[i].lines, m)
	}
	return all
}

func (g group) title() string {
	names := make([]string, len(g.lines))
	for i, m := range g.lines {
		names[i] = m.name
	}
	return strings.Join(names, ", ")
}

// pattern is what -bench takes: exactly these benchmarks.
func (g group) pattern() string {
	var parts []string
	for _, m := range g.lines {
		if _, part, ok := strings.Cut(m.benchmark, "/"); ok {
			parts = append(parts, regexp.QuoteMeta(part))
		}
	}
	pattern := "^" + regexp.QuoteMeta(g.benchmark) + "$"
	if len(parts) > 0 {
		pattern += "/^(" + strings.Join(parts, "|") + ")$"
	}
	return pattern
}

// measure has a result for each line, of what could not be measured too.
func (g group) measure(ctx context.Context, root string, quick bool) []result {
	arguments := []string{
		"run", "./shared/testdb/cmd/withpg", "--",
		"go", "test", "-run", "^$", "-bench", g.pattern(), "-benchtime", "1x", "-v",
	}
	if quick {
		arguments = append(arguments, "-short")
	}
	ctx, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	command := exec.CommandContext(ctx, "go", append(arguments, g.pkg)...)
	command.Dir = root
	// All of them have to end, also the test that go runs.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGTERM) }
	command.WaitDelay = time.Minute
	var out bytes.Buffer
	// One writer for both, which exec knows to share; two would overwrite each
	// other in the buffer.
	command.Stdout, command.Stderr = &out, &out
	failure := command.Run()
	results := make([]result, len(g.lines))
	for i, m := range g.lines {
		results[i] = m.result(out.String(), failure)
	}
	return results
}

// result reads what `go test` says of the line's benchmark. Benchmarks that
// were through before another failed count.
func (m measurement) result(out string, failure error) result {
	r := result{Name: m.name, Target: m.target}
	reader := benchfmt.NewReader(strings.NewReader(out), m.name)
	for reader.Scan() {
		measured, ok := reader.Result().(*benchfmt.Result)
		if !ok || benchmarkName(measured.Name.String()) != m.benchmark {
			continue
		}
		values := map[string]float64{}
		for _, v := range measured.Values {
			values[v.Unit] = v.Value
		}
		ours, a := values[sidebyside.UnitOurs]
		reference, b := values[sidebyside.UnitReference]
		ratio, c := values[sidebyside.UnitRatio]
		if !a || !b || !c {
			break
		}
		r.Ours, r.Reference, r.Ratio, r.OK = ours, reference, ratio, m.holds(ratio)
		for _, unit := range []string{sidebyside.UnitOurs, sidebyside.UnitReference, sidebyside.UnitRatio, "sec/op"} {
			delete(values, unit)
		}
		if len(values) > 0 {
			r.Figures = values
		}
		return r
	}
	r.NotMeasured = reason(out, m.benchmark, failure)
	return r
}

// processors ends the name of a benchmark in Go's output; one processor is not
// named.
var processors = regexp.MustCompile(`-\d+$`)

// benchmarkName is the name as in the source. Names of ours may end in a number
// themselves, and then have the processors after it.
func benchmarkName(printed string) string {
	name := "Benchmark" + printed
	for _, m := range table {
		if m.benchmark == name {
			return name
		}
	}
	return processors.ReplaceAllString(name, "")
}

// reason is the first sentence of a benchmark that was skipped or failed, or of
// the one that it is a part of. With -v, Go prints a benchmark's name on a line
// of its own before what the benchmark says.
func reason(out, benchmark string, failure error) string {
	lines := strings.Split(out, "\n")
	for i, line := range lines[:len(lines)-1] {
		if !speaksFor(line, benchmark) {
			continue
		}
		if said := spoken.FindStringSubmatch(lines[i+1]); said != nil {
			return said[1]
		}
	}
	if failure != nil {
		return fmt.Sprintf("%v: %s", failure, lastLine(lines))
	}
	return "the benchmark reports no figures"
}

// speaksFor tells whether the name is the benchmark's or that of what it is a
// part of.
func speaksFor(name, benchmark string) bool {
	return name == benchmark || strings.HasPrefix(benchmark, name+"/")
}

// spoken is what a benchmark says, behind the file and the line of its source.
var spoken = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)$`)

func lastLine(lines []string) string {
	for _, line := range slices.Backward(lines) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed != "FAIL" && !strings.HasPrefix(trimmed, "exit status") {
			return trimmed
		}
	}
	return "no output"
}
