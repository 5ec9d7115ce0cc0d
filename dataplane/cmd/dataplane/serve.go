package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ouvira/ouvira/dataplane/internal/access"
	"github.com/ouvira/ouvira/dataplane/internal/directory"
	"github.com/ouvira/ouvira/dataplane/internal/httpapi"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/outbox"
	"github.com/ouvira/ouvira/dataplane/internal/schema"
	"github.com/ouvira/ouvira/dataplane/internal/tenantpool"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/route"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// closeTimeout bounds the end of the pools after the last request.
const closeTimeout = 10 * time.Second

// serve wires a node from the top down and runs it until ctx ends.
func serve(ctx context.Context, environ []string, out io.Writer) error {
	s, err := config.LoadFrom[settings](environ)
	if err != nil {
		return err
	}
	level, err := telemetry.Level(s.LogLevel)
	if err != nil {
		return err
	}
	log := telemetry.NewLogger(out, level, "dataplane").With(slog.String("node", s.NodeID))
	slog.SetDefault(log)
	registry := telemetry.NewRegistry()

	key, err := seal.LoadDataKey(s.DataKeyFile)
	if err != nil {
		return fmt.Errorf("OUVIRA_DATA_KEY_FILE: %w", err)
	}
	routes, err := directory.New(directory.Options{
		DSN: s.NodeDatabaseURL, NodeID: s.NodeID, BaseDomain: s.BaseDomain, Log: log,
		SchemaMin: schema.Oldest, SchemaMax: schema.Latest,
		Snapshot: s.SnapshotFile, Sealer: key, Registerer: registry,
	})
	if err != nil {
		return err
	}
	leased, err := newShares(s, log, registry, routes, key)
	if err != nil {
		return err
	}
	pools, err := tenantpool.New(tenantpool.Options{
		NodeID: s.NodeID, Budget: leased, Routes: routes, Key: key, Log: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	routes.Subscribe(pools.RouteChanged)
	tokens, err := identity.NewAccessTokens(s.PublicScheme, s.BaseDomain, s.PublicPort)
	if err != nil {
		return err
	}
	users := identity.New(tokens, key)
	auditing, err := newAuditing(s, log, registry, routes, pools, users)
	if err != nil {
		return err
	}
	drainer, err := newDrainer(s, log, registry, routes, pools, key, auditing)
	if err != nil {
		return err
	}
	watch, err := newWatch(ctx, s, log, registry, auditing)
	if err != nil {
		return err
	}
	handler, err := newHandler(s, log, registry, watch, routes, pools, key, users, tokens, auditing, drainer)
	if err != nil {
		return err
	}
	stopCounting := counting(ctx, watch.usage)
	internal := httpserver.NewInternal(registry, routesCheck(routes), sharesCheck(leased), httpserver.Check{Name: "turnstile", Note: s.TurnstileNote()})
	internal.Handle("GET /debug/tenants", busiestTenants(watch.load, s.TopTenants))
	stopLeasing := leased.start(ctx, pools)
	stopSealing := auditing.start(ctx)
	stopResealing := newResealing(s.NodeID, log, routes, pools, key, users, auditing.control).start(ctx)
	err = runNode(ctx, routes, drainer, httpserver.Options{
		Logger: log, Addr: s.Listen, Handler: handler,
		InternalAddr: s.InternalListen, Internal: internal, Draining: internal.Drain, Linger: s.Linger,
	})
	stopCounting()
	stopResealing()
	stopSealing()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err = errors.Join(err, pools.Close(closing))
	err = errors.Join(err, stopLeasing(closing))
	return errors.Join(err, watch.tracing.Shutdown(closing))
}

// runNode runs the directory, the outbox and the listeners. After the last
// request the outbox sends what that has written. The directory ends last, so
// that who is finishing still sees changes; if it cannot start, the node ends.
func runNode(ctx context.Context, routes *directory.Directory, drainer *outbox.Drainer, o httpserver.Options) error {
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	pulling, stopPulling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPulling()
	pulled := make(chan error, 1)
	go func() {
		err := routes.Run(pulling)
		stopServing()
		pulled <- err
	}()
	draining, stopDraining := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDraining()
	drained := make(chan struct{})
	go func() {
		drainer.Run(draining)
		close(drained)
	}()
	err := httpserver.Run(serving, o)
	stopDraining()
	<-drained
	stopPulling()
	return errors.Join(err, <-pulled)
}

func newHandler(s settings, log *slog.Logger, registry *prometheus.Registry, watch watch, routes *directory.Directory, pools *tenantpool.Pools, key *seal.DataKey,
	users *identity.Service, tokens *identity.AccessTokens, auditing *auditing, drainer *outbox.Drainer,
) (http.Handler, error) {
	proxies, err := httpserver.ParseProxies(s.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("OUVIRA_TRUSTED_PROXIES: %w", err)
	}
	return httpapi.New(httpapi.Options{
		Log: log, Metrics: httpserver.NewMetrics(registry), Routes: routes,
		Lease: func(ctx context.Context, r *route.Route) (httpapi.Lease, error) {
			lease, err := pools.Lease(ctx, r)
			if err != nil {
				return nil, err // a nil *Lease in an interface would not be nil
			}
			return lease, nil
		},
		Support: identity.NewControlCodes(auditing.control), Cookies: s.AuthCookies, CORSOrigins: s.CORSOrigins,
		Identity: users, Access: access.New(), Sealer: key, Audit: auditing, Outbox: drainer, Tokens: tokens, Proxies: proxies, Scheme: s.PublicScheme,
		Turnstile: turnstile.New(s.Settings), Tracing: watch.tracing, Load: watch.load, Usage: watch.usage, Slow: s.SlowRequest,
	})
}
