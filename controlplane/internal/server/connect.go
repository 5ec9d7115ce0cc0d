package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

// Target says where on a server to connect to, and as what.
type Target struct {
	Database        string // default "postgres"
	ApplicationName string // shown in pg_stat_activity
	Role            string // current role of the session; "" stays the provisioner
	Mover           bool   // connect as the mover, who may read everything and replicate

	Login, Password string // connect as this role; "": as the provisioner
}

// Access is the right of this process to a few connections to one server,
// taken out of its share of the server's budget. It is used by one goroutine.
type Access struct {
	Server Server // without its use

	address address
	mover   string // the mover's password; "": the server is not prepared for moves
	budget  Budget // nil: none is asked
	release func()
}

// address is all that a connection is made from.
type address struct {
	host, user, password string
	port                 int
	tls                  TLS
}

// Open waits for the right to hold `connections` at once to the server, as its
// provisioner. The caller closes it. Errors: fault.NotFound, the context's,
// and seal.ErrOpen when the control key is not the one the server was added
// with.
func (s *Service) Open(ctx context.Context, id uuid.UUID, connections int) (*Access, error) {
	a, err := s.reserved(ctx, id)
	if err != nil {
		return nil, err
	}
	a.release, err = s.seats.take(ctx, id, a.Server.Capacity.Connections, connections)
	if err != nil {
		return nil, err
	}
	a.budget = s.options.Budget
	return a, nil
}

// reserved is access that no share is taken for: what the margin of the budget
// is there for.
func (s *Service) reserved(ctx context.Context, id uuid.UUID) (*Access, error) {
	server, err := s.known(ctx, s.db, id)
	if err != nil {
		return nil, err
	}
	a := address{host: server.Host, port: server.Port, user: migrations.ProvisionerRole, tls: TLS{Mode: server.TLSMode}}
	known, ca, err := s.credentials(ctx, s.db, server)
	if err != nil {
		return nil, err
	}
	a.password, a.tls.CA = known.provisioner, ca
	return &Access{Server: server, address: a, mover: known.mover}, nil
}

// Close gives the connections back to the share. Close them first.
func (a *Access) Close() {
	if a.release != nil {
		a.release()
		a.release = nil
	}
}

// connectTimeout bounds one attempt to reach a server.
const connectTimeout = 5 * time.Second

// Connect opens one connection.
func (a *Access) Connect(ctx context.Context, t Target) (*pgx.Conn, error) {
	role := t.Role
	t.Role = "" // the provisioner may silence the log, the owner may not
	if t.Mover && a.mover == "" {
		return nil, ErrNoMover
	}
	var conn *pgx.Conn
	err := a.WithURL(t, func(address string) error {
		config, err := pgx.ParseConfig(address)
		if err != nil {
			return errors.New("the server's address or CA cannot be used")
		}
		config.ConnectTimeout = connectTimeout
		conn, err = pgx.ConnectConfig(ctx, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Statements carry verifiers. Where the right was not granted, they are
	// logged if the server logs statements at all.
	if _, err := conn.Exec(ctx, "SET log_statement = 'none'"); err != nil && pg.Code(err) != pg.CodeInsufficientRights {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("silence the server's log: %w", err)
	}
	if role == "" {
		return conn, nil
	}
	if _, err := conn.Exec(ctx, "SET ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("become %s: %w", role, err)
	}
	return conn, nil
}

// WithURL calls fn with a postgres:// URL of the target, which is valid until
// fn returns. It holds the password: use it, do not keep or log it.
func (a *Access) WithURL(t Target, fn func(address string) error) error {
	if a.budget != nil {
		if a.budget.Age() > proofFor {
			return errExpelled
		}
		t.ApplicationName += "/" + a.budget.Instance()
	}
	who := a.address
	switch {
	case t.Mover:
		who.user, who.password = migrations.MoverRole, a.mover
	case t.Login != "":
		who.user, who.password = t.Login, t.Password
	}
	return who.with(t, fn)
}

func (a address) with(t Target, fn func(string) error) error {
	q := url.Values{"sslmode": {a.tls.Mode}}
	if a.tls.CA != "" && (a.tls.Mode == "verify-ca" || a.tls.Mode == "verify-full") {
		// pgx, and all that is built on it, take the CA as a file.
		file, err := os.CreateTemp("", "ouvira-ca-*.pem")
		if err != nil {
			return fmt.Errorf("write the CA for the connection: %w", err)
		}
		defer os.Remove(file.Name())
		_, err = file.WriteString(a.tls.CA)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("write the CA for the connection: %w", err)
		}
		q.Set("sslrootcert", file.Name())
	}
	// A killed client leaves nothing half-made: its backend notices and rolls
	// back instead of finishing a CREATE DATABASE for nobody.
	q.Set("client_connection_check_interval", "500ms")
	// A step that is recorded as done must survive a crash of the server, also
	// where its owner has relaxed this.
	q.Set("synchronous_commit", "on")
	if t.ApplicationName != "" {
		q.Set("application_name", t.ApplicationName)
	}
	if t.Role != "" {
		q.Set("role", t.Role)
	}
	database := t.Database
	if database == "" {
		database = "postgres"
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(a.user, a.password),
		Host: net.JoinHostPort(a.host, strconv.Itoa(a.port)), Path: "/" + database, RawQuery: q.Encode(),
	}
	return fn(u.String())
}

// CredentialContext binds the sealed password to its server.
func CredentialContext(id uuid.UUID) []byte { return []byte("server-credential/" + id.String()) }
