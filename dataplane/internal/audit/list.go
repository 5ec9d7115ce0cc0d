package audit

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Activity is one record of the activity log.
type Activity struct {
	ID          int64
	UserID      *int64
	UserDisplay string
	OnBehalf    *string
	CompanyID   *int64
	Date        int32 // YYYYMMDD, UTC
	EntityType  string
	EntityID    *int64
	Action      string
	OldValues   json.RawMessage // nil: none
	NewValues   json.RawMessage
	IPAddress   *netip.Addr
	RequestID   string
	CreatedAt   time.Time
}

// SecurityEvent is one record of the security log.
type SecurityEvent struct {
	ID          int64
	UserID      *int64
	UserDisplay string
	Date        int32 // YYYYMMDD, UTC
	Action      string
	Metadata    json.RawMessage
	IPAddress   *netip.Addr
	RequestID   string
	CreatedAt   time.Time
}

// Reach is whose records somebody may see.
type Reach struct {
	Companies []int64 // of these companies
	// Homeless records too: those of no company, and those of companies that
	// have been deleted, which nobody is a member of any more.
	Homeless bool
	// User, when set, is all: the records of one user, whatever the company.
	User *int64
}

// Filter narrows a list. Zero values do not narrow.
type Filter struct {
	User     int64
	Entity   string
	EntityID int64
	Action   string
	// ActionPrefix is how the names of the actions begin.
	ActionPrefix string

	From  time.Time // from this moment on
	Until time.Time // before this one
}

// Window is which part of a list: a page, or what follows a cursor.
type Window struct {
	Limit  int32
	Offset int32
	After  *Cursor // instead of Offset
}

// Cursor is a place in a list, newest first. It also remembers how many there
// were when the reading began: counting a long log for every page would cost
// more than reading it.
type Cursor struct {
	Before int64 // id of the last record that was seen; 0: none yet
	Count  int64 // -1: not counted yet
}

// Start is the place before the newest record.
func Start() Cursor { return Cursor{Count: -1} }

const cursorVersion = 1

// String is the cursor as clients hand it back. They must not read it.
func (c Cursor) String() string {
	raw := binary.AppendVarint([]byte{cursorVersion}, c.Before)
	return base64.RawURLEncoding.EncodeToString(binary.AppendVarint(raw, c.Count))
}

// ParseCursor reads what String has written.
func ParseCursor(s string) (Cursor, error) {
	refused := fault.Invalid("The cursor is not one of ours.").
		OnField("cursor", "bad_cursor", "Use the cursor of the previous answer's \"next\" as it is, or an empty one to begin.")
	const longest = 64
	if len(s) > longest {
		return Cursor{}, refused
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) == 0 || raw[0] != cursorVersion {
		return Cursor{}, refused
	}
	raw = raw[1:]
	before, n := binary.Varint(raw)
	if n <= 0 || before < 1 {
		return Cursor{}, refused
	}
	count, m := binary.Varint(raw[n:])
	if m <= 0 || n+m != len(raw) || count < 0 {
		return Cursor{}, refused
	}
	return Cursor{Before: before, Count: count}, nil
}

// ParsePeriod reads the filters "from" and "to": a date, or a moment in RFC
// 3339. A date as "to" includes its day; a moment does not include itself.
func ParsePeriod(from, to string) (start, end time.Time, err error) {
	start, _, ok := parseMoment(from)
	if !ok {
		return start, end, badMoment("from")
	}
	end, isDate, ok := parseMoment(to)
	if !ok {
		return start, end, badMoment("to")
	}
	if isDate && !end.IsZero() {
		end = end.AddDate(0, 0, 1)
	}
	if !start.IsZero() && !end.IsZero() && !start.Before(end) {
		return start, end, fault.Invalid("The period ends before it begins.").OnField("to", "bad_period", "Must be later than from.")
	}
	return start, end, nil
}

func parseMoment(s string) (at time.Time, isDate, ok bool) {
	if s == "" {
		return time.Time{}, false, true
	}
	at, err := time.Parse(time.DateOnly, s)
	isDate = err == nil
	if err != nil {
		at, err = time.Parse(time.RFC3339, s)
	}
	at = at.UTC()
	// What Postgres cannot hold, and what the zero time stands for, is no date of ours.
	return at, isDate, err == nil && at.Year() >= 1970 && at.Year() <= 9999
}

