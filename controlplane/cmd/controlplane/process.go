package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"
	"riverqueue.com/riverui"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/pulse"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/support"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/controlplane/internal/usage"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/config"
	"github.com/ouvira/ouvira/shared/httpserver"
	"github.com/ouvira/ouvira/shared/mail"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/telemetry"
	"github.com/ouvira/ouvira/shared/tracing"
	"github.com/ouvira/ouvira/shared/turnstile"
)

// house is everything wired together.
type house struct {
	settings  settings
	log       *slog.Logger
	registry  *prometheus.Registry
	db        *pgxpool.Pool
	feeling   *pgxpool.Pool // of pulse: one connection
	pulse     *pulse.Pulse
	key       *seal.ControlKey
	queue     *job.Queue
	tracing   *tracing.Tracing // nil: no traces
	member    membership
	holder    string
	rooms     httpapi.Rooms
	lifecycle *lifecycle.Service
	runner    *operation.Runner
}

// runProcess wires the house and runs the parts that the command names, until
// ctx ends or one of them fails.
func runProcess(ctx context.Context, command string, s settings, out io.Writer) error {
	level, _ := telemetry.Level(s.LogLevel) // checked by Validate
	log := telemetry.NewLogger(out, level, "controlplane-"+command)
	slog.SetDefault(log)
	h, err := build(ctx, command, s, log)
	if err != nil {
		return err
	}
	defer h.close(ctx)

	lease := make(chan error, 1)
	ended := make(chan struct{})
	go func() { lease <- h.member.keep(ctx, ended) }()
	err = h.run(ctx, command)
	close(ended)
	return errors.Join(err, <-lease)
}

// run runs the parts that the command names.
func (h *house) run(ctx context.Context, command string) error {
	group, ctx := errgroup.WithContext(ctx)
	serves, works := command != commandWorker, command != commandServe
	checks := []httpserver.Check{{Name: "control database", Ready: h.databaseReady}}
	if works {
		checks = append(checks, httpserver.Check{Name: "heartbeat", Ready: h.member.fresh})
		group.Go(func() error { return h.work(ctx) })
	}
	if serves {
		group.Go(func() error { h.pulse.Run(ctx); return nil })
	}
	group.Go(func() error { h.tellKeys(ctx); return nil })
	group.Go(func() error { return h.listen(ctx, serves, checks) })
	return group.Wait()
}

// tellEvery is how often a process says which keys it has: the control database may have
// been restored meanwhile.
const tellEvery = 30 * time.Second

func (h *house) tellKeys(ctx context.Context) {
	if err := h.rooms.Keys.Warn(ctx); err != nil {
		h.log.WarnContext(ctx, "it was not looked whether a key is missing", "error", err)
	}
	every(ctx, tellEvery, h.log, "tell of the keys", func(ctx context.Context) error { return h.rooms.Keys.Tell(ctx, h.holder) })
}

func (h *house) close(ctx context.Context) {
	if h.rooms.Provision != nil {
		h.rooms.Provision.Close()
	}
	h.db.Close()
	h.feeling.Close()
	if err := h.tracing.Shutdown(ctx); err != nil {
		h.log.WarnContext(ctx, "traces are lost", "error", err)
	}
}

func (h *house) databaseReady(ctx context.Context) error {
	if err := h.db.Ping(ctx); err != nil {
		return errors.New(pg.Explain(err))
	}
	return nil
}

