package tenantpool_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// What a lease leaves in its session does not reach the next one.
func TestInvariant12ADirtySessionIsNotLeasedAgain(t *testing.T) {
	t.Parallel()
	for name, soil := range map[string]func(ctx context.Context, l *tenantpool.Lease) error{
		"set": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, "SET search_path = pg_catalog")
			return err
		},
		"set in a transaction": func(ctx context.Context, l *tenantpool.Lease) error {
			return pg.InTx(ctx, l, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "-- name: Soil :exec\nSET search_path = pg_catalog")
				return err
			})
		},
		"several statements": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, "SELECT 1; SET search_path = pg_catalog; SELECT 2")
			return err
		},
		"set_config": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, "SELECT set_config('search_path', $1, false)", "pg_catalog")
			return err
		},
		"batch": func(ctx context.Context, l *tenantpool.Lease) error {
			return pg.InTx(ctx, l, func(tx pgx.Tx) error {
				b := &pgx.Batch{}
				b.Queue("SET search_path = pg_catalog")
				return tx.SendBatch(ctx, b).Close()
			})
		},
		"listen": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, "LISTEN soil")
			return err
		},
		"prepare": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, "PREPARE soil AS SELECT 1")
			return err
		},
		"cursor with hold": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Exec(ctx, "DECLARE soil CURSOR WITH HOLD FOR SELECT 1")
			return err
		},
		"open transaction": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.BeginTx(ctx, pgx.TxOptions{})
			return err
		},
		"unread rows": func(ctx context.Context, l *tenantpool.Lease) error {
			_, err := l.Query(ctx, "SELECT generate_series(1, 100000)") //nolint:sqlclosecheck // that they stay open is the point
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, 20)
			n.Table.Change(n.A.ID, func(r *route.Route) { r.MaxConnections = 1 })
			l := n.lease(t, n.A)
			before := pid(t, l)
			if err := soil(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			l.Release()
			l = n.lease(t, n.A)
			defer l.Release()
			if pid(t, l) == before {
				t.Error("the same session was leased again")
			}
			var path string
			var left int
			if err := l.QueryRow(t.Context(), "SHOW search_path").Scan(&path); err != nil || path != `"$user", public` {
				t.Errorf("search_path = %q, %v", path, err)
			}
			const traces = "SELECT (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_cursors WHERE name = 'soil') + (SELECT count(*) FROM pg_prepared_statements WHERE name = 'soil')"
			if err := l.QueryRow(t.Context(), traces).Scan(&left); err != nil || left != 0 {
				t.Errorf("%d traces are left, %v", left, err)
			}
		})
	}
}

func TestInvariant12ACleanSessionIsLeasedAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	n.Table.Change(n.A.ID, func(r *route.Route) { r.MaxConnections = 1 })
	l := n.lease(t, n.A)
	before := pid(t, l)
	err := pg.InTx(t.Context(), l, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL lock_timeout = '1s'"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "SELECT set_config('ouvira.company', $1, true)", "7")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
	l.Release()
	if _, err := l.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a released lease still works")
	}
	l = n.lease(t, n.A)
	defer l.Release()
	if pid(t, l) != before {
		t.Error("a clean connection was thrown away")
	}
	// A query that its caller gave up does not cost the connection.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Exec(ctx, "SELECT pg_sleep(10)"); err == nil {
		t.Error("the query was not cancelled")
	}
	if pid(t, l) != before {
		t.Error("a cancelled query cost the connection")
	}
}

// What the database itself refuses, so that no reset has to undo it.
func TestInvariant12SessionsCannotHoldMore(t *testing.T) {
	t.Parallel()
	n := newNode(t, 20)
	l := n.lease(t, n.A)
	defer l.Release()
	for _, statement := range []string{"CREATE TEMP TABLE soil (a int)", "SELECT pg_advisory_lock(1)", "DO $$ BEGIN END $$"} {
		if _, err := l.Exec(t.Context(), statement); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v", statement, err)
		}
	}
}
