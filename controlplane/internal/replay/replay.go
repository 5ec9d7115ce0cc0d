// Package replay lets a request that came with a key of the client's
// (Idempotency-Key) be sent again without being done again: within a day it is
// answered as it was.
//
// It promises: a key is claimed and answered in the transaction of what the request
// does (Do), so that after a crash, or a COMMIT whose end nobody heard of, either both
// are there or neither. Rooms need not know of it: they run on a DB that is led into
// the request's transaction by the context.
package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ouvira/ouvira/controlplane/internal/replay/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/replay"
)

const (
	// sweepAtOnce is how many answers over their lifetime each claim takes away.
	sweepAtOnce = 2
	// endTimeout bounds what is left to do when the client may have gone.
	endTimeout = 5 * time.Second
)

var queries dbsqlc.Queries

// Answered is what a request is answered with, and whether that is of an earlier one.
type Answered struct {
	Answer json.RawMessage
	Replay bool
}

// Do does the work in one transaction with its key, unless the key says that it was
// done. work gives what is to be remembered. What it does on a DB of this package is
// in the transaction, but for what it does by Outside; it uses it from one goroutine.
// What work gives to After is done when the transaction has been committed.
func Do(ctx context.Context, pool *pgxpool.Pool, key replay.Key, work func(ctx context.Context) (json.RawMessage, error)) (Answered, error) {
	// A replay finds its answer before anything is done: what counts once, such as a
	// proof of a person, has been used up by the first request.
	if answer, err := find(ctx, pool, key); answer != nil || err != nil {
		return Answered{answer, true}, err
	}
	w := &within{pool: pool, key: key}
	answer, err := w.do(ctx, work)
	if w.known != nil { // somebody else was first
		return Answered{w.known, true}, nil
	}
	if err != nil {
		return Answered{}, err
	}
	for _, fn := range w.after {
		fn(ctx)
	}
	return Answered{Answer: answer}, nil
}

// Apart is Do for work that has transactions of its own, and effects beyond the
// database. The key is taken before it and given back if it fails, so a second run
// must do no harm; if the process dies in between, the key stands for a request of
// which nobody knows whether it was done.
func Apart(ctx context.Context, pool *pgxpool.Pool, key replay.Key, work func(ctx context.Context) (json.RawMessage, error)) (Answered, error) {
	known, err := claim(ctx, pool, key)
	if known != nil || err != nil {
		return Answered{known, true}, err
	}
	answer, err := work(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if err != nil {
		if released := queries.Release(ctx, pool, key.Hash); released != nil {
			return Answered{}, errors.Join(err, fmt.Errorf("give an idempotency key back: %w", released))
		}
		return Answered{}, err
	}
	return Answered{Answer: answer}, keep(ctx, pool, key, answer)
}

// claim takes the key for a request that is about to be done, or gives the answer of
// one that was. It waits for another of the same key that is under way.
func claim(ctx context.Context, db pg.Querier, key replay.Key) (json.RawMessage, error) {
	claimed, err := queries.Claim(ctx, db, dbsqlc.ClaimParams{KeyHash: key.Hash, Request: key.Request, LifetimeSeconds: replay.Lifetime.Seconds()})
	if err != nil {
		return nil, fmt.Errorf("claim an idempotency key: %w", err)
	}
	if claimed > 0 {
		err := queries.Sweep(ctx, db, dbsqlc.SweepParams{LifetimeSeconds: replay.Lifetime.Seconds(), Most: sweepAtOnce})
		if err != nil {
			return nil, fmt.Errorf("forget old idempotency keys: %w", err)
		}
		return nil, nil
	}
	answer, err := find(ctx, db, key)
	if answer == nil && err == nil {
		err = replay.Unfinished() // it has just been given back
	}
	return answer, err
}

// find gives the answer of a key that was used; nil: it was not.
func find(ctx context.Context, db pg.Querier, key replay.Key) (json.RawMessage, error) {
	row, err := queries.Find(ctx, db, dbsqlc.FindParams{KeyHash: key.Hash, LifetimeSeconds: replay.Lifetime.Seconds()})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up an idempotency key: %w", err)
	}
	return key.Known(replay.Row{Request: row.Request, Answer: row.Answer, Answered: row.Answered})
}

func keep(ctx context.Context, db pg.Querier, key replay.Key, answer json.RawMessage) error {
	if err := queries.Answer(ctx, db, dbsqlc.AnswerParams{Answer: answer, KeyHash: key.Hash}); err != nil {
		return fmt.Errorf("remember an answer: %w", err)
	}
	return nil
}

// within is the transaction of one request.
type within struct {
	pool  *pgxpool.Pool
	key   replay.Key
	tx    pgx.Tx          // nil before the first statement
	known json.RawMessage // of a request that was done before, or at the same time
	after []func(context.Context)
}

type withinKey struct{}

func (w *within) do(ctx context.Context, work func(ctx context.Context) (json.RawMessage, error)) (answer json.RawMessage, err error) {
	defer func() {
		if w.tx == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		_ = w.tx.Rollback(ctx) // of what was committed it does nothing
	}()
	if answer, err = work(context.WithValue(ctx, withinKey{}, w)); err != nil {
		return nil, err
	}
	tx, err := w.begun(ctx)
	if err != nil {
		return nil, err
	}
	if err := keep(ctx, tx, w.key, answer); err != nil {
		return nil, err
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return answer, nil
}

var errKnown = errors.New("the request was done by another one of the same key")

// begun is the transaction. It begins with the first statement of the work, so that
// no connection is held while a password is hashed; the key comes first in it.
func (w *within) begun(ctx context.Context) (pgx.Tx, error) {
	if w.known != nil {
		return nil, errKnown
	}
	if w.tx != nil {
		return w.tx, nil
	}
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	w.tx = tx
	if w.known, err = claim(ctx, tx, w.key); err == nil && w.known != nil {
		err = errKnown
	}
	return tx, err
}

func withinOf(ctx context.Context) *within {
	w, _ := ctx.Value(withinKey{}).(*within)
	return w
}

// Outside leads what is done with the context past the transaction of the request:
// for what has to stand when the request fails, such as a counted attempt.
func Outside(ctx context.Context) context.Context {
	if withinOf(ctx) == nil {
		return ctx
	}
	return context.WithValue(ctx, withinKey{}, (*within)(nil))
}

// After has something done when the transaction of the request is committed, and
// tells whether there is one. If not, nothing is done.
func After(ctx context.Context, fn func(context.Context)) bool {
	w := withinOf(ctx)
	if w == nil {
		return false
	}
	w.after = append(w.after, fn)
	return true
}
