package migrationtest

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// as is the same database for another role.
func as(t *testing.T, address, role string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, testdb.RolePassword)
	return u.String()
}

// control is a migrated control database that its two roles may enter.
func control(t *testing.T) string {
	t.Helper()
	address := testdb.New(t, prepared)
	admin := connect(t, address)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	database := pgx.Identifier{u.Path[1:]}.Sanitize()
	mustExec(t, admin, "ALTER DATABASE "+database+" OWNER TO "+migrations.ControlOwnerRole)
	mustExec(t, admin, "GRANT CONNECT ON DATABASE "+database+" TO "+migrations.ControlRole+", "+migrations.NodeRole)
	owner := as(t, address, migrations.ControlRole) + "&role=" + migrations.ControlOwnerRole
	if _, err := migrations.Up(t.Context(), owner, migrations.Control); err != nil {
		t.Fatal(err)
	}
	return address
}

// A node reads the route contract and nothing else, and changes nothing.
func TestANodeSeesTheRouteContractOnly(t *testing.T) {
	t.Parallel()
	address := control(t)
	node := connect(t, as(t, address, migrations.NodeRole))
	for _, allowed := range []string{
		"SELECT * FROM node.routes_v1",
		"SELECT * FROM node.servers_v1",
		"SELECT * FROM node.clock()",
		"SELECT node.heartbeat('n', 'node', 0.4, 1, 2, 0)",
		"LISTEN ouvira_routes",
	} {
		mustExec(t, node, allowed)
	}
	for _, denied := range []string{
		"SELECT * FROM control.tenants",
		"SELECT * FROM control.signups",
		"SELECT provisioner_credential FROM control.servers",
		"SELECT control.publish_route(gen_random_uuid())",
		"DELETE FROM node.servers_v1",
		"CREATE TABLE node.t ()",
		"CREATE TABLE public.t ()",
		"CREATE SCHEMA s",
		"SET ROLE " + migrations.ControlOwnerRole,
		"SET ROLE " + migrations.ControlRole,
	} {
		if _, err := node.Exec(t.Context(), denied); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v; want permission denied", denied, err)
		}
	}
}

// The control plane writes rows, adds to the audit log, and alters no table.
func TestTheControlPlaneOwnsNothing(t *testing.T) {
	t.Parallel()
	address := control(t)
	conn := connect(t, as(t, address, migrations.ControlRole))
	mustExec(t, conn, "INSERT INTO control.audit_log (actor_kind, actor_id, actor_name, action, entity_type, entity_id) VALUES ('cli', '1', 'x', 'a', 'b', 'c')")
	for _, denied := range []string{
		"UPDATE control.audit_log SET actor_name = 'y'",
		"DELETE FROM control.audit_log",
		"TRUNCATE control.audit_log",
		"INSERT INTO control.audit_log (id, actor_kind, actor_id, actor_name, action, entity_type, entity_id) OVERRIDING SYSTEM VALUE VALUES (1, 'cli', '1', 'x', 'a', 'b', 'c')",
		"DROP TABLE control.tenants",
		"ALTER TABLE control.tenants ADD COLUMN x int",
		"CREATE TABLE control.t ()",
	} {
		if _, err := conn.Exec(t.Context(), denied); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v; want permission denied", denied, err)
		}
	}
}

// The shares of live processes never add up to more than the whole.
func TestSharesAreRefusedOverTheWhole(t *testing.T) {
	t.Parallel()
	address := control(t)
	node := connect(t, as(t, address, migrations.NodeRole))
	mustExec(t, node, "SELECT node.heartbeat('a', 'node', 0.5, 1, 2, 0)")
	mustExec(t, node, "SELECT node.heartbeat('b', 'node', 0.4, 1, 2, 0)")
	mustExec(t, node, "SELECT node.heartbeat('a', 'node', 0.5, 1, 2, 7)") // a heartbeat of one that is in
	if _, err := node.Exec(t.Context(), "SELECT node.heartbeat('c', 'node', 0.2, 1, 2, 0)"); pg.Code(err) != "OV001" {
		t.Fatalf("a third share of 0.2: %v; want OV001", err)
	}
	if _, err := node.Exec(t.Context(), "SELECT node.heartbeat('a', 'node', 0.7, 1, 2, 0)"); pg.Code(err) != "OV001" {
		t.Fatalf("a share raised to 0.7: %v; want OV001", err)
	}
	mustExec(t, connect(t, address), "UPDATE control.members SET static_until = now() - interval '30 s' WHERE id = 'b'")
	mustExec(t, node, "SELECT node.heartbeat('c', 'node', 0.2, 1, 2, 0)") // b is forgotten
}

// A whole installation that starts at once must not lose a process to a
// deadlock.
func TestManyJoinAtOnce(t *testing.T) {
	t.Parallel()
	address := as(t, control(t), migrations.NodeRole)
	const joining = 8
	var nodes []*pgx.Conn
	for range joining {
		nodes = append(nodes, connect(t, address))
	}
	failures := make(chan error, joining)
	for i, node := range nodes {
		go func() {
			// Joins with a changed share again and again: the slow way each time.
			for round := range 20 {
				_, err := node.Exec(t.Context(), "SELECT node.heartbeat($1, 'node', $2::float8::numeric(4, 3), 1, 2, 0)",
					fmt.Sprintf("node-%d", i), 0.1+0.01*float64(round%2))
				if err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		}()
	}
	for range joining {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}
