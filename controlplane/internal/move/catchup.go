package move

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/shared/pause"
)

// awaitMark writes a row after the fence and waits until it is in the target: by
// then all that was committed before is there too.
func (a *attempt) awaitMark(ctx context.Context) error {
	mark, err := a.mark(ctx)
	if err != nil {
		return err
	}
	for {
		if arrived, err := a.arrived(ctx, mark); err != nil || arrived {
			return err
		}
		if !pause.For(ctx, quietEvery) {
			return ctx.Err()
		}
	}
}

// mark writes a row into the source. Each is another, so that one of an earlier try
// is not taken for it.
func (a *attempt) mark(ctx context.Context) (mark string, err error) {
	source, err := a.source.Inside(ctx, a.move.from)
	if err != nil {
		return "", err
	}
	err = source.Scan(ctx, []any{&mark}, "INSERT INTO "+marks+" (operation_id) VALUES (gen_random_uuid()) RETURNING operation_id::text")
	return mark, err
}

func (a *attempt) arrived(ctx context.Context, mark string) (yes bool, err error) {
	target, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return false, err
	}
	err = target.Scan(ctx, []any{&yes}, "SELECT EXISTS (SELECT FROM "+marks+" WHERE operation_id = $1::uuid)", mark)
	return yes, err
}

const (
	// catchUpTimeout is how long a target that is behind is waited for at a time.
	catchUpTimeout = 30 * time.Second
	// closeBehind is how far the target may be behind when requests begin to wait,
	// as a part of the budget.
	closeBehind = 8
)

// catchUp waits until the target follows the source closely, and starts a
// subscription again that a lost connection has stopped.
func (a *attempt) catchUp(ctx context.Context) error {
	for begun := time.Now(); time.Since(begun) < catchUpTimeout; {
		s, err := a.subscription(ctx)
		switch {
		case err != nil:
			return err
		case !s.there:
			return subscriptionGone()
		case !s.enabled:
			if err := a.resume(ctx); err != nil {
				return err
			}
		}
		mark, err := a.mark(ctx)
		if err != nil {
			return err
		}
		for sent := time.Now(); time.Since(sent) < max(resumePause, a.s.options.Budget/closeBehind); {
			arrived, err := a.arrived(ctx, mark)
			if err != nil {
				return err
			}
			if arrived && time.Since(sent) < a.s.options.Budget/closeBehind {
				return nil
			}
			if arrived {
				break // and asked again: it was busy
			}
			if !pause.For(ctx, quietEvery) {
				return ctx.Err()
			}
		}
	}
	return operation.Later("target_behind", "The copy does not keep up with what is written, or has stopped.",
		"It goes on by itself; if it stays, read the log of the target server.")
}

// copySequences brings the target's to where the source's are: they are not
// replicated.
func (a *attempt) copySequences(ctx context.Context) error {
	source, err := a.source.Inside(ctx, a.move.from)
	if err != nil {
		return err
	}
	var read string
	err = source.Scan(ctx, []any{&read}, `
		SELECT COALESCE(string_agg(format('SELECT %L::text, last_value, is_called FROM %I.%I', format('%I.%I', n.nspname, c.relname), n.nspname, c.relname), ' UNION ALL '), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`)
	if err != nil || read == "" {
		return err
	}
	rows, err := source.Conn().Query(ctx, read)
	if err != nil {
		return source.Explain(err)
	}
	var names []string
	var values []int64
	var called []bool
	var name string
	var value int64
	var used bool
	_, err = pgx.ForEachRow(rows, []any{&name, &value, &used}, func() error {
		names, values, called = append(names, name), append(values, value), append(called, used)
		return nil
	})
	if err != nil {
		return source.Explain(err)
	}
	target, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return err
	}
	return target.Exec(ctx, `
		SELECT setval(s.name::regclass, s.value, s.called)
		FROM unnest($1::text[], $2::bigint[], $3::boolean[]) AS s (name, value, called)`, names, values, called)
}