// build opens what the process needs; what is missing or wrong ends it here,
// with a sentence.
func build(ctx context.Context, command string, s settings, log *slog.Logger) (*house, error) {
	key, err := seal.LoadControlKey(s.ControlKeyFile)
	if err != nil {
		return nil, fmt.Errorf("OUVIRA_CONTROL_KEY_FILE: %w", err)
	}
	public, err := seal.LoadPublicKey(s.DataPublicKeyFile)
	if err != nil {
		return nil, fmt.Errorf("OUVIRA_DATA_PUBLIC_KEY_FILE: %w", err)
	}
	id, share := s.member(command)
	db, err := openDatabase(ctx, s.ControlDatabaseURL, pg.Options{ApplicationName: "ouvira/" + id, MaxConnections: 20, Tracer: tracing.Queries{}}, log)
	if err != nil {
		return nil, explained(err)
	}
	if err := checkSchema(ctx, db); err != nil {
		db.Close()
		return nil, err
	}
	queue, err := job.NewInsertOnly(db, log)
	if err != nil {
		db.Close()
		return nil, err
	}
	feeling, err := pg.Open(ctx, s.ControlDatabaseURL, pg.Options{
		ApplicationName: "ouvira/" + id, MaxConnections: 1, ConnectTimeout: 2 * pulse.Patience, // it is the pulse that gives up
	})
	if err != nil {
		db.Close()
		return nil, explained(err)
	}
	traces, err := tracing.Open(ctx, s.Config, "ouvira-control-"+command, telemetry.Version(), id, log)
	if err != nil {
		db.Close()
		feeling.Close()
		return nil, err
	}
	h := &house{
		settings: s, log: log, tracing: traces, registry: telemetry.NewRegistry(), db: db, feeling: feeling, pulse: pulse.New(feeling.Ping, log), key: key, queue: queue,
		holder: id,
	}
	lease, err := budget.New(budget.Options{
		DB: db, Member: id, Kind: budget.Worker, Share: share, Least: tenantdb.ConnectionsPerRun, Log: log, Registerer: h.registry,
	})
	if err != nil {
		h.close(ctx)
		return nil, err
	}
	h.member = membership{lease}
	h.furnish(public)
	lease.Attach(h.rooms.Servers.Connections())
	return h, nil
}

// databasePause is between two looks for a control database that is away.
const databasePause = time.Second

// openDatabase waits for a database that cannot be reached, or is starting: after
// a power cut all start at once, in any order. One that refuses us is an error.
func openDatabase(ctx context.Context, url string, o pg.Options, log *slog.Logger) (*pgxpool.Pool, error) {
	for told := false; ; told = true {
		db, err := pg.Open(ctx, url, o)
		if err == nil || !pg.IsConnect(err) || (pg.Code(err) != "" && pg.Code(err) != pg.CodeCannotConnectNow) {
			return db, err
		}
		if !told {
			log.WarnContext(ctx, "waiting for the control database", "error", err)
		}
		if !pause.For(ctx, databasePause) {
			return nil, err
		}
	}
}

