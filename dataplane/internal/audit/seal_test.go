package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb"
)

func TestMain(m *testing.M) {
	testdb.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/ouvira/ouvira/shared/testdb/guardian.(*guardian).start.func1"))
	})
}

const smallBatch = 5

// sealing is two tenants, a control database that keeps their heads, and a
// node's way to all of it.
type sealing struct {
	*tenanttest.Fixture

	control string // superuser
	heads   *audit.ControlHeads
	sealer  *audit.Sealer
}

func newSealing(t *testing.T) *sealing {
	t.Helper()
	f := tenanttest.New(t)
	s := &sealing{Fixture: f, control: f.Control(t, f.A, f.B)}
	s.heads = audit.NewControlHeads(pool(t, tenanttest.WithRole(s.control, migrations.NodeRole)))
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	must(t, err)
	s.sealer = audit.NewSealer(s.heads, identity.New(tokens, f.Key)).WithBatches(smallBatch)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pool(t *testing.T, address string) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), address)
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

// app is a pool of the tenant's own role.
func app(t *testing.T, tenant tenanttest.Tenant) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(tenant.AdminURL)
	must(t, err)
	u.User = url.UserPassword(tenant.Route.Database, tenant.Password)
	return pool(t, u.String())
}

func of(tenant tenanttest.Tenant, db audit.Conn) audit.Tenant {
	return audit.Tenant{Route: tenant.Route, Do: func(_ context.Context, work func(audit.Conn) error) error { return work(db) }}
}

// write adds records to both logs, as the application does.
func write(t *testing.T, db pg.Querier, activities, events int) {
	t.Helper()
	user, company := int64(1), int64(1)
	who := audit.Who{UserID: &user, Display: "Jane\nDoe"}
	for i := range activities {
		must(t, things.Did(t.Context(), db, who, &company, nil, "DO", map[string]any{"n": i, "text": "a \"quoted\"\n2nd line ü"}))
	}
	for range events {
		must(t, audit.Security(t.Context(), db, who, "LOGIN", nil))
	}
}

type thing struct {
	Name string `json:"name" audit:"show"`
}

var things = audit.Of[thing]("seal_test_thing")

func (s *sealing) seal(t *testing.T, tenant tenanttest.Tenant, db audit.Conn, want int) {
	t.Helper()
	rows, err := s.sealer.Seal(t.Context(), of(tenant, db))
	must(t, err)
	if rows != want {
		t.Fatalf("sealed %d rows, want %d", rows, want)
	}
}

func (s *sealing) verify(t *testing.T, tenant tenanttest.Tenant, db pg.Querier) *audit.Report {
	t.Helper()
	kept, err := s.heads.Kept(t.Context(), tenant.ID)
	must(t, err)
	report, err := audit.Verify(t.Context(), db, audit.Against{Kept: kept, Keys: tenant.Route.Keys})
	must(t, err)
	return report
}

func wantValid(t *testing.T, r *audit.Report, batches, rows, unsealed int64) {
	t.Helper()
	if !r.Valid() || r.Batches != batches || r.Rows != rows || r.Unsealed != unsealed || r.Next != 0 {
		t.Fatalf("%d batches, %d rows, %d unsealed, next %d, problems %v; want %d, %d, %d", r.Batches, r.Rows, r.Unsealed, r.Next, r.Problems, batches, rows, unsealed)
	}
}

