package stack

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
	"github.com/ouvira/ouvira/shared/testdb/pgserver"
)

// database is a part that is a Postgres server.
type database struct {
	name   string
	server *pgserver.Server
}

func (d *database) start(ctx context.Context) error { return d.server.Start(ctx) }
func (d *database) stop() error                     { return d.server.Stop() }
func (d *database) crash() error                    { return d.server.Kill() }
func (d *database) pid() int                        { return d.server.PID() }
func (d *database) exited() <-chan struct{}         { return d.server.Exited() }
func (d *database) logFile() string                 { return d.server.LogFile() }

// postgresNames are the Postgres servers of a stack.
var postgresNames = []string{PGControl, PGA, PGB}

// portsFree fails with the first port that is taken: of those that the base
// gives, and those that the Postgres servers had in the last run. A server keeps
// its port, because the control plane knows it by that.
func (s *Stack) portsFree() error {
	if err := s.ports.check(); err != nil {
		return err
	}
	for _, name := range postgresNames {
		port := s.secrets.Ports[name]
		if port == 0 {
			continue
		}
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			return fmt.Errorf("port %d, which the Postgres server %s had in the last run, is taken by another program (%w). Stop that program, or forget the stack with `make reset`", port, name, err)
		}
		_ = listener.Close()
	}
	return nil
}

// startPostgres starts the servers at once: most of a start is waiting.
func (s *Stack) startPostgres(ctx context.Context) error {
	place, note, err := pgserver.Place(s.options.State)
	if err != nil {
		return err
	}
	if note != "" {
		s.say("%s", note)
		if err := s.sweep(place); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	started := make([]*pgserver.Server, len(postgresNames))
	failures := make([]error, len(postgresNames))
	for i, name := range postgresNames {
		group.Go(func() { started[i], failures[i] = s.startServer(ctx, name, filepath.Join(place, name)) })
	}
	group.Wait()
	for i, name := range postgresNames {
		if started[i] != nil {
			s.databases[name] = &database{name: name, server: started[i]}
			s.add(name, s.databases[name])
			s.secrets.Ports[name] = started[i].Port()
		}
	}
	// What one server lacks, the others mostly lack too: one sentence will do.
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	s.say("Postgres %s from %s", started[0].Binaries().Version, started[0].Binaries().Dir)
	return s.saveSecrets()
}

// sweep keeps data that must lie outside the state folder from piling up: when
// it is a test's, it goes with this process.
func (s *Stack) sweep(place string) error {
	if !s.options.Disposable {
		return nil
	}
	_, err := guardian.Sweep(place)
	return err
}

func (s *Stack) startServer(ctx context.Context, name, dir string) (*pgserver.Server, error) {
	settings := map[string]string{}
	if s.options.Disposable {
		settings = pgserver.TestSettings()
	}
	if name != PGControl {
		settings["max_connections"] = strconv.Itoa(max(tenantServerConnections, s.options.Capacity.Connections+40))
		// Tenants move to another server by logical replication.
		settings["wal_level"] = "logical"
	}
	maps.Copy(settings, s.options.PostgresSettings)
	server, err := pgserver.Start(ctx, pgserver.Options{
		Bin: s.options.PostgresBin, Dir: dir, Port: s.secrets.Ports[name],
		Settings: settings, Disposable: s.options.Disposable, LogFile: s.logPath(name),
	})
	if err != nil {
		return nil, fmt.Errorf("the Postgres server %s: %w", name, err)
	}
	return server, nil
}