// furnish makes the rooms.
func (h *house) furnish(public *seal.PublicKey) {
	s := h.settings
	resolver, _ := domain.NewResolver(s.DNSServers) // checked by Validate
	db := replay.DB{Pool: h.db}
	operations := operation.NewStore(db, h.queue)
	servers := server.NewService(db, h.key, h.log, server.Options{Production: s.Env == config.Production, Budget: h.member})
	provisioning := provision.NewService(db, operations, servers, public, h.key, h.log, provision.Options{Activated: h.activated})
	moves := move.NewService(db, operations, servers, public, h.log, move.Options{})
	life := lifecycle.NewService(db, operations, servers, h.log, lifecycle.Options{})
	tenants := &tenant.Service{DB: db, Addresses: s.addresses(), Provision: provisioning, Lifecycle: life}
	backups := backup.NewService(db, operations, servers, public, h.key, backup.Options{
		Store: s.backupStore(), Tenants: tenants, Log: h.log, Getenv: s.getenv,
	})
	life.BackUpBy(backups)
	operators := &operator.Service{DB: db, Key: h.key, Jobs: h.queue}
	h.rooms = httpapi.Rooms{
		DB:        db,
		Operators: operators,
		Support:   &support.Service{DB: db, Operators: operators, Addresses: s.addresses()},
		Signups: &signup.Service{
			DB: db, Key: h.key, Tenants: tenants, Provision: provisioning, Operations: operations, Jobs: h.queue,
			Approval: s.SignupApproval, Limits: signup.Limits{PerAddress: s.SignupPerAddress, PerNetwork: s.SignupPerNetwork},
		},
		Webhooks:   &webhook.Service{DB: db, Key: h.key, AllowPrivate: s.WebhookPrivate},
		Tenants:    tenants,
		Domains:    &domain.Service{DB: db, BaseDomain: s.BaseDomain, Reserved: s.ReservedDomains, Resolver: resolver, Log: h.log},
		Billing:    &billing.Service{DB: db, Tenants: tenants, Jobs: h.queue, Log: h.log},
		Usage:      &usage.Service{DB: db, Servers: servers, Log: h.log},
		Servers:    servers,
		Provision:  provisioning,
		Moves:      moves,
		Operations: operations,
		Reconcile:  reconcile.NewService(db, servers, h.log),
		Backups:    backups,
	}
	h.rooms.Keys = keyring.NewService(db, operations, h.key, public, backups, h.log)
	h.rooms.Repairer = reconcile.NewRepairer(h.rooms.Reconcile, operations, life, provisioning, public)
	h.rooms.Adopter = reconcile.NewAdopter(h.rooms.Reconcile, operations, tenants, public)
	handlers := map[string]operation.Handler{
		provision.Kind:          provisioning,
		provision.KindWarm:      provisioning.Warm(),
		provision.KindWarmOff:   provisioning.WarmOff(),
		provision.KindRotate:    provisioning.Rotations(),
		provision.KindRotateKey: provisioning.KeyRotations(),
		reconcile.KindRepair:    h.rooms.Repairer,
		reconcile.KindAdopt:     h.rooms.Adopter,
		move.Kind:               moves,
		move.DrainKind:          moves.Drains(),
		keyring.KindRotate:      h.rooms.Keys.Handler(tenants),
	}
	maps.Copy(handlers, life.Handlers())
	maps.Copy(handlers, backups.Handlers())
	h.runner = operation.NewRunner(operations, h.holder, h.log, handlers)
	h.rooms.Runner = h.runner
	provisioning.RunBy(h.runner, s.InlineOperations)
	h.lifecycle = life
	h.runner.Tracing = h.tracing
}

// activated has the owner mailed whom an operator named; the owner of a
// sign-up has a password already.
func (h *house) activated(ctx context.Context, tx pgx.Tx, a provision.Activated) error {
	if a.SignupID != uuid.Nil || a.Owner.Email == "" {
		return nil
	}
	if _, err := h.queue.Client.InsertTx(ctx, tx, tenant.OwnerMail{OperationID: a.OperationID}, nil); err != nil {
		return fmt.Errorf("have the owner mailed: %w", err)
	}
	return nil
}

