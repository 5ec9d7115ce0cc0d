package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

const intro = `# Benchmarks

Written by ` + "`make bench`" + ` (` + "`make bench ONLY=name,…`" + ` for some of it). The two ways of each line
take turns in one process, on one Postgres server over loopback, and the medians
count. Ratios carry over to other machines; absolute figures do not. The server
runs without fsync: what is compared is the work around the disk, on both sides
alike. Clients, nodes and Postgres share the cores.

`

// writeReport writes docs/benchmarks.md, ratios first.
func writeReport(ctx context.Context, root string, results map[string]result) error {
	return os.WriteFile(filepath.Join(root, "docs", "benchmarks.md"), report(machine(ctx), results), 0o644)
}

// report is the text.
func report(machine string, results map[string]result) []byte {
	var b bytes.Buffer
	b.WriteString(intro)
	fmt.Fprintf(&b, "Measured on %s.\n\n", machine)
	writeRatios(&b, results)
	writeMissed(&b, results)
	writeLatencies(&b, results)
	writePeers(&b, results)
	writeFleet(&b, results)
	writeGrowth(&b, results)
	b.WriteString("## What is compared\n\n")
	for _, m := range table {
		fmt.Fprintf(&b, "- **%s**: %s; beside it %s. (`%s`)\n", m.name, m.what, m.reference, m.benchmark)
	}
	return b.Bytes()
}

func writeRatios(b *bytes.Buffer, results map[string]result) {
	b.WriteString("| name | ratio | asked | ours | reference |\n| --- | --- | --- | --- | --- |\n")
	for _, m := range table {
		r, why := measured(results, m.name)
		if why != "" {
			fmt.Fprintf(b, "| %s | not measured | %s | | |\n", m.name, m.asked())
			continue
		}
		asked := m.asked()
		if !r.OK {
			asked += " **missed**"
		}
		fmt.Fprintf(b, "| %s | **%.2f** | %s | %s | %s |\n", m.name, r.Ratio, asked, m.format(r.Ours), m.format(r.Reference))
	}
	b.WriteString("\n")
}

// measured is the line's result, or why there is none.
func measured(results map[string]result, name string) (r result, why string) {
	r, ok := results[name]
	if !ok {
		return r, "it has not been run"
	}
	return r, r.NotMeasured
}

func writeMissed(b *bytes.Buffer, results map[string]result) {
	var missed, unmeasured []string
	for _, m := range table {
		r, why := measured(results, m.name)
		switch {
		case why != "":
			unmeasured = append(unmeasured, fmt.Sprintf("- **%s**: %s", m.name, why))
		case !r.OK:
			line := fmt.Sprintf("- **%s**: %.2f instead of %s.", m.name, r.Ratio, m.asked())
			if m.bound != "" {
				line += " " + m.bound
			}
			missed = append(missed, line)
		}
	}
	for _, list := range []struct {
		title string
		lines []string
	}{{"Missed, and why", missed}, {"Not measured", unmeasured}} {
		if len(list.lines) > 0 {
			fmt.Fprintf(b, "## %s\n\n%s\n\n", list.title, strings.Join(list.lines, "\n"))
		}
	}
}

// writeLatencies shows what the benchmarks tell besides the ratio.
func writeLatencies(b *bytes.Buffer, results map[string]result) {
	b.WriteString("## Latencies, backends, hit rates\n\n" +
		"A request hits when it finds a connection to its tenant. Backends are the most that were seen at a time; to those of a " +
		"pooler, ones that are just ending are counted.\n\n" +
		"| name | p50 | p99 | hit rate | backends | beside it: p50 | p99 | hit rate | backends |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, m := range table {
		r, why := measured(results, m.name)
		if why != "" || r.Figures[sidebyside.UnitOursP99] == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s |", m.name)
		for _, whose := range []string{"ours", "reference"} {
			fmt.Fprintf(b, " %s | %s | %s | %s |",
				shown(r, whose+"-p50", 1000, "%.2f ms"), shown(r, whose+"-p99", 1000, "%.2f ms"),
				shown(r, whose+"-hit-rate", 100, "%.1f %%"), shown(r, whose+"-backends", 1, "%.0f"))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// shown is a figure, scaled; nothing where there is none.
func shown(r result, unit string, scale float64, format string) string {
	value, ok := r.Figures[unit]
	if !ok {
		return ""
	}
	return fmt.Sprintf(format, value*scale)
}

const peersText = `## What a team would pick instead

A Django service with Django REST framework and simplejwt (` + "`deploy/bench/peers/django`" + `)
answers ` + "`GET /account/me`" + ` from the same databases to the same tokens, under gunicorn
with 2 × cores + 1 processes. At 50 tenants it keeps its connections, one from
each process to each tenant. At 1,000 it cannot, and connects for every request;
a node keeps one connection to each tenant (peer-1000), or lives within 60 for
all of them and meets its misses (peer-1000-tight). Ours also asks whether the
session was revoked and counts limits, which Django here does not.

`

func writePeers(b *bytes.Buffer, results map[string]result) {
	b.WriteString(peersText)
	throughput := chart{title: "GET /account/me: requests per second", y: "requests/s"}
	for _, name := range []string{"peer-50", "peer-1000", "peer-1000-tight"} {
		if r, why := measured(results, name); why == "" {
			throughput.add("Django, "+name, r.Reference)
			throughput.add("ours, "+name, r.Ours)
		}
	}
	throughput.write(b)
	backends := chart{title: "Backends at 50 tenants", y: "backends"}
	if r, why := measured(results, "peer-50-backends"); why == "" {
		backends.add("Django", r.Reference)
		backends.add("ours", r.Ours)
	}
	backends.write(b)
}

const fleetText = `## A fleet, and what a miss costs

Three nodes lease shares of a budget of 60 connections and serve 500 tenants;
more even loads find fewer connections open. A miss costs a connection: a new
process of Postgres, an authentication, cold caches. Budgets should cover the
tenants that are warm at a time.

`

func writeFleet(b *bytes.Buffer, results map[string]result) {
	b.WriteString(fleetText)
	c := chart{title: "Throughput against hit rate, three nodes", y: "requests/s", line: true}
	var rows bytes.Buffer
	for _, m := range table {
		if !strings.HasPrefix(m.name, "fleet-") || m.unit != perSecond {
			continue
		}
		r, why := measured(results, m.name)
		if why != "" {
			continue
		}
		hits := shown(r, "ours-hit-rate", 100, "%.1f %%")
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s |\n", strings.TrimPrefix(m.name, "fleet-"), hits, m.format(r.Ours),
			shown(r, "ours-p50", 1000, "%.2f ms"), shown(r, "ours-p99", 1000, "%.2f ms"))
		c.add(hits, r.Ours)
	}
	if rows.Len() > 0 {
		b.WriteString("| load | hit rate | throughput | p50 | p99 |\n| --- | --- | --- | --- | --- |\n")
		b.Write(rows.Bytes())
		b.WriteString("\n")
	}
	c.write(b)
}
