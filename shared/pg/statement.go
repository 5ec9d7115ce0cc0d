package pg

import (
	"regexp"
	"strings"
)

// namePrefix begins what sqlc writes above each query: "-- name: GetUser :one".
const namePrefix = "-- name: "

// target is the verb of a statement and the table that it is about, where both
// come before any literal.
var target = regexp.MustCompile(`(?is)^\s*([a-z]+)(?:[^'$"]*?\b(?:from|into|update|join)\s+([a-z_][a-z0-9_.]*))?`)

// StatementName is what a statement may be called in logs and traces: the name
// that sqlc knows it by, else its verb and its table ("SELECT public.users").
// It never holds a value.
func StatementName(sql string) string {
	if Named(sql) {
		name, _, _ := strings.Cut(sql[len(namePrefix):], " ")
		return name
	}
	found := target.FindStringSubmatch(sql)
	switch {
	case found == nil:
		return "statement"
	case found[2] == "":
		return strings.ToUpper(found[1])
	}
	return strings.ToUpper(found[1]) + " " + found[2]
}

// Named tells whether the statement is one that sqlc has generated: its text is
// a constant of the program, with parameters where the values are.
func Named(sql string) bool { return strings.HasPrefix(sql, namePrefix) }
