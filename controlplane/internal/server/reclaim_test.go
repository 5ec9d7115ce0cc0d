package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// report is one report of a node, with one server, as node.lease_shares takes it.
func report(t *testing.T, q pg.Querier, instance string, sequence, limit, open, wanted int, on uuid.UUID) (granted int, err error) {
	t.Helper()
	raw, err := json.Marshal([]map[string]any{{"server": on, "limit": limit, "open": open, "wanted": wanted}})
	if err != nil {
		t.Fatal(err)
	}
	err = q.QueryRow(t.Context(), `
		SELECT (s ->> 'limit')::int FROM jsonb_array_elements(node.lease_shares($1, 'node-' || $1, 'node', $2, 1, 1, 1, 2, 0, $3) -> 'shares') s
		WHERE (s ->> 'server')::uuid = $4`, instance, sequence, string(raw), on).Scan(&granted)
	return granted, err
}

// silence makes the control database believe that it has not heard of the
// instance for a while.
func silence(t *testing.T, superuser *pgx.Conn, instance string) {
	t.Helper()
	if _, err := superuser.Exec(t.Context(), "UPDATE control.instances SET last_seen_at = clock_timestamp() - interval '20 s' WHERE id = $1", instance); err != nil {
		t.Fatal(err)
	}
}

