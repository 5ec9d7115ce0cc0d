package routingtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/shared/budget"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/route"
)

// publish changes the tenant's row and its route in one transaction, as the
// control plane does.
func (w *world) publish(ctx context.Context, s *slot, k kind, db *database, sql string, args ...any) error {
	published := w.announce(s, k, db)
	var version int64
	err := pgx.BeginFunc(ctx, w.control, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql, args...); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT control.publish_route($1, $2)", args[0], k == absent).Scan(&version)
	})
	if err != nil {
		return fmt.Errorf("publish %s as %s: %w", s.slug, k, err)
	}
	published(version)
	return nil
}

func (w *world) seal(db *database) ([]byte, error) {
	return w.public.Seal([]byte(db.password), route.CredentialContext(db.tenant, db.incarnation))
}

// create makes a tenant at an address that leads nowhere.
func (w *world) create(ctx context.Context, s *slot, db *database) error {
	defer w.work(s)()
	if err := db.create(ctx); err != nil {
		return err
	}
	w.open(db)
	credential, err := w.seal(db)
	if err != nil {
		return err
	}
	return w.publish(ctx, s, serving, db, `
		INSERT INTO control.tenants (id, slug, name, status, plan_id, server_id, database_name, credential)
		SELECT $1, $2, $2, 'active', id, $3, $4, $5 FROM control.plans WHERE code = 'standard'`,
		db.tenant, s.slug, db.place.id, db.name, credential)
}

// remove deletes a tenant; its address and the name of its database are free.
func (w *world) remove(ctx context.Context, s *slot) error {
	defer w.work(s)()
	db := w.last(s).db
	if err := w.fenceForGood(ctx, db); err != nil {
		return err
	}
	err := w.publish(ctx, s, absent, nil, `
		UPDATE control.tenants SET status = 'purged', database_name = NULL, credential = NULL,
		       slug = 'gone-' || replace(id::text, '-', '') WHERE id = $1`, db.tenant)
	if err != nil {
		return err
	}
	return db.drop(ctx)
}

// fenceForGood fences a database that the tenant will not come back to, and
// keeps what it held.
func (w *world) fenceForGood(ctx context.Context, db *database) error {
	if err := w.fence(ctx, db); err != nil {
		return err
	}
	var err error
	db.frozen, err = db.journal(ctx)
	return err
}

func (w *world) fence(ctx context.Context, db *database) error {
	if err := db.fence(ctx); err != nil {
		return fmt.Errorf("fence %s: %w", db.name, err)
	}
	w.shut(db)
	return nil
}

func (w *world) unfence(ctx context.Context, db *database) error {
	w.open(db)
	return db.unfence(ctx)
}

func (w *world) suspend(ctx context.Context, s *slot) error {
	defer w.work(s)()
	if err := w.publishSuspended(ctx, s); err != nil {
		return err
	}
	return w.fenceForGood(ctx, w.last(s).db)
}

func (w *world) publishSuspended(ctx context.Context, s *slot) error {
	db := w.last(s).db
	return w.publish(ctx, s, suspended, db, "UPDATE control.tenants SET status = 'suspended', route_mode = 'serve' WHERE id = $1", db.tenant)
}

func (w *world) resume(ctx context.Context, s *slot) error {
	defer w.work(s)()
	db := w.last(s).db
	if err := db.unchanged(ctx, db.frozen); err != nil {
		return err
	}
	if err := w.unfence(ctx, db); err != nil {
		return err
	}
	return w.publishResumed(ctx, s)
}

func (w *world) publishResumed(ctx context.Context, s *slot) error {
	db := w.last(s).db
	return w.publish(ctx, s, serving, db, "UPDATE control.tenants SET status = 'active' WHERE id = $1", db.tenant)
}

// mode holds, serves, or puts under maintenance. The database stays as it is.
func (w *world) mode(ctx context.Context, s *slot, k kind) error {
	db := w.last(s).db
	words := map[kind]route.Mode{held: route.ModeHold, serving: route.ModeServe, maintained: route.ModeMaintenance}
	return w.publish(ctx, s, k, db, "UPDATE control.tenants SET route_mode = $2 WHERE id = $1", db.tenant, string(words[k]))
}

