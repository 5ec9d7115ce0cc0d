package httpapi

import (
	"context"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
)

// Usage of a tenant in an hour or a day.
type Usage struct {
	From          time.Time `json:"from" doc:"When the hour or the day begins, in UTC."`
	DatabaseBytes int64     `json:"database_bytes" doc:"The most that was seen; 0: it was not looked at."`
	Connections   int32     `json:"connections" doc:"The most that were seen at once."`
	Requests      int64     `json:"requests"`
	Errors        int64     `json:"errors" doc:"Answers that were the platform's fault (5xx)."`
	Logins        int64     `json:"logins"`
}

type usageInput struct {
	TenantPath

	From string `query:"from" maxLength:"30" doc:"A day as in 2027-01-31, or a moment; 30 days ago if absent (by the hour: two days)."`
	To   string `query:"to" maxLength:"30" doc:"Likewise, and not included; now if absent."`
	By   string `query:"by" enum:"day,hour" default:"day" doc:"Hours are kept for 14 days, days for 400."`
}

func (a *api) tenantUsage(ctx context.Context, in *usageInput) (*body[List[Usage]], error) {
	t, err := a.find(ctx, in.TenantPath)
	if err != nil {
		return nil, err
	}
	hourly, now := in.By == "hour", time.Now().UTC()
	back := 30
	if hourly {
		back = 2
	}
	from, err := momentOf("from", in.From, now.Truncate(24*time.Hour).AddDate(0, 0, -back))
	if err != nil {
		return nil, err
	}
	to, err := momentOf("to", in.To, now.Truncate(24*time.Hour).AddDate(0, 0, 1))
	if err != nil {
		return nil, err
	}
	found, err := a.Usage.Of(ctx, t.ID, from, to, hourly)
	if err != nil {
		return nil, err
	}
	items := make([]Usage, 0, len(found))
	for _, u := range found {
		items = append(items, Usage(u))
	}
	return listed(items, ""), nil
}

// momentOf reads a day or a moment.
func momentOf(field, text string, otherwise time.Time) (time.Time, error) {
	if text == "" {
		return otherwise, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	const message = "Write a day as in 2027-01-31, or a moment as in 2027-01-31T12:00:00Z."
	return time.Time{}, fault.Invalid(message).OnField(field, "date", message)
}
