package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/tenanttest"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/problem"
	"github.com/ouvira/ouvira/shared/testdb"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// BenchmarkNoisyNeighbour: what a tenant feels of another one that asks 50
// times as often, and of one whose slow queries would take the whole budget.
func BenchmarkNoisyNeighbour(b *testing.B) {
	const quietly = 100.0 // requests a second
	for _, c := range []struct {
		name    string
		noise   float64 // requests a second
		clients int
		path    string
	}{
		{"busy", 50 * quietly, 50, "/users/%d"},
		{"slow", 50 * quietly, 100, "/slow/%d"},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := tenanttest.New(b)
			const budget = 12
			f.Server.MaxConnections, f.A.Route.MaxConnections = budget, budget
			superuser := testdb.Connect(b, f.A.AdminURL)
			if _, err := superuser.Exec(b.Context(), fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", f.A.Route.Database, 2*budget)); err != nil {
				b.Fatal(err)
			}
			node := newRouting(b, f, f.A, f.B)
			mux := http.NewServeMux()
			mux.Handle("/", routedAPI(node))
			mux.Handle("/slow/", slowly(node))
			address := serve(b, mux)
			loud := clients(b, c.clients, all(address))
			quiet := clients(b, 4, all(address))
			noise := get(hostOf(f.A), fmt.Sprintf(c.path, f.A.OwnerID), "")
			asked := ownRequest(f.B)
			each, rounds := 5*time.Second, 5
			if testing.Short() {
				each, rounds = 500*time.Millisecond, 1
			}
			p99 := func() float64 {
				return sidebyside.Pace(b.Context(), len(quiet), quietly, each, func(worker int) { quiet[worker].call(asked) }).Percentile(99)
			}
			loudly := func(ctx context.Context, begun func()) {
				var answers atomic.Int64
				sidebyside.Pace(ctx, len(loud), c.noise, time.Hour, func(worker int) {
					_, _ = loud[worker].ask(noise) // a refusal is what a noisy tenant may get
					if answers.Add(1) == 200 {
						begun()
					}
				})
			}
			p99()
			var ours, reference []float64
			for range rounds {
				ours, reference = append(ours, beside(b.Context(), loudly, p99)), append(reference, p99())
			}
			sidebyside.Report(b, ours, reference)
		})
	}
}

// beside is what quiet gives while the noise goes on, once it has begun.
func beside(ctx context.Context, noise func(ctx context.Context, begun func()), quiet func() float64) float64 {
	ctx, cancel := context.WithCancel(ctx)
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		noise(ctx, sync.OnceFunc(func() { close(begun) }))
	}()
	defer func() {
		cancel()
		<-ended
	}()
	<-begun
	return quiet()
}

// slowly holds the tenant's connection for 20 ms, in which Postgres does
// nothing.
func slowly(node *routing) http.HandlerFunc {
	do := leased(node)
	return func(w http.ResponseWriter, r *http.Request) {
		err := do(r, func(db pg.Querier) error {
			_, err := db.Exec(r.Context(), "SELECT pg_sleep(0.02)")
			return err
		})
		if err != nil {
			problem.Write(w, r, fault.From(err))
		}
	}
}
