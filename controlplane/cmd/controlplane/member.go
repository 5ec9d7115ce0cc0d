package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/shared/pg"
)

const (
	heartbeatEvery   = 5 * time.Second
	heartbeatTimeout = 4 * time.Second
	// heartbeatStale is when the others may have stopped counting this process.
	heartbeatStale = 30 * time.Second
	// joinPatience outlasts the time after which a process that died without a
	// word is forgotten and its share is free.
	joinPatience = 40 * time.Second
	// codeNoShare is raised by node.heartbeat.
	codeNoShare = "OV001"
)

// membership announces this process among those that hold connections to
// tenant servers, with its share of their budgets.
type membership struct {
	db    *pgxpool.Pool
	id    string
	share float64
	log   *slog.Logger

	last atomic.Int64 // unix nanoseconds of the last heartbeat
}

func (m *membership) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	now := time.Now()
	_, err := m.db.Exec(ctx, "SELECT node.heartbeat($1, 'worker', $2::float8::numeric(4, 3), NULL, NULL, 0)", m.id, m.share)
	if err != nil {
		return fmt.Errorf("announce this process: %w", err)
	}
	m.last.Store(now.UnixNano())
	return nil
}

// join waits until the share can be had.
func (m *membership) join(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for said := false; ; {
		err := m.beat(waiting)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if pg.Code(err) != codeNoShare {
			return err
		}
		if !said {
			said = true
			m.log.WarnContext(ctx, "waiting for a share of the connection budgets", "share", m.share, "error", err)
		}
		select {
		case <-waiting.Done():
			return fmt.Errorf("live processes hold the connection budgets and leave no share of %g: lower OUVIRA_CONNECTION_SHARE of one of them", m.share)
		case <-tick.C:
		}
	}
}

// keep announces until ctx ends.
func (m *membership) keep(ctx context.Context) {
	every(ctx, heartbeatEvery, m.log, "heartbeat", m.beat)
}

// fresh is a readiness check.
func (m *membership) fresh(context.Context) error {
	if age := time.Since(time.Unix(0, m.last.Load())); age > heartbeatStale {
		return fmt.Errorf("the control database has not heard of this process for more than %s", heartbeatStale)
	}
	return nil
}

// every runs a small task now and then until ctx ends. Errors are logged: the
// next turn tries again.
func every(ctx context.Context, pause time.Duration, log *slog.Logger, name string, task func(ctx context.Context) error) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		if err := task(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "background task failed", "task", name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
