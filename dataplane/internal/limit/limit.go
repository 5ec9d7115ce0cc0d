// Package limit says how often something may be done.
//
// A limit of n in a period lets n happen at once; then each n-th of the period
// gives one back (the generic cell rate algorithm, GCRA). All that is kept of a
// key is one time: when everything is there again.
//
// Take counts in the tenant's database and is exact over all nodes: it is for
// what guesses secrets or costs money. Local counts in one node's memory: it is
// for what only must not run away.
package limit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/limit/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// Verdict is what a limit says to one request.
type Verdict struct {
	Limit     route.Limit
	Allowed   bool
	Remaining int           // how many more would be allowed now
	Reset     time.Duration // until everything is there again
	Wait      time.Duration // until one is there; 0 when allowed
}

// Err refuses what is not allowed.
func (v Verdict) Err() error {
	if v.Allowed {
		return nil
	}
	return fault.RateLimited("That was too often. Wait for as long as Retry-After says, then try again.").RetryAfter(v.Wait)
}

// step is what one request takes of the window, cut to Postgres's precision:
// exactly Count steps make a window.
func step(l route.Limit) (step, window time.Duration) {
	step = max((l.Per / time.Duration(l.Count)).Truncate(time.Microsecond), time.Microsecond)
	return step, step * time.Duration(l.Count)
}

// verdict when everything is there again in full.
func verdict(l route.Limit, allowed bool, full time.Duration) Verdict {
	step, window := step(l)
	v := Verdict{Limit: l, Allowed: allowed, Reset: max(full, 0)}
	if allowed {
		v.Remaining = int((window - v.Reset) / step)
	} else {
		v.Wait = max(v.Reset+step-window, time.Microsecond)
	}
	return v
}

var queries dbsqlc.Queries

// sweepAtOnce is how many rows that say nothing any more one call takes away:
// more than it can add, so that the table does not outgrow its use.
const sweepAtOnce = 2

// Take counts one request of the key, in one statement. db must not be in a
// transaction: another request of the same key would wait for its end, and a
// rollback would take the count back.
func Take(ctx context.Context, db pg.Querier, l route.Limit, key string) (Verdict, error) {
	step, window := step(l)
	sum := sha256.Sum256([]byte(l.Name + "\x00" + key))
	rows, err := queries.Take(ctx, db, dbsqlc.TakeParams{Key: sum[:], StepSeconds: step.Seconds(), WindowSeconds: window.Seconds()})
	if err != nil {
		return Verdict{}, fmt.Errorf("count %s: %w", l.Name, err)
	}
	v := verdict(l, false, window)
	if len(rows) > 0 {
		v = verdict(l, rows[0].Allowed, time.Duration(math.Round(rows[0].FullIn*1e6))*time.Microsecond)
	}
	if !v.Allowed {
		return v, nil
	}
	if err := queries.Sweep(ctx, db, sweepAtOnce); err != nil {
		return Verdict{}, fmt.Errorf("sweep the limits: %w", err)
	}
	return v, nil
}