// replan changes what connections are made from: the pools of the tenant are
// replaced. It costs no request.
func (w *world) replan(ctx context.Context, s *slot) error {
	db := w.last(s).db
	return w.publish(ctx, s, serving, db, `UPDATE control.tenants t SET plan_id = p.id
		FROM control.plans p WHERE t.id = $1 AND p.id <> t.plan_id`, db.tenant)
}

// rotate gives the role a new password.
func (w *world) rotate(ctx context.Context, s *slot) error {
	defer w.work(s)()
	db := w.last(s).db
	if err := db.setPassword(ctx, pg.NewPassword()); err != nil {
		return err
	}
	credential, err := w.seal(db)
	if err != nil {
		return err
	}
	return w.publish(ctx, s, serving, db, "UPDATE control.tenants SET credential = $2 WHERE id = $1", db.tenant, credential)
}

// move brings the tenant to another place while its requests are held, or
// gives up when all is copied. What is left behind stays fenced.
func (w *world) move(ctx context.Context, s *slot, to *place, giveUp bool) (left *database, err error) {
	defer w.work(s)()
	source := w.last(s).db
	if err := w.mode(ctx, s, held); err != nil {
		return nil, err
	}
	if err := w.fenceForGood(ctx, source); err != nil {
		return nil, err
	}
	target := newDatabase(to, source.tenant, source.incarnation+1)
	if err := target.create(ctx); err != nil {
		return nil, err
	}
	if err := target.copyIn(ctx, source.frozen); err != nil {
		return nil, err
	}
	if giveUp {
		if err := target.drop(ctx); err != nil {
			return nil, err
		}
		if err := source.unchanged(ctx, source.frozen); err != nil {
			return nil, err
		}
		if err := w.unfence(ctx, source); err != nil {
			return nil, err
		}
		return nil, w.mode(ctx, s, serving)
	}
	credential, err := w.seal(target)
	if err != nil {
		return nil, err
	}
	w.open(target)
	return source, w.publish(ctx, s, serving, target, `
		UPDATE control.tenants SET server_id = $2, database_name = $3, incarnation = $4, credential = $5, route_mode = 'serve'
		WHERE id = $1`, target.tenant, target.place.id, target.name, target.incarnation, credential)
}

// operator does one thing after the other.
type operator struct {
	*world

	random *rand.Rand
	graves []*database             // left behind by moves, fenced
	gone   map[string]*database    // the last deleted tenant's, by address
	ends   map[uuid.UUID]*database // the last databases of deleted tenants
	did    map[string]int
}

func newOperator(w *world, seed uint64) *operator {
	return &operator{world: w, random: rand.New(rand.NewPCG(seed, 0)), gone: map[string]*database{}, ends: map[uuid.UUID]*database{}, did: map[string]int{}}
}

