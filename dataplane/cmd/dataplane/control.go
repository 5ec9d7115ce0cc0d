package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/schema"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/seal"
)

// openControl makes a small pool of the control database, which may be away:
// nothing is contacted before it is used.
func openControl(s settings, connections int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(s.NodeDatabaseURL)
	if err != nil {
		return nil, errors.New("OUVIRA_NODE_DATABASE_URL: is not a valid postgres:// URL")
	}
	config.MaxConns, config.MinConns = connections, 0
	config.MaxConnIdleTime = time.Minute
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.ConnConfig.RuntimeParams["application_name"] = "ouvira/" + s.NodeID
	control, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("OUVIRA_NODE_DATABASE_URL: %w", err)
	}
	return control, nil
}

// shares are this node's leased connections, over a connection to the control
// database that nobody else makes wait.
type shares struct {
	*budget.Lease

	control *pgxpool.Pool
}

func newShares(s settings, log *slog.Logger, registry *prometheus.Registry, routes *directory.Directory, key *seal.DataKey) (*shares, error) {
	control, err := openControl(s, 1)
	if err != nil {
		return nil, err
	}
	file := ""
	if s.SnapshotFile != "" {
		file = s.SnapshotFile + ".shares"
	}
	lease, err := budget.New(budget.Options{
		DB: control, Member: s.NodeID, Kind: budget.Node, Share: s.ConnectionShare,
		SchemaMin: schema.Oldest, SchemaMax: schema.Latest, RouteVersion: routes.Version,
		File: file, Sealer: key, Log: log, Registerer: registry,
	})
	if err != nil {
		control.Close()
		return nil, err
	}
	return &shares{lease, control}, nil
}

// start leases until the returned function is called, when the pools are closed:
// what this node held is then free for others.
func (s *shares) start(ctx context.Context, pools *tenantpool.Pools) (stop func(context.Context) error) {
	s.Attach(pools)
	leasing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		s.Run(leasing)
		close(ended)
	}()
	return func(ctx context.Context) error {
		cancel()
		<-ended
		defer s.control.Close()
		return s.Close(ctx)
	}
}