// named is a connection of a role without rights, as a tenant's is.
func named(t *testing.T, s *pgserver.Server, name string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(withUser(t, s, "somebody", "nothing"))
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = name
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// What a silent instance holds is left to it until somebody needs it; then its
// connections are ended, it is kept out, and the share is another's. On both
// versions of Postgres: they differ in who may comment on a role.
func TestInvariant01ASilentInstanceIsFenced(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			s, control := newService(t, server.Options{})
			pgServer := testdb.Server(t, version)
			added, err := s.Add(t.Context(), spec("a", pgServer.URL()), nil) // 50, of which 47 are given
			if err != nil {
				t.Fatal(err)
			}
			if _, err := testdb.Connect(t, pgServer.URL()).Exec(t.Context(), "CREATE ROLE somebody LOGIN PASSWORD 'nothing'; GRANT CONNECT ON DATABASE postgres TO somebody"); err != nil {
				t.Fatal(err)
			}
			superuser := testdb.Connect(t, control.SuperuserURL)
			const dead, alive = "aaaaaaaaaa", "bbbbbbbbbb"
			if got, err := report(t, control.Pool, dead, 1, 0, 0, 40, added.ID); err != nil || got != 47 {
				t.Fatal(got, err)
			}
			held := []*pgx.Conn{named(t, pgServer, budget.ApplicationName("node-1", dead)), named(t, pgServer, "ouvira/op/x/1/"+dead)}
			other := named(t, pgServer, budget.ApplicationName("node-2", alive))
			if got, err := report(t, control.Pool, dead, 2, 30, 2, 30, added.ID); err != nil || got != 47 {
				t.Fatal(got, err)
			}
			if got, err := report(t, control.Pool, alive, 1, 0, 0, 0, added.ID); err != nil || got != 0 {
				t.Fatal(got, err)
			}
			if got, err := report(t, control.Pool, dead, 3, 30, 2, 30, added.ID); err != nil || got != 38 {
				t.Fatal(got, err)
			}
			silence(t, superuser, dead)
			sequence := 1
			wanting := func(limit, wanted int) int {
				t.Helper()
				sequence++
				got, err := report(t, control.Pool, alive, sequence, limit, 0, wanted, added.ID)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			limit := wanting(0, 0)
			r := server.NewReclaimer(s, "test")
			for range 20 {
				if err := r.Turn(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.Later(3 * time.Second)
				limit = wanting(limit, 0)
			}
			for _, conn := range held {
				if err := conn.Ping(t.Context()); err != nil {
					t.Fatalf("nobody needs its share, and a connection was ended: %v", err)
				}
			}
			if limit >= 47 || limit < 1 {
				t.Fatalf("the other has %d", limit)
			}
			for deadline := time.Now().Add(20 * time.Second); limit != 47; limit = wanting(limit, 47) {
				if time.Now().After(deadline) {
					t.Fatalf("the other has %d", limit)
				}
				if err := r.Turn(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.Later(3 * time.Second)
			}
			for _, conn := range held {
				if err := conn.Ping(t.Context()); err == nil {
					t.Error("a connection of the expelled instance is open")
				}
			}
			if err := other.Ping(t.Context()); err != nil {
				t.Errorf("a connection of another was ended: %v", err)
			}
			if _, err := report(t, control.Pool, dead, 9, 30, 0, 0, added.ID); pg.Code(err) != "OV002" {
				t.Errorf("the expelled instance reports: %v", err)
			}
			var expelled, kept bool
			if err := other.QueryRow(t.Context(), "SELECT "+budget.IsExpelled, dead).Scan(&expelled); err != nil || !expelled {
				t.Errorf("the server does not know who is expelled: %v", err)
			}
			if err := other.QueryRow(t.Context(), "SELECT "+budget.IsExpelled, alive).Scan(&kept); err != nil || kept {
				t.Errorf("the server keeps out who is not expelled: %v", err)
			}
		})
	}
}

// A Reclaimer that could not look for a while draws no conclusions from it.
func TestInvariant01NobodyIsExpelledByABlindOne(t *testing.T) {
	t.Parallel()
	s, control := newService(t, server.Options{})
	added, err := s.Add(t.Context(), spec("a", testdb.Server(t, testdb.System).URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	const silent, short = "cccccccccc", "dddddddddd"
	for i, instance := range []string{silent, short} {
		if _, err := report(t, control.Pool, instance, 1, 0, 0, 100*i, added.ID); err != nil {
			t.Fatal(err)
		}
	}
	silence(t, testdb.Connect(t, control.SuperuserURL), silent)
	r := server.NewReclaimer(s, "test")
	for range 5 {
		if err := r.Turn(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Later(10 * time.Minute)
	}
	var expelled int
	if err := control.Pool.QueryRow(t.Context(), "SELECT count(*) FROM control.instances WHERE expelled_at IS NOT NULL").Scan(&expelled); err != nil || expelled > 0 {
		t.Errorf("%d were expelled: %v", expelled, err)
	}
}

// A server that cannot be asked keeps what is reserved there.
func TestInvariant01AServerThatIsDownKeepsTheShareReserved(t *testing.T) {
	t.Parallel()
	s, control := newService(t, server.Options{})
	added, err := s.Add(t.Context(), spec("a", testdb.Server(t, testdb.System).URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	superuser := testdb.Connect(t, control.SuperuserURL)
	const dead = "eeeeeeeeee"
	if got, err := report(t, control.Pool, dead, 1, 0, 0, 9, added.ID); err != nil || got != 47 {
		t.Fatal(got, err)
	}
	for _, sql := range []string{
		"UPDATE control.instances SET expelled_at = now(), last_seen_at = now() - interval '1 min'",
		fmt.Sprintf("UPDATE control.servers SET port = 1 WHERE id = '%s'", added.ID),
	} {
		if _, err := superuser.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	r := server.NewReclaimer(s, "test")
	if err := r.Turn(t.Context()); err == nil {
		t.Error("a server that is down was fenced")
	}
	if got, err := report(t, control.Pool, "ffffffffff", 1, 0, 0, 9, added.ID); err != nil || got != 0 {
		t.Errorf("%d were given away: %v", got, err)
	}
	if _, err := superuser.Exec(t.Context(), "UPDATE control.servers SET port = $1", added.Port); err != nil {
		t.Fatal(err)
	}
	if err := r.Turn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := report(t, control.Pool, "ffffffffff", 2, 0, 0, 9, added.ID); err != nil || got != 47 {
		t.Errorf("%d afterwards: %v", got, err)
	}
}
