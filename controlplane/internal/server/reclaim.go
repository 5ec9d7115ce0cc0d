package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ouvira/ouvira/shared/budget"
)

const (
	// silentFor is how long nobody has heard of an instance before what it holds
	// may be taken back, and succeededFor the same when its process has been
	// started again.
	silentFor    = 15 * time.Second
	succeededFor = 5 * time.Second
	// forgottenFor is when it is taken back whether it is needed or not.
	forgottenFor = time.Hour
	// blindFor is the longest pause between two looks. After a longer one (the
	// control database was away, or this process stood still) the looking begins
	// anew: that nobody was heard of says nothing then.
	blindFor = 5 * time.Second
	// fenceTimeout bounds the work at one server in one turn.
	fenceTimeout = 10 * time.Second
	sampleEvery  = 50 * time.Millisecond
)

// Reclaimer takes back the shares of instances that are not heard of any more.
//
// An instance may be dead, stand still, or be cut off from the control database
// and go on serving; nobody here can tell. So it is left alone as long as nobody
// needs what it holds. Then it is expelled, in this order:
//
//  1. in the control database, which from then on refuses its reports;
//  2. at each server, which from then on has its connections find out that they
//     are not wanted, when they are made;
//  3. the connections that it has are ended, until two looks find none;
//  4. its share of that server is free.
//
// Each step may be done twice, by two at once, and again after a crash. A server
// that cannot be asked keeps the share reserved until it can. One Reclaimer's
// turns do not overlap.
type Reclaimer struct {
	servers *Service
	holder  string
	seen    map[string]sighting
	looked  time.Time
}

// sighting is since when, by this process's own clock, an instance has been
// silent.
type sighting struct {
	lastSeen time.Time
	since    time.Time
}

// NewReclaimer makes one; holder names this process.
func NewReclaimer(s *Service, holder string) *Reclaimer {
	return &Reclaimer{servers: s, holder: holder, seen: map[string]sighting{}}
}

// Turn looks, and takes back what is needed. It is called every second.
func (r *Reclaimer) Turn(ctx context.Context) error {
	if err := r.expel(ctx); err != nil {
		return err
	}
	return r.fence(ctx)
}

// candidate is an instance that holds something.
type candidate struct {
	ID        string
	Member    string
	LastSeen  time.Time
	Succeeded bool // its process has been started again
	Needed    bool // somebody waits for what it holds
}