func TestSealingAndVerifying(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a, b := app(t, s.A), app(t, s.B)
	wantValid(t, s.verify(t, s.A, a), 0, 0, 0)
	s.seal(t, s.A, a, 0)
	write(t, a, 12, 3)
	write(t, b, 1, 0)
	s.seal(t, s.A, a, 15)
	s.seal(t, s.A, a, 0)
	s.seal(t, s.B, b, 1)
	write(t, a, 0, 4)
	r := s.verify(t, s.A, a)
	wantValid(t, r, 4, 15, 4) // 5 + 5 + 2, and 3
	if r.UnsealedSince == nil || r.Kept == nil || r.Kept.Batch != 4 || string(r.Kept.Hash) != string(r.Head) || r.Tenant != s.A.ID {
		t.Errorf("the report is %+v", r)
	}
	s.seal(t, s.A, a, 4)
	wantValid(t, s.verify(t, s.A, a), 5, 19, 0)
	wantValid(t, s.verify(t, s.B, b), 1, 1, 0)

	// In pieces it says the same.
	var batches, rows int64
	kept, err := s.heads.Kept(t.Context(), s.A.ID)
	must(t, err)
	from := int64(1)
	for range 10 {
		r, err := audit.Verify(t.Context(), a, audit.Against{Kept: kept, Keys: s.A.Route.Keys, From: from, MaxRows: 6})
		must(t, err)
		if !r.Valid() {
			t.Fatalf("from %d: %v", from, r.Problems)
		}
		batches, rows, from = batches+r.Batches, rows+r.Rows, r.Next
		if from == 0 {
			break
		}
	}
	if batches != 5 || rows != 19 {
		t.Errorf("in pieces: %d batches, %d rows", batches, rows)
	}
}

// Ids of transactions that were rolled back, or are not committed yet, are
// neither sealed nor missed.
func TestSealingWaitsForWriters(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	write(t, a, 1, 0)
	open, err := a.Begin(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = open.Rollback(context.Background()) }) // before the pool is closed
	write(t, open, 1, 0)
	write(t, a, 1, 0) // a higher id, committed before the lower
	if _, err := s.sealer.Seal(t.Context(), of(s.A, a)); pg.Code(err) != pg.CodeLockNotAvailable {
		t.Fatalf("sealing beside a writer: %v; want 55P03", err)
	}
	must(t, open.Commit(t.Context()))
	s.seal(t, s.A, a, 3)
	gone, err := a.Begin(t.Context())
	must(t, err)
	write(t, gone, 2, 1)
	must(t, gone.Rollback(t.Context()))
	s.seal(t, s.A, a, 0)
	write(t, a, 1, 0)
	s.seal(t, s.A, a, 1)
	wantValid(t, s.verify(t, s.A, a), 2, 4, 0)
}

// Two nodes that seal at once make one chain.
func TestNodesSealAtOnce(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	total := 0
	for range 6 {
		write(t, a, 7, 2)
		total += 9
		var nodes sync.WaitGroup
		for range 3 {
			nodes.Go(func() {
				if _, err := s.sealer.Seal(t.Context(), of(s.A, a)); err != nil && pg.Code(err) != pg.CodeLockNotAvailable {
					t.Error(err)
				}
			})
		}
		nodes.Wait()
	}
	_, err := s.sealer.Seal(t.Context(), of(s.A, a)) // what the last race has left
	must(t, err)
	r := s.verify(t, s.A, a)
	if !r.Valid() || r.Rows != int64(total) || r.Unsealed != 0 || r.Kept == nil || r.Kept.Batch != r.HeadBatch {
		t.Errorf("%d rows of %d, %d unsealed, kept %v, head %d, problems %v", r.Rows, total, r.Unsealed, r.Kept, r.HeadBatch, r.Problems)
	}
}

// A head that could not be told outside is told the next time.
func TestTheKeeperOfHeadsMayBeAway(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	write(t, a, 1, 0)
	away := audit.NewSealer(awayHeads{}, signerOf(t, s))
	if _, err := away.Seal(t.Context(), of(s.A, a)); err == nil {
		t.Fatal("the keeper was away, and nothing was said")
	}
	if kept, _ := s.heads.Kept(t.Context(), s.A.ID); len(kept) != 0 {
		t.Fatalf("kept %v", kept)
	}
	s.seal(t, s.A, a, 0)
	wantValid(t, s.verify(t, s.A, a), 1, 1, 0)
	if kept, _ := s.heads.Kept(t.Context(), s.A.ID); len(kept) != 1 || kept[0].Batch != 1 {
		t.Errorf("kept %v", kept)
	}
}

func signerOf(t *testing.T, s *sealing) audit.Signer {
	t.Helper()
	tokens, err := identity.NewAccessTokens("https", "localhost", "")
	must(t, err)
	return identity.New(tokens, s.Key)
}

// awayHeads knows nothing and takes nothing.
type awayHeads struct{}

func (awayHeads) Kept(context.Context, uuid.UUID) ([]audit.Head, error) { return nil, nil }

