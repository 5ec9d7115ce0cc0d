package audit

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Against is what a chain is verified against.
type Against struct {
	// Kept are heads from outside of the database, in any order. Without any,
	// it is only shown that the chain agrees with itself.
	Kept []Head
	// Keys are the tenant's public keys, from outside of the database. What
	// they have not signed is believed only as far as a kept head proves it.
	Keys []route.JWK
	// From is the first batch to look at; 0 and 1: from the beginning.
	From int64
	// MaxRows ends the look after the batch that reaches it; 0: no end.
	MaxRows int64
}

// Report says what verifying has found.
type Report struct {
	Batches       int64 // that were looked at
	Rows          int64 // that were looked at
	Unsealed      int64 // rows that no seal speaks of yet
	UnsealedSince *time.Time
	HeadBatch     int64  // of the last seal that was looked at
	Head          []byte // likewise
	Tenant        uuid.UUID
	Kept          *Head // the latest that was kept outside
	Events        []Event
	Problems      []Problem
	Next          int64 // the batch to go on from; 0: all was looked at
	CheckedAt     time.Time
}

// Valid tells whether nothing was found in what was looked at.
func (r *Report) Valid() bool { return len(r.Problems) == 0 }

// Event is something in the life of the database that stands in the chain.
type Event struct {
	Batch    int64
	Detail   json.RawMessage
	SealedAt time.Time
}

// Problem is one thing that is not as it was sealed.
type Problem struct {
	Batch int64  // 0: of no batch
	Log   string // activity or security; empty: of the seals themselves
	RowID *int64
	What  string
}

// maxProblems ends a report: what comes after a hundred changes nothing.
const maxProblems = 100

// errEnough ends the walk: enough problems, or rows.
var errEnough = errors.New("enough")

// verifier walks a chain.
type verifier struct {
	db      pg.Querier
	against Against
	report  Report

	kept     map[int64]Head
	latest   Head
	keys     map[string]*ecdsa.PublicKey
	trusted  map[string]bool // kids that are known from outside
	previous sealed
	sealedTo map[string]int64
}

// Verify looks at the seals and at the rows that they speak of. It reads with
// one connection and holds a batch in memory at a time.
func Verify(ctx context.Context, db pg.Querier, against Against) (*Report, error) {
	v := &verifier{
		db: db, against: against, kept: map[int64]Head{}, keys: map[string]*ecdsa.PublicKey{}, trusted: map[string]bool{}, sealedTo: map[string]int64{},
	}
	v.report = Report{CheckedAt: time.Now().UTC(), Events: []Event{}, Problems: []Problem{}}
	for _, head := range against.Kept {
		v.kept[head.Batch] = head
		if head.Batch > v.latest.Batch {
			v.latest = head
			v.report.Kept = &head
		}
	}
	if err := v.loadKeys(ctx); err != nil {
		return nil, err
	}
	err := v.walk(ctx)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if err == nil {
		if err := v.finish(ctx); err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
		v.report.Next = 0 // the chain has been walked to its end
	}
	return &v.report, nil
}

// problem adds one to the report.
func (v *verifier) problem(batch int64, log string, row *int64, format string, args ...any) error {
	v.report.Problems = append(v.report.Problems, Problem{Batch: batch, Log: log, RowID: row, What: fmt.Sprintf(format, args...)})
	if len(v.report.Problems) >= maxProblems {
		// Past the batch that was asked for, however much more is wrong with it: the next
		// look has to get further than this one.
		v.report.Next = max(batch, max(v.against.From, 1)+1)
		return errEnough
	}
	return nil
}

// loadKeys takes the keys from outside, and for what they have not signed
// those that the database names, retired ones too.
func (v *verifier) loadKeys(ctx context.Context) error {
	rows, err := v.db.Query(ctx, "SELECT public_jwk FROM ouvira.signing_keys")
	if err != nil {
		return fmt.Errorf("read the signing keys: %w", err)
	}
	own, err := pgx.CollectRows(rows, pgx.RowTo[route.JWK])
	if err != nil {
		return fmt.Errorf("read the signing keys: %w", err)
	}
	for _, jwk := range own {
		if key, err := jwk.PublicKey(); err == nil {
			v.keys[jwk.Kid] = key
		}
	}
	for _, jwk := range v.against.Keys {
		key, err := jwk.PublicKey()
		if err != nil {
			return err
		}
		v.keys[jwk.Kid] = key
		v.trusted[jwk.Kid] = true
	}
	return nil
}