func badMoment(field string) error {
	return fault.Invalid("A date is not readable.").OnField(field, "bad_date", "Write a date such as 2026-03-31, or a time such as 2026-03-31T12:00:00Z.")
}

// where collects conditions and their arguments.
type where struct {
	conditions []string
	args       []any
}

// and adds a condition; each "?" in it is the next of the values.
func (w *where) and(condition string, values ...any) {
	for _, v := range values {
		w.args = append(w.args, v)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(w.args)), 1)
	}
	w.conditions = append(w.conditions, condition)
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

func (w *where) reach(r Reach) {
	switch {
	case r.User != nil:
		w.and("l.user_id = ?", *r.User)
	case r.Homeless:
		w.and(`(l.company_id = ANY (?) OR l.company_id IS NULL
			OR NOT EXISTS (SELECT FROM public.companies c WHERE c.id = l.company_id AND c.deleted_at IS NULL))`, r.Companies)
	default:
		w.and("l.company_id = ANY (?)", r.Companies)
	}
}

func (w *where) filter(f Filter) {
	if f.User != 0 {
		w.and("l.user_id = ?", f.User)
	}
	if f.Entity != "" {
		w.and("l.entity_type = ?", f.Entity)
	}
	if f.EntityID != 0 {
		w.and("l.entity_id = ?", f.EntityID)
	}
	if f.Action != "" {
		w.and("l.action = ?", f.Action)
	}
	if f.ActionPrefix != "" {
		w.and("starts_with(l.action, ?)", f.ActionPrefix)
	}
	if !f.From.IsZero() {
		w.and("l.created_at >= ?", f.From)
	}
	if !f.Until.IsZero() {
		w.and("l.created_at < ?", f.Until)
	}
}

// Activities lists the activity log, newest first, and says how many there are
// in all.
func Activities(ctx context.Context, db pg.Querier, r Reach, f Filter, w Window) ([]Activity, int64, error) {
	var cond where
	cond.reach(r)
	cond.filter(f)
	return list[Activity](ctx, db, "ledger.activity_logs", `l.id, l.user_id, l.user_display, l.on_behalf, l.company_id, l.date, l.entity_type, l.entity_id,
		l.action, l.old_values, l.new_values, l.ip_address, l.request_id, l.created_at`, cond, w)
}

// SecurityEvents lists the security log, newest first, and says how many there
// are in all. Entity and EntityID of the filter mean nothing here.
func SecurityEvents(ctx context.Context, db pg.Querier, f Filter, w Window) ([]SecurityEvent, int64, error) {
	f.Entity, f.EntityID = "", 0
	var cond where
	cond.filter(f)
	return list[SecurityEvent](ctx, db, "ledger.security_logs", `l.id, l.user_id, l.user_display, to_char(l.created_at AT TIME ZONE 'UTC', 'YYYYMMDD')::integer AS date,
		l.action, l.metadata, l.ip_address, l.request_id, l.created_at`, cond, w)
}

func list[T any](ctx context.Context, db pg.Querier, table, columns string, cond where, w Window) ([]T, int64, error) {
	count := int64(-1)
	if w.After != nil {
		count = w.After.Count
	}
	if count < 0 {
		if err := db.QueryRow(ctx, "SELECT count(*) FROM "+table+" l"+cond.String(), cond.args...).Scan(&count); err != nil {
			return nil, 0, fmt.Errorf("count the log: %w", err)
		}
	}
	offset := w.Offset
	if w.After != nil {
		offset = 0
		if w.After.Before > 0 {
			cond.and("l.id < ?", w.After.Before)
		}
	}
	query := fmt.Sprintf("SELECT %s FROM %s l%s ORDER BY l.id DESC LIMIT %d OFFSET %d", columns, table, cond.String(), w.Limit, offset)
	rows, err := db.Query(ctx, query, cond.args...)
	if err != nil {
		return nil, 0, fmt.Errorf("read the log: %w", err)
	}
	records, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, 0, fmt.Errorf("read the log: %w", err)
	}
	return records, count, nil
}
