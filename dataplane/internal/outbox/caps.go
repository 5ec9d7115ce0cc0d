package outbox

import (
	"context"
	"strings"
	"time"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// capSMS counts an SMS in the caller's transaction and refuses one over the
// tenant's cap for a day, or the cap for numbers of one prefix: whoever can make
// a tenant send SMS to numbers of their choice can earn by it. Concurrent ones
// wait for each other: always for the tenant's row first.
func capSMS(ctx context.Context, tx pg.Querier, s route.Settings, number string) error {
	for _, counted := range []struct {
		prefix string
		limit  route.Limit
	}{{"", route.LimitSMSPerDay}, {prefixOf(number), route.LimitSMSPerPrefix}} {
		sent, err := queries.CountSMS(ctx, tx, counted.prefix)
		if err != nil {
			return err
		}
		if int(sent) > s.Limit(counted.limit).Count {
			return fault.RateLimited("No more SMS can be sent to this number today. Try again tomorrow, or use another way to sign in.").
				Code("sms_cap").RetryAfter(untilTomorrow(time.Now()))
		}
	}
	return nil
}

func untilTomorrow(now time.Time) time.Duration {
	now = now.UTC()
	return now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
}

// twoDigits are the country codes of two digits (ITU-T E.164); those of one
// are 1 and 7, all others have three.
const twoDigits = " 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86 90 91 92 93 94 95 98 "

// prefixOf is the country code and the next three digits of a number in E.164:
// what numbers have in common that one carrier, or one fraudster, owns.
func prefixOf(number string) string {
	digits := strings.TrimPrefix(number, "+")
	country := 3
	switch {
	case strings.HasPrefix(digits, "1"), strings.HasPrefix(digits, "7"):
		country = 1
	case len(digits) >= 2 && strings.Contains(twoDigits, " "+digits[:2]+" "):
		country = 2
	}
	return "+" + digits[:min(len(digits), country+3)]
}