// walk goes through the chain from where it is asked to.
func (v *verifier) walk(ctx context.Context) error {
	if v.against.From > 1 {
		if err := v.startAt(ctx, v.against.From); err != nil {
			return err
		}
	}
	for {
		seal, err := v.next(ctx)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a seal: %w", err)
		}
		if v.against.MaxRows > 0 && v.report.Rows >= v.against.MaxRows {
			v.report.Next = seal.Batch
			return errEnough
		}
		if err := v.link(&seal); err != nil {
			return err
		}
		if seal.Kind != kindEvent {
			if err := v.rows(ctx, &seal); err != nil {
				return err
			}
		}
		v.previous = seal
		v.report.Batches++
		v.report.HeadBatch, v.report.Head, v.report.Tenant = seal.Batch, seal.Head, seal.TenantID
	}
}

// startAt takes over what the seals before a batch have said. That they are as
// they were is shown by a look that begins with them.
func (v *verifier) startAt(ctx context.Context, batch int64) error {
	err := v.read(ctx, "batch < $1 ORDER BY batch DESC LIMIT 1", batch, &v.previous)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read a seal: %w", err)
	}
	for _, kind := range logs {
		var to int64
		err := v.db.QueryRow(ctx, "SELECT COALESCE((SELECT to_id FROM ledger.seals WHERE kind = $1 AND batch < $2 ORDER BY batch DESC LIMIT 1), 0)", kind, batch).Scan(&to)
		if err != nil {
			return fmt.Errorf("read a seal: %w", err)
		}
		v.sealedTo[kind] = to
	}
	return nil
}

func (v *verifier) next(ctx context.Context) (sealed, error) {
	var seal sealed
	err := v.read(ctx, "batch > $1 ORDER BY batch LIMIT 1", v.previous.Batch, &seal)
	return seal, err
}

func (v *verifier) read(ctx context.Context, which string, batch int64, s *sealed) error {
	return v.db.QueryRow(ctx, "SELECT "+sealColumns+" FROM ledger.seals WHERE "+which, batch).
		Scan(&s.Batch, &s.Format, &s.TenantID, &s.Kind, &s.FromID, &s.ToID, &s.RowCount, &s.Digests, &s.Detail, &s.Previous, &s.Head, &s.Kid, &s.Signature, &s.SealedAt)
}

// link verifies a seal itself and how it follows from the one before.
func (v *verifier) link(s *sealed) error {
	expected := v.previous.Batch + 1
	event := v.event(s)
	if s.Batch != expected && event.Event != EventRestore {
		if err := v.problem(expected, "", nil, "The seals of batches %d to %d are gone.", expected, s.Batch-1); err != nil {
			return err
		}
	}
	if s.Batch != expected && event.Event == EventRestore && event.LeftBatch != s.Batch-1 {
		if err := v.problem(s.Batch, "", nil, "The restore leaves batch %d behind, and not the one before.", event.LeftBatch); err != nil {
			return err
		}
	}
	for _, check := range []struct {
		wrong bool
		what  string
	}{
		{s.Format != sealFormat, "The seal is of a format that this release does not know."},
		{!bytes.Equal(s.Previous, v.previous.Head), "The seal does not follow from the one before."},
		{!bytes.Equal(s.Head, s.hash()), "The seal was changed."},
		{v.previous.Batch > 0 && s.TenantID != v.previous.TenantID && s.Kind != kindEvent, "The seal belongs to another tenant."},
		{s.Kind != kindEvent && s.FromID != v.sealedTo[s.Kind]+1, "The seal does not begin where the one before of the same log ends."},
		{len(s.Digests) != int(s.RowCount)*entrySize, "The seal does not hold the digests of its rows."},
	} {
		if check.wrong {
			if err := v.problem(s.Batch, "", nil, "%s", check.what); err != nil {
				return err
			}
		}
	}
	if s.Kind != kindEvent {
		v.sealedTo[s.Kind] = s.ToID
	}
	if err := v.signature(s); err != nil {
		return err
	}
	return v.keptHeads(s, event)
}

func (v *verifier) signature(s *sealed) error {
	key, known := v.keys[s.Kid]
	proven := len(v.trusted) == 0 || v.trusted[s.Kid] || s.Batch <= v.latest.Batch
	switch {
	case !known:
		return v.problem(s.Batch, "", nil, "The seal is signed by a key that is not known.")
	case !signedBy(key, s.statement(), s.Signature):
		return v.problem(s.Batch, "", nil, "The signature is not the tenant's.")
	case !proven:
		return v.problem(s.Batch, "", nil, "The seal is signed by a key that only this database names.")
	}
	return nil
}

func signedBy(key *ecdsa.PublicKey, statement, signature []byte) bool {
	digest := sha256.Sum256(statement)
	return len(signature) == 64 &&
		ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}

// eventDetail is what an event says of itself.
type eventDetail struct {
	Event     string `json:"event"`
	LeftBatch int64  `json:"left_batch"`
	LeftHead  string `json:"left_head"`
}

