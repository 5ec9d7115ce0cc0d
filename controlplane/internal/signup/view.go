package signup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/page"
	"github.com/ouvira/ouvira/controlplane/internal/provision"
	"github.com/ouvira/ouvira/controlplane/internal/signup/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
)

// View is what anyone who knows the id may see.
type View struct {
	ID       uuid.UUID
	Status   Status
	Slug     string
	LoginURL *string // once the tenant is active
	Reason   *string // why it waits, or has failed
}

// View shows a sign-up to the person who waits for it.
func (s *Service) View(ctx context.Context, id uuid.UUID) (View, error) {
	row, err := s.q.GetSignup(ctx, s.DB, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return View{}, noSignup()
	}
	if err != nil {
		return View{}, fmt.Errorf("read the sign-up: %w", err)
	}
	v := View{ID: id, Status: statusOf(row), Slug: row.Slug}
	switch v.Status {
	case StatusActive:
		address := s.Tenants.Addresses.URL(row.Slug) + "/auth/login"
		v.LoginURL = &address
	case StatusProvisioning, StatusFailed:
		v.Reason, err = s.reason(ctx, row.TenantID)
	case StatusPendingVerification: // nothing to add
	case StatusPendingApproval:
		text := "An operator decides about it; the answer comes by mail."
		v.Reason = &text
	case StatusRejected:
		v.Reason = &row.DecisionReason
	case StatusExpired:
		text := "The code was not used in time. Start again."
		v.Reason = &text
	}
	return v, err
}

// reason is what the operation says to people: why it waits, or failed. Its
// next action is for operators and not shown here.
func (s *Service) reason(ctx context.Context, tenantID uuid.NullUUID) (*string, error) {
	if !tenantID.Valid {
		return nil, nil
	}
	operationID, err := s.q.LatestOperation(ctx, s.DB, dbsqlc.LatestOperationParams{TenantID: tenantID, Kind: provision.Kind})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up the operation: %w", err)
	}
	o, err := s.Operations.Get(ctx, operationID)
	if err != nil || o.Error == nil {
		return nil, err
	}
	return &o.Error.Message, nil
}

// Entry is a sign-up as operators see it.
type Entry struct {
	ID          uuid.UUID     `db:"id"`
	CompanyName string        `db:"company_name"`
	Slug        string        `db:"slug"`
	FullName    string        `db:"full_name"`
	Email       string        `db:"email"`
	Status      Status        `db:"status"`
	TenantID    uuid.NullUUID `db:"tenant_id"`
	ExpiresAt   time.Time     `db:"expires_at"`
	CreatedAt   time.Time     `db:"created_at"`
	UpdatedAt   time.Time     `db:"updated_at"`
}

// Query of List. Zero fields do not filter.
type Query struct {
	Status Status
	Limit  int
	Cursor string
}

// listSort names the one order of the list: the newest first.
const listSort = "-id"

// List gives a page of sign-ups, the newest first, and the next cursor.
func (s *Service) List(ctx context.Context, query Query) ([]Entry, string, error) {
	after, err := page.Parse(query.Cursor, listSort)
	if err != nil {
		return nil, "", err
	}
	before := uuid.NullUUID{}
	if after != nil {
		if err := before.Scan(after.ID); err != nil {
			return nil, "", fault.Invalid("The cursor is not one of this list. Begin again without it.").Because(err)
		}
	}
	rows, err := s.DB.Query(ctx, `
		SELECT id, company_name, slug, full_name, email, tenant_id, expires_at, created_at, updated_at,
		       CASE WHEN status IN ('pending_verification', 'pending_approval') AND expires_at <= now() THEN 'expired' ELSE status END AS status
		FROM control.signups
		WHERE (@before::uuid IS NULL OR id < @before) AND (@status = '' OR status = @status)
		ORDER BY id DESC LIMIT @limit`,
		pgx.NamedArgs{"before": before, "status": string(query.Status), "limit": query.Limit + 1})
	if err != nil {
		return nil, "", fmt.Errorf("list the sign-ups: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Entry])
	if err != nil {
		return nil, "", fmt.Errorf("list the sign-ups: %w", err)
	}
	if len(list) <= query.Limit {
		return list, "", nil
	}
	list = list[:query.Limit]
	return list, page.Cursor{Sort: listSort, ID: list[len(list)-1].ID.String()}.String(), nil
}
