package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/billing"
	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/domain"
	"github.com/ouvira/ouvira/controlplane/internal/httpapi"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/lifecycle"
	"github.com/ouvira/ouvira/controlplane/internal/move"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/reconcile"
	"github.com/ouvira/ouvira/controlplane/internal/replay"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/support"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/usage"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

const password = "correct horse battery staple"

// world is a control plane without a worker: what it asks for stays queued.
type world struct {
	control  controltest.Control
	keys     controltest.Keys
	rooms    httpapi.Rooms
	queue    *job.Queue
	draining chan struct{}
	url      string
}

func newWorld(t *testing.T, change ...func(*httpapi.Options)) *world {
	t.Helper()
	return newWorldOn(t, controltest.New(t), change...)
}

func newWorldOn(t *testing.T, control controltest.Control, change ...func(*httpapi.Options)) *world {
	t.Helper()
	w := &world{control: control, keys: controltest.NewKeys(t), draining: make(chan struct{})}
	quiet := slog.New(slog.DiscardHandler)
	db := replay.DB{Pool: w.control.Pool}
	var err error
	if w.queue, err = job.NewInsertOnly(w.control.Pool, nil); err != nil {
		t.Fatal(err)
	}
	operations := operation.NewStore(db, w.queue)
	servers := server.NewService(db, w.keys.Control, quiet, server.Options{})
	provisioning := provision.NewService(db, operations, servers, w.keys.Public, w.keys.Control, quiet, provision.Options{})
	tenants := &tenant.Service{
		DB: db, Provision: provisioning, Lifecycle: lifecycle.NewService(db, operations, servers, quiet, lifecycle.Options{}),
		Addresses: tenant.Addresses{BaseDomain: "ouvira.test", Scheme: "https"},
	}
	w.rooms = httpapi.Rooms{
		DB: db, Operators: &operator.Service{DB: db, Key: w.keys.Control, Jobs: w.queue}, Tenants: tenants, Servers: servers, Operations: operations,
		Signups: &signup.Service{
			DB: db, Key: w.keys.Control, Tenants: tenants, Provision: provisioning, Operations: operations, Jobs: w.queue,
		},
		Billing:   &billing.Service{DB: db, Tenants: tenants, Jobs: w.queue, Log: quiet},
		Usage:     &usage.Service{DB: db, Servers: servers, Log: quiet},
		Domains:   &domain.Service{DB: db, BaseDomain: "ouvira.test"},
		Provision: provisioning,
		Moves:     move.NewService(db, operations, servers, w.keys.Public, quiet, move.Options{}),
		Reconcile: reconcile.NewService(db, servers, quiet),
		Backups:   backup.NewService(db, operations, servers, w.keys.Public, w.keys.Control, backup.Options{Store: storedIn(t), Tenants: tenants, Log: quiet}),
		Jobs:      http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "jobs") }),
	}
	handlers := w.rooms.Backups.Handlers()
	handlers[move.Kind], handlers[move.DrainKind], handlers[provision.Kind] = w.rooms.Moves, w.rooms.Moves.Drains(), provisioning
	w.rooms.Runner = operation.NewRunner(operations, "test", quiet, handlers)
	w.rooms.Keys = keyring.NewService(db, operations, w.keys.Control, w.keys.Public, w.rooms.Backups, quiet)
	w.rooms.Repairer = reconcile.NewRepairer(w.rooms.Reconcile, operations, tenants.Lifecycle, provisioning, w.keys.Public)
	w.rooms.Adopter = reconcile.NewAdopter(w.rooms.Reconcile, operations, tenants, w.keys.Public)
	w.rooms.Support = &support.Service{DB: db, Operators: w.rooms.Operators, Addresses: tenants.Addresses}
	w.rooms.Webhooks = &webhook.Service{DB: db, Key: w.keys.Control}
	options := httpapi.Options{Log: quiet, Draining: w.draining, SignupOrigins: []string{"https://www.ouvira.test"}}
	for _, f := range change {
		f(&options)
	}
	handler, err := httpapi.New(w.rooms, options)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	w.url = s.URL
	return w
}

// storedIn is a storage of backups of the test's own.
func storedIn(t *testing.T) storage.Store {
	t.Helper()
	store, err := storage.Open("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func (w *world) cli() *audit.Actor {
	return &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"}
}

// operator makes an account and signs it in.
func (w *world) operator(t *testing.T, role operator.Role) (token string) {
	t.Helper()
	email := string(role) + "-" + uuid.NewString() + "@ouvira.test"
	if _, err := w.rooms.Operators.Create(t.Context(), w.cli(), operator.New{Email: email, Role: role, Password: password}); err != nil {
		t.Fatal(err)
	}
	tokens, err := w.rooms.Operators.Login(t.Context(), operator.Credentials{Email: email, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return tokens.Access
}

// answer of the API.
type answer struct {
	status int
	header http.Header
	raw    string
	json   map[string]any
}

// field walks into the document: "errors.0.field".
func (a answer) field(path string) any {
	var v any = a.json
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i := int(name[0] - '0')
			if i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func (a answer) text(path string) string {
	s, _ := a.field(path).(string)
	return s
}

// fields are the fields that a problem names.
func (a answer) fields() []string {
	var names []string
	list, _ := a.json["errors"].([]any)
	for _, e := range list {
		names = append(names, e.(map[string]any)["field"].(string))
	}
	return names
}

// call sends JSON: a string as it is, anything else encoded.
func (w *world) call(t *testing.T, token, method, path string, body any, header ...string) answer {
	t.Helper()
	var sent io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		sent = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		sent = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, w.url+path, sent)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &a.json)
	return a
}

// want is call that fails the test on another status.
func (w *world) want(t *testing.T, status int, token, method, path string, body any, header ...string) answer {
	t.Helper()
	a := w.call(t, token, method, path, body, header...)
	if a.status != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.raw)
	}
	return a
}

func one[T any](t *testing.T, w *world, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := w.control.Pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (w *world) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.control.SuperuserURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// eventually polls a condition.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func form(slug string) map[string]any {
	return map[string]any{
		"company_name": "Initech", "slug": slug, "full_name": "Bill Lumbergh",
		"email": slug + "@initech.example", "password": password,
	}
}

// active makes a tenant that is routed, without a database.
func (w *world) active(t *testing.T, slug string) (id string) {
	t.Helper()
	id = uuid.Must(uuid.NewV7()).String()
	w.exec(t, `INSERT INTO control.tenants (id, slug, name, status, plan_id)
		SELECT $1, $2, $2, 'active', id FROM control.plans WHERE code = 'standard'`, id, slug)
	w.exec(t, "SELECT control.publish_route($1)", id)
	return id
}

func (w *world) routeVersion(t *testing.T, tenantID string) int64 {
	t.Helper()
	return one[int64](t, w, "SELECT version FROM node.routes_v1 WHERE tenant_id = $1", tenantID)
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
