package keyring_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/keyring"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/operator"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/signup"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/controlplane/internal/webhook"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/seal"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

// world has values that the control key has sealed, more than a batch of one sort, and
// backups of which nobody has written down with which key they are sealed.
type world struct {
	*fleettest.World

	files  string // of backups
	server server.Server
	first  *seal.ControlKey
	sealed map[string]int // how many of each sort
}

const many = 230

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: fleettest.New(t), files: t.TempDir()}
	w.first = w.Keys.Control
	w.server = w.AddServer(t, "a", fleettest.TenantServer(t, testdb.System).ProvisionerURL, 10)
	w.sealed = map[string]int{"servers": 1, "movers": 1, "webhooks": many, "second_factors": 1}
	w.Exec(t, "UPDATE control.servers SET mover_credential = $2 WHERE id = $1", w.server.ID, w.seal(t, server.MoverContext(w.server.ID)))
	for range many {
		id := uuid.Must(uuid.NewV7())
		w.Exec(t, "INSERT INTO control.webhook_endpoints (id, url, events, secret) VALUES ($1, 'https://hooks.example.com/', '{tenant.created}', $2)", id, w.seal(t, webhook.SecretContext(id)))
	}
	who, err := (&operator.Service{DB: w.Pool, Key: w.first}).Create(t.Context(), &audit.Actor{Kind: audit.KindCLI, ID: "test", Name: "test"},
		operator.New{Email: "ada@ouvira.example", FullName: "Ada Lovelace", Role: operator.RoleOwner, Password: "correct horse battery staple"})
	if err != nil {
		t.Fatal(err)
	}
	w.Exec(t, "INSERT INTO control.operator_factors (operator_id, secret) VALUES ($1, $2)", who.ID, w.seal(t, operator.FactorContext(who.ID)))
	return w
}

const secret = "s3cret"