func (r *Reclaimer) expel(ctx context.Context) error {
	rows, err := r.servers.db.Query(ctx, `
		SELECT i.id, i.member_id, i.last_seen_at,
		       EXISTS (SELECT FROM control.instances n WHERE n.member_id = i.member_id AND n.started_at > i.started_at AND n.expelled_at IS NULL),
		       EXISTS (SELECT FROM control.shares h JOIN control.shares o ON o.server_id = h.server_id AND (o.wanted > o.granted OR o.granted = 0)
		               JOIN control.instances l ON l.id = o.instance_id AND l.expelled_at IS NULL AND l.last_seen_at > clock_timestamp() - interval '5 s'
		               WHERE h.instance_id = i.id AND h.granted > 0)
		FROM control.instances i WHERE i.expelled_at IS NULL`)
	if err != nil {
		return fmt.Errorf("look for silent processes: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[candidate])
	if err != nil {
		return fmt.Errorf("look for silent processes: %w", err)
	}
	for _, c := range r.silent(all, time.Now()) {
		tag, err := r.servers.db.Exec(ctx, `
			UPDATE control.instances SET expelled_at = clock_timestamp()
			WHERE id = $1 AND last_seen_at = $2 AND expelled_at IS NULL`, c.ID, c.LastSeen)
		if err != nil {
			return fmt.Errorf("expel a silent process: %w", err)
		}
		if tag.RowsAffected() == 1 {
			r.servers.log.WarnContext(ctx, "a process is not heard of any more; its connections are taken back",
				"process", c.Member, "instance", c.ID, "last_seen_at", c.LastSeen)
		}
	}
	return nil
}

// silent are those to expel.
func (r *Reclaimer) silent(all []candidate, now time.Time) []candidate {
	if now.Sub(r.looked) > blindFor {
		clear(r.seen)
	}
	r.looked = now
	seen := make(map[string]sighting, len(all))
	var found []candidate
	for _, c := range all {
		s, known := r.seen[c.ID]
		if !known || !s.lastSeen.Equal(c.LastSeen) {
			s = sighting{c.LastSeen, now}
		}
		seen[c.ID] = s
		silent := now.Sub(s.since)
		if (c.Needed && (silent >= silentFor || (c.Succeeded && silent >= succeededFor))) || silent >= forgottenFor {
			found = append(found, c)
		}
	}
	r.seen = seen
	return found
}

// fence frees the shares of expelled instances, at all servers at the same time.
func (r *Reclaimer) fence(ctx context.Context) error {
	rows, err := r.servers.db.Query(ctx, `
		WITH old AS (
		    DELETE FROM control.instances i
		    WHERE i.expelled_at < now() - interval '30 days' AND NOT EXISTS (SELECT FROM control.shares h WHERE h.instance_id = i.id)
		)
		SELECT h.server_id, array_agg(h.instance_id)
		FROM control.shares h JOIN control.instances i ON i.id = h.instance_id
		WHERE i.expelled_at IS NOT NULL GROUP BY 1`)
	if err != nil {
		return fmt.Errorf("look for expelled processes: %w", err)
	}
	type work struct {
		Server    uuid.UUID
		Instances []string
	}
	todo, err := pgx.CollectRows(rows, pgx.RowToStructByPos[work])
	if err != nil || len(todo) == 0 {
		return err
	}
	if mine, err := r.leased(ctx); err != nil || !mine {
		return err
	}
	var group errgroup.Group
	errs := make([]error, len(todo))
	for i, w := range todo {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
			defer cancel()
			errs[i] = r.fenceAt(ctx, w.Server, w.Instances)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// leased tells whether this process is the one that fences now.
func (r *Reclaimer) leased(ctx context.Context) (bool, error) {
	tag, err := r.servers.db.Exec(ctx, `
		UPDATE control.reclaim_lease SET holder = $1, until = clock_timestamp() + $2
		WHERE holder = $1 OR until < clock_timestamp()`, r.holder, fenceTimeout)
	if err != nil {
		return false, fmt.Errorf("lease the fencing of expelled processes: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func (r *Reclaimer) fenceAt(ctx context.Context, server uuid.UUID, instances []string) error {
	access, err := r.servers.reserved(ctx, server)
	if err != nil {
		return err
	}
	conn, err := access.Connect(ctx, Target{ApplicationName: "ouvira/reclaim"})
	if err != nil {
		return fmt.Errorf("the connections of %d expelled processes stay reserved on server %s, which cannot be asked: %w", len(instances), access.Server.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, instance := range instances {
		if err := budget.Expel(ctx, conn, instance); err != nil {
			return err
		}
		ended, err := terminate(ctx, conn, instance)
		if err != nil {
			return err
		}
		if _, err := r.servers.db.Exec(ctx, "DELETE FROM control.shares WHERE server_id = $1 AND instance_id = $2", server, instance); err != nil {
			return fmt.Errorf("free the share of an expelled process: %w", err)
		}
		r.servers.log.InfoContext(ctx, "an expelled process's share is free", "instance", instance, "server", access.Server.Name, "connections_ended", ended)
	}
	return nil
}

// terminate ends an instance's connections until two looks in a row find none:
// one that is just being made is not to be seen for a moment.
func terminate(ctx context.Context, conn *pgx.Conn, instance string) (ended int, err error) {
	for empty := 0; empty < 2; {
		found, err := budget.Terminate(ctx, conn, instance)
		if err != nil {
			return ended, err
		}
		if empty++; found > 0 {
			empty = 0
			ended = max(ended, found)
		}
		select {
		case <-ctx.Done():
			return ended, ctx.Err()
		case <-time.After(sampleEvery):
		}
	}
	return ended, nil
}