func (awayHeads) PendingRestore(context.Context, uuid.UUID, int) (uuid.UUID, error) {
	return uuid.Nil, nil
}

func (awayHeads) RestoreRecorded(context.Context, uuid.UUID, int) error { return errors.New("away") }

func (awayHeads) Advance(context.Context, uuid.UUID, audit.Head, audit.Head) (bool, error) {
	return false, errors.New("away")
}

// tampering is what a superuser does in the tenant's database, and what the
// verifier says of it.
type tampering struct {
	name, sql string
	wants     []string // "batch log row what", each found as a prefix
}

// The rows of 12 activities are 1 to 12 in batches 1 (1–5), 2 (6–10) and
// 3 (11–12); the owner's security events follow in batch 4.
var tamperings = []tampering{
	{"edits a row", "UPDATE ledger.activity_logs SET user_display = 'Mallory' WHERE id = 7", []string{"2 activity 7 The row was changed."}},
	{"edits a value", `UPDATE ledger.activity_logs SET new_values = new_values || '{"n": 99}' WHERE id = 1`, []string{"1 activity 1 The row was changed."}},
	{"empties a value", "UPDATE ledger.activity_logs SET new_values = NULL WHERE id = 2", []string{"1 activity 2 The row was changed."}},
	{"turns back the clock", "UPDATE ledger.activity_logs SET created_at = created_at - interval '1 microsecond' WHERE id = 12", []string{"3 activity 12 The row was changed."}},
	{"hides the time", "UPDATE ledger.activity_logs SET created_at = 'infinity' WHERE id = 12", []string{"3 activity 12 The row was changed."}},
	{"moves text between columns", "UPDATE ledger.activity_logs SET entity_type = entity_type || 'D', action = 'O' WHERE id = 3", []string{"1 activity 3 The row was changed."}},
	{"edits the security log", "UPDATE ledger.security_logs SET action = 'LOGOUT' WHERE id = 1", []string{"4 security 1 The row was changed."}},
	{"deletes a row", "DELETE FROM ledger.activity_logs WHERE id = 6", []string{"2 activity 6 The row was deleted."}},
	{"deletes a batch", "DELETE FROM ledger.activity_logs WHERE id BETWEEN 11 AND 12", []string{"3 activity 11 The row was deleted.", "3 activity 12 The row was deleted."}},
	{"puts a row in the place of another", "DELETE FROM ledger.activity_logs WHERE id = 6; UPDATE ledger.activity_logs SET id = DEFAULT WHERE id = 8", []string{"2 activity 6 The row was deleted.", "2 activity 8 The row was deleted."}},
	{"inserts into a sealed range", "INSERT INTO ledger.activity_logs (id, user_display, entity_type, action) OVERRIDING SYSTEM VALUE VALUES (0, 'x', 'x', 'x'), (-5, 'x', 'x', 'x')", []string{"1 activity -5 The row was added", "1 activity 0 The row was added"}},
	{"inserts ahead", "INSERT INTO ledger.activity_logs (id, user_display, entity_type, action) OVERRIDING SYSTEM VALUE VALUES (1000, 'x', 'x', 'x')", []string{"0 activity 1000 The row has an id that was never given"}},
	{"truncates the log", "TRUNCATE ledger.security_logs", []string{"4 security 1 The row was deleted."}},
	{"edits a row and its digest", `UPDATE ledger.activity_logs SET action = 'X' WHERE id = 7;
		UPDATE ledger.seals SET digests = overlay(digests PLACING sha256('x') FROM 49 FOR 32) WHERE batch = 2`, []string{"2   The seal was changed.", "2   The signature is not the tenant's."}},
	{"removes the last seals", "DELETE FROM ledger.seals WHERE batch >= 3", []string{"3   The seals of batches 3 to 4 are gone: the head of batch 4 is kept outside"}},
	{"removes a seal in between", "DELETE FROM ledger.seals WHERE batch = 2", []string{"2   The seals of batches 2 to 2 are gone.", "3   The seal does not follow from the one before."}},
	{"removes everything", "TRUNCATE ledger.seals, ledger.activity_logs, ledger.security_logs", []string{"1   The seals of batches 1 to 4 are gone: the head of batch 4 is kept outside"}},
	{"renumbers", "DELETE FROM ledger.seals WHERE batch = 4; UPDATE ledger.seals SET batch = 4 WHERE batch = 3", []string{"3   The seals of batches 3 to 3 are gone.", "4   The seal was changed."}},
	{"gives the seals to another tenant", "UPDATE ledger.seals SET tenant_id = gen_random_uuid() WHERE batch > 2", []string{"3   The seal was changed.", "3   The seal belongs to another tenant."}},
	{"shortens a seal", "UPDATE ledger.seals SET digests = substr(digests, 1, 47), row_count = 1", []string{"1   The seal was changed.", "1   The seal does not hold the digests of its rows."}},
	{"removes the key", "DELETE FROM ouvira.signing_keys", nil}, // the keys are known from outside
}

