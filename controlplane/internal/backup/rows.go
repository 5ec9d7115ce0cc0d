package backup

import (
	"regexp"
	"strings"

	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
)

// entry is a line of a table of contents: numbers, then what it is, its schema, its name
// and its owner. The spaces between do not tell where one ends; two are compared as they
// are.
var entry = regexp.MustCompile(`^[0-9]+; [0-9]+ [0-9]+ (.+?)\s*$`)

// derived are entries that say something about another one: who may use it, and what it
// is for. What the database has of these comes from the migrations.
var derived = regexp.MustCompile(`^(ACL|DEFAULT ACL|COMMENT) `)

// rowsOf picks out of an archive's table of contents the rows of tables and the values
// of sequences that structure has, which is all that is loaded. Of the rest, foreign is
// what structure has not.
func rowsOf(archive, structure string) (rows string, foreign []string) {
	known := map[string]bool{}
	for _, e := range entries(structure) {
		known[e.what] = true
	}
	var kept strings.Builder
	for _, e := range entries(archive) {
		table, isTable := strings.CutPrefix(e.what, "TABLE DATA ")
		sequence, isSequence := strings.CutPrefix(e.what, "SEQUENCE SET ")
		switch {
		case isTable && known["TABLE "+table]:
			schema, rest, _ := strings.Cut(table, " ")
			name, _, _ := strings.Cut(rest, " ")
			if !tenantdb.Own(schema + "." + name) {
				kept.WriteString(e.line)
			}
		case isSequence && known["SEQUENCE "+sequence]:
			kept.WriteString(e.line)
		case !known[e.what] && !derived.MatchString(e.what):
			foreign = append(foreign, e.what)
		}
	}
	return kept.String(), foreign
}

type contentsEntry struct{ line, what string }

func entries(contents string) []contentsEntry {
	var all []contentsEntry
	for line := range strings.Lines(contents) {
		if match := entry.FindStringSubmatch(line); match != nil {
			all = append(all, contentsEntry{line, match[1]})
		}
	}
	return all
}