// step does something at random.
func (o *operator) step(ctx context.Context) error {
	name, act := o.choose()
	o.did[name]++
	o.note("%s", name)
	begun := time.Now()
	if err := act(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	o.note("%s: done after %s", name, time.Since(begun).Round(time.Millisecond))
	return nil
}

// choose prefers tenants that are not served, and brings most of them back.
func (o *operator) choose() (string, func(context.Context) error) {
	n := o.nodes[o.random.IntN(len(o.nodes))]
	if o.random.IntN(3) == 0 {
		return o.chooseNode(n)
	}
	s := o.slots[o.random.IntN(len(o.slots))]
	if other := o.slots[o.random.IntN(len(o.slots))]; o.last(s).kind == serving && o.last(other).kind != serving {
		s = other
	}
	db := o.last(s).db
	to := o.places[o.random.IntN(len(o.places))]
	of := func(what string, act func(context.Context) error) (string, func(context.Context) error) {
		return what + " " + s.slug, act
	}
	switch o.last(s).kind {
	case absent:
		return of("create", func(ctx context.Context) error { return o.create(ctx, s, o.heir(s)) })
	case suspended:
		if o.random.IntN(4) == 0 {
			return of("delete", func(ctx context.Context) error { return o.delete(ctx, s, db) })
		}
		return of("resume", func(ctx context.Context) error { return o.resume(ctx, s) })
	case held, maintained:
		if o.random.IntN(4) == 0 {
			return of("suspend", func(ctx context.Context) error { return o.suspend(ctx, s) })
		}
		return of("serve", func(ctx context.Context) error { return o.mode(ctx, s, serving) })
	case serving:
	}
	switch o.random.IntN(13) {
	case 0:
		return of("hold", func(ctx context.Context) error { return o.mode(ctx, s, held) })
	case 1:
		return of("maintain", func(ctx context.Context) error { return o.mode(ctx, s, maintained) })
	case 2, 3:
		return of("rotate", func(ctx context.Context) error { return o.rotate(ctx, s) })
	case 4, 5:
		return of("move", func(ctx context.Context) error { return o.moveTo(ctx, s, to) })
	case 6:
		return of("move and give up", func(ctx context.Context) error {
			_, err := o.move(ctx, s, to, true)
			return err
		})
	case 7:
		return of("delete", func(ctx context.Context) error { return o.delete(ctx, s, db) })
	case 8:
		return of("replan", func(ctx context.Context) error { return o.replan(ctx, s) })
	case 9:
		return of("replace", func(ctx context.Context) error { return o.replace(ctx, s, n) })
	default:
		return of("suspend", func(ctx context.Context) error { return o.suspend(ctx, s) })
	}
}

func (o *operator) chooseNode(n *node) (string, func(context.Context) error) {
	of := func(what string, act func(context.Context) error) (string, func(context.Context) error) {
		return what + " " + n.id, act
	}
	if n.troubled(span{o.now(), never}) {
		if o.random.IntN(4) == 0 {
			return of("restart", func(ctx context.Context) error { return o.restart(ctx, n, o.random.IntN(3) == 0) })
		}
		return of("mend", func(ctx context.Context) error { return o.mend(ctx, n) })
	}
	switch o.random.IntN(5) {
	case 0, 1:
		return of("cut", func(context.Context) error {
			n.disturb(o.now())
			n.proxy.cut()
			return nil
		})
	case 2:
		return of("stall", func(context.Context) error {
			n.disturb(o.now())
			n.proxy.stall()
			return nil
		})
	case 3:
		return of("restart", func(ctx context.Context) error { return o.restart(ctx, n, o.random.IntN(3) == 0) })
	}
	return of("deafen", func(ctx context.Context) error { return o.deafen(ctx, n) })
}

// heir is a new tenant's database at an address that another one had. Often it
// gets the name that the other's had, and sometimes the same password: then
// only the marker tells a node with an old route that it is wrong.
func (o *operator) heir(s *slot) *database {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // no randomness
	}
	db := newDatabase(o.places[o.random.IntN(len(o.places))], id, 1)
	before := o.gone[s.slug]
	if before != nil && o.random.IntN(3) > 0 {
		db.name, db.place = before.name, before.place
		if o.random.IntN(2) == 0 {
			db.password = before.password
		}
	}
	return db
}

func (o *operator) delete(ctx context.Context, s *slot, db *database) error {
	if o.last(s).kind == suspended {
		// It is fenced, and remove shuts the door that it finds.
		if err := o.resume(ctx, s); err != nil {
			return err
		}
	}
	if err := o.remove(ctx, s); err != nil {
		return err
	}
	o.gone[s.slug], o.ends[db.tenant] = db, db
	return nil
}

// replace gives the tenant's address, the name of its database and the password
// to a new tenant, behind the back of a node that is cut off.
func (o *operator) replace(ctx context.Context, s *slot, n *node) error {
	if !n.troubled(span{o.now(), never}) {
		n.disturb(o.now())
		n.proxy.cut()
	}
	before := o.last(s).db
	if err := o.delete(ctx, s, before); err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	return o.create(ctx, s, &database{place: before.place, name: before.name, password: before.password, tenant: id, incarnation: 1})
}

func (o *operator) moveTo(ctx context.Context, s *slot, to *place) error {
	left, err := o.move(ctx, s, to, false)
	if err != nil {
		return err
	}
	o.graves = append(o.graves, left)
	if len(o.graves) > 6 {
		return o.bury(ctx)
	}
	return nil
}

