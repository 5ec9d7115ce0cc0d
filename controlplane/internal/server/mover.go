package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
)

// ErrNoMover says that a server was added before there were moves, or by the
// provisioner's URL: nobody knows the mover's password.
var ErrNoMover = errors.New("the server is not prepared for moves")

// MoverContext binds the mover's sealed password to its server.
func MoverContext(id uuid.UUID) []byte { return []byte("server-mover/" + id.String()) }

// credentials opens the passwords of our roles on the server.
func (s *Service) credentials(ctx context.Context, q pg.Querier, server Server) (known credentials, ca string, err error) {
	var provisioner, mover []byte
	err = q.QueryRow(ctx, "SELECT provisioner_credential, mover_credential, tls_ca FROM control.servers WHERE id = $1", server.ID).
		Scan(&provisioner, &mover, &ca)
	if err != nil {
		return credentials{}, "", fmt.Errorf("read the server's credential: %w", err)
	}
	open := func(sealed, bound []byte) (string, error) {
		password, err := s.key.Unseal(sealed, bound)
		if err != nil {
			return "", fmt.Errorf("the credential of server %s (is OUVIRA_CONTROL_KEY_FILE the key it was added with?): %w", server.Name, err)
		}
		return string(password), nil
	}
	if known.provisioner, err = open(provisioner, CredentialContext(server.ID)); err != nil {
		return credentials{}, "", err
	}
	if mover != nil {
		if known.mover, err = open(mover, MoverContext(server.ID)); err != nil {
			return credentials{}, "", err
		}
	}
	return known, ca, nil
}

// storeMover keeps the mover's password, sealed; an empty one leaves what is there.
func (s *Service) storeMover(ctx context.Context, tx pgx.Tx, id uuid.UUID, password string) error {
	if password == "" {
		return nil
	}
	sealed, err := s.key.Seal([]byte(password), MoverContext(id))
	if err != nil {
		return fmt.Errorf("seal the mover's credential: %w", err)
	}
	if _, err := tx.Exec(ctx, "UPDATE control.servers SET mover_credential = $2, updated_at = now() WHERE id = $1", id, sealed); err != nil {
		return fmt.Errorf("store the mover's credential: %w", err)
	}
	return nil
}

// Prepare brings a known server to what this release needs of it, with the URL of
// a superuser, which is not kept. The passwords of our roles stay. also runs in
// the transaction (audit). Errors: fault.NotFound, fault.Invalid naming the field
// url.
func (s *Service) Prepare(ctx context.Context, id uuid.UUID, superuserURL string, also func(tx pgx.Tx, s Server) error) (Server, error) {
	given, err := parse(superuserURL)
	if err != nil {
		return Server{}, err
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (Server, error) {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('ouvira.server.add', 0))"); err != nil {
			return Server{}, fmt.Errorf("lock the servers: %w", err)
		}
		server, err := getServer(ctx, tx, id)
		if err != nil {
			return Server{}, err
		}
		known, ca, err := s.credentials(ctx, tx, server)
		if err != nil {
			return Server{}, err
		}
		given.tls = TLS{Mode: server.TLSMode, CA: ca}
		found, err := inspect(ctx, given)
		if err != nil {
			return Server{}, err
		}
		switch err := sameServer(ctx, tx, server, found); {
		case err != nil:
			return Server{}, err
		case !found.superuser:
			return Server{}, invalid("url", "not_superuser", "The user is not a superuser: preparing a server takes one, once.")
		}
		_, mover, err := s.prepare(ctx, given, found, known)
		if err != nil {
			return Server{}, err
		}
		if err := s.storeMover(ctx, tx, id, mover); err != nil {
			return Server{}, err
		}
		if server, err = getServer(ctx, tx, id); err != nil || also == nil {
			return server, err
		}
		return server, also(tx, server)
	})
}

// sameServer refuses an address that leads to another Postgres, or to a replica.
func sameServer(ctx context.Context, q pg.Querier, server Server, f facts) error {
	var identifier int64
	if err := q.QueryRow(ctx, "SELECT system_identifier FROM control.servers WHERE id = $1", server.ID).Scan(&identifier); err != nil {
		return fmt.Errorf("read the server: %w", err)
	}
	switch {
	case identifier != f.systemIdentifier:
		return invalid("url", "other_server", "This is another Postgres server than “"+server.Name+"”: its system identifier differs.")
	case f.inRecovery:
		return invalid("url", "read_only", "This is a replica: give the address of the primary.")
	}
	return nil
}

// Replication is how the Postgres of another server reaches a database of this
// one as the mover: a libpq connection string, password included. modern tells
// whether that server is Postgres 16 or later.
func (a *Access) Replication(database string, modern bool) (string, error) {
	if a.mover == "" {
		return "", ErrNoMover
	}
	quote := func(v string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
	}
	parts := []string{
		"host=" + quote(a.address.host), "port=" + strconv.Itoa(a.address.port), "dbname=" + quote(database),
		"user=" + migrations.MoverRole, "password=" + quote(a.mover), "sslmode=" + a.address.tls.Mode, "connect_timeout=5",
	}
	// The CA of a server lies with us, not with the other server: what that one
	// trusts is in the files of its own system or its Postgres user's.
	if modern && a.address.tls.Mode == "verify-full" && a.address.tls.CA == "" {
		parts = append(parts, "sslrootcert=system")
	}
	return strings.Join(parts, " "), nil
}
