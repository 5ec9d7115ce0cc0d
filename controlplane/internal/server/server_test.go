package server_test

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func newService(t *testing.T, o server.Options) (*server.Service, controltest.Control) {
	t.Helper()
	control := controltest.New(t)
	return server.NewService(control.Pool, controltest.NewKeys(t).Control, slog.New(slog.DiscardHandler), o), control
}

func spec(name, address string) server.New {
	return server.New{Name: name, URL: address, Capacity: server.Capacity{Databases: 10, Connections: 50}}
}

func TestAddPreparesAndKeepsTheProvisionerOnly(t *testing.T) {
	t.Parallel()
	for _, version := range testdb.Versions {
		t.Run("postgres="+version, func(t *testing.T) {
			t.Parallel()
			s, control := newService(t, server.Options{})
			pgServer := testdb.Server(t, version)
			audited := 0
			added, err := s.Add(t.Context(), spec("a", pgServer.URL()), func(pgx.Tx, server.Server) error { audited++; return nil })
			if err != nil {
				t.Fatal(err)
			}
			if added.Status != "active" || added.Port != pgServer.Port() || added.TLSMode != "disable" || added.Version < 150000 || audited != 1 {
				t.Errorf("%+v", added)
			}
			var published int64
			if err := control.Pool.QueryRow(t.Context(), "SELECT version FROM node.servers_v1 WHERE id = $1", added.ID).Scan(&published); err != nil || published == 0 {
				t.Errorf("published as version %d: %v", published, err)
			}

			access, err := s.Open(t.Context(), added.ID, 2)
			if err != nil {
				t.Fatal(err)
			}
			defer access.Close()
			conn, err := access.Connect(t.Context(), server.Target{ApplicationName: "ouvira/op/x/1", Role: migrations.OwnerRole})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			var user, role, name, interval, log, commit string
			var super bool
			err = conn.QueryRow(t.Context(), `
				SELECT session_user, current_user, current_setting('application_name'), current_setting('client_connection_check_interval'),
				       current_setting('log_statement'), current_setting('synchronous_commit'), rolsuper
				FROM pg_roles WHERE rolname = session_user`).Scan(&user, &role, &name, &interval, &log, &commit, &super)
			if err != nil {
				t.Fatal(err)
			}
			if user != "ouvira_provisioner" || role != "ouvira_owner" || name != "ouvira/op/x/1/" || interval != "500ms" || log != "none" || commit != "on" || super {
				t.Error(user, role, name, interval, log, commit, super)
			}

			// A second entry for the same server would change the provisioner's
			// password under the first.
			if _, err := s.Add(t.Context(), spec("again", pgServer.URL()), nil); !fault.Is(err, fault.KindConflict) {
				t.Errorf("the same server twice: %v", err)
			}
			if _, err := access.Connect(t.Context(), server.Target{}); err != nil {
				t.Errorf("after the refusal: %v", err)
			}
		})
	}
}

func TestAddWithTheProvisioner(t *testing.T) {
	t.Parallel()
	s, control := newService(t, server.Options{})
	pgServer := testdb.Server(t, testdb.System)
	const password = "correct-horse"
	if _, err := testdb.Connect(t, pgServer.URL()).Exec(t.Context(), "CREATE ROLE ouvira_provisioner LOGIN CREATEDB CREATEROLE PASSWORD '"+password+"'"); err != nil {
		t.Fatal(err)
	}
	address := withUser(t, pgServer, "ouvira_provisioner", password)
	_, err := s.Add(t.Context(), spec("a", address), nil)
	expectField(t, err, "url", "not_prepared")

	first, err := s.Add(t.Context(), spec("a", pgServer.URL()), nil)
	if err != nil {
		t.Fatal(err)
	}
	// As if another control plane had it: known, prepared, another password.
	if _, err := control.Pool.Exec(t.Context(), "DELETE FROM control.servers WHERE id = $1", first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := testdb.Connect(t, pgServer.URL()).Exec(t.Context(), "ALTER ROLE ouvira_provisioner PASSWORD '"+password+"'"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), spec("a", address), nil); err != nil {
		t.Errorf("a prepared server: %v", err)
	}
}

