package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// Listener is a LISTEN that is taken up again whenever its connection is lost.
type Listener struct {
	DSN             string
	ApplicationName string
	Channel         string
	Log             *slog.Logger

	// OnListen is called after each (re-)LISTEN: what was notified while
	// nobody listened is gone, so this is where one catches up.
	OnListen func()
	// OnNotify is called with the payload of each notification.
	OnNotify func(payload string)
	// OnLost is called when the connection is gone, before the next attempt.
	OnLost func(err error)
}

// keepalive is how often an idle LISTEN proves that its connection lives: a
// peer that vanished without a word is noticed after about this long.
const keepalive = 5 * time.Second

// Run listens until ctx ends.
func (l *Listener) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		l.Log.WarnContext(ctx, "listen connection lost", "channel", l.Channel, "error", err)
		if l.OnLost != nil {
			l.OnLost(err)
		}
		// Many nodes lose the database at the same moment: spread them.
		pause := 100*time.Millisecond + rand.N(400*time.Millisecond) //nolint:gosec // spreading, not secrecy
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (l *Listener) once(ctx context.Context) error {
	config, err := pgx.ParseConfig(l.DSN)
	if err != nil {
		return errors.New("the database address is not a valid postgres:// URL")
	}
	config.ConnectTimeout = 5 * time.Second
	config.RuntimeParams["application_name"] = l.ApplicationName
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("%s: %w", Explain(err), err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{l.Channel}.Sanitize()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if l.OnListen != nil {
		l.OnListen()
	}
	for {
		if err := l.wait(ctx, conn); err != nil {
			return err
		}
	}
}

// wait handles one notification, or proves after a while of silence that the
// connection still lives.
func (l *Listener) wait(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, keepalive)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	switch {
	case err == nil:
		if l.OnNotify != nil {
			l.OnNotify(n.Payload)
		}
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case waiting.Err() != nil && !conn.IsClosed():
		proving, cancel := context.WithTimeout(ctx, keepalive)
		defer cancel()
		if err := conn.Ping(proving); err != nil {
			return fmt.Errorf("the connection does not answer: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("wait for a notification: %w", err)
	}
}
