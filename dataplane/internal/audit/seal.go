package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// batchRows is how many rows one seal speaks of at most.
const batchRows = 4096

// ErrForked says that the seals in the database do not lead to the head that
// is kept outside: something was changed, or restored without saying so. The
// database is not sealed any further until that is settled.
var ErrForked = errors.New("the seals in the database do not lead to the head that is kept outside")

// errRaced says that another node has sealed in between.
var errRaced = errors.New("another node is sealing this tenant")

// Conn is a connection to one tenant's database.
type Conn interface {
	pg.Querier
	pg.Beginner
}

// Tenant is whose audit it is, and the way to their database.
type Tenant struct {
	Route *route.Route
	Do    func(ctx context.Context, work func(Conn) error) error
}

// Signer signs with the tenant's key: *identity.Service.
type Signer interface {
	Sign(ctx context.Context, db pg.Querier, tenant *route.Route, statement []byte) (kid string, signature []byte, err error)
}

// Head is the end of a chain as it is kept outside of the tenant's database.
// The zero Head is that of a chain that has not begun.
type Head struct {
	Batch     int64
	Hash      []byte
	Kid       string
	Signature []byte
	StoredAt  time.Time
}

// Heads keeps the heads: *ControlHeads.
type Heads interface {
	// Kept are the heads of a tenant that are kept, the latest first: the last
	// one, and the last of each earlier day.
	Kept(ctx context.Context, tenant uuid.UUID) ([]Head, error)
	// Advance puts next in the place of seen. false: that one is not the latest
	// any more.
	Advance(ctx context.Context, tenant uuid.UUID, seen, next Head) (bool, error)
	// PendingRestore is the backup that the control plane has put in place as this
	// incarnation, if that is not written into the chain yet; uuid.Nil: none.
	PendingRestore(ctx context.Context, tenant uuid.UUID, incarnation int) (backup uuid.UUID, err error)
	// RestoreRecorded says that it is written.
	RestoreRecorded(ctx context.Context, tenant uuid.UUID, incarnation int) error
}

// Sealer seals what has been written to the logs. It holds no state.
type Sealer struct {
	heads  Heads
	signer Signer
	rows   int // in a batch
}

// NewSealer makes one.
func NewSealer(heads Heads, signer Signer) *Sealer {
	return &Sealer{heads: heads, signer: signer, rows: batchRows}
}

// link is what the next seal needs of the last.
type link struct {
	batch     int64
	head      []byte
	tenant    uuid.UUID
	kid       string
	signature []byte
}

func (l link) asHead() Head {
	return Head{Batch: l.batch, Hash: l.head, Kid: l.kid, Signature: l.signature}
}