func withUser(t *testing.T, s *pgserver.Server, user, password string) string {
	t.Helper()
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

func expectField(t *testing.T, err error, field, code string) {
	t.Helper()
	f := fault.From(err)
	if err == nil || f.Kind != fault.KindInvalid || len(f.Fields) != 1 || f.Fields[0].Field != field || f.Fields[0].Code != code {
		t.Errorf("want %s %s, got %v %+v", field, code, err, f)
		return
	}
	if f.Fields[0].Message == "" || strings.Contains(f.Message+f.Fields[0].Message, "secret") {
		t.Errorf("message %q, field %+v", f.Message, f.Fields[0])
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	pgServer := testdb.Server(t, testdb.System)
	if _, err := testdb.Connect(t, pgServer.URL()).Exec(t.Context(), "CREATE ROLE plain LOGIN PASSWORD 'plain'"); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	_ = closed.Close()

	s, _ := newService(t, server.Options{})
	production, _ := newService(t, server.Options{Production: true})
	good := spec("a", pgServer.URL())
	change := func(f func(*server.New)) server.New { n := good; f(&n); return n }
	cases := map[string]struct {
		in          server.New
		field, code string
		service     *server.Service
	}{
		"the control database's server": {in: change(func(n *server.New) { n.URL = testdb.ServerURL(t) }), field: "url", code: "control_server"},
		"nobody answers":                {in: change(func(n *server.New) { n.URL = "postgres://u:secret@" + nobody + "/postgres?sslmode=disable" }), field: "url", code: "unreachable"},
		"wrong password":                {in: change(func(n *server.New) { n.URL = withUser(t, pgServer, "postgres", "wrong") }), field: "url", code: "unreachable"},
		"not a superuser":               {in: change(func(n *server.New) { n.URL = withUser(t, pgServer, "plain", "plain") }), field: "url", code: "not_superuser"},
		"no URL":                        {in: change(func(n *server.New) { n.URL = "host=x user=y" }), field: "url", code: "invalid"},
		"two hosts":                     {in: change(func(n *server.New) { n.URL = "postgres://u:p@a,b/postgres?sslmode=disable" }), field: "url", code: "invalid"},
		"no TLS mode":                   {in: change(func(n *server.New) { n.URL = strings.Split(n.URL, "?")[0] }), field: "tls.mode", code: "required"},
		"unknown TLS mode":              {in: change(func(n *server.New) { n.TLS.Mode = "prefer" }), field: "tls.mode", code: "invalid"},
		"too many connections":          {in: change(func(n *server.New) { n.Capacity.Connections = 100_000 }), field: "capacity.connections", code: "too_large"},
		"no databases":                  {in: change(func(n *server.New) { n.Capacity.Databases = 0 }), field: "capacity.databases", code: "too_small"},
		"a bad name":                    {in: change(func(n *server.New) { n.Name = "A b" }), field: "name", code: "invalid"},
		"production without TLS":        {in: good, field: "tls.mode", code: "insecure", service: production},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			service := c.service
			if service == nil {
				service = s
			}
			_, err := service.Add(t.Context(), c.in, nil)
			expectField(t, err, c.field, c.code)
		})
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	// What was refused was not touched.
	var n int
	if err := testdb.Connect(t, pgServer.URL()).QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'ouvira%'").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d roles were made on a refused server: %v", n, err)
	}
	if _, err := s.Add(t.Context(), good, nil); err != nil {
		t.Fatal(err)
	}
	other := testdb.Server(t, testdb.System)
	if _, err := s.Add(t.Context(), spec("a", other.URL()), nil); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a name twice: %v", err)
	}
}
