// Package replay remembers for a day what was answered to a request that came
// with a key of the client's (Idempotency-Key), so that the request can be sent
// again without being done again.
//
// A key is the caller's own: two users may use the same. It is claimed before
// the work and answered after it. Where both are in the transaction of the
// work, a key is claimed and answered exactly when the work has been done.
package replay

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/replay/dbsqlc"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/replay"
)

// sweepAtOnce is how many answers over their lifetime each claim takes away.
const sweepAtOnce = 2

var queries dbsqlc.Queries

// Key is one caller's key with the request that it came with.
type Key struct {
	userID int64
	key    replay.Key
}

// NewKey refuses what is no key. scope parts the keys of one user's
// credentials from each other; request is everything that makes another
// request of it.
func NewKey(userID int64, scope, text string, request []byte) (Key, error) {
	key, err := replay.NewKey(scope, text, request)
	return Key{userID, key}, err
}

// Claim takes the key for a request that is about to be done. If it was done
// before, known tells so and the answer is that of then. Another request under
// the same key is a fault, and so is one whose end is not known.
func (k Key) Claim(ctx context.Context, tx pg.Querier) (answer json.RawMessage, known bool, err error) {
	claimed, err := queries.Claim(ctx, tx, dbsqlc.ClaimParams{
		UserID: k.userID, KeyHash: k.key.Hash, Request: k.key.Request, LifetimeSeconds: replay.Lifetime.Seconds(),
	})
	if err != nil {
		return nil, false, err
	}
	if claimed > 0 {
		return nil, false, queries.Sweep(ctx, tx, dbsqlc.SweepParams{LifetimeSeconds: replay.Lifetime.Seconds(), Most: sweepAtOnce})
	}
	row, err := queries.Find(ctx, tx, dbsqlc.FindParams{UserID: k.userID, KeyHash: k.key.Hash})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, replay.Unfinished() // it has just been released
	}
	if err != nil {
		return nil, false, err
	}
	answer, err = k.key.Known(replay.Row{Request: row.Request, Answer: row.Answer, Answered: row.Answered})
	return answer, err == nil, err
}

// Answer keeps what is answered. It must hold no secret.
func (k Key) Answer(ctx context.Context, tx pg.Querier, answer json.RawMessage) error {
	return queries.Answer(ctx, tx, dbsqlc.AnswerParams{Answer: answer, UserID: k.userID, KeyHash: k.key.Hash})
}

// Release gives the key back after work that has not been done.
func (k Key) Release(ctx context.Context, db pg.Querier) error {
	return queries.Release(ctx, db, dbsqlc.ReleaseParams{UserID: k.userID, KeyHash: k.key.Hash})
}
