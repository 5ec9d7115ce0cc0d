package server

import (
	"context"
	"fmt"
	"time"
)

// announceEvery is well below the 30 s after which a process is forgotten.
const announceEvery = 5 * time.Second

// Announce claims this process's share of every server's connection budget in
// the control database and keeps it until ctx ends; run it beside a worker
// whose Options say Member. id is stable over restarts, so that a process that
// was killed takes its own share up again. A refusal (the others hold all) is
// logged and tried again; Open waits until the first success. Once held, the
// share is kept while the control database is away.
func (s *Service) Announce(ctx context.Context, id string) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, announceEvery)
		_, err := s.db.Exec(asking, "SELECT node.heartbeat($1, 'worker', $2::numeric, NULL, NULL, 0)", id, s.options.Share)
		cancel()
		switch {
		case err == nil:
			s.join()
		case ctx.Err() == nil:
			s.log.WarnContext(ctx, "this process's share of the servers' connections is not confirmed; lower OUVIRA_CONNECTION_SHARE if it stays",
				"member", id, "share", s.options.Share, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// waitJoined waits until the share is held, in a process that announces one.
func (s *Service) waitJoined(ctx context.Context) error {
	if !s.options.Member {
		return nil
	}
	select {
	case <-s.joined:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("this process has no share of the servers' connections yet: %w", ctx.Err())
	}
}
