package main

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/support"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/usage"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/pause"
)

const password = "correct horse battery staple"

// world is a control plane as the process furnishes it, whose operations wait until a
// test has them run.
type world struct {
	*fleettest.World

	url    string
	zone   zone
	runner *operation.Runner
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: fleettest.New(t), zone: zone{}}
	queue := w.UseQueue(t)
	db, key, quiet := replay.DB{Pool: w.Pool}, w.Keys.Control, slog.New(slog.DiscardHandler)
	files, err := storage.Open("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	addresses := tenant.Addresses{BaseDomain: "ouvira.test", Scheme: "https"}
	life := lifecycle.NewService(db, w.Store, w.Servers, quiet, lifecycle.Options{})
	tenants := &tenant.Service{DB: db, Provision: w.Provision, Lifecycle: life, Addresses: addresses}
	backups := backup.NewService(db, w.Store, w.Servers, w.Public, key, backup.Options{Store: files, Tenants: tenants, Log: quiet})
	life.BackUpBy(backups)
	rooms := httpapi.Rooms{
		DB: db, Operators: &operator.Service{DB: db, Key: key, Jobs: queue}, Tenants: tenants, Servers: w.Servers, Operations: w.Store,
		Signups: &signup.Service{DB: db, Key: key, Tenants: tenants, Provision: w.Provision, Operations: w.Store, Jobs: queue, Approval: true},
		Billing: &billing.Service{DB: db, Tenants: tenants, Jobs: queue, Log: quiet}, Usage: &usage.Service{DB: db, Servers: w.Servers, Log: quiet},
		Domains: &domain.Service{DB: db, BaseDomain: "ouvira.test", Resolver: w.zone}, Provision: w.Provision,
		Moves:     move.NewService(db, w.Store, w.Servers, w.Public, quiet, move.Options{}),
		Reconcile: reconcile.NewService(db, w.Servers, quiet), Backups: backups, Webhooks: &webhook.Service{DB: db, Key: key},
	}
	rooms.Keys = keyring.NewService(db, w.Store, key, w.Public, backups, quiet)
	rooms.Repairer = reconcile.NewRepairer(rooms.Reconcile, w.Store, life, w.Provision, w.Public)
	rooms.Adopter = reconcile.NewAdopter(rooms.Reconcile, w.Store, tenants, w.Public)
	rooms.Support = &support.Service{DB: db, Operators: rooms.Operators, Addresses: addresses}
	handlers := backups.Handlers()
	handlers[provision.Kind], handlers[move.Kind], handlers[move.DrainKind], handlers[reconcile.KindRepair] = w.Provision, rooms.Moves, rooms.Moves.Drains(), rooms.Repairer
	handlers[provision.KindRotate], handlers[provision.KindRotateKey] = w.Provision.Rotations(), w.Provision.KeyRotations()
	handlers[keyring.KindRotate] = rooms.Keys.Handler(tenants)
	maps.Copy(handlers, life.Handlers())
	w.runner = operation.NewRunner(w.Store, "test", quiet, handlers)
	rooms.Runner = w.runner
	handler, err := httpapi.New(rooms, httpapi.Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	w.url = s.URL
	_, err = rooms.Operators.Create(t.Context(), &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"},
		operator.New{Email: "ada@ouvira.example", FullName: "Ada Lovelace", Role: operator.RoleOwner, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// zone are TXT records by name: what the DNS of the test has.
type zone map[string]string

// LookupTXT implements domain.Resolver.
func (z zone) LookupTXT(_ context.Context, name string) ([]string, error) {
	name = strings.TrimSuffix(name, ".")
	if z[name] == "" {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return []string{z[name]}, nil
}

// working runs operations, as workers do, until the returned function is called.
func (w *world) working(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pause.For(ctx, 20*time.Millisecond) {
			rows, err := w.Pool.Query(ctx, "SELECT id FROM control.operations WHERE status IN ('queued', 'running') AND wake_at <= now() + interval '20 seconds' ORDER BY id")
			if err != nil {
				continue
			}
			ids, _ := pgx.CollectRows(rows, pgx.RowTo[[16]byte]) // asked again
			for _, id := range ids {
				_ = w.runner.Run(ctx, id) // told by the operation
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// exec looks behind the scenes.
func (w *world) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.SuperuserURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