// Seal seals all that has been committed, tells the keeper of the heads, and
// says how many rows that were. A tenant that another node is sealing counts
// as sealed. No connection to the tenant's database is held while the keeper
// is asked.
//
// Errors: ErrForked; 55P03 (lock_not_available) when writers did not pause,
// try again later; what else a database says.
func (s *Sealer) Seal(ctx context.Context, t Tenant) (rows int, err error) {
	err = s.recordRestore(ctx, t)
	if errors.Is(err, errRaced) {
		return 0, nil // the other one goes on
	}
	if err != nil {
		return 0, err
	}
	kept, err := s.latest(ctx, t)
	if err != nil {
		return 0, err
	}
	var last link
	err = t.Do(ctx, func(db Conn) error {
		if err := leadsTo(ctx, db, kept); err != nil {
			return err // and last stays empty: nothing of this chain is told outside
		}
		if last, err = lastLink(ctx, db); err != nil {
			return err
		}
		if last.batch > 0 && last.tenant != t.Route.TenantID {
			if err := s.event(ctx, db, t, &last, last.batch+1, map[string]any{"event": EventCopy, "origin": last.tenant}); err != nil {
				return err
			}
		}
		for _, kind := range logs {
			n, err := s.sealLog(ctx, db, t, &last, kind)
			rows += n
			if err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errRaced) {
		return rows, nil // the other one stores the head
	}
	// What was sealed before an error is told as well.
	return rows, errors.Join(err, s.advance(ctx, t, kept, last))
}

func (s *Sealer) latest(ctx context.Context, t Tenant) (Head, error) {
	kept, err := s.heads.Kept(ctx, t.Route.TenantID)
	if err != nil || len(kept) == 0 {
		return Head{}, err
	}
	return kept[0], nil
}

func (s *Sealer) advance(ctx context.Context, t Tenant, kept Head, last link) error {
	if last.batch <= kept.Batch {
		return nil
	}
	// false: another node was faster, and has proven the same.
	_, err := s.heads.Advance(ctx, t.Route.TenantID, kept, last.asHead())
	return err
}

func lastLink(ctx context.Context, db pg.Querier) (link, error) {
	var l link
	err := db.QueryRow(ctx, "SELECT batch, head, tenant_id, kid, signature FROM ledger.seals ORDER BY batch DESC LIMIT 1").
		Scan(&l.batch, &l.head, &l.tenant, &l.kid, &l.signature)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return link{}, fmt.Errorf("read the last seal: %w", err)
	}
	return l, nil
}

// leadsTo proves that the chain in the database goes through a head.
func leadsTo(ctx context.Context, db pg.Querier, kept Head) error {
	if kept.Batch == 0 {
		return nil
	}
	var head []byte
	err := db.QueryRow(ctx, "SELECT head FROM ledger.seals WHERE batch = $1", kept.Batch).Scan(&head)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && !bytes.Equal(head, kept.Hash):
		return fmt.Errorf("batch %d: %w", kept.Batch, ErrForked)
	case err != nil:
		return fmt.Errorf("read a seal: %w", err)
	}
	return nil
}

