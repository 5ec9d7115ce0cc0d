// Package usage counts what tenants ask of a node, and reports it to the control
// database.
//
// It promises: what was counted is reported once, also when the answer to a report is
// lost or the control database is away for long; counting takes no I/O. What is kept
// meanwhile is bounded by the number of tenants. What a killed node had not reported
// yet, half a minute's worth, is lost.
package usage

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/pg"
)

// Sum is what a tenant has asked for.
type Sum struct {
	Requests int64
	Errors   int64 // answers that were our fault
	Logins   int64
}

const (
	reportEvery   = 30 * time.Second
	reportTimeout = 5 * time.Second
	// reportMost tenants are in one report; the function takes 10,000.
	reportMost = 5000
)

// Counter counts. Its methods may be called at the same time, and on nil, which
// counts nothing.
type Counter struct {
	control  pg.Querier // as the role ouvira_node
	log      *slog.Logger
	instance string // of this process: a new one begins to count its reports anew

	mu   sync.Mutex
	sums map[uuid.UUID]Sum

	reporting sync.Mutex // guards what is below
	sequence  int64
	pending   map[uuid.UUID]Sum // of the report that was not acknowledged yet
}

// New makes one; Run reports.
func New(control pg.Querier, nodeID string, log *slog.Logger) *Counter {
	return &Counter{control: control, log: log, instance: nodeID + "/" + uuid.NewString(), sums: map[uuid.UUID]Sum{}}
}

// Add counts.
func (c *Counter) Add(tenant uuid.UUID, what Sum) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sums[tenant]
	c.sums[tenant] = Sum{s.Requests + what.Requests, s.Errors + what.Errors, s.Logins + what.Logins}
}

// Run reports now and then until ctx ends, and then once more.
func (c *Counter) Run(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx := context.WithoutCancel(ctx)
			if err := c.Report(ctx); err != nil {
				c.log.WarnContext(ctx, "what tenants have used since the last report is lost", "error", err)
			}
			return
		case <-tick.C:
			if err := c.Report(ctx); err != nil && ctx.Err() == nil {
				c.log.DebugContext(ctx, "what tenants use is reported later", "error", err)
			}
		}
	}
}

// Report sends all that was counted. What could not be sent stays, under the same
// number if it may have arrived.
func (c *Counter) Report(ctx context.Context) error {
	c.reporting.Lock()
	defer c.reporting.Unlock()
	for {
		if c.pending == nil {
			if c.pending = c.take(); c.pending == nil {
				return nil
			}
			c.sequence++
		}
		if err := c.send(ctx); err != nil {
			return err
		}
		c.pending = nil
	}
}

// take moves what was counted into a report; nil when there is nothing.
func (c *Counter) take() map[uuid.UUID]Sum {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sums) == 0 {
		return nil
	}
	if len(c.sums) <= reportMost {
		taken := c.sums
		c.sums = map[uuid.UUID]Sum{}
		return taken
	}
	taken := make(map[uuid.UUID]Sum, reportMost)
	for id, s := range c.sums {
		if len(taken) == reportMost {
			break
		}
		taken[id] = s
		delete(c.sums, id)
	}
	return taken
}

func (c *Counter) send(ctx context.Context) error {
	n := len(c.pending)
	tenants := make([]uuid.UUID, 0, n)
	requests, errors, logins := make([]int64, 0, n), make([]int64, 0, n), make([]int64, 0, n)
	for id, s := range c.pending {
		tenants = append(tenants, id)
		requests, errors, logins = append(requests, s.Requests), append(errors, s.Errors), append(logins, s.Logins)
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	_, err := c.control.Exec(ctx, "SELECT node.report_usage($1, $2, $3, $4, $5, $6)", c.instance, c.sequence, tenants, requests, errors, logins)
	if err != nil {
		return fmt.Errorf("report what tenants use: %w", err)
	}
	return nil
}
