// Package billing keeps the ledger of what tenants have paid, and sees to those who
// have not.
//
// It promises: a payment counts once, however often it is sent; it extends what is
// paid and never shortens it; a tenant is warned before it lapses, and acted upon by
// its plan's rule after the grace, each once; a payment resumes what a lapse has
// suspended, and nothing that a person has.
//
//	paid or on trial ── 5 days before the end: warned ──▶ end ── grace ──▶ lapsed: told, or suspended
package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/billing/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/job"
	"github.com/ouvira/ouvira/controlplane/internal/page"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Payment is an entry of the ledger.
type Payment struct {
	ID         uuid.UUID
	Amount     string // a decimal number, as it was given
	Currency   string // ISO 4217
	PeriodEnd  time.Time
	Reference  string // of the payment elsewhere: an invoice, a bank's
	RecordedBy string
	CreatedAt  time.Time
}

// Service of the room.
type Service struct {
	DB      pg.DB
	Tenants *tenant.Service
	Jobs    *job.Queue
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	q dbsqlc.Queries
}

func (s *Service) today() time.Time {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return now().UTC().Truncate(24 * time.Hour)
}

// furthest is how far ahead one can pay: a later end is a typing error.
const furthest = 10 // years

var (
	amountForm   = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,4})?$`)
	currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)
)

// maxReference bounds a reference, in characters.
const maxReference = 100

func (s *Service) check(p Payment) (Payment, error) {
	f := fault.Invalid("Some values of the payment are not right. See errors for each of them.")
	if !amountForm.MatchString(p.Amount) || strings.Trim(p.Amount, "0.") == "" {
		f.OnField("amount", "amount", "Write a number above 0 with at most four decimals, as in 120.00.")
	}
	if !currencyForm.MatchString(p.Currency) {
		f.OnField("currency", "currency", "Write the three capital letters of the currency, as in EUR.")
	}
	p.PeriodEnd = p.PeriodEnd.UTC().Truncate(24 * time.Hour)
	if today := s.today(); p.PeriodEnd.Before(today.AddDate(-furthest, 0, 0)) || p.PeriodEnd.After(today.AddDate(furthest, 0, 0)) {
		f.OnField("period_end", "range", "The last day that is paid is more than ten years away: correct the year.")
	}
	p.Reference = strings.TrimSpace(p.Reference)
	if n := utf8.RuneCountInString(p.Reference); n == 0 || n > maxReference || strings.ContainsFunc(p.Reference, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		f.OnField("reference", "reference", "Name the payment in one line of 1 to 100 characters: it counts once under this name.")
	}
	if len(f.Fields) > 0 {
		return p, f
	}
	return p, nil
}

// Record adds a payment. One that is there already, under its reference and with the
// same values, is answered again and counts no more.
func (s *Service) Record(ctx context.Context, actor *audit.Actor, tenantID uuid.UUID, p Payment) (Payment, error) {
	p, err := s.check(p)
	if err != nil {
		return Payment{}, err
	}
	if p.ID, err = uuid.NewV7(); err != nil {
		return Payment{}, fmt.Errorf("make an id: %w", err)
	}
	recorded, err := pg.InTxValue(ctx, s.DB, func(tx pgx.Tx) (Payment, error) { return s.record(ctx, tx, actor, tenantID, p) })
	if err != nil {
		return Payment{}, err
	}
	// The payment is booked whatever comes of this; the sweep tries again.
	if err := s.forgive(ctx, tenantID); err != nil {
		s.Log.WarnContext(ctx, "a tenant that has paid could not be resumed yet", "tenant", tenantID, "error", err)
	}
	return recorded, nil
}

func (s *Service) record(ctx context.Context, tx pgx.Tx, actor *audit.Actor, tenantID uuid.UUID, p Payment) (Payment, error) {
	locked, err := s.lock(ctx, tx, tenantID)
	if err != nil {
		return Payment{}, err
	}
	if locked.Status == string(tenant.StatusPurged) {
		return Payment{}, fault.Conflict("The tenant is purged: its data is gone, and nothing can be paid for it.").Code("tenant_purged")
	}
	added, err := s.q.InsertPayment(ctx, tx, dbsqlc.InsertPaymentParams{
		ID: p.ID, TenantID: tenantID, Amount: p.Amount, Currency: p.Currency, PeriodEnd: date(p.PeriodEnd),
		Reference: p.Reference, RecordedBy: actor.String(),
	})
	if err != nil {
		return Payment{}, fmt.Errorf("store the payment: %w", err)
	}
	row, err := s.q.PaymentByReference(ctx, tx, dbsqlc.PaymentByReferenceParams{TenantID: tenantID, Reference: p.Reference, Amount: p.Amount})
	if err != nil {
		return Payment{}, fmt.Errorf("read the payment: %w", err)
	}
	stored := Payment{
		ID: row.ID, Amount: row.Amount, Currency: row.Currency, PeriodEnd: row.PeriodEnd.Time, Reference: row.Reference,
		RecordedBy: row.RecordedBy, CreatedAt: row.CreatedAt,
	}
	if added == 0 {
		if !row.SameAmount || stored.Currency != p.Currency || !stored.PeriodEnd.Equal(p.PeriodEnd) {
			return Payment{}, fault.Conflict("Another payment of this tenant has this reference. Correct the reference, or send the same values again.").
				Code("reference_used").OnField("reference", "taken", "This reference is used.")
		}
		return stored, nil
	}
	paid, err := s.q.ExtendPaid(ctx, tx, dbsqlc.ExtendPaidParams{ID: tenantID, PeriodEnd: date(p.PeriodEnd)})
	if err != nil {
		return Payment{}, fmt.Errorf("extend what is paid: %w", err)
	}
	detail := map[string]any{
		"payment_id": stored.ID, "amount": stored.Amount, "currency": stored.Currency, "period_end": day(stored.PeriodEnd),
		"reference": stored.Reference, "paid_until": day(paid.Time),
	}
	if err := event.Record(ctx, tx, event.PaymentRecorded, tenantID, detail); err != nil {
		return Payment{}, err
	}
	return stored, audit.Record(ctx, tx, audit.Entry{
		Actor: actor, Action: "payment.record", EntityType: "payment", EntityID: stored.ID.String(), TenantID: tenantID, Detail: detail,
	})
}

func (s *Service) lock(ctx context.Context, tx pgx.Tx, id uuid.UUID) (dbsqlc.LockTenantRow, error) {
	locked, err := s.q.LockTenant(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return locked, fault.NotFound("There is no such tenant.")
	}
	if err != nil {
		return locked, fmt.Errorf("lock the tenant: %w", err)
	}
	return locked, nil
}

func date(t time.Time) pgtype.Date { return pgtype.Date{Time: t, Valid: true} }

func day(t time.Time) string { return t.Format(time.DateOnly) }

// listSort names the one order of the list: the newest first.
const listSort = "-id"

// List gives a page of a tenant's payments, the newest first, and the next cursor.
func (s *Service) List(ctx context.Context, tenantID uuid.UUID, cursor string, limit int) ([]Payment, string, error) {
	after, err := page.Parse(cursor, listSort)
	if err != nil {
		return nil, "", err
	}
	var before uuid.NullUUID
	if after != nil {
		if err := before.Scan(after.ID); err != nil {
			return nil, "", fault.Invalid("The cursor is not one of this list. Begin again without it.").Because(err)
		}
	}
	rows, err := s.q.ListPayments(ctx, s.DB, dbsqlc.ListPaymentsParams{TenantID: tenantID, Before: before, Most: int32(limit) + 1})
	if err != nil {
		return nil, "", fmt.Errorf("list the payments: %w", err)
	}
	list := make([]Payment, 0, len(rows))
	for _, r := range rows {
		list = append(list, Payment{
			ID: r.ID, Amount: r.Amount, Currency: r.Currency, PeriodEnd: r.PeriodEnd.Time, Reference: r.Reference,
			RecordedBy: r.RecordedBy, CreatedAt: r.CreatedAt,
		})
	}
	if len(list) <= limit {
		return list, "", nil
	}
	list = list[:limit]
	return list, page.Cursor{Sort: listSort, ID: list[limit-1].ID.String()}.String(), nil
}
