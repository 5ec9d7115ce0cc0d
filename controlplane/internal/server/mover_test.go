package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A server that was added before there were moves is prepared again: the roles keep
// their passwords, and on 15 the base database and the templates that were made of it
// get the functions that subscribe.
func TestAServerIsPreparedAgain(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			s, control := newService(t, server.Options{})
			pgServer := testdb.Server(t, version)
			added, err := s.Add(t.Context(), spec("a", pgServer.URL()), nil)
			if err != nil {
				t.Fatal(err)
			}
			admin := testdb.Connect(t, pgServer.URL())
			exec := func(sql string) {
				t.Helper()
				if _, err := admin.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			// As the release before would have left it.
			exec("CREATE DATABASE ouvira_template_0123 TEMPLATE ouvira_base ALLOW_CONNECTIONS true")
			old := testdb.Connect(t, pgServer.DatabaseURL("ouvira_template_0123"))
			if _, err := old.Exec(t.Context(), "DROP SCHEMA IF EXISTS ouvira_move CASCADE"); err != nil {
				t.Fatal(err)
			}
			_ = old.Close(t.Context())
			exec("ALTER DATABASE ouvira_template_0123 ALLOW_CONNECTIONS false IS_TEMPLATE true")
			exec("REVOKE pg_read_all_data FROM ouvira_mover")
			if _, err := control.Pool.Exec(t.Context(), "UPDATE control.servers SET mover_credential = NULL"); err != nil {
				t.Fatal(err)
			}
			visit := func() error {
				access, err := s.Open(t.Context(), added.ID, 1)
				if err != nil {
					return err
				}
				defer access.Close()
				conn, err := access.Connect(t.Context(), server.Target{Mover: true})
				if err != nil {
					return err
				}
				defer conn.Close(t.Context())
				var may bool
				err = conn.QueryRow(t.Context(), "SELECT rolreplication AND pg_has_role(rolname, 'pg_read_all_data', 'usage') AND NOT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&may)
				if err == nil && !may {
					err = errors.New("the mover lacks its rights")
				}
				return err
			}
			if err := visit(); !errors.Is(err, server.ErrNoMover) {
				t.Errorf("before: %v", err)
			}
			for range 2 {
				if _, err := s.Prepare(t.Context(), added.ID, pgServer.URL(), func(pgx.Tx, server.Server) error { return nil }); err != nil {
					t.Fatal(err)
				}
				if err := visit(); err != nil {
					t.Errorf("after: %v", err)
				}
			}
			access, err := s.Open(t.Context(), added.ID, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer access.Close()
			conn, err := access.Connect(t.Context(), server.Target{}) // the provisioner's password is what it was
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			for _, template := range []string{migrations.BaseDatabase, "ouvira_template_0123"} {
				exec("CREATE DATABASE look TEMPLATE " + template)
				look := testdb.Connect(t, pgServer.DatabaseURL("look"))
				var there, open bool
				err := look.QueryRow(t.Context(), `
					SELECT to_regprocedure('ouvira_move.subscribe(text, text)') IS NOT NULL,
					       EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datallowconn)`, template).Scan(&there, &open)
				if err != nil {
					t.Fatal(err)
				}
				if modern := added.Version >= 160000; there == modern || open {
					t.Errorf("%s: functions there %v, open %v", template, there, open)
				}
				_ = look.Close(t.Context())
				exec("DROP DATABASE look WITH (FORCE)")
			}
		})
	}
}

// The functions that subscribe are the provisioner's, and for moves alone.
func TestWhoMaySubscribe(t *testing.T) {
	t.Parallel()
	pgServer := testdb.Server(t, testdb.System)
	s, _ := newService(t, server.Options{})
	added, err := s.Add(t.Context(), spec("a", pgServer.URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if added.Version >= 160000 {
		return // the provisioner needs no functions there
	}
	admin := testdb.Connect(t, pgServer.URL())
	for _, sql := range []string{
		"CREATE ROLE stranger LOGIN", "CREATE DATABASE ov_0123456789abcdef0123 TEMPLATE ouvira_base OWNER ouvira_owner",
		"GRANT CONNECT ON DATABASE ov_0123456789abcdef0123 TO stranger",
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	inside := testdb.Connect(t, pgServer.DatabaseURL("ov_0123456789abcdef0123"))
	for _, c := range []struct{ role, name string }{
		{"stranger", "ouvira_move_0123456789abcdef0123456789abcdef"},
		{"ouvira_owner", "ouvira_move_0123456789abcdef0123456789abcdef"},
		{"ouvira_provisioner", "another"},
	} {
		if _, err := inside.Exec(t.Context(), "SET ROLE "+c.role); err != nil {
			t.Fatal(err)
		}
		if _, err := inside.Exec(t.Context(), "SELECT ouvira_move.subscribe($1, 'host=127.0.0.1')", c.name); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s subscribes to %s: %v", c.role, c.name, err)
		}
	}
}

// Who asks a server that accepts and says nothing keeps no placement of a tenant waiting.
func TestASilentServerHoldsUpNoPlacement(t *testing.T) {
	t.Parallel()
	s, control := newService(t, server.Options{})
	added, err := s.Add(t.Context(), spec("a", testdb.Server(t, testdb.System).URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	asked := make(chan struct{})
	go func() {
		if conn, err := silent.Accept(); err == nil {
			close(asked)
			defer conn.Close()
			_, _ = io.Copy(io.Discard, conn) // until the other side gives up
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := s.Update(ctx, added.ID, server.Patch{Address: &server.Address{Host: "127.0.0.1", Port: silent.Addr().(*net.TCPAddr).Port}}, nil)
		ended <- err
	}()
	<-asked
	err = pg.InTx(t.Context(), control.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL lock_timeout = '1ms'"); err != nil {
			return err
		}
		_, err := s.Place(t.Context(), tx, "", 0)
		return err
	})
	if err != nil {
		t.Errorf("a placement meanwhile: %v", err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a server that says nothing was taken for the same")
	}
}

// A server's address changes after a failover, to where the same Postgres answers.
func TestAnAddressLeadsToTheSameServer(t *testing.T) {
	t.Parallel()
	s, _ := newService(t, server.Options{})
	one, other := testdb.Server(t, testdb.System), testdb.Server(t, testdb.System)
	added, err := s.Add(t.Context(), spec("a", one.URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), spec("b", other.URL()), nil); err != nil {
		t.Fatal(err)
	}
	for _, to := range []server.Address{{Host: "127.0.0.1", Port: other.Port()}, {Host: "127.0.0.1", Port: 1}} {
		_, err := s.Update(t.Context(), added.ID, server.Patch{Address: &to}, nil)
		refused, ok := errors.AsType[*fault.Error](err)
		if !ok || refused.Kind != fault.KindInvalid || refused.Fields[0].Field != "address" {
			t.Errorf("%+v: %v", to, err)
		}
	}
	many := 100_000
	if _, err := s.Update(t.Context(), added.ID, server.Patch{Connections: &many}, nil); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("more connections than there are: %v", err)
	}
	region, databases := "eu", 77
	changed, err := s.Update(t.Context(), added.ID, server.Patch{Address: &server.Address{Host: "localhost", Port: one.Port()}, Region: &region, Databases: &databases}, nil)
	if err != nil || changed.Host != "localhost" || changed.Region != "eu" || changed.Capacity.Databases != 77 {
		t.Errorf("%+v %v", changed, err)
	}
}
