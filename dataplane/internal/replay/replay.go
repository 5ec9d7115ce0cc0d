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
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/replay/dbsqlc"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// Lifetime of an answer.
const Lifetime = 24 * time.Hour

// maxKey bounds a key, in bytes.
const maxKey = 255

// sweepAtOnce is how many answers over their lifetime each claim takes away.
const sweepAtOnce = 2

var queries dbsqlc.Queries

// Key is one caller's key with the request that it came with.
type Key struct {
	userID        int64
	hash, request []byte
}

// NewKey refuses what is no key. scope parts the keys of one user's
// credentials from each other; request is everything that makes another
// request of it.
func NewKey(userID int64, scope, text string, request []byte) (Key, error) {
	if !wellFormed(text) {
		return Key{}, fault.Malformed("Idempotency-Key must be 1 to 255 printable ASCII characters, and be there once. Use a fresh UUID for each request.").
			Code("bad_idempotency_key")
	}
	hash := sha256.Sum256([]byte(scope + "\x00" + text))
	mac := hmac.New(sha256.New, []byte(scope+"\x00"+text))
	mac.Write(request)
	return Key{userID, hash[:], mac.Sum(nil)}, nil
}

func wellFormed(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return text != "" && len(text) <= maxKey
}

// Claim takes the key for a request that is about to be done. If it was done
// before, known tells so and the answer is that of then. Another request under
// the same key is a fault, and so is one whose end is not known.
func (k Key) Claim(ctx context.Context, tx pg.Querier) (answer json.RawMessage, known bool, err error) {
	claimed, err := queries.Claim(ctx, tx, dbsqlc.ClaimParams{
		UserID: k.userID, KeyHash: k.hash, Request: k.request, LifetimeSeconds: Lifetime.Seconds(),
	})
	if err != nil {
		return nil, false, err
	}
	if claimed > 0 {
		return nil, false, queries.Sweep(ctx, tx, dbsqlc.SweepParams{LifetimeSeconds: Lifetime.Seconds(), Most: sweepAtOnce})
	}
	row, err := queries.Find(ctx, tx, dbsqlc.FindParams{UserID: k.userID, KeyHash: k.hash})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, false, unfinished() // it has just been released
	case err != nil:
		return nil, false, err
	case !hmac.Equal(row.Request, k.request):
		return nil, false, fault.Invalid("This Idempotency-Key was used for another request. Use a fresh key for each request.").Code("idempotency_mismatch")
	case !row.Answered:
		return nil, false, unfinished()
	}
	return row.Answer, true, nil
}

func unfinished() error {
	return fault.Conflict("A request with this Idempotency-Key is under way, or broke off. Look whether it has been done before you send it again with a fresh key.").
		Code("idempotency_unfinished").RetryAfter(time.Second)
}

// Answer keeps what is answered. It must hold no secret.
func (k Key) Answer(ctx context.Context, tx pg.Querier, answer json.RawMessage) error {
	return queries.Answer(ctx, tx, dbsqlc.AnswerParams{Answer: answer, UserID: k.userID, KeyHash: k.hash})
}

// Release gives the key back after work that has not been done.
func (k Key) Release(ctx context.Context, db pg.Querier) error {
	return queries.Release(ctx, db, dbsqlc.ReleaseParams{UserID: k.userID, KeyHash: k.hash})
}
