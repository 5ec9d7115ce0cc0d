package signup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/signup/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
)

// Limits are how many sign-ups may be started in an hour from one address and from
// one network; 0: as many as somebody likes. They are counted in the control
// database, exactly, over all processes: a mail goes out for each.
type Limits struct {
	PerAddress int // an IPv6 client is its /64
	PerNetwork int // the /24, or /48
}

// limitPeriod is the time that the limits are for; limitsForgotten how many counters
// a sweep removes.
const (
	limitPeriod     = time.Hour
	limitsForgotten = 1000
)

// admit counts a sign-up and refuses one too many.
func (s *Service) admit(ctx context.Context, client netip.Addr) error {
	if !client.IsValid() {
		return nil
	}
	address, network := 32, 24
	if client.Is6() {
		address, network = 64, 48
	}
	for _, l := range []struct{ count, bits int }{{s.Limits.PerAddress, address}, {s.Limits.PerNetwork, network}} {
		if l.count < 1 {
			continue
		}
		prefix, err := client.Prefix(l.bits)
		if err != nil {
			return fmt.Errorf("the client's network: %w", err)
		}
		if err := s.take(ctx, prefix.String(), l.count); err != nil {
			return err
		}
	}
	return nil
}

// take counts by the generic cell rate algorithm: count at once, then one more each
// count-th of the period.
func (s *Service) take(ctx context.Context, key string, count int) error {
	step := limitPeriod.Seconds() / float64(count)
	_, err := s.q.TakeLimit(ctx, s.DB, dbsqlc.TakeLimitParams{Key: key, StepSeconds: step, WindowSeconds: limitPeriod.Seconds()})
	if err == nil {
		return nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("count the sign-ups: %w", err)
	}
	wait, err := s.q.LimitWait(ctx, s.DB, key)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("count the sign-ups: %w", err)
	}
	after := time.Duration((wait + step - limitPeriod.Seconds()) * float64(time.Second))
	return fault.RateLimited("There were many sign-ups from your network lately. Wait for as long as Retry-After says, then try again.").
		Code("signup_limit").RetryAfter(max(after, time.Second))
}
