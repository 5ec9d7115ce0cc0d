package tenantpool

import "testing"

func TestInvariant12Verdicts(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]bool{
		"SELECT 1":                                true,
		"-- name: GetUser :one\nSELECT 1":         true,
		"/* why */ insert into x values (1);":     true,
		"with a as (select 1) select * from a":    true,
		"SET LOCAL lock_timeout = '1s'":           true,
		"set transaction read only":               true,
		"SELECT set_config('a.b', $1, true)":      true,
		"begin isolation level serializable":      true,
		"SET lock_timeout = '1s'":                 false,
		"SELECT 1; set lock_timeout = 0":          false,
		"SELECT set_config('a.b', $1, false)":     false,
		"select Set_Config('a.b', $1, $2)":        false,
		"SELECT '/*'; SET a.b = 1 --*/":           false,
		"/* ; */ SET a.b = 1":                     false,
		"RESET ALL":                               false,
		"LISTEN x":                                false,
		"PREPARE x AS SELECT 1":                   false,
		"DECLARE x CURSOR WITH HOLD FOR SELECT 1": false,
		"CREATE TEMP TABLE x (a int)":             false,
		"LOAD 'x'":                                false,
		"CALL x()":                                false,
		"SET SESSION AUTHORIZATION x":             false,
		"SET ROLE x":                              false,
		"ALTER ROLE x SET search_path = y":        false,
	} {
		if got := judge(sql); got != want {
			t.Errorf("judge(%q) = %v", sql, got)
		}
	}
}