func (v *verifier) event(s *sealed) eventDetail {
	var detail eventDetail
	if s.Kind != kindEvent {
		return detail
	}
	raw := json.RawMessage(s.Detail)
	if json.Unmarshal(raw, &detail) != nil {
		raw = nil // the seal was changed, and that is said
	}
	v.report.Events = append(v.report.Events, Event{Batch: s.Batch, Detail: raw, SealedAt: s.SealedAt})
	return detail
}

// keptHeads compares a seal with the heads that are kept outside.
func (v *verifier) keptHeads(s *sealed, event eventDetail) error {
	if head, ok := v.kept[s.Batch]; ok {
		delete(v.kept, s.Batch)
		if !bytes.Equal(head.Hash, s.Head) {
			return v.problem(s.Batch, "", nil, "The seal is not the one whose head is kept outside of this database: this batch, or one before it, was rewritten.")
		}
	}
	if event.Event != EventRestore {
		return nil
	}
	// The chain of before was left behind; the last head of it must be the one
	// that the restore names.
	for batch, head := range v.kept {
		if batch > v.previous.Batch && batch < s.Batch {
			delete(v.kept, batch)
			if batch == event.LeftBatch && hex.EncodeToString(head.Hash) != event.LeftHead {
				if err := v.problem(s.Batch, "", nil, "The restore names another head than the one that was kept of batch %d.", batch); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// rows compares the rows of a batch with their digests.
func (v *verifier) rows(ctx context.Context, s *sealed) error {
	entries := s.Digests
	after := s.FromID - 1
	if s.FromID <= 1 {
		after = math.MinInt64 // a row with an id below the first was never given one
	}
	missing := func(below int64) error {
		for len(entries) >= entrySize {
			id := int64(binary.BigEndian.Uint64(entries))
			if id >= below {
				return nil
			}
			entries = entries[entrySize:]
			if err := v.problem(s.Batch, s.Kind, &id, "The row was deleted."); err != nil {
				return err
			}
		}
		return nil
	}
	err := digestRows(ctx, v.db, s.Kind, after, s.ToID, math.MaxInt32, func(id int64, digest [sha256.Size]byte) error {
		v.report.Rows++
		if err := missing(id); err != nil {
			return err
		}
		if len(entries) < entrySize || int64(binary.BigEndian.Uint64(entries)) != id {
			return v.problem(s.Batch, s.Kind, &id, "The row was added after the batch was sealed.")
		}
		sealedAs := entries[8:entrySize]
		entries = entries[entrySize:]
		if !bytes.Equal(sealedAs, digest[:]) {
			return v.problem(s.Batch, s.Kind, &id, "The row was changed.")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return missing(math.MaxInt64)
}

// finish looks at what lies behind the last seal.
func (v *verifier) finish(ctx context.Context) error {
	if v.latest.Batch > v.previous.Batch && len(v.kept) > 0 {
		err := v.problem(v.previous.Batch+1, "", nil, "The seals of batches %d to %d are gone: the head of batch %d is kept outside of this database.",
			v.previous.Batch+1, v.latest.Batch, v.latest.Batch)
		if err != nil {
			return err
		}
		for batch := range v.kept {
			if batch > v.previous.Batch {
				delete(v.kept, batch)
			}
		}
	}
	for batch := range v.kept {
		if batch >= v.against.From {
			if err := v.problem(batch, "", nil, "The seal is gone: its head is kept outside of this database."); err != nil {
				return err
			}
		}
	}
	for _, kind := range logs {
		if err := v.unsealed(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

// unsealed counts the rows behind the last seal. None can have an id that was
// never given.
func (v *verifier) unsealed(ctx context.Context, kind string) error {
	table := logTables[kind]
	var count int64
	var since *time.Time
	err := v.db.QueryRow(ctx, `SELECT count(*), min(created_at) FILTER (WHERE isfinite(created_at)) FROM `+table+` WHERE id > $1`, v.sealedTo[kind]).Scan(&count, &since)
	if err != nil {
		return fmt.Errorf("count the %s log: %w", kind, err)
	}
	v.report.Unsealed += count
	if since != nil && (v.report.UnsealedSince == nil || since.Before(*v.report.UnsealedSince)) {
		v.report.UnsealedSince = since
	}
	if count == 0 {
		return nil
	}
	rows, err := v.db.Query(ctx, `SELECT l.id FROM `+table+` l, `+table+`_id_seq s WHERE l.id > $1 AND l.id > s.last_value ORDER BY l.id LIMIT 100`, v.sealedTo[kind])
	if err != nil {
		return fmt.Errorf("read the %s log: %w", kind, err)
	}
	strays, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("read the %s log: %w", kind, err)
	}
	for _, id := range strays {
		if err := v.problem(0, kind, &id, "The row has an id that was never given: it was not written by the application."); err != nil {
			return err
		}
	}
	return nil
}