func TestSec42ASuperuserWhoChangesTheAuditIsNamed(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	write(t, a, 12, 3)
	s.seal(t, s.A, a, 15)
	superuser := testdb.Connect(t, s.A.AdminURL)
	for _, c := range tamperings {
		tx, err := superuser.Begin(t.Context())
		must(t, err)
		if _, err := tx.Exec(t.Context(), c.sql); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		r := s.verify(t, s.A, tx)
		must(t, tx.Rollback(t.Context()))
		said := sentences(r)
		if r.Valid() != (c.wants == nil) {
			t.Errorf("%s: valid is %v: %v", c.name, r.Valid(), said)
		}
		for _, want := range c.wants {
			if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, want) }) {
				t.Errorf("%s: %q is not among %q", c.name, want, said)
			}
		}
	}
	wantValid(t, s.verify(t, s.A, a), 4, 15, 0)
	// None of it has an effect at the other tenant.
	wantValid(t, s.verify(t, s.B, app(t, s.B)), 0, 0, 0)
}

// A look that ends because too much is wrong is gone on from like any other: each gets
// further than the one before, also past a batch that is wrong all over.
func TestALookAtARuinedAuditComesToAnEnd(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	s.sealer.WithBatches(120)
	a := app(t, s.A)
	write(t, a, 250, 0)
	s.seal(t, s.A, a, 250)
	kept, err := s.heads.Kept(t.Context(), s.A.ID)
	must(t, err)
	superuser := testdb.Connect(t, s.A.AdminURL)
	for sql, wrong := range map[string][]int64{
		"UPDATE ledger.activity_logs SET user_display = 'Mallory'": {1, 2, 3},
		`INSERT INTO ledger.activity_logs (id, user_display, entity_type, action) OVERRIDING SYSTEM VALUE
		 SELECT 1000 + n, 'x', 'x', 'x' FROM generate_series(1, 120) n`: {0},
	} {
		tx, err := superuser.Begin(t.Context())
		must(t, err)
		_, err = tx.Exec(t.Context(), sql)
		must(t, err)
		var found []int64
		from := int64(1)
		for looks := 0; from != 0; looks++ {
			if looks == 10 {
				t.Fatalf("%s: it goes on from batch %d for ever", sql, from)
			}
			r, err := audit.Verify(t.Context(), tx, audit.Against{Kept: kept, Keys: s.A.Route.Keys, From: from})
			must(t, err)
			if r.Valid() {
				t.Errorf("%s: from batch %d on all is well", sql, from)
			}
			for _, p := range r.Problems {
				if !slices.Contains(found, p.Batch) {
					found = append(found, p.Batch)
				}
			}
			from = r.Next
		}
		must(t, tx.Rollback(t.Context()))
		if !slices.Equal(found, wrong) {
			t.Errorf("%s: problems in the batches %v, want %v", sql, found, wrong)
		}
	}
}

func sentences(r *audit.Report) []string {
	var said []string
	for _, p := range r.Problems {
		row := ""
		if p.RowID != nil {
			row = fmt.Sprint(*p.RowID)
		}
		said = append(said, fmt.Sprintf("%d %s %s %s", p.Batch, p.Log, row, p.What))
	}
	return said
}

