package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

const intro = `# Benchmarks

Written by ` + "`make bench`" + `. The two ways of each line take turns in one process, on
one Postgres server over loopback, and the medians count. Ratios carry over to
other machines; absolute figures do not. The server runs without fsync: what is
compared is the work around the disk, on both sides alike.

`

// writeReport writes docs/benchmarks.md, ratios first.
func writeReport(ctx context.Context, root string, results []result) error {
	var b bytes.Buffer
	b.WriteString(intro)
	fmt.Fprintf(&b, "Measured on %s.\n\n", machine(ctx))
	b.WriteString("| name | ratio | asked | ours | reference |\n| --- | --- | --- | --- | --- |\n")
	for i, r := range results {
		m := table[i]
		asked := m.asked()
		if !r.OK {
			asked += " **missed**"
		}
		fmt.Fprintf(&b, "| %s | **%.2f** | %s | %s | %s |\n", m.name, r.Ratio, asked, m.format(r.Ours), m.format(r.Reference))
	}
	b.WriteString("\n## What is compared\n\n")
	for _, m := range table {
		fmt.Fprintf(&b, "- **%s**: %s; beside it %s. (`%s`)\n", m.name, m.what, m.reference, m.benchmark)
	}
	return os.WriteFile(filepath.Join(root, "docs", "benchmarks.md"), b.Bytes(), 0o644)
}

// machine names what was measured on.
func machine(ctx context.Context) string {
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if model := field("/proc/cpuinfo", "model name"); model != "" {
		parts[0] += " of " + model
	}
	if memory := field("/proc/meminfo", "MemTotal"); memory != "" {
		parts = append(parts, memory+" of memory")
	}
	parts = append(parts, runtime.GOOS+"/"+runtime.GOARCH, runtime.Version())
	if bin, err := pgserver.Find(ctx, 0); err == nil {
		if out, err := exec.CommandContext(ctx, filepath.Join(bin.Dir, "postgres"), "--version").Output(); err == nil {
			parts = append(parts, strings.TrimSpace(string(out)))
		}
	}
	return strings.Join(parts, ", ")
}

// field is the value of the first line "name : value" of a file of /proc.
func field(path, name string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, value, found := strings.Cut(lines.Text(), ":")
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