// sealLog seals one log as far as it has been written.
func (s *Sealer) sealLog(ctx context.Context, db Conn, t Tenant, last *link, kind string) (int, error) {
	after, written, err := sealedTo(ctx, db, kind)
	if err != nil || written <= after {
		return 0, err // nothing to seal: the log is not locked for that
	}
	var boundary int64
	if err := db.QueryRow(ctx, "SELECT ouvira.audit_boundary($1)", kind).Scan(&boundary); err != nil {
		return 0, fmt.Errorf("find the end of the %s log: %w", kind, err)
	}
	total := 0
	for after < boundary {
		seal := sealed{Kind: kind, FromID: after + 1, ToID: boundary}
		err := digestRows(ctx, db, kind, after, boundary, s.rows, func(id int64, digest [sha256.Size]byte) error {
			seal.Digests = binary.BigEndian.AppendUint64(seal.Digests, uint64(id))
			seal.Digests = append(seal.Digests, digest[:]...)
			if seal.RowCount++; int(seal.RowCount) == s.rows {
				seal.ToID = id
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		if seal.RowCount == 0 {
			break // ids that were rolled back; the next batch covers them
		}
		if err := s.append(ctx, db, t, last, last.batch+1, seal); err != nil {
			return total, err
		}
		total += int(seal.RowCount)
		after = seal.ToID
	}
	return total, nil
}

// sealedTo is the last id of a log that is sealed, and the last that is there.
func sealedTo(ctx context.Context, db pg.Querier, kind string) (after, written int64, err error) {
	err = db.QueryRow(ctx, `SELECT COALESCE((SELECT s.to_id FROM ledger.seals s WHERE s.kind = $1 ORDER BY s.batch DESC LIMIT 1), 0),
		COALESCE((SELECT max(l.id) FROM `+logTables[kind]+` l), 0)`, kind).Scan(&after, &written)
	if err != nil {
		return 0, 0, fmt.Errorf("read what is sealed: %w", err)
	}
	return after, written, nil
}

func (s *Sealer) event(ctx context.Context, db Conn, t Tenant, last *link, batch int64, detail map[string]any) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	return s.append(ctx, db, t, last, batch, sealed{Kind: kindEvent, Detail: string(raw), Digests: []byte{}})
}

// append signs a seal and adds it to the chain.
func (s *Sealer) append(ctx context.Context, db Conn, t Tenant, last *link, batch int64, seal sealed) error {
	seal.Batch, seal.Format, seal.TenantID, seal.Previous = batch, sealFormat, t.Route.TenantID, last.head
	if seal.Previous == nil {
		seal.Previous = []byte{}
	}
	seal.SealedAt = time.Now().UTC().Truncate(time.Microsecond) // as Postgres keeps it
	seal.Head = seal.hash()
	var err error
	if seal.Kid, seal.Signature, err = s.signer.Sign(ctx, db, t.Route, seal.statement()); err != nil {
		return err
	}
	_, err = db.Exec(ctx, "INSERT INTO ledger.seals ("+sealColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
		seal.Batch, seal.Format, seal.TenantID, seal.Kind, seal.FromID, seal.ToID, seal.RowCount, seal.Digests, seal.Detail,
		seal.Previous, seal.Head, seal.Kid, seal.Signature, seal.SealedAt)
	if pg.Code(err) == pg.CodeUniqueViolation {
		return errRaced
	}
	if err != nil {
		return fmt.Errorf("add a seal: %w", err)
	}
	*last = link{seal.Batch, seal.Head, seal.TenantID, seal.Kid, seal.Signature}
	return nil
}

// recordRestore writes into the chain, once, what the control plane says that it has
// put in place. Nobody else's word counts: whoever has only the tenant's server cannot
// have an earlier state taken for a restore.
func (s *Sealer) recordRestore(ctx context.Context, t Tenant) error {
	backup, err := s.heads.PendingRestore(ctx, t.Route.TenantID, t.Route.Incarnation)
	if err != nil || backup == uuid.Nil {
		return err
	}
	if err := s.Restored(ctx, t, fmt.Sprintf("backup %s as incarnation %d", backup, t.Route.Incarnation)); err != nil {
		return err
	}
	return s.heads.RestoreRecorded(ctx, t.Route.TenantID, t.Route.Incarnation)
}

// Restored writes into the chain that an earlier state of the database was put
// in place: a signed event that names the head it leaves behind. Without it the
// chain is forked, and verifying says so. detail tells why and from what; a chain
// that says it already is left as it is.
//
// Errors: ErrForked when the database is no earlier state of this chain.
func (s *Sealer) Restored(ctx context.Context, t Tenant, detail string) error {
	kept, err := s.heads.Kept(ctx, t.Route.TenantID)
	if err != nil {
		return err
	}
	var latest Head
	if len(kept) > 0 {
		latest = kept[0]
	}
	var last link
	err = t.Do(ctx, func(db Conn) error {
		if last, err = lastLink(ctx, db); err != nil {
			return err
		}
		var said bool // by one that did not live to tell of its head
		err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ledger.seals WHERE kind = 'event' AND detail::jsonb ->> 'event' = $1 AND detail::jsonb ->> 'detail' = $2)",
			EventRestore, detail).Scan(&said)
		if err != nil {
			return fmt.Errorf("read the events of an audit: %w", err)
		}
		if said {
			return nil
		}
		// Whatever was kept of the part that has been restored must be in it.
		for _, head := range kept {
			if head.Batch <= last.batch {
				if err := leadsTo(ctx, db, head); err != nil {
					return err
				}
			}
		}
		event := map[string]any{"event": EventRestore, "detail": detail}
		batch := last.batch + 1
		if latest.Batch > last.batch {
			batch = latest.Batch + 1
			event["left_batch"], event["left_head"] = latest.Batch, fmt.Sprintf("%x", latest.Hash)
		}
		return s.event(ctx, db, t, &last, batch, event)
	})
	if err != nil {
		return err
	}
	return s.advance(ctx, t, latest, last)
}