// Someone who has the superuser and a copy of the signing key, or their own,
// can make a chain that agrees with itself. It does not agree with the heads.
func TestSec42ARewrittenChainDoesNotLeadToTheKeptHead(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	write(t, a, 6, 0)
	s.seal(t, s.A, a, 6)
	superuser := pool(t, s.A.AdminURL)
	exec := func(sql string) {
		t.Helper()
		_, err := superuser.Exec(t.Context(), sql)
		must(t, err)
	}
	exec("UPDATE ledger.activity_logs SET user_display = 'Mallory' WHERE id = 2; DELETE FROM ledger.seals")
	forger := audit.NewSealer(&forgetful{}, signerOf(t, s)).WithBatches(smallBatch)
	if _, err := forger.Seal(t.Context(), of(s.A, superuser)); err != nil {
		t.Fatal(err)
	}
	alone, err := audit.Verify(t.Context(), a, audit.Against{Keys: s.A.Route.Keys})
	must(t, err)
	wantValid(t, alone, 2, 6, 0) // it is a good forgery
	r := s.verify(t, s.A, a)
	if said := sentences(r); len(said) != 1 || !strings.HasPrefix(said[0], "2   The seal is not the one whose head is kept outside") {
		t.Errorf("said: %q", said)
	}
	write(t, a, 1, 0)
	if _, err := s.sealer.Seal(t.Context(), of(s.A, a)); !errors.Is(err, audit.ErrForked) {
		t.Errorf("sealing goes on over a forgery: %v", err)
	}
	kept, err := s.heads.Kept(t.Context(), s.A.ID)
	must(t, err)
	if len(kept) != 1 || kept[0].Batch != 2 {
		t.Errorf("the kept head has moved: %v", kept)
	}

	// With a key of their own: what is newer than the head is signed by nobody
	// who is known.
	other := s.Tenant(t, "mallory")
	exec("DELETE FROM ledger.seals")
	public, err := json.Marshal(other.Route.Keys[0])
	must(t, err)
	sealedKey := superuserValue[[]byte](t, other, "SELECT private_sealed FROM ouvira.signing_keys")
	_, err = superuser.Exec(t.Context(), "INSERT INTO ouvira.signing_keys (kid, public_jwk, private_sealed) VALUES ($1, $2, $3)", other.Kid, public, sealedKey)
	must(t, err)
	mallory := of(other, superuser)
	if _, err := forger.Seal(t.Context(), mallory); err != nil {
		t.Fatal(err)
	}
	none, err := audit.Verify(t.Context(), superuser, audit.Against{Keys: s.A.Route.Keys})
	must(t, err)
	if said := sentences(none); len(said) == 0 || !strings.Contains(said[0], "signed by a key that only this database names") {
		t.Errorf("a foreign key: %q", said)
	}
}

func superuserValue[T any](t *testing.T, tenant tenanttest.Tenant, sql string) T {
	t.Helper()
	var v T
	must(t, testdb.Connect(t, tenant.AdminURL).QueryRow(t.Context(), sql).Scan(&v))
	return v
}

// forgetful keeps nothing, and does not complain.
type forgetful struct{}

func (*forgetful) Kept(context.Context, uuid.UUID) ([]audit.Head, error) { return nil, nil }

func (*forgetful) PendingRestore(context.Context, uuid.UUID, int) (uuid.UUID, error) {
	return uuid.Nil, nil
}

func (*forgetful) RestoreRecorded(context.Context, uuid.UUID, int) error { return nil }

func (*forgetful) Advance(context.Context, uuid.UUID, audit.Head, audit.Head) (bool, error) {
	return true, nil
}

