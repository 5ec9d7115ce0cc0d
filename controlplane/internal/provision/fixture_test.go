package provision_test

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
)

func TestMain(m *testing.M) { fleettest.Main(m) }

// world is one control plane, and who runs what makes tenants and databases to spare.
type world struct {
	*fleettest.World

	runner *operation.Runner
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: fleettest.New(t)}
	w.runner = w.Runner(map[string]operation.Handler{
		provision.Kind: w.Provision, provision.KindWarm: w.Provision.Warm(), provision.KindWarmOff: w.Provision.WarmOff(),
	})
	return w
}

// signup writes a verified sign-up.
func (w *world) signup(t *testing.T, slug string) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	_, err := w.Pool.Exec(t.Context(), `
		INSERT INTO control.signups (id, company_name, slug, full_name, email, password_hash, expires_at)
		VALUES ($1, 'Initech GmbH', $2, 'Bill Lumbergh', 'bill@initech.example', '$argon2id$hash', now() + interval '1 hour')`, id, slug)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) run(t *testing.T, op uuid.UUID) *operation.Operation {
	t.Helper()
	return w.Run(t, w.runner, op)
}

func (w *world) mustRun(t *testing.T, op uuid.UUID) {
	t.Helper()
	w.MustRun(t, w.runner, op)
}

// made is what a tenant's row says.
type made struct {
	Status, Reason string
	Server         *uuid.UUID
	Database       *string
	Incarnation    int
	Credential     []byte
	SchemaVersion  int64
	Keys           json.RawMessage
}

func (w *world) made(t *testing.T, tenantID uuid.UUID) made {
	t.Helper()
	var m made
	err := w.Pool.QueryRow(t.Context(), `
		SELECT status, status_reason, server_id, database_name, incarnation, credential, schema_version, signing_keys
		FROM control.tenants WHERE id = $1`, tenantID).
		Scan(&m.Status, &m.Reason, &m.Server, &m.Database, &m.Incarnation, &m.Credential, &m.SchemaVersion, &m.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