// bury drops the oldest database that was left behind; nobody has written to
// it.
func (o *operator) bury(ctx context.Context) error {
	oldest := o.graves[0]
	o.graves = o.graves[1:]
	if err := oldest.unchanged(ctx, oldest.frozen); err != nil {
		return err
	}
	return oldest.drop(ctx)
}

// deafen ends the node's LISTEN connection: what happens until it listens
// again, it hears by polling. That is no disturbance.
func (o *operator) deafen(ctx context.Context, n *node) error {
	_, err := o.control.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = $1 AND query ILIKE 'listen%'`, "ouvira/"+n.id)
	return err
}

// restart kills the node and starts it again, at times with all lost that it
// had on disk: what it had leased is then taken back, as a worker of the control
// plane does.
func (o *operator) restart(ctx context.Context, n *node, forget bool) error {
	connected := !n.troubled(span{o.now(), never})
	n.disturb(o.now())
	before := n.process.lease.Instance()
	if err := n.kill(ctx, o.places); err != nil {
		return err
	}
	if forget {
		if err := n.forget(); err != nil {
			return err
		}
		if err := o.expel(ctx, before); err != nil {
			return err
		}
	}
	if err := n.start(); err != nil {
		return err
	}
	if !connected {
		return nil
	}
	return o.mend(ctx, n)
}

// expel takes back what an instance has leased.
func (o *operator) expel(ctx context.Context, instance string) error {
	if _, err := o.control.Exec(ctx, "UPDATE control.instances SET expelled_at = clock_timestamp() WHERE id = $1", instance); err != nil {
		return err
	}
	for _, p := range o.places {
		if err := budget.Expel(ctx, p.admin, instance); err != nil {
			return err
		}
		for empty := 0; empty < 2; empty++ {
			found, err := budget.Terminate(ctx, p.admin, instance)
			if err != nil {
				return err
			}
			if found > 0 {
				empty = -1
			}
		}
	}
	_, err := o.control.Exec(ctx, "DELETE FROM control.shares WHERE instance_id = $1", instance)
	return err
}

// mend gives the node its control database back, and waits until it has caught
// up.
func (o *operator) mend(ctx context.Context, n *node) error {
	if o.random.IntN(2) == 0 {
		n.proxy.breakLinks()
	}
	n.proxy.mend()
	if err := o.caughtUp(ctx, n); err != nil {
		return err
	}
	n.calmed(o.now())
	return nil
}

// mendAll brings every node and every tenant back.
func (o *operator) mendAll(ctx context.Context) error {
	o.note("mend all")
	for _, n := range o.nodes {
		if n.troubled(span{o.now(), never}) {
			if err := o.mend(ctx, n); err != nil {
				return err
			}
		}
	}
	for _, s := range o.slots {
		var err error
		switch o.last(s).kind {
		case absent:
			err = o.create(ctx, s, o.heir(s))
		case suspended:
			err = o.resume(ctx, s)
		case held, maintained:
			err = o.mode(ctx, s, serving)
		case serving:
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// account compares all journals with what was acknowledged, when no client is
// left.
func (o *operator) account(ctx context.Context) error {
	ends := o.ends
	for _, s := range o.slots {
		db := o.last(s).db
		entries, err := db.journal(ctx)
		if err != nil {
			return err
		}
		db.frozen, ends[db.tenant] = entries, db
	}
	for _, grave := range o.graves {
		if err := grave.unchanged(ctx, grave.frozen); err != nil {
			return err
		}
	}
	var wrong []error
	for tenant, db := range ends {
		for _, what := range []string{o.foreign(tenant, db.frozen), o.missing(tenant, db.frozen)} {
			if what != "" {
				wrong = append(wrong, errors.New(what))
			}
		}
	}
	for _, grave := range slices.Backward(o.graves) {
		if what := o.foreign(grave.tenant, grave.frozen); what != "" {
			wrong = append(wrong, errors.New(what))
		}
		if err := grave.drop(ctx); err != nil {
			return err
		}
	}
	return errors.Join(wrong...)
}