// The keeper moves forward, from what the caller has seen, and never touches
// what it stored on an earlier day.
func TestTheKeptHeadMovesForwardOnly(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	head := func(batch int64) audit.Head {
		return audit.Head{Batch: batch, Hash: make([]byte, 32), Kid: "k", Signature: []byte{1}}
	}
	advance := func(seen, next audit.Head, want bool) {
		t.Helper()
		if stored, err := s.heads.Advance(t.Context(), s.A.ID, seen, next); err != nil || stored != want {
			t.Errorf("from %d to %d: stored %v, %v", seen.Batch, next.Batch, stored, err)
		}
	}
	advance(audit.Head{}, head(3), true)
	advance(audit.Head{}, head(4), false) // somebody else was there
	advance(head(3), head(3), false)
	advance(head(3), head(2), false)
	forked := head(3)
	forked.Hash = append(make([]byte, 31), 1)
	advance(forked, head(4), false)
	control := testdb.Connect(t, s.control)
	_, err := control.Exec(t.Context(), "UPDATE control.audit_heads SET day = day - 1")
	must(t, err)
	advance(head(3), head(4), true)
	advance(head(4), head(9), true)
	kept, err := s.heads.Kept(t.Context(), s.A.ID)
	must(t, err)
	if len(kept) != 2 || kept[0].Batch != 9 || kept[1].Batch != 3 {
		t.Errorf("kept: %v", kept)
	}
	if kept, err := s.heads.Kept(t.Context(), s.B.ID); err != nil || len(kept) != 0 {
		t.Errorf("kept of B: %v, %v", kept, err)
	}
	node := testdb.Connect(t, tenanttest.WithRole(s.control, migrations.NodeRole))
	for _, denied := range []string{"SELECT * FROM control.audit_heads", "DELETE FROM control.audit_heads", "UPDATE control.audit_heads SET batch = 1"} {
		if _, err := node.Exec(t.Context(), denied); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s: %v", denied, err)
		}
	}
	for _, role := range []string{migrations.ControlRole} {
		if _, err := testdb.Connect(t, tenanttest.WithRole(s.control, role)).Exec(t.Context(), "DELETE FROM control.audit_heads"); pg.Code(err) != pg.CodeInsufficientRights {
			t.Errorf("%s deletes heads: %v", role, err)
		}
	}
}

// What a restore brings back is not sealed any further until the restore
// itself stands in the chain, signed.
func TestARestoreIsASignedEvent(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	write(t, a, 3, 0)
	s.seal(t, s.A, a, 3)
	superuser := testdb.Connect(t, s.A.AdminURL)
	for _, sql := range []string{
		"CREATE TABLE public.backup AS SELECT * FROM ledger.activity_logs",
		"CREATE TABLE public.backup_seals AS SELECT * FROM ledger.seals",
	} {
		_, err := superuser.Exec(t.Context(), sql)
		must(t, err)
	}
	write(t, a, 4, 2)
	s.seal(t, s.A, a, 6) // batches 2 and 3
	for _, sql := range []string{
		"TRUNCATE ledger.activity_logs, ledger.security_logs, ledger.seals",
		"ALTER SEQUENCE ledger.activity_logs_id_seq RESTART WITH 4", "ALTER SEQUENCE ledger.security_logs_id_seq RESTART WITH 1",
		"INSERT INTO ledger.activity_logs OVERRIDING SYSTEM VALUE SELECT * FROM public.backup",
		"INSERT INTO ledger.seals SELECT * FROM public.backup_seals",
	} {
		_, err := superuser.Exec(t.Context(), sql)
		must(t, err)
	}
	if said := sentences(s.verify(t, s.A, a)); len(said) != 1 || !strings.HasPrefix(said[0], "2   The seals of batches 2 to 3 are gone") {
		t.Fatalf("a restore that says nothing: %q", said)
	}
	write(t, a, 1, 0)
	if _, err := s.sealer.Seal(t.Context(), of(s.A, a)); !errors.Is(err, audit.ErrForked) {
		t.Fatalf("it is sealed all the same: %v", err)
	}
	// The control plane says that it has restored; a node that died after it had
	// written that down left the rest to the next.
	backup := s.restoredAs(t, s.A)
	lost := audit.NewSealer(untold{s.heads}, signerOf(t, s)).WithBatches(smallBatch)
	if _, err := lost.Seal(t.Context(), of(s.A, a)); !errors.Is(err, errUntold) {
		t.Fatalf("the node that is lost: %v", err)
	}
	write(t, a, 1, 0)
	s.seal(t, s.A, a, 2)
	s.seal(t, s.A, a, 0)
	r := s.verify(t, s.A, a)
	wantValid(t, r, 3, 5, 0)
	if len(r.Events) != 1 || r.Events[0].Batch != 4 || !strings.Contains(string(r.Events[0].Detail), `"left_batch":3`) || !strings.Contains(string(r.Events[0].Detail), "backup "+backup.String()+" as incarnation 1") {
		t.Errorf("events: %+v", r.Events)
	}
	// The head of a day before, from the part that was left behind, is no
	// problem; one from the part that stayed must be in the chain.
	for batch, valid := range map[int64]bool{2: true, 1: false} {
		kept, err := s.heads.Kept(t.Context(), s.A.ID)
		must(t, err)
		kept = append(kept, audit.Head{Batch: batch, Hash: make([]byte, 32)})
		r, err := audit.Verify(t.Context(), a, audit.Against{Kept: kept, Keys: s.A.Route.Keys})
		must(t, err)
		if r.Valid() != valid {
			t.Errorf("with a head of batch %d: %q", batch, sentences(r))
		}
	}
	// A database of something else is not a restore of this one.
	_, err := superuser.Exec(t.Context(), "UPDATE ledger.seals SET head = sha256('x') WHERE batch = 5")
	must(t, err)
	if err := s.sealer.Restored(t.Context(), of(s.A, a), "x"); !errors.Is(err, audit.ErrForked) {
		t.Errorf("a forgery was accepted as a restore: %v", err)
	}
}

