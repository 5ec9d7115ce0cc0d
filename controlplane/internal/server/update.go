package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Patch changes what it names.
type Patch struct {
	Status      *string
	Region      *string
	Databases   *int
	Connections *int
	StorageMB   *int // 0: it is not said any more
	Address     *Address
}

// Address is where a server answers.
type Address struct {
	Host string
	Port int
}

// check refuses values that no server can have.
func (p Patch) check() error {
	for field, size := range map[string]*int{"capacity.databases": p.Databases, "capacity.connections": p.Connections} {
		if size != nil && *size < 1 {
			return fault.Invalid("The server cannot be changed: a capacity is at least 1.").OnField(field, "too_small", "Use 1 or more.")
		}
	}
	if p.StorageMB != nil && *p.StorageMB < 0 {
		return fault.Invalid("The server cannot be changed: its storage is 0 or more megabytes.").OnField("capacity.storage_mb", "too_small", "Use 0 or more.")
	}
	if p.Status == nil {
		return nil
	}
	return checkStatus(*p.Status)
}

// Update changes a server and publishes it. A new address must lead to the same
// Postgres server, or to the replica that has taken its place: it has the same
// system identifier and lets the provisioner in. also runs in the transaction
// (audit). Errors: fault.NotFound, fault.Invalid naming the field.
func (s *Service) Update(ctx context.Context, id uuid.UUID, p Patch, also func(tx pgx.Tx, s Server) error) (Server, error) {
	if err := p.check(); err != nil {
		return Server{}, err
	}
	tried, err := s.known(ctx, s.db, id)
	if err != nil {
		return Server{}, err
	}
	if p.Address != nil || p.Connections != nil {
		// Before its row is locked: each placement of a tenant waits for that, and a
		// server that does not answer may take its time.
		if err := s.try(ctx, tried, p); err != nil {
			return Server{}, err
		}
	}
	return pg.InTxValue(ctx, s.db, func(tx pgx.Tx) (Server, error) {
		if _, err := tx.Exec(ctx, "SELECT FROM control.servers WHERE id = $1 FOR UPDATE", id); err != nil {
			return Server{}, fmt.Errorf("lock the server: %w", err)
		}
		server, err := s.known(ctx, tx, id)
		if err != nil {
			return Server{}, err
		}
		if server.Host != tried.Host || server.Port != tried.Port {
			return Server{}, fault.Conflict("The server's address was changed at the same time. Look at it, and try again.").Code("server_changed")
		}
		to := Address{Host: server.Host, Port: server.Port}
		if p.Address != nil {
			to = *p.Address
		}
		_, err = tx.Exec(ctx, `
			UPDATE control.servers
			SET status = COALESCE($2, status), region = COALESCE($3, region), max_databases = COALESCE($4, max_databases),
			    max_connections = COALESCE($5, max_connections), host = $6, port = $7, max_storage_mb = COALESCE($8, max_storage_mb), updated_at = now()
			WHERE id = $1`, id, p.Status, p.Region, p.Databases, p.Connections, to.Host, to.Port, p.StorageMB)
		if err != nil {
			return Server{}, fmt.Errorf("change the server: %w", err)
		}
		if server, err = getServer(ctx, tx, id); err != nil {
			return Server{}, err
		}
		if also != nil {
			if err := also(tx, server); err != nil {
				return Server{}, err
			}
		}
		return server, publish(ctx, tx, id)
	})
}

// tryPatience bounds the look at a server that may be silent.
const tryPatience = 15 * time.Second

// try connects as the provisioner to where the server is to be from now on.
func (s *Service) try(ctx context.Context, server Server, p Patch) error {
	ctx, cancel := context.WithTimeout(ctx, tryPatience)
	defer cancel()
	known, ca, err := s.credentials(ctx, s.db, server)
	if err != nil {
		return err
	}
	a := address{host: server.Host, port: server.Port, user: migrations.ProvisionerRole, password: known.provisioner, tls: TLS{Mode: server.TLSMode, CA: ca}}
	if p.Address != nil {
		a.host, a.port = p.Address.Host, p.Address.Port
	}
	found, err := inspect(ctx, a)
	if err != nil {
		return ofAddress(err)
	}
	if err := sameServer(ctx, s.db, server, found); err != nil {
		return ofAddress(err)
	}
	if p.Connections != nil && *p.Connections > found.offered {
		return fault.Invalid("The server cannot be changed: it does not offer so many connections.").OnField("capacity.connections", "too_large",
			fmt.Sprintf("The server offers %d connections (max_connections less the reserved ones).", found.offered))
	}
	return nil
}

// ofAddress names the field as a change calls it.
func ofAddress(err error) error {
	refused, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	for i := range refused.Fields {
		refused.Fields[i].Field = "address"
	}
	return refused
}