// work runs operations, jobs and sweeps until ctx ends.
func (h *house) work(ctx context.Context) error {
	smtp, err := mail.NewSMTP(h.settings.mail())
	if err != nil {
		return err
	}
	sender := job.Mailer{Sender: smtp}
	worker, err := job.NewWorker(h.db, job.Config{
		Log: h.log, Runner: h.runner, Operations: h.settings.WorkerOperations, Long: h.settings.WorkerLong,
		Kinds: []job.Register{func(workers *river.Workers) {
			river.AddWorker(workers, &operator.LinkMailer{DB: h.db, Key: h.key, Sender: sender, URL: h.settings.ControlURL})
			river.AddWorker(workers, &signup.CodeMailer{DB: h.db, Key: h.key, Sender: sender})
			river.AddWorker(workers, &signup.ApprovalMailer{DB: h.db, Sender: sender})
			river.AddWorker(workers, &signup.DecisionMailer{DB: h.db, Sender: sender})
			river.AddWorker(workers, &billing.DueMailer{DB: h.db, Sender: sender, Addresses: h.settings.addresses()})
			river.AddWorker(workers, &tenant.OwnerMailer{DB: h.db, Key: h.key, Sender: sender, Addresses: h.settings.addresses()})
		}},
	})
	if err != nil {
		return err
	}
	var sweeps sync.WaitGroup
	sweeps.Go(func() { every(ctx, 30*time.Second, h.log, "expire sign-ups", h.rooms.Signups.Sweep) })
	sweeps.Go(func() { every(ctx, time.Second, h.log, "fill the warm pool", h.rooms.Provision.Fill) })
	sweeps.Go(func() { every(ctx, time.Hour, h.log, "forget ended sessions", h.rooms.Operators.Sweep) })
	sweeps.Go(func() { every(ctx, 10*time.Second, h.log, "fence and purge", h.lifecycle.Sweep) })
	sweeps.Go(func() {
		every(ctx, 5*time.Second, h.log, "bring roles in line with their plans", h.lifecycle.Limits)
	})
	h.tend(ctx, &sweeps)
	sweeps.Go(func() {
		every(ctx, 30*time.Second, h.log, "ask for the backups that are due", h.rooms.Backups.Schedule)
	})
	sweeps.Go(func() { every(ctx, 10*time.Minute, h.log, "remove old backups", h.rooms.Backups.Sweep) })
	sweeps.Go(func() { every(ctx, time.Minute, h.log, "drop what moves have left", h.rooms.Moves.Sweep) })
	sweeps.Go(func() { every(ctx, time.Hour, h.log, "forget old deliveries", h.rooms.Webhooks.Sweep) })
	courier := webhook.NewCourier(h.db, h.key, h.holder, h.log, webhook.Options{AllowPrivate: h.settings.WebhookPrivate})
	sweeps.Go(func() { courier.Run(ctx) })
	sweeps.Go(func() { reclaim(ctx, h.rooms.Servers, h.holder, h.log) })
	err = worker.Run(ctx)
	sweeps.Wait()
	return err
}

// listen serves the public API, where the process has one, and the internal
// listener.
func (h *house) listen(ctx context.Context, serves bool, checks []httpserver.Check) error {
	if serves {
		checks = append(checks, httpserver.Check{Name: "turnstile", Note: h.settings.TurnstileNote()})
	}
	internal := httpserver.NewInternal(h.registry, checks...)
	if !serves {
		return httpserver.Run(ctx, httpserver.Options{
			Logger: h.log, Addr: h.settings.InternalListen, Handler: internal, Draining: internal.Drain,
		})
	}
	proxies, err := httpserver.ParseProxies(h.settings.TrustedProxies)
	if err != nil {
		return err
	}
	h.rooms.Jobs, err = h.jobsPage(ctx)
	if err != nil {
		return err
	}
	draining := make(chan struct{})
	handler, err := httpapi.New(h.rooms, httpapi.Options{
		Log: h.log, Metrics: httpserver.NewMetrics(h.registry), Tracing: h.tracing, TrustedProxies: proxies,
		SignupOrigins: h.settings.SignupOrigins, Turnstile: turnstile.New(h.settings.Settings), SecureCookies: h.settings.secureCookies(),
		Pulse: h.pulse, Draining: draining,
	})
	if err != nil {
		return err
	}
	return httpserver.Run(ctx, httpserver.Options{
		Logger: h.log, Addr: h.settings.Listen, Handler: handler,
		InternalAddr: h.settings.InternalListen, Internal: internal,
		Draining: func() { internal.Drain(); close(draining) },
	})
}

func (h *house) jobsPage(ctx context.Context) (http.Handler, error) {
	page, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(h.queue.Client, nil), Logger: h.log, Prefix: "/jobs",
	})
	if err != nil {
		return nil, fmt.Errorf("make the jobs page: %w", err)
	}
	if err := page.Start(ctx); err != nil {
		return nil, fmt.Errorf("start the jobs page: %w", err)
	}
	return page, nil
}
