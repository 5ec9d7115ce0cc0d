package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
	"github.com/ouvira/ouvira/dataplane/internal/replay"
	"github.com/ouvira/ouvira/shared/pg"
	sharedreplay "github.com/ouvira/ouvira/shared/replay"
)

// keyOf is the key of the request, nil when it has none. Of a POST by somebody who
// is signed in, it makes one that can be sent again: within a day the same request
// under the same key is answered as it was then, and not done again. Refusals are
// not remembered.
func keyOf(c *caller, in any) (*replay.Key, error) {
	sent := c.idempotencyKeys
	if c.op.Method != http.MethodPost || len(sent) == 0 {
		return nil, nil
	}
	text := sent[0]
	if len(sent) > 1 {
		text = "" // which is no key
	}
	request, err := json.Marshal([]any{c.op.OperationID, c.url.Path, c.url.RawQuery, in})
	if err != nil {
		return nil, fmt.Errorf("read the input of %s: %w", c.op.OperationID, err)
	}
	credential := "" // an API key may see less than its user has been answered
	if c.Key != nil {
		credential = strconv.FormatInt(c.Key.ID, 10)
	}
	if c.Support != nil {
		credential = c.Support.SessionID.String()
	}
	key, err := replay.NewKey(c.ID, credential, text, request)
	if err != nil {
		return nil, err
	}
	return &key, nil
}

// once does the work, unless the caller's Idempotency-Key says that it has been
// done: then it answers as then. All of it is in one transaction.
func once[I, O any](ctx context.Context, tx pgx.Tx, c *caller, in *I, work func() (*O, error)) (*O, error) {
	key, err := keyOf(c, in)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return work()
	}
	stored, known, err := key.Claim(ctx, tx)
	if err != nil {
		return nil, err
	}
	if known {
		return replayed[O](c, stored)
	}
	out, err := work()
	if err != nil {
		return nil, err
	}
	return out, keep(ctx, tx, c, key, out)
}

// onceApart is once for work that has transactions of its own. The key is taken
// before it and answered after it; if the node dies in between, the key stands
// for a request of which nobody knows whether it was done (409).
func onceApart[I, O any](ctx context.Context, c *caller, in *I, work func() (*O, error)) (*O, error) {
	key, err := keyOf(c, in)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return work()
	}
	var stored json.RawMessage
	var known bool
	err = c.tenant.Do(ctx, func(db identity.Conn) error {
		var err error
		stored, known, err = key.Claim(ctx, db)
		return err
	})
	if err != nil {
		return nil, err
	}
	if known {
		return replayed[O](c, stored)
	}
	out, err := work()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout) // also when the client has gone
	defer cancel()
	if err != nil {
		return nil, errors.Join(err, c.tenant.Do(ctx, func(db identity.Conn) error { return key.Release(ctx, db) }))
	}
	err = c.tenant.Do(ctx, func(db identity.Conn) error { return keep(ctx, db, c, key, out) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

// answerTimeout bounds what is left to do when the work is done.
const answerTimeout = 5 * time.Second

func keep[O any](ctx context.Context, db pg.Querier, c *caller, key *replay.Key, out *O) error {
	answer, err := sharedreplay.Remember(out)
	if err != nil {
		return fmt.Errorf("%s: %w", c.op.OperationID, err)
	}
	return key.Answer(ctx, db, answer)
}

func replayed[O any](c *caller, stored json.RawMessage) (*O, error) {
	out, omitted, err := sharedreplay.Recall[O](stored)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.op.OperationID, err)
	}
	c.asked = true // of the request that is answered
	c.answer.Set(sharedreplay.HeaderReplayed, "true")
	if len(omitted) > 0 {
		c.answer.Set(sharedreplay.HeaderOmitted, strings.Join(omitted, ", "))
	}
	return out, nil
}

// replayable documents that the operation takes an Idempotency-Key if it is a
// POST, and refuses one that does not say what of its answer is secret.
func replayable[O any](s *server, o *operation) {
	if o.Method != post {
		return
	}
	sharedreplay.Document(&o.Operation)
	if undecided := sharedreplay.Undecided[O](); len(undecided) > 0 {
		s.undeclared = append(s.undeclared, fmt.Errorf(`operation %s answers with %s: tag what is secret with secret:"true", the rest with secret:"false"`,
			o.OperationID, strings.Join(undecided, ", ")))
	}
}
