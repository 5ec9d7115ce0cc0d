package main

import (
	"bytes"
	"fmt"
)

const growthText = `## How cost grows with the number of tenants

Of the tenants here all have a route, and ten have a database, to which the warm
requests go: what a node knows does not depend on databases. (Those of the lines
above are all real.)

`

// Beyond is told with what 5,000 tenants cost, times 20.
const beyondText = `
Beyond 100,000 tenants, by these figures, a node would hold %s of routes, pull
%s of everything at its start and spend %s on each writing of its snapshot
(%s). Lookups do not bend: they are two maps. What bends first is not in the
node but beside it. A Postgres server bends at some thousand databases, each of
them 300 to 600 files and 8 to 11 MB before its first row, so 100,000 tenants are
dozens of servers, each with a budget of its own. Then comes the snapshot, which
is written as a whole whenever something has changed: it should become a log of
changes. Then the start of many nodes at once, each of which pulls everything
from the control database; and a rollout of migrations, which publishes each
tenant's route once and every node reads it. The routes' memory comes last: they
could be kept for the servers that a node serves only.

`

func writeGrowth(b *bytes.Buffer, results map[string]result) {
	b.WriteString(growthText)
	heap := chart{title: "Memory of the routes on a node", y: "MB"}
	pull := chart{title: "Pull of everything at the start", y: "seconds"}
	var rows bytes.Buffer
	for _, n := range grown {
		known, why := measured(results, fmt.Sprintf("known-%d", n))
		if why != "" {
			continue
		}
		warm := results[fmt.Sprintf("warm-%d", n)]
		fmt.Fprintf(&rows, "| %d | %s | %s | %s | %s | %.0f ns | %s | %s |\n", n,
			shown(known, "heap-bytes", 1e-6, "%.2f MB"), shown(known, "pull-seconds", 1, "%.2f s"),
			shown(known, "snapshot-seconds", 1000, "%.1f ms"), shown(known, "snapshot-bytes", 1e-3, "%.0f kB"), known.Ours,
			shown(warm, "ours-p50", 1000, "%.2f ms"), shown(warm, "ours-p99", 1000, "%.2f ms"))
		heap.add(fmt.Sprint(n), known.Figures["heap-bytes"]/1e6)
		pull.add(fmt.Sprint(n), known.Figures["pull-seconds"])
	}
	if rows.Len() > 0 {
		b.WriteString("| tenants | memory of a node | pull at start | writing the snapshot | its size | lookup | warm p50 | warm p99 |\n" +
			"| --- | --- | --- | --- | --- | --- | --- | --- |\n")
		b.Write(rows.Bytes())
		b.WriteString("\n")
	}
	heap.write(b)
	pull.write(b)
	largest := grown[len(grown)-1]
	if r, why := measured(results, fmt.Sprintf("known-%d", largest)); why == "" {
		times := 100_000 / float64(largest)
		fmt.Fprintf(b, beyondText[1:],
			shown(r, "heap-bytes", times*1e-6, "%.0f MB"), shown(r, "pull-seconds", times, "%.0f s"),
			shown(r, "snapshot-seconds", times, "%.1f s"), shown(r, "snapshot-bytes", times*1e-6, "%.0f MB"))
	}
}
