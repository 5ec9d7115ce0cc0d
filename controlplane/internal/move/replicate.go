package move

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/failpoint"
	"github.com/ouvira/ouvira/shared/pause"
	"github.com/ouvira/ouvira/shared/pg"
)

// subscribe publishes the tables of the source and subscribes the target to them,
// emptied of what the template has seeded.
func (a *attempt) subscribe(ctx context.Context) error {
	if a.move.switched {
		return nil
	}
	tables, err := a.publish(ctx)
	if err != nil {
		return err
	}
	target, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return err
	}
	sub, err := a.subscription(ctx)
	if err != nil || sub.there {
		return err
	}
	if err := target.Exec(ctx, createMarks); err != nil {
		return err
	}
	if err := target.Exec(ctx, "TRUNCATE "+names(tables)+", "+marks); err != nil {
		return err
	}
	// The slot is made apart: a function cannot, and the provisioner may not.
	err = a.source.Visit(ctx, server.Target{Mover: true, Database: a.move.from.Name()}, func(mover *tenantdb.Session) error {
		return mover.Exec(ctx, `
			SELECT pg_create_logical_replication_slot($1, 'pgoutput')
			WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, a.name())
	})
	if err != nil {
		return err
	}
	failpoint.Hit(ctx, failpointSlot)
	return a.createSubscription(ctx)
}

const createMarks = "CREATE TABLE IF NOT EXISTS " + marks + " (operation_id uuid PRIMARY KEY)"

// publish lets the mover into the source and publishes its tables.
func (a *attempt) publish(ctx context.Context) ([]table, error) {
	admin, err := a.source.Admin(ctx)
	if err != nil {
		return nil, err
	}
	if err := admin.Exec(ctx, "GRANT CONNECT ON DATABASE "+a.move.from.Quoted()+" TO "+migrations.MoverRole); err != nil {
		return nil, err
	}
	source, err := a.source.Inside(ctx, a.move.from)
	if err != nil {
		return nil, err
	}
	tables, err := tablesOf(ctx, source)
	if err != nil {
		return nil, err
	}
	var there bool
	err = source.Scan(ctx, []any{&there}, "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)", a.name())
	if err != nil || there {
		return tables, err
	}
	return tables, source.ExecAll(ctx, createMarks, "CREATE PUBLICATION "+a.name()+" FOR TABLE "+names(tables)+", "+marks)
}

// createSubscription: from Postgres 16 on the provisioner may; before, a function
// of the server's superuser stands in.
func (a *attempt) createSubscription(ctx context.Context) error {
	admin, err := a.target.Admin(ctx)
	if err != nil {
		return err
	}
	modern, err := admin.Modern(ctx)
	if err != nil {
		return err
	}
	source, err := a.source.Replication(ctx, a.move.from, modern)
	if err != nil {
		return err
	}
	return a.asProvisioner(ctx, func(s *tenantdb.Session) error {
		if !modern {
			return a.untrusted(s, a.explainMissing(s, s.Exec(ctx, "SELECT ouvira_move.subscribe($1, $2)", a.name(), source)))
		}
		// The statement holds a password. Where the right was not granted, it may
		// be logged if it fails.
		for _, quiet := range []string{"SET log_min_error_statement = panic", "SET log_min_duration_statement = -1"} {
			if _, err := s.Conn().Exec(ctx, quiet); err != nil && pg.Code(err) != pg.CodeInsufficientRights {
				return s.Explain(err)
			}
		}
		return a.untrusted(s, s.Exec(ctx, "CREATE SUBSCRIPTION "+a.name()+" CONNECTION "+literal(source)+" PUBLICATION "+a.name()+
			" WITH (slot_name = '"+a.name()+"', create_slot = false, disable_on_error = true)"))
	})
}

// asProvisioner works in the target as the provisioner, who owns the subscription.
func (a *attempt) asProvisioner(ctx context.Context, fn func(*tenantdb.Session) error) error {
	return a.target.Visit(ctx, server.Target{Database: a.move.to.Name()}, fn)
}

// untrusted ends a move between servers of which the target's Postgres does not accept
// the source's certificate, or finds none where one is demanded: that does not pass.
func (a *attempt) untrusted(s *tenantdb.Session, err error) error {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !strings.HasPrefix(refused.Code, "08") || !strings.Contains(refused.Message, "certificate") && !strings.Contains(refused.Message, "SSL") {
		return err
	}
	return operation.Fail("source_untrusted", "The Postgres of server "+s.Server()+" does not trust the certificate of the server that the tenant is to leave.",
		"Put the CA of that server into ~/.postgresql/root.crt of the user that Postgres runs as on server "+s.Server()+", then move the tenant.").Because(err)
}

// explainMissing says what to do about a server that lacks the functions.
func (a *attempt) explainMissing(s *tenantdb.Session, err error) error {
	if code := pg.Code(err); code == "3F000" || code == "42883" {
		return operation.Fail("not_prepared_for_moves", "The databases of server "+s.Server()+" lack the functions that make subscriptions.",
			"Prepare it again (ouvira server prepare "+s.Server()+"), then move the tenant.").Because(err)
	}
	return err
}

// literal quotes a text for a statement that takes no parameters.
func literal(s string) string {
	quoted := make([]byte, 0, len(s)+8)
	quoted = append(quoted, ` E'`...)
	for i := range len(s) {
		if s[i] == '\'' || s[i] == '\\' {
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, s[i])
	}
	return string(append(quoted, '\''))
}

// subscription is what the target says of the copy.
type subscription struct {
	there   bool
	enabled bool
	tables  int
	ready   int
}

func (a *attempt) subscription(ctx context.Context) (subscription, error) {
	inside, err := a.target.Inside(ctx, a.move.to)
	if err != nil {
		return subscription{}, err
	}
	var s subscription
	err = inside.Scan(ctx, []any{&s.there, &s.enabled, &s.tables, &s.ready}, `
		SELECT count(DISTINCT s.oid) > 0, COALESCE(bool_and(s.subenabled), false), count(r.srrelid), count(r.srrelid) FILTER (WHERE r.srsubstate = 'r')
		FROM pg_subscription s LEFT JOIN pg_subscription_rel r ON r.srsubid = s.oid
		WHERE s.subname = $1`, a.name())
	return s, err
}

const (
	lookEvery = 100 * time.Millisecond
	// resumeLimit is how often a subscription that has stopped is started again:
	// a lost connection stops it, and so does what will not get better.
	resumeLimit = 10
	resumePause = time.Second
)

// awaitCopy waits until every table is copied and follows the source.
func (a *attempt) awaitCopy(ctx context.Context) error {
	if a.move.switched {
		return nil
	}
	for resumed := 0; ; {
		s, err := a.subscription(ctx)
		switch {
		case err != nil:
			return err
		case !s.there:
			return subscriptionGone()
		case s.tables > 0 && s.ready == s.tables && s.enabled:
			return nil
		}
		wait := lookEvery
		if !s.enabled {
			if resumed++; resumed > resumeLimit {
				return operation.Fail("replication_failed", fmt.Sprintf("The copy has stopped %d times, with %d tables of %d ready.", resumeLimit, s.ready, s.tables),
					"Read the log of the target server, remove the cause, then ask for the move again.")
			}
			if err := a.resume(ctx); err != nil {
				return err
			}
			wait = resumePause
		}
		if err := a.sourceAnswers(ctx); err != nil {
			return err
		}
		if !pause.For(ctx, wait) {
			return ctx.Err()
		}
	}
}

func subscriptionGone() error {
	return operation.Fail("subscription_gone", "Somebody has removed the subscription of the move.", "Ask for the move again.")
}

// sourceAnswers: while the source is away the copy stands still, and the operation
// says so.
func (a *attempt) sourceAnswers(ctx context.Context) error {
	admin, err := a.source.Admin(ctx)
	if err != nil {
		return err
	}
	return admin.Exec(ctx, "SELECT")
}

func (a *attempt) resume(ctx context.Context) error {
	return a.ownsSubscription(ctx, "SELECT ouvira_move.resume($1)", "ALTER SUBSCRIPTION "+a.name()+" ENABLE")
}

// unsubscribe removes the subscription, whatever the source says to it: its slots
// are dropped there, by clearSource.
func (a *attempt) unsubscribe(ctx context.Context) error {
	there, err := a.databaseThere(ctx)
	if err != nil || !there {
		return err
	}
	s, err := a.subscription(ctx)
	if err != nil || !s.there {
		return err
	}
	return a.ownsSubscription(ctx, "SELECT ouvira_move.unsubscribe($1)",
		"ALTER SUBSCRIPTION "+a.name()+" DISABLE", "ALTER SUBSCRIPTION "+a.name()+" SET (slot_name = NONE)", "DROP SUBSCRIPTION "+a.name())
}

// databaseThere tells whether there is a target that can be looked into.
func (a *attempt) databaseThere(ctx context.Context) (there bool, err error) {
	admin, err := a.target.Admin(ctx)
	if err != nil {
		return false, err
	}
	err = admin.Scan(ctx, []any{&there}, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datallowconn AND datconnlimit <> -2)", a.move.to.Name())
	return there, err
}

// ownsSubscription does something to the subscription: by the function before
// Postgres 16, by statements from there on.
func (a *attempt) ownsSubscription(ctx context.Context, function string, statements ...string) error {
	admin, err := a.target.Admin(ctx)
	if err != nil {
		return err
	}
	modern, err := admin.Modern(ctx)
	if err != nil {
		return err
	}
	return a.asProvisioner(ctx, func(s *tenantdb.Session) error {
		if !modern {
			return s.Exec(ctx, function, a.name())
		}
		for _, statement := range statements {
			if err := s.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}