func (w *world) seal(t *testing.T, of []byte) []byte {
	t.Helper()
	sealed, err := w.first.Seal([]byte(secret), of)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// archived writes down a backup of the tenant as an earlier release did; one whose archive
// is not there is gone.
func (w *world) archived(t *testing.T, tenant uuid.UUID, there bool) (id uuid.UUID) {
	t.Helper()
	id = uuid.Must(uuid.NewV7())
	if there {
		out, err := os.Create(w.files + "/" + id.String())
		if err != nil {
			t.Fatal(err)
		}
		archive, err := backup.Seal(w.first, out)
		if err == nil {
			_, err = archive.Write([]byte("a dump"))
		}
		if err == nil {
			err = archive.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = out.Close()
	}
	w.Exec(t, `INSERT INTO control.backups (id, tenant_id, reason, status, object, incarnation, sha256, manifest, finished_at)
		VALUES ($1::uuid, $2, 'schedule', 'complete', $1::text, 1, '\x00', '{}', now())`, id, tenant)
	return id
}

// keys are rooms of a process that has these keys.
func (w *world) keys(t *testing.T, control *seal.ControlKey) *keyring.Service {
	t.Helper()
	files, err := storage.Open("file://" + w.files)
	if err != nil {
		t.Fatal(err)
	}
	backups := backup.NewService(w.Pool, w.Store, w.Servers, w.Public, control, backup.Options{Store: files, Log: w.Log})
	return keyring.NewService(w.Pool, w.Store, control, w.Public, backups, w.Log)
}

// lives lets a process be heard of that has these keys; nil: it tells nothing.
func (w *world) lives(t *testing.T, id string, control *seal.ControlKey) {
	t.Helper()
	w.Exec(t, `INSERT INTO control.members (id, kind, static_until, last_seen_at) VALUES ($1, 'worker', now() + interval '1 hour', now() + interval '1 hour')
		ON CONFLICT (id) DO NOTHING`, id)
	if control != nil {
		if err := w.keys(t, control).Tell(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t *testing.T, file string) *seal.ControlKey {
	t.Helper()
	key, err := seal.LoadControlKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func owner() *audit.Actor {
	return &audit.Actor{Kind: audit.KindOperator, ID: uuid.NewString(), Name: "ada@ouvira.example"}
}

// runs the operation with the keys, once.
func (w *world) runs(t *testing.T, keys *keyring.Service, op uuid.UUID) *operation.Operation {
	t.Helper()
	return w.Run(t, w.Runner(map[string]operation.Handler{keyring.KindRotate: keys.Handler(nil)}), op)
}

func (w *world) rotate(t *testing.T, keys *keyring.Service) uuid.UUID {
	t.Helper()
	op, err := keys.Rotate(t.Context(), owner(), keyring.Control)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// list tells what is known of a key, as one line.
func list(t *testing.T, keys *keyring.Service, kind keyring.Kind, id uint32) string {
	t.Helper()
	all, err := keys.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(all, func(k keyring.Key) bool { return k.Kind == kind && k.ID == id })
	if at < 0 {
		return "unknown"
	}
	k := all[at]
	needs := make([]string, 0, len(k.Needs))
	for _, n := range k.Needs {
		needs = append(needs, fmt.Sprintf("%d %s", n.Count, n.What))
	}
	text := string(k.State) + ": " + strings.Join(needs, ", ")
	if k.Free {
		text += "free"
	}
	return text
}

// allUnder looks that every value is sealed with the key, and opens with it alone.
func (w *world) allUnder(t *testing.T, key *seal.ControlKey) {
	t.Helper()
	for what, query := range map[string]string{
		"servers":        "SELECT id, provisioner_credential FROM control.servers",
		"movers":         "SELECT id, mover_credential FROM control.servers",
		"webhooks":       "SELECT id, secret FROM control.webhook_endpoints",
		"second_factors": "SELECT operator_id, secret FROM control.operator_factors",
	} {
		of := map[string]func(uuid.UUID) []byte{
			"servers": server.CredentialContext, "movers": server.MoverContext, "webhooks": webhook.SecretContext, "second_factors": operator.FactorContext,
		}[what]
		rows, err := w.Pool.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for rows.Next() {
			var id uuid.UUID
			var sealed []byte
			if err := rows.Scan(&id, &sealed); err != nil {
				t.Fatal(err)
			}
			count++
			plain, err := key.Unseal(sealed, of(id))
			if err != nil || seal.KeyID(sealed) != key.Ring().Primary || (what != "servers" && string(plain) != secret) {
				t.Fatalf("%s: %q under key %d, want %d: %v", what, plain, seal.KeyID(sealed), key.Ring().Primary, err)
			}
		}
		if rows.Err() != nil || count != w.sealed[what] {
			t.Errorf("%d %s, want %d: %v", count, what, w.sealed[what], rows.Err())
		}
	}
}

// The control key is rotated while processes go from one key to the other: nothing is
// sealed anew before all of them have the new one, and the old one is not free before
// nothing needs it, backups included.
func TestSec38TheControlKeyIsRotated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.Tenant(t, "acme")
	archive := w.archived(t, acme, true)
	w.archived(t, acme, false)
	file := seal.KeyFiles{Secret: w.ControlFile}
	if _, err := file.Add(); err != nil {
		t.Fatal(err)
	}
	known := load(t, w.ControlFile)
	if _, err := file.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted := load(t, w.ControlFile)
	old, fresh := w.first.Ring().Primary, promoted.Ring().Primary
	keys := w.keys(t, promoted)

	w.lives(t, "api", promoted)
	w.lives(t, "worker", w.first)
	w.lives(t, "silent", nil)
	op := w.rotate(t, keys)
	if _, err := keys.Rotate(t.Context(), owner(), keyring.Control); !fault.Is(err, fault.KindConflict) {
		t.Errorf("two at once: %v", err)
	}
	waits := func(code, about string) {
		t.Helper()
		o := w.runs(t, keys, op)
		if o.Status != operation.Queued || o.Error == nil || o.Error.Code != code || !strings.Contains(o.Error.Message, about) {
			t.Fatalf("%s, %+v; want it to wait for %s with %s", o.Status, o.Error, about, code)
		}
	}
	waits("keys_untold", "silent")
	w.Exec(t, "DELETE FROM control.members WHERE id = 'silent'")
	waits("key_unknown", fmt.Sprintf("Process worker does not have key %d", fresh))
	w.lives(t, "worker", known)
	waits("key_not_sealing", fmt.Sprintf("still seals with key %d", old))
	if got, want := list(t, keys, keyring.Control, old), "opens: 1 movers, 1 second_factors, 1 servers, 230 webhooks, 2 backups_unseen, 1 processes, 1 recent"; got != want {
		t.Errorf("before: %s\nwant    %s", got, want)
	}

	w.lives(t, "worker", promoted)
	if o := w.runs(t, keys, op); o.Status != operation.Succeeded {
		t.Fatalf("%+v", o.Error)
	}
	if err := file.Remove(old); err != nil {
		t.Fatal(err)
	}
	w.allUnder(t, load(t, w.ControlFile))
	expect := func(want string) {
		t.Helper()
		if got := list(t, keys, keyring.Control, old); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	expect("opens: 1 backups, 1 recent")
	w.Exec(t, "UPDATE control.key_rings SET changed_at = now() - interval '20 minutes'")
	expect("opens: 1 backups")
	w.Exec(t, "UPDATE control.backups SET status = 'removed' WHERE id = $1", archive)
	expect("opens: free")
	// A mail server is away: what was derived for mails waits. A tenant that waits for its
	// database names the key of its owner's link.
	for _, mail := range []river.JobArgs{tenant.OwnerMail{}, operator.LinkMail{}, signup.CodeMail{}} {
		w.Exec(t, `INSERT INTO river.river_job (kind, max_attempts, state, args) VALUES ($1, 25, 'retryable', '{}')`, mail.Kind())
	}
	expect("opens: 3 mails_unseen")
	w.Exec(t, "UPDATE river.river_job SET state = 'completed', finalized_at = now()")
	w.Exec(t, `INSERT INTO control.operations (id, kind, status, params, created_by) VALUES
		(gen_random_uuid(), 'tenant.provision', 'queued', jsonb_build_object('link_key', $1::bigint), 'x'),
		(gen_random_uuid(), 'tenant.provision', 'queued', jsonb_build_object('link_key', $2::bigint), 'x')`, old, fresh)
	expect("opens: 1 owner_links")
	w.Exec(t, "UPDATE control.operations SET status = 'failed' WHERE kind = 'tenant.provision'")
	if got := list(t, keys, keyring.Control, fresh); !strings.HasPrefix(got, "seals: 1 movers, ") {
		t.Error(got)
	}
}

// A key that was taken away too early is named, by the list and by the rotation, which
// does what can be done without it; put back, the rotation goes through.
func TestSec38AKeyThatWasTakenAwayTooEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	whole := w.ControlFile
	file := seal.KeyFiles{Secret: whole}
	if _, err := file.Add(); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Promote(); err != nil {
		t.Fatal(err)
	}
	both := load(t, whole)
	old := w.first.Ring().Primary
	if err := file.Remove(old); err != nil {
		t.Fatal(err)
	}
	alone := load(t, whole)
	// One of the values is under the new key already.
	factor := fleettest.One[uuid.UUID](t, w.Pool, "SELECT operator_id FROM control.operator_factors")
	sealed, err := alone.Seal([]byte(secret), operator.FactorContext(factor))
	if err != nil {
		t.Fatal(err)
	}
	w.Exec(t, "UPDATE control.operator_factors SET secret = $1", sealed)

	keys := w.keys(t, alone)
	w.lives(t, "api", alone)
	if got, want := list(t, keys, keyring.Control, old), "missing: 1 movers, 1 servers, 230 webhooks"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	o := w.runs(t, keys, w.rotate(t, keys))
	if o.Status != operation.Failed || o.Error.Code != "key_missing" || !strings.Contains(o.Error.Message, fmt.Sprintf("key %d", old)) {
		t.Fatalf("%s %+v", o.Status, o.Error)
	}
	if _, err := server.NewService(w.Pool, alone, w.Log, server.Options{}).Open(context.Background(), w.server.ID, 1); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("key %d is not in the key file", old)) {
		t.Errorf("a server whose credential does not open: %v", err)
	}

	keys = w.keys(t, both)
	w.lives(t, "api", both)
	if o := w.runs(t, keys, w.rotate(t, keys)); o.Status != operation.Succeeded {
		t.Fatalf("%+v", o.Error)
	}
	w.allUnder(t, alone)
}
