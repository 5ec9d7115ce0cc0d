// Package usage knows how much tenants use: the size of their databases and their
// connections, which it looks at on the servers, and requests, errors and sign-ins,
// which nodes count and report (node.report_usage).
//
// It promises: a server is asked one query, however many tenants live there, by one
// worker at a time; hours are kept for two weeks and days for a good year; who comes
// over a quota is told of once, until they are below it again.
package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/usage/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// How often servers are looked at, and how long what was seen is kept.
const (
	Every      = 15 * time.Minute
	KeepHourly = 14 * 24 * time.Hour
	KeepDaily  = 400 * 24 * time.Hour
	// keepReports is longer than any process tries to send a report again.
	keepReports = 7 * 24 * time.Hour
)

// visitTimeout bounds the look at one server.
const visitTimeout = 30 * time.Second

// Service of the room.
type Service struct {
	DB      pg.DB
	Servers *server.Service
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	q dbsqlc.Queries
}

func (s *Service) now() time.Time {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return now().UTC()
}

// Sample looks at the servers whose time has come. One that cannot be reached is
// logged and looked at the next time.
func (s *Service) Sample(ctx context.Context, actor *audit.Actor) error {
	now := s.now()
	servers, err := s.q.TakeServers(ctx, s.DB, dbsqlc.TakeServersParams{Now: now, VisitedBefore: now.Add(-Every)})
	if err != nil {
		return fmt.Errorf("take the servers to look at: %w", err)
	}
	for _, id := range servers {
		if err := s.visit(ctx, id, now); err != nil {
			s.Log.WarnContext(ctx, "the usage of a server could not be looked at", "server", id, "error", err)
		}
	}
	return s.compare(ctx, actor) // plans change without anybody having looked
}

// seen is what a server says of the databases; sizes are those of files.
const seen = `
	WITH busy AS (SELECT datid, count(*)::int AS backends FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY datid)
	SELECT d.datname::text, coalesce(pg_database_size(d.oid), 0), coalesce(b.backends, 0)
	FROM pg_database d LEFT JOIN busy b ON b.datid = d.oid
	WHERE d.datname = ANY ($1)`

// visit writes down what one server holds.
func (s *Service) visit(ctx context.Context, id uuid.UUID, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	databases, err := s.q.DatabasesOf(ctx, s.DB, uuid.NullUUID{UUID: id, Valid: true})
	if err != nil {
		return fmt.Errorf("read the databases of a server: %w", err)
	}
	if len(databases) == 0 {
		return nil
	}
	names, owners := make([]string, len(databases)), make(map[string]uuid.UUID, len(databases))
	for i, d := range databases {
		names[i], owners[d.DatabaseName] = d.DatabaseName, d.ID
	}
	access, err := s.Servers.Open(ctx, id, 1)
	if err != nil {
		return err
	}
	defer access.Close()
	conn, err := access.Connect(ctx, server.Target{ApplicationName: "ouvira/usage"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	found := dbsqlc.SeenParams{Hour: now.Truncate(time.Hour)}
	rows, err := conn.Query(ctx, seen, names)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	var name string
	var bytes int64
	var connections int32
	_, err = pgx.ForEachRow(rows, []any{&name, &bytes, &connections}, func() error {
		found.Tenants = append(found.Tenants, owners[name])
		found.Bytes = append(found.Bytes, bytes)
		found.Connections = append(found.Connections, connections)
		return nil
	})
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	if err := s.q.Seen(ctx, s.DB, found); err != nil {
		return fmt.Errorf("write down the usage: %w", err)
	}
	return nil
}

// compare tells of tenants that have come over their quota of storage, and lets nodes
// know of them and of those who are below it again.
func (s *Service) compare(ctx context.Context, actor *audit.Actor) error {
	return pg.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		under, err := s.q.UnderStorage(ctx, tx)
		if err != nil {
			return fmt.Errorf("look for tenants who are below their quota again: %w", err)
		}
		over, err := s.q.OverStorage(ctx, tx)
		if err != nil {
			return fmt.Errorf("look for tenants over their quota: %w", err)
		}
		for _, id := range over {
			t, err := s.q.StorageOf(ctx, tx, id)
			if err != nil {
				return fmt.Errorf("read a tenant's quota: %w", err)
			}
			detail := map[string]any{"slug": t.Slug, "quota": "storage", "limit_mb": t.MaxStorageMb, "used_bytes": t.DatabaseBytes}
			if err := event.Record(ctx, tx, event.QuotaExceeded, id, detail); err != nil {
				return err
			}
			err = audit.Record(ctx, tx, audit.Entry{
				Actor: actor, Action: "quota.exceed", EntityType: "tenant", EntityID: id.String(), TenantID: id, Detail: detail,
			})
			if err != nil {
				return err
			}
		}
		// Last: it holds the route clock until the commit.
		for _, id := range append(under, over...) {
			if err := s.q.PublishRoute(ctx, tx, id); err != nil {
				return fmt.Errorf("publish the route: %w", err)
			}
		}
		return nil
	})
}

// RollUp adds hours up to days, and forgets what is old.
func (s *Service) RollUp(ctx context.Context) error {
	now := s.now()
	today := now.Truncate(24 * time.Hour)
	if err := s.q.RollUp(ctx, s.DB, today.AddDate(0, 0, -1)); err != nil {
		return fmt.Errorf("add hours up to days: %w", err)
	}
	err := errors.Join(
		s.q.ForgetHours(ctx, s.DB, now.Add(-KeepHourly)),
		s.q.ForgetDays(ctx, s.DB, date(today.Add(-KeepDaily))),
		s.q.ForgetReports(ctx, s.DB, now.Add(-keepReports)),
	)
	if err != nil {
		return fmt.Errorf("forget old usage: %w", err)
	}
	return nil
}

func date(t time.Time) pgtype.Date { return pgtype.Date{Time: t, Valid: true} }

// Usage of a tenant in an hour or a day.
type Usage struct {
	From          time.Time
	DatabaseBytes int64 // the most that was seen; 0: it was not looked at
	Connections   int32 // the most that were seen
	Requests      int64
	Errors        int64 // answers that were our fault
	Logins        int64
}

// Of gives a tenant's usage from one moment to before another, by the hour or by the
// day. Today is in neither's future: the last entry grows.
func (s *Service) Of(ctx context.Context, tenant uuid.UUID, from, until time.Time, hourly bool) ([]Usage, error) {
	if !from.Before(until) {
		const message = "The end must be after the beginning."
		return nil, fault.Invalid(message).OnField("to", "range", message)
	}
	list := []Usage{}
	if hourly {
		rows, err := s.q.Hours(ctx, s.DB, dbsqlc.HoursParams{TenantID: tenant, Since: from, Until: until})
		if err != nil {
			return nil, fmt.Errorf("read the usage: %w", err)
		}
		for _, r := range rows {
			list = append(list, Usage{r.Hour.UTC(), r.DatabaseBytes, r.Connections, r.Requests, r.Errors, r.Logins})
		}
		return list, nil
	}
	rows, err := s.q.Days(ctx, s.DB, dbsqlc.DaysParams{TenantID: tenant, Since: date(from), Until: date(until)})
	if err != nil {
		return nil, fmt.Errorf("read the usage: %w", err)
	}
	for _, r := range rows {
		list = append(list, Usage{r.Day.Time, r.DatabaseBytes, r.Connections, r.Requests, r.Errors, r.Logins})
	}
	return list, nil
}
