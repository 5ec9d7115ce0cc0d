package pg_test

import (
	"testing"

	"github.com/ouvira/ouvira/shared/pg"
)

func TestStatementName(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		"-- name: GetUser :one\nSELECT id FROM users WHERE id = $1": "GetUser",
		"-- name: EndSession :exec\nUPDATE sessions SET":            "EndSession",
		"begin":  "BEGIN",
		"commit": "COMMIT",
		"SELECT id, name FROM public.companies c":    "SELECT public.companies",
		"select count(*)\nfrom ledger.activity_logs": "SELECT ledger.activity_logs",
		"INSERT INTO ledger.seals (a) VALUES ($1)":   "INSERT ledger.seals",
		"UPDATE public.roles SET deleted_at = now()": "UPDATE",
		"SELECT 'hunter2 from hunter3'":              "SELECT",
		`SELECT "odd" FROM x`:                        "SELECT",
		"SELECT $1 FROM users":                       "SELECT",
		"'hunter2'":                                  "statement",
		"":                                           "statement",
	} {
		if got := pg.StatementName(sql); got != want {
			t.Errorf("StatementName(%q) = %q, want %q", sql, got, want)
		}
	}
}
