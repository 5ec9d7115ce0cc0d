package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/billing/dbsqlc"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// WarnDays is how long before the end of what is paid a tenant is warned.
const WarnDays = 5

// lapseActor is who suspends and resumes for money. By its entries in the audit it is
// told from people who suspend.
const lapseActorID = "lapse"

func lapseActor() *audit.Actor {
	return &audit.Actor{Kind: audit.KindWorker, ID: lapseActorID, Name: "billing"}
}

// standing is how a tenant stands on a day.
type standing struct {
	due, graceEnds time.Time // zero: nothing is due
	warn, lapsed   bool
}

// standingOf decides; it does no I/O.
func standingOf(t dbsqlc.LockTenantRow, today time.Time) standing {
	if !t.Due.Valid {
		return standing{}
	}
	due := t.Due.Time
	graceEnds := due.AddDate(0, 0, int(t.GraceDays))
	return standing{due: due, graceEnds: graceEnds, warn: !today.Before(due.AddDate(0, 0, -WarnDays)), lapsed: today.After(graceEnds)}
}

// Sweep warns, lets lapse, and resumes who has paid. What cannot be done now for one
// tenant (somebody is at work on it, say) does not keep it from others, and is tried
// again by the next sweep.
func (s *Service) Sweep(ctx context.Context) error {
	ids, err := s.q.DueTenants(ctx, s.DB, dbsqlc.DueTenantsParams{Today: date(s.today()), WarnDays: WarnDays})
	if err != nil {
		return fmt.Errorf("look for tenants who are due: %w", err)
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.see(ctx, id))
	}
	suspended, err := s.q.SuspendedTenants(ctx, s.DB)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("look for suspended tenants: %w", err))...)
	}
	for _, id := range suspended {
		errs = append(errs, s.forgive(ctx, id))
	}
	return errors.Join(errs...)
}

// see warns a tenant, or lets it lapse.
func (s *Service) see(ctx context.Context, id uuid.UUID) error {
	var t dbsqlc.LockTenantRow
	var st standing
	err := pg.InTx(ctx, s.DB, func(tx pgx.Tx) (err error) {
		if t, err = s.lock(ctx, tx, id); err != nil {
			return err
		}
		st = standingOf(t, s.today())
		if t.Status != string(tenant.StatusActive) || !st.warn || (t.WarnedOf.Valid && t.WarnedOf.Time.Equal(st.due)) {
			return nil
		}
		return s.warn(ctx, tx, id, t, st)
	})
	if err != nil || t.Status != string(tenant.StatusActive) || !st.lapsed || (t.LapsedOf.Valid && t.LapsedOf.Time.Equal(st.due)) {
		return err
	}
	if t.LapseAction == string(tenant.LapseSuspend) {
		_, err := s.Tenants.Suspend(ctx, lapseActor(), id, "Not paid since "+day(st.due)+".")
		if fault.Is(err, fault.KindConflict) {
			return nil // another worker was faster, or somebody is at work on it: the next sweep sees
		}
		if err != nil {
			return fmt.Errorf("suspend tenant %s, which has not paid: %w", t.Slug, err)
		}
	}
	return s.lapse(ctx, id, st)
}

func (s *Service) warn(ctx context.Context, tx pgx.Tx, id uuid.UUID, t dbsqlc.LockTenantRow, st standing) error {
	if err := s.q.SetWarned(ctx, tx, dbsqlc.SetWarnedParams{ID: id, Due: date(st.due)}); err != nil {
		return fmt.Errorf("write down that a tenant was warned: %w", err)
	}
	if _, err := s.Jobs.Client.InsertTx(ctx, tx, DueMail{TenantID: id, Due: day(st.due)}, nil); err != nil {
		return fmt.Errorf("have a tenant warned by mail: %w", err)
	}
	return tell(ctx, tx, id, event.PaymentDue, "tenant.due", map[string]any{
		"slug": t.Slug, "due": day(st.due), "grace_ends": day(st.graceEnds), "action": t.LapseAction,
	})
}

// lapse writes down that the end of what was paid has been acted upon: it comes after
// the suspension, so that a crash in between repeats nothing but this.
func (s *Service) lapse(ctx context.Context, id uuid.UUID, st standing) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		t, err := s.lock(ctx, tx, id)
		if err != nil || (t.LapsedOf.Valid && t.LapsedOf.Time.Equal(st.due)) {
			return err
		}
		if err := s.q.SetLapsed(ctx, tx, dbsqlc.SetLapsedParams{ID: id, Due: date(st.due)}); err != nil {
			return fmt.Errorf("write down a lapse: %w", err)
		}
		return tell(ctx, tx, id, event.PaymentLapsed, "tenant.lapse", map[string]any{"slug": t.Slug, "due": day(st.due), "action": t.LapseAction})
	})
}

func tell(ctx context.Context, tx pgx.Tx, id uuid.UUID, kind event.Type, action string, detail map[string]any) error {
	if err := event.Record(ctx, tx, kind, id, detail); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Entry{
		Actor: lapseActor(), Action: action, EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
	})
}

// forgive resumes a tenant that a lapse has suspended and that has paid meanwhile.
func (s *Service) forgive(ctx context.Context, id uuid.UUID) error {
	last, err := s.q.LastMove(ctx, s.DB, uuid.NullUUID{UUID: id, Valid: true})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read who has suspended a tenant: %w", err)
	}
	if last.Action != "tenant.suspend" || last.ActorKind != string(audit.KindWorker) || last.ActorID != lapseActorID {
		return nil
	}
	var t dbsqlc.LockTenantRow
	err = pg.InTx(ctx, s.DB, func(tx pgx.Tx) (err error) {
		t, err = s.lock(ctx, tx, id)
		return err
	})
	if err != nil || t.Status != string(tenant.StatusSuspended) {
		return err
	}
	st := standingOf(t, s.today())
	if st.lapsed {
		return s.lapse(ctx, id, st) // it was suspended, and perhaps not written down
	}
	_, err = s.Tenants.Resume(ctx, lapseActor(), id)
	if fault.Is(err, fault.KindConflict) {
		return nil // somebody else was faster
	}
	if err != nil {
		return fmt.Errorf("resume tenant %s, which has paid: %w", t.Slug, err)
	}
	return nil
}
