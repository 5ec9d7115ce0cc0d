package httpapi

import (
	"context"
	"encoding/json"
	"net/netip"
	"net/url"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// ActivityLog is one record of the activity log.
type ActivityLog struct {
	ID          int64           `json:"id"`
	User        *int64          `json:"user"`
	UserDisplay string          `json:"user_display" doc:"The user's name as it was then." example:"Jane Doe"`
	OnBehalf    *string         `json:"on_behalf" doc:"Who really acted, when support acts for the user."`
	Company     *int64          `json:"company"`
	Date        int32           `json:"date" doc:"YYYYMMDD, UTC." example:"20260331"`
	EntityType  string          `json:"entity_type" example:"company"`
	EntityID    *int64          `json:"entity_id" doc:"null: a list of them."`
	Action      string          `json:"action" example:"UPDATE"`
	OldValues   json.RawMessage `json:"old_values"`
	NewValues   json.RawMessage `json:"new_values"`
	IPAddress   *netip.Addr     `json:"ip_address"`
	RequestID   string          `json:"request_id" example:"S4NCDFYXOHVPUALPIGQBDV7JQZ"`
	CreatedAt   time.Time       `json:"created_at"`
}

// SecurityLog is one record of the security log.
type SecurityLog struct {
	ID          int64           `json:"id"`
	User        *int64          `json:"user"`
	UserDisplay string          `json:"user_display" doc:"The user's name as it was then." example:"Jane Doe"`
	Date        int32           `json:"date" doc:"YYYYMMDD, UTC." example:"20260331"`
	Action      string          `json:"action" example:"LOGIN"`
	Metadata    json.RawMessage `json:"metadata"`
	IPAddress   *netip.Addr     `json:"ip_address"`
	RequestID   string          `json:"request_id" example:"S4NCDFYXOHVPUALPIGQBDV7JQZ"`
	CreatedAt   time.Time       `json:"created_at"`
}

func activityOf(a audit.Activity) ActivityLog {
	return ActivityLog{
		ID: a.ID, User: a.UserID, UserDisplay: a.UserDisplay, OnBehalf: a.OnBehalf, Company: a.CompanyID, Date: a.Date,
		EntityType: a.EntityType, EntityID: a.EntityID, Action: a.Action, OldValues: a.OldValues, NewValues: a.NewValues,
		IPAddress: a.IPAddress, RequestID: a.RequestID, CreatedAt: a.CreatedAt.UTC(),
	}
}

func securityOf(e audit.SecurityEvent) SecurityLog {
	return SecurityLog{
		ID: e.ID, User: e.UserID, UserDisplay: e.UserDisplay, Date: e.Date, Action: e.Action, Metadata: e.Metadata,
		IPAddress: e.IPAddress, RequestID: e.RequestID, CreatedAt: e.CreatedAt.UTC(),
	}
}

// What is read of the audit is recorded under these names. There is nothing
// of a record to keep: what is read is the records.
type nothingKept struct{}

var (
	activityLogs = audit.Of[nothingKept]("activity_log")
	securityLogs = audit.Of[nothingKept]("security_log")
)

// PeriodInput narrows a list to a time.
type PeriodInput struct {
	From string `query:"from" maxLength:"40" doc:"A date, or a time in RFC 3339." example:"2026-03-01"`
	To   string `query:"to" maxLength:"40" doc:"A date, which is included, or a time in RFC 3339, which is not." example:"2026-03-31"`
}

// CursorInput reads a long list by places instead of pages.
type CursorInput struct {
	Cursor string `query:"cursor" maxLength:"200" doc:"Instead of page: what follows this place. Empty to begin at the newest; then follow next. Its count is that of the beginning."`
}

func (in CursorInput) window(sc *scope, page PageInput) (audit.Window, error) {
	limit, offset := page.window()
	if !sc.url.Query().Has("cursor") {
		return audit.Window{Limit: limit, Offset: offset}, nil
	}
	cursor := audit.Start()
	if in.Cursor != "" {
		var err error
		if cursor, err = audit.ParseCursor(in.Cursor); err != nil {
			return audit.Window{}, err
		}
	}
	return audit.Window{Limit: limit, After: &cursor}, nil
}

// logPage is a page of a log, or what follows a cursor. last is the id of the
// last of the results.
func logPage[T any](s *server, sc *scope, in PageInput, w audit.Window, count int64, results []T, last func(T) int64) Page[T] {
	if w.After == nil {
		return pageOf(s, sc, in, count, results)
	}
	page := Page[T]{Count: count, Results: results}
	if len(results) == int(w.Limit) {
		query := sc.url.Query()
		query.Del("page")
		query.Set("cursor", audit.Cursor{Before: last(results[len(results)-1]), Count: count}.String())
		link := url.URL{Scheme: s.Scheme, Host: sc.host, Path: sc.url.Path, RawQuery: query.Encode()}
		address := link.String()
		page.Next = &address
	}
	return page
}

// ActivityFilter is what activity logs can be asked for.
type ActivityFilter struct {
	PageInput
	CursorInput
	PeriodInput

	Entity   string `query:"entity" maxLength:"100" doc:"The type of the entity." example:"company"`
	EntityID int64  `query:"entity_id" minimum:"1"`
	Action   string `query:"action" maxLength:"100" example:"UPDATE"`
}

func (in ActivityFilter) filter(user int64) (audit.Filter, error) {
	from, until, err := audit.ParsePeriod(in.From, in.To)
	return audit.Filter{User: user, Entity: in.Entity, EntityID: in.EntityID, Action: in.Action, From: from, Until: until}, err
}

type listActivitiesInput struct {
	ActivityFilter

	Company int64 `query:"company" minimum:"1" doc:"Without it: all companies in which you may read the audit."`
	User    int64 `query:"user" minimum:"1"`
}

type listActivitiesOutput struct{ Body Page[ActivityLog] }

func (s *server) listActivities(ctx context.Context, db pg.Querier, c *caller, in *listActivitiesInput) (*listActivitiesOutput, error) {
	reach, company, err := s.auditReach(ctx, db, c, in.Company)
	if err != nil {
		return nil, err
	}
	out, err := s.activityPage(ctx, db, c, reach, in.User, in.ActivityFilter)
	if err != nil {
		return nil, err
	}
	return out, activityLogs.Looked(ctx, db, c.who(), company, nil)
}

func (s *server) listOwnActivities(ctx context.Context, db pg.Querier, c *caller, in *ActivityFilter) (*listActivitiesOutput, error) {
	return s.activityPage(ctx, db, c, audit.Reach{User: &c.ID}, 0, *in)
}

func (s *server) activityPage(ctx context.Context, db pg.Querier, c *caller, reach audit.Reach, user int64, in ActivityFilter) (*listActivitiesOutput, error) {
	filter, err := in.filter(user)
	if err != nil {
		return nil, err
	}
	window, err := in.CursorInput.window(c.scope, in.PageInput)
	if err != nil {
		return nil, err
	}
	activities, count, err := audit.Activities(ctx, db, reach, filter, window)
	if err != nil {
		return nil, err
	}
	results := make([]ActivityLog, len(activities))
	for i, a := range activities {
		results[i] = activityOf(a)
	}
	return &listActivitiesOutput{logPage(s, c.scope, in.PageInput, window, count, results, func(a ActivityLog) int64 { return a.ID })}, nil
}

// auditReach is whose records the caller may see: those of one company, or of
// every company in which they hold the permission. What belongs to no company,
// or to one that has been deleted, is for those who hold it at home.
func (s *server) auditReach(ctx context.Context, db pg.Querier, c *caller, companyID int64) (audit.Reach, *int64, error) {
	if companyID != 0 {
		deleted, err := audit.CompanyDeleted(ctx, db, companyID)
		if err != nil {
			return audit.Reach{}, nil, err
		}
		if deleted {
			if err := c.requireHome(ctx, db); fault.Is(err, fault.KindForbidden) {
				return audit.Reach{}, nil, errNoCompany()
			} else if err != nil {
				return audit.Reach{}, nil, err
			}
		} else if err := c.require(ctx, db, companyID); err != nil {
			return audit.Reach{}, nil, err
		}
		return audit.Reach{Companies: []int64{companyID}}, &companyID, nil
	}
	companies, err := c.companies(ctx, db)
	if err != nil {
		return audit.Reach{}, nil, err
	}
	home, err := s.Access.Home(ctx, db)
	if err != nil {
		return audit.Reach{}, nil, err
	}
	homeless, err := c.may(ctx, db, home, c.op.permission)
	return audit.Reach{Companies: companies, Homeless: homeless}, nil, err
}

type listSecurityEventsInput struct {
	PageInput
	CursorInput
	PeriodInput

	User   int64  `query:"user" minimum:"1"`
	Action string `query:"action" maxLength:"100" example:"LOGIN"`
}

type listSecurityEventsOutput struct{ Body Page[SecurityLog] }

func (s *server) listSecurityEvents(ctx context.Context, db pg.Querier, c *caller, in *listSecurityEventsInput) (*listSecurityEventsOutput, error) {
	if err := c.requireHome(ctx, db); err != nil {
		return nil, err
	}
	from, until, err := audit.ParsePeriod(in.From, in.To)
	if err != nil {
		return nil, err
	}
	window, err := in.CursorInput.window(c.scope, in.PageInput)
	if err != nil {
		return nil, err
	}
	events, count, err := audit.SecurityEvents(ctx, db, audit.Filter{User: in.User, Action: in.Action, From: from, Until: until}, window)
	if err != nil {
		return nil, err
	}
	results := make([]SecurityLog, len(events))
	for i, e := range events {
		results[i] = securityOf(e)
	}
	out := &listSecurityEventsOutput{logPage(s, c.scope, in.PageInput, window, count, results, func(e SecurityLog) int64 { return e.ID })}
	return out, securityLogs.Looked(ctx, db, c.who(), nil, nil)
}

// Trend is what happened in one period.
type Trend struct {
	Period  string           `json:"period" doc:"The day, ISO week, month, quarter, or fiscal year and its month." example:"2026-W14"`
	Start   string           `json:"start" format:"date" example:"2026-03-30"`
	End     string           `json:"end" format:"date" doc:"The last day. The first and the last period end where the filter does." example:"2026-04-05"`
	Actions map[string]int64 `json:"actions" doc:"How often each action happened."`
	Total   int64            `json:"total"`
}

type trendsInput struct {
	PageInput
	PeriodInput

	Company int64  `query:"company" minimum:"1" doc:"Without it: all companies in which you may read the audit, with fiscal years that begin in January."`
	By      string `query:"by" enum:"day,week,month,quarter,fiscal_period" default:"day"`
}

type trendsOutput struct{ Body Page[Trend] }

func (s *server) auditTrends(ctx context.Context, db pg.Querier, c *caller, in *trendsInput) (*trendsOutput, error) {
	reach, company, err := s.auditReach(ctx, db, c, in.Company)
	if err != nil {
		return nil, err
	}
	from, until, err := audit.ParsePeriod(in.From, in.To)
	if err != nil {
		return nil, err
	}
	by := audit.By(in.By)
	first, last, err := audit.Span(by, from, until, time.Now())
	if err != nil {
		return nil, err
	}
	fiscalStart := int16(1)
	if company != nil {
		if fiscalStart, err = audit.FiscalStart(ctx, db, *company); err != nil {
			return nil, err
		}
	}
	limit, offset := in.window()
	trends, count, err := audit.Trends(ctx, db, reach, by, fiscalStart, first, last, audit.Window{Limit: limit, Offset: offset})
	if err != nil {
		return nil, err
	}
	results := make([]Trend, len(trends))
	for i, t := range trends {
		results[i] = Trend{Period: t.Period, Start: t.Start.Format(time.DateOnly), End: t.End.Format(time.DateOnly), Actions: t.Actions, Total: t.Total}
	}
	out := &trendsOutput{pageOf(s, c.scope, in.PageInput, count, results)}
	return out, activityLogs.Looked(ctx, db, c.who(), company, nil)
}
