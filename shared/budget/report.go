package budget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
)

// What node.lease_shares refuses by.
const (
	codeExpelled  = "OV002"
	codeOvertaken = "OV003"
)

// report is what a process says of one server.
type report struct {
	Server uuid.UUID `json:"server"`
	Limit  int       `json:"limit"` // kept to
	Open   int       `json:"open"`
	Wanted int       `json:"wanted"`
}

// answer is what it hears.
type answer struct {
	Nodes   int `json:"nodes"`
	Members int `json:"members"`
	Shares  []struct {
		Server uuid.UUID `json:"server"`
		Name   string    `json:"name"`
		Limit  int       `json:"limit"`
		Budget int       `json:"budget"`
	} `json:"shares"`
}

const leaseSQL = `SELECT node.lease_shares($1, $2, $3, $4, $5::float8::numeric, $6, NULLIF($7::bigint, 0), NULLIF($8::bigint, 0), $9, $10)`

// report says what this process holds and wants and applies what it hears. Only
// Run calls it, so answers are applied in the order of the reports.
func (l *Lease) report(ctx context.Context) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	reports, sequence, instance := l.reports()
	sent := time.Now()
	var a answer
	o := l.options
	err = o.DB.QueryRow(ctx, leaseSQL, instance, o.Member, o.Kind, sequence, o.Share, o.Least,
		o.SchemaMin, o.SchemaMax, o.RouteVersion(), reports).Scan(&a)
	if err != nil {
		return false, fmt.Errorf("lease connections: %w", err)
	}
	return l.apply(ctx, a, sent, instance), nil
}

func (l *Lease) reports() (all []report, sequence int64, instance string) {
	demands := l.holder.Demands()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence++
	// A limit that was lowered counts as kept to when the file says so too: the
	// process may come back with what is in the file.
	kept := union(l.limits, l.saved)
	for server, d := range demands {
		// Demand is seen now and then only: a peak is remembered for a few seconds.
		l.wanted[server] = max(d.Wanted, l.wanted[server]*3/4)
		kept[server] += 0
	}
	all = make([]report, 0, len(kept))
	for server, limit := range kept {
		if _, there := demands[server]; !there {
			l.wanted[server] = 0
		}
		all = append(all, report{Server: server, Limit: limit, Open: demands[server].Open, Wanted: l.wanted[server]})
	}
	return all, l.sequence, l.instance
}

// apply keeps to the answer from now on.
func (l *Lease) apply(ctx context.Context, a answer, sent time.Time, instance string) (changed bool) {
	limits := make(map[uuid.UUID]int, len(a.Shares))
	l.mu.Lock()
	if instance != l.instance || l.expelled {
		l.mu.Unlock()
		return false // a server has said so meanwhile
	}
	for _, s := range a.Shares {
		limits[s.Server] = s.Limit
		if was, known := l.limits[s.Server]; s.Limit == 0 && (was > 0 || !known) {
			l.options.Log.WarnContext(ctx, "nothing of a server's connection budget is left for this process: raise the budget, or run fewer processes",
				"server", s.Name, "budget", s.Budget, "processes", a.Members)
		}
		l.names[s.Server] = s.Name
	}
	resized := !maps.Equal(limits, l.limits)
	changed = resized || a.Nodes != l.nodes
	l.ready = true
	l.limits, l.nodes, l.members, l.answered = limits, a.Nodes, a.Members, sent
	l.mu.Unlock()
	if changed {
		l.holder.LimitsChanged()
		l.save(ctx, false)
	}
	return resized
}

// overtaken goes on after the number that the control database has heard last:
// of a process whose place this one has taken, or of a report that it gave up.
func (l *Lease) overtaken(err error) {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return
	}
	if last, err := strconv.ParseInt(refused.Detail, 10, 64); err == nil {
		l.mu.Lock()
		l.sequence = last
		l.mu.Unlock()
	}
}