// restoredAs writes what the control plane does when it has put a backup in place.
func (s *sealing) restoredAs(t *testing.T, tenant tenanttest.Tenant) (backup uuid.UUID) {
	t.Helper()
	backup = uuid.Must(uuid.NewV7())
	operation := uuid.Must(uuid.NewV7())
	control := testdb.Connect(t, s.control)
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{"INSERT INTO control.operations (id, kind, tenant_id, created_by) VALUES ($1, 'tenant.restore', $2, 'test')", []any{operation, tenant.ID}},
		{"INSERT INTO control.backups (id, tenant_id, reason, object, incarnation) VALUES ($1::uuid, $2, 'manual', $1::text, 1)", []any{backup, tenant.ID}},
		{"INSERT INTO control.restores (tenant_id, incarnation, operation_id, backup_id) VALUES ($1, $2, $3, $4)", []any{tenant.ID, tenant.Route.Incarnation, operation, backup}},
	} {
		_, err := control.Exec(t.Context(), statement.sql, statement.args...)
		must(t, err)
	}
	return backup
}

// untold are heads of a node that dies before it has told of the last.
type untold struct{ audit.Heads }

var errUntold = errors.New("the node is gone")

func (untold) Advance(context.Context, uuid.UUID, audit.Head, audit.Head) (bool, error) {
	return false, errUntold
}

// A copy that becomes another tenant keeps the chain, and says from where.
func TestACopyContinuesTheChain(t *testing.T) {
	t.Parallel()
	s := newSealing(t)
	a := app(t, s.A)
	write(t, a, 3, 0)
	s.seal(t, s.A, a, 3)
	write(t, a, 1, 0)
	copied := s.B // its own tenant, in A's database
	route := *s.B.Route
	route.Keys = s.A.Route.Keys
	sealKeyFor(t, s, s.B)
	route.Keys = s.B.Route.Keys
	copied.Route = &route
	s.seal(t, copied, a, 1)
	kept, err := s.heads.Kept(t.Context(), s.B.ID)
	must(t, err)
	r, err := audit.Verify(t.Context(), a, audit.Against{Kept: kept, Keys: route.Keys})
	must(t, err)
	wantValid(t, r, 3, 4, 0)
	if len(r.Events) != 1 || !strings.Contains(string(r.Events[0].Detail), s.A.ID.String()) || r.Tenant != s.B.ID {
		t.Errorf("events: %+v, tenant %s", r.Events, r.Tenant)
	}
}

// sealKeyFor puts B's signing key into A's database, as a copy gets new keys.
func sealKeyFor(t *testing.T, s *sealing, b tenanttest.Tenant) {
	t.Helper()
	from, to := testdb.Connect(t, b.AdminURL), testdb.Connect(t, s.A.AdminURL)
	rows, err := from.Query(t.Context(), "SELECT kid, public_jwk, private_sealed FROM ouvira.signing_keys")
	must(t, err)
	keys, err := pgx.CollectRows(rows, pgx.RowToMap)
	must(t, err)
	for _, k := range keys {
		_, err := to.Exec(t.Context(), "INSERT INTO ouvira.signing_keys (kid, public_jwk, private_sealed) VALUES ($1, $2, $3)", k["kid"], k["public_jwk"], k["private_sealed"])
		must(t, err)
	}
}
