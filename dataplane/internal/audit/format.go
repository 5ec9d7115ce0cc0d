package audit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/pg"
)

// A seal speaks of a batch of one log, or of an event in the life of the
// database.
const (
	kindActivity = "activity"
	kindSecurity = "security"
	kindEvent    = "event"
)

var logs = []string{kindActivity, kindSecurity}

// Events that stand in the chain.
const (
	EventRestore = "RESTORE" // an earlier state of the database was put in place
	EventCopy    = "COPY"    // the chain of another tenant goes on here
)

// sealFormat says how rows and statements are written to be hashed. Another
// format gets another number; seals of this one stay as they are.
const sealFormat = 1

// entrySize is the length of one row's id and digest in a seal.
const entrySize = 8 + sha256.Size

// sealed is one link of the chain.
type sealed struct {
	Batch     int64
	Format    int16
	TenantID  uuid.UUID
	Kind      string
	FromID    int64
	ToID      int64
	RowCount  int32
	Digests   []byte
	Detail    string
	Previous  []byte
	Head      []byte
	Kid       string
	Signature []byte
	SealedAt  time.Time
}

const sealColumns = `batch, format, tenant_id, kind, from_id, to_id, row_count, digests, detail, previous, head, kid, signature, sealed_at`

// statement is what the head is the SHA-256 of, and what is signed. It is text
// so that it can be made and checked with any tool.
func (s *sealed) statement() []byte {
	return fmt.Appendf(nil, "ouvira audit seal %d\ntenant %s\nbatch %d\nkind %s\nids %d-%d\nrows %d\ndigests %x\ndetail %x\nprevious %x\nsealed_at %s\n",
		s.Format, s.TenantID, s.Batch, s.Kind, s.FromID, s.ToID, s.RowCount, sha256.Sum256(s.Digests), sha256.Sum256([]byte(s.Detail)),
		s.Previous, s.SealedAt.UTC().Format("2006-01-02T15:04:05.000000Z"))
}

func (s *sealed) hash() []byte {
	sum := sha256.Sum256(s.statement())
	return sum[:]
}

// Every column of a row, as text that depends on no setting of the session.
var rowColumns = map[string][]string{
	kindActivity: {
		"id::text", "user_id::text", "user_display", "on_behalf", "company_id::text", "date::text", "entity_type", "entity_id::text", "action",
		"old_values::text", "new_values::text", "ip_address::text", "request_id", "extract(epoch FROM created_at)::text",
	},
	kindSecurity: {
		"id::text", "user_id::text", "user_display", "action", "metadata::text", "ip_address::text", "request_id", "extract(epoch FROM created_at)::text",
	},
}

var logTables = map[string]string{kindActivity: "ledger.activity_logs", kindSecurity: "ledger.security_logs"}

// digestRows calls each for the rows with after < id ≤ upTo, by id, at most
// limit of them.
func digestRows(ctx context.Context, db pg.Querier, kind string, after, upTo int64, limit int, each func(id int64, digest [sha256.Size]byte) error) error {
	rows, err := db.Query(ctx, "SELECT id, "+strings.Join(rowColumns[kind], ", ")+" FROM "+logTables[kind]+" AS l WHERE l.id > $1 AND l.id <= $2 ORDER BY l.id LIMIT $3", after, upTo, limit)
	if err != nil {
		return fmt.Errorf("read the %s log: %w", kind, err)
	}
	defer rows.Close()
	var id int64
	values := make([]*string, len(rowColumns[kind]))
	targets := []any{&id}
	for i := range values {
		targets = append(targets, &values[i])
	}
	var buf []byte
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return fmt.Errorf("read the %s log: %w", kind, err)
		}
		buf = canonical(buf[:0], kind, values)
		if err := each(id, sha256.Sum256(buf)); err != nil {
			return err
		}
	}
	return rows.Err()
}

// canonical writes a row so that no two rows give the same bytes: each value
// with its length, or "-" for NULL.
func canonical(buf []byte, kind string, values []*string) []byte {
	buf = fmt.Appendf(buf, "ouvira audit row %d\n%s\n", sealFormat, kind)
	for _, v := range values {
		if v == nil {
			buf = append(buf, '-')
			continue
		}
		buf = strconv.AppendInt(buf, int64(len(*v)), 10)
		buf = append(buf, ':')
		buf = append(buf, *v...)
	}
	return buf
}
