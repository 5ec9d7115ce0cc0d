package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// By is the length of the periods of a trend.
type By string

// The lengths. A fiscal period is a month of the company's fiscal year.
const (
	ByDay          By = "day"
	ByWeek         By = "week" // ISO 8601: Monday to Sunday
	ByMonth        By = "month"
	ByQuarter      By = "quarter"
	ByFiscalPeriod By = "fiscal_period"
)

// Trend is what happened in one period.
type Trend struct {
	Period  string // 2026-03-31, 2026-W14, 2026-03, 2026-Q1, FY2026-P03
	Start   time.Time
	End     time.Time // the last day; the first and last period may be cut by the filter
	Actions map[string]int64
	Total   int64
}

// The name of a day's period. $1 is the first month of the fiscal year: a
// fiscal year is named for the calendar year in which it ends.
var periodNames = map[By]string{
	ByDay:          `to_char(d.full_date, 'YYYY-MM-DD')`,
	ByWeek:         `to_char(d.full_date, 'IYYY"-W"IW')`,
	ByMonth:        `to_char(d.full_date, 'YYYY-MM')`,
	ByQuarter:      `d.year || '-Q' || d.quarter`,
	ByFiscalPeriod: `'FY' || (d.year + CASE WHEN $1 > 1 AND d.month >= $1 THEN 1 ELSE 0 END) || '-P' || lpad(((d.month - $1 + 12) % 12 + 1)::text, 2, '0')`,
}

// defaultSpan is how far back a trend goes when it is not said.
var defaultSpan = map[By]struct{ months, days int }{
	ByDay: {0, 30}, ByWeek: {0, 7 * 12}, ByMonth: {12, 0}, ByQuarter: {24, 0}, ByFiscalPeriod: {12, 0},
}

// Span completes a period for a trend: without an end it ends with today,
// without a start it has a length that suits its steps. Both are days; the
// last is included.
func Span(by By, from, until, now time.Time) (first, last time.Time, err error) {
	if !until.IsZero() {
		last = day(until.Add(-time.Nanosecond))
	} else {
		last = day(now)
	}
	if first = day(from); from.IsZero() {
		back := defaultSpan[by]
		first = last.AddDate(0, -back.months, 1-back.days)
	}
	if first.After(last) {
		return first, last, fault.Invalid("The period ends before it begins.").OnField("to", "bad_period", "Must be later than from.")
	}
	return first, last, nil
}

func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// Trends counts records by period and action, oldest period first; periods in
// which nothing happened are there too. It also says how many periods there
// are in all.
func Trends(ctx context.Context, db pg.Querier, r Reach, by By, fiscalStart int16, first, last time.Time, w Window) ([]Trend, int64, error) {
	name, known := periodNames[by]
	if !known {
		return nil, 0, fmt.Errorf("there is no trend by %q", by)
	}
	var cond where
	cond.and("?::integer IS NOT NULL", fiscalStart) // $1: also where the name does not need it
	cond.and("l.date >= to_char(?::date, 'YYYYMMDD')::integer", first)
	cond.and("l.date <= to_char(?::date, 'YYYYMMDD')::integer", last)
	cond.reach(r)
	query := fmt.Sprintf(`
		WITH named AS (
			SELECT d.id, d.full_date, %[1]s AS period FROM public.date_dimension d WHERE d.full_date BETWEEN $2::date AND $3::date
		), period AS (
			SELECT n.period, min(n.id) AS first_id, max(n.id) AS last_id, min(n.full_date) AS starts, max(n.full_date) AS ends,
			       count(*) OVER () AS periods
			FROM named n GROUP BY n.period ORDER BY starts LIMIT %[2]d OFFSET %[3]d
		), counted AS (
			SELECT n.period, l.action, count(*) AS happened
			FROM ledger.activity_logs l JOIN named n ON n.id = l.date%[4]s
			  AND l.date BETWEEN (SELECT min(first_id) FROM period) AND (SELECT max(last_id) FROM period)
			GROUP BY n.period, l.action
		)
		SELECT p.period, p.starts, p.ends, COALESCE(jsonb_object_agg(c.action, c.happened) FILTER (WHERE c.action IS NOT NULL), '{}') AS actions,
		       COALESCE(sum(c.happened), 0)::bigint AS total, p.periods
		FROM period p LEFT JOIN counted c ON c.period = p.period
		GROUP BY p.period, p.starts, p.ends, p.periods ORDER BY p.starts`, name, w.Limit, w.Offset, cond.String())
	rows, err := db.Query(ctx, query, cond.args...)
	if err != nil {
		return nil, 0, fmt.Errorf("count the log: %w", err)
	}
	var periods int64
	trends, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Trend, error) {
		var t Trend
		return t, row.Scan(&t.Period, &t.Start, &t.End, &t.Actions, &t.Total, &periods)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("count the log: %w", err)
	}
	return trends, periods, nil
}

// FiscalStart is the month (1 to 12) in which a company's fiscal year begins.
func FiscalStart(ctx context.Context, db pg.Querier, companyID int64) (int16, error) {
	return queries.FiscalStart(ctx, db, companyID)
}

// CompanyDeleted tells whether there was such a company: its records stay.
func CompanyDeleted(ctx context.Context, db pg.Querier, companyID int64) (bool, error) {
	return queries.CompanyDeleted(ctx, db, companyID)
}
