package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/deploy/stack"
)

// backends samples how many connections of ours are open on a server, as fast as
// it answers, until the returned function is called.
func backends(t *testing.T, s *stack.Stack, server string) (highest func() (most, samples int)) {
	t.Helper()
	conn := sql(t, s.PostgresURL(server))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var most, samples int
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var count int
			err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'ouvira/')").Scan(&count)
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("count the connections to %s: %v", server, err)
				}
				return
			}
			most = max(most, count)
			samples++
		}
	}()
	return func() (int, int) {
		cancel()
		<-done
		return most, samples
	}
}

// hammer has many clients read at one node, whatever it answers, and counts what
// was served.
func hammer(t *testing.T, api stack.API, clients int) (served *atomic.Int64, stop func()) {
	t.Helper()
	served = new(atomic.Int64)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for ctx.Err() == nil {
				asking, cancel := context.WithTimeout(ctx, 5*time.Second)
				answer, err := api.Call(asking, http.MethodGet, "/account/me", nil)
				cancel()
				if err == nil && answer.Status == http.StatusOK {
					served.Add(1)
					continue
				}
				time.Sleep(look) //nolint:forbidigo // a client that was refused waits a little
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return served, stop
}

// A node is killed and started again, stands still for so long that what it held
// is given to others, and goes on: all under load on a small budget, which is not
// exceeded at any sample, and both nodes serve in the end.
func TestInvariant01KilledAndStalledNodesKeepToTheBudget(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{})
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPatch, "/v1/plans/standard",
		map[string]any{"limits": map[string]int{"signed_in_per_user": 1_000_000, "anonymous_per_address": 1_000_000}}, nil))
	acme, globex := demo(s, "acme").login(t, s, 0), demo(s, "globex").login(t, s, 0)

	// So few that each node always wants more.
	const budget, margin = 8, 1
	control := sql(t, s.Demo().Postgres.Control)
	exec := func(sql string) {
		t.Helper()
		_, err := control.Exec(t.Context(), sql)
		must(t, err)
	}
	exec(fmt.Sprintf("UPDATE control.servers SET max_connections = %d", budget))
	exec("SELECT control.publish_server(id) FROM control.servers ORDER BY id")
	most := func(where string) (granted int) {
		t.Helper()
		err := control.QueryRow(t.Context(), `
			SELECT COALESCE(max(n), 0) FROM (SELECT sum(h.granted) AS n FROM control.shares h JOIN control.instances i ON i.id = h.instance_id
			                                 WHERE `+where+` GROUP BY h.server_id) g`).Scan(&granted)
		must(t, err)
		return granted
	}
	eventually(t, 20*time.Second, func() (bool, string) {
		granted := most("true")
		return granted <= budget-margin, fmt.Sprintf("%d are granted of %d", granted, budget)
	})
	watched := map[string]func() (int, int){}
	for _, server := range []string{stack.PGA, stack.PGB} {
		watched[server] = backends(t, s, server)
	}
	var counts []*atomic.Int64
	for node := range 2 {
		for slug, api := range map[string]stack.API{"acme": acme, "globex": globex} {
			served, _ := hammer(t, at(s, node, api, slug), 8)
			counts = append(counts, served)
		}
	}
	allServe := func(what string, limit time.Duration) {
		t.Helper()
		before := make([]int64, len(counts))
		for i, c := range counts {
			before[i] = c.Load()
		}
		eventually(t, limit, func() (bool, string) {
			for i, c := range counts {
				if c.Load() < before[i]+20 {
					return false, fmt.Sprintf("%s: of %d only %d were served", what, i, c.Load()-before[i])
				}
			}
			return true, ""
		})
	}
	allServe("at first", time.Minute)

	node := stack.DataNode(1)
	for range 2 {
		must(t, s.Kill9(node))
		must(t, s.Start(t.Context(), node))
		allServe("after a kill", time.Minute)
	}

	must(t, s.Pause(node))
	paused := true
	resume := func() {
		if paused {
			paused = false
			must(t, s.Resume(node))
		}
	}
	defer resume()
	eventually(t, time.Minute, func() (bool, string) {
		var left int
		err := control.QueryRow(t.Context(), `SELECT count(*) FROM control.shares h JOIN control.instances i ON i.id = h.instance_id
			WHERE i.member_id = $1`, node).Scan(&left)
		return err == nil && left == 0, fmt.Sprintf("the stalled node's shares of %d servers are not taken back: %v", left, err)
	})
	t.Logf("granted to the living while the node stands still: %d", most("i.expelled_at IS NULL"))
	eventually(t, 20*time.Second, func() (bool, string) {
		granted := most(fmt.Sprintf("i.member_id = '%s'", stack.DataNode(0)))
		return granted >= 3, fmt.Sprintf("the other node has %d", granted)
	})
	resume()
	allServe("after it has stood still", time.Minute)

	for server, highest := range watched {
		if most, samples := highest(); most > budget || most == 0 {
			t.Errorf("%s: %d connections were open in %d samples, the budget is %d", server, most, samples, budget)
		} else {
			t.Logf("%s: at most %d connections in %d samples", server, most, samples)
		}
	}
}
