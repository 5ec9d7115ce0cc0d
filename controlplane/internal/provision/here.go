package provision

import (
	"context"
	"sync"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
)

const (
	// waitHere is how long somebody who asks for a tenant is kept waiting for it.
	waitHere = 2 * time.Second
	// workHere is how long this process goes on with it, before a worker does.
	workHere = 15 * time.Second
)

// here makes tenants in the process that was asked for them.
type here struct {
	runner *operation.Runner
	places chan struct{}
	ctx    context.Context //nolint:containedctx // the life of the process, which outlasts the requests
	stop   context.CancelFunc
	work   sync.WaitGroup
}

// RunBy has this process make tenants that it is asked for, so many at a time: more than
// that is what workers are for. Call it before the first Start, and Close at the end.
func (s *Service) RunBy(runner *operation.Runner, atOnce int) {
	if atOnce == 0 {
		return
	}
	h := &here{runner: runner, places: make(chan struct{}, atOnce)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	s.here = h
}

// Close gives to workers what is not done, and waits until it is theirs.
func (s *Service) Close() {
	if s.here != nil {
		s.here.stop()
		s.here.work.Wait()
	}
}

// Hasten runs an operation that was asked for here, at once, and waits a little for its
// end. It tells whether the operation may have changed.
func (s *Service) Hasten(ctx context.Context, o *operation.Operation) bool {
	if s.here == nil || o == nil || o.Status != operation.Queued {
		return false
	}
	select {
	case s.here.places <- struct{}{}:
	default:
		if err := s.here.runner.HandOver(ctx, o.ID); err != nil { // the reaper will find it
			s.log.WarnContext(ctx, "operation not handed over", "operation", o.ID, "error", err)
		}
		return false
	}
	ended := make(chan struct{})
	s.here.work.Go(func() {
		defer close(ended)
		defer func() { <-s.here.places }()
		working, cancel := context.WithTimeout(context.WithoutCancel(ctx), workHere)
		defer cancel()
		defer context.AfterFunc(s.here.ctx, cancel)()
		if err := s.here.runner.Run(working, o.ID); err != nil {
			s.log.WarnContext(working, "operation left to a worker", "operation", o.ID, "error", err)
		}
	})
	waiting := time.NewTimer(waitHere)
	defer waiting.Stop()
	select {
	case <-ended:
	case <-waiting.C:
	case <-ctx.Done():
	}
	return true
}
