package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/deploy/stack"
	"github.com/ouvira/ouvira/shared/testdb/sidebyside"
)

// keepReady has databases kept ready on the server and waits until they are.
func keepReady(t testing.TB, s *stack.Stack, server string, size int) {
	t.Helper()
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodPut, "/v1/warm-pool", map[string]any{"server": server, "plan": "standard", "size": size}, nil))
	awaitReady(t, operator, size)
}

func awaitReady(t testing.TB, operator stack.API, size int) {
	t.Helper()
	var pools struct {
		Items []struct {
			Ready int `json:"ready"`
		} `json:"items"`
	}
	eventually(t, time.Minute, func() (bool, string) {
		err := operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/warm-pool", nil, &pools)
		ready := 0
		for _, pool := range pools.Items {
			ready += pool.Ready
		}
		return err == nil && ready >= size, fmt.Sprintf("%d of %d databases are ready (%v)", ready, size, err)
	})
}

// Who signs up has a tenant in the answer to the code: out of the pool while databases
// are kept ready, else one that is made meanwhile. Neither needs a worker.
func TestSignUpOutOfTheWarmPool(t *testing.T) {
	t.Parallel()
	s, _ := start(t, stack.Options{NoTenants: true})
	keepReady(t, s, "a", 2)
	var customers []customer
	var codes []string
	for _, slug := range []string{"acme", "globex", "initech"} {
		c, code := ask(t, s, slug)
		customers, codes = append(customers, c), append(codes, code)
	}
	must(t, s.Kill9(stack.Worker))
	for i, c := range customers { // the third of two is made: slow machines answer before
		if status := c.verify(t, s, codes[i]); status != "active" && i < 2 {
			t.Errorf("%s is %s after the code", c.slug, status)
		}
		eventually(t, recovery, func() (bool, string) {
			got := c.state(t.Context(), s)
			return got.Status == "active", fmt.Sprintf("%s is %s (%s)", c.slug, got.Status, got.Reason)
		})
		for node := range 2 {
			c.login(t, s, node)
		}
	}
	must(t, s.Start(t.Context(), stack.Worker))
	operator, err := s.OperatorAPI(t.Context())
	must(t, err)
	awaitReady(t, operator, 2)
	var report struct {
		Tenants  int   `json:"tenants"`
		Findings []any `json:"findings"`
	}
	must(t, operator.Want(t.Context(), http.StatusOK, http.MethodGet, "/v1/reconcile", nil, &report))
	if report.Tenants != 3 || len(report.Findings) != 0 {
		t.Errorf("%d tenants, findings %v", report.Tenants, report.Findings)
	}
}

// BenchmarkSignUp measures what a customer waits for between the code and being
// signed in, beyond what signing in takes anyway, with a database that was kept
// ready and with one that is made.
func BenchmarkSignUp(b *testing.B) {
	rounds := 40
	if testing.Short() {
		rounds = 4
	}
	// allowance is what a ready database may cost besides the login.
	const allowance = 20 * time.Millisecond
	s, _ := start(b, stack.Options{NoTenants: true})
	operator, err := s.OperatorAPI(b.Context())
	must(b, err)
	n := 0
	measure := func(b *testing.B, rounds int) (beyond []float64) {
		b.Helper()
		for range rounds {
			n++
			c, code := ask(b, s, fmt.Sprintf("customer-%d", n))
			begun := time.Now()
			if c.verify(b, s, code) != "active" {
				eventually(b, time.Minute, func() (bool, string) {
					got := c.state(b.Context(), s)
					return got.Status == "active", fmt.Sprintf("%s is %s (%s)", c.slug, got.Status, got.Reason)
				})
			}
			c.login(b, s, 0)
			took := time.Since(begun)
			begun = time.Now()
			c.login(b, s, 0)
			beyond = append(beyond, (took - time.Since(begun)).Seconds())
		}
		return beyond
	}
	b.Run("warm", func(b *testing.B) {
		keepReady(b, s, "a", rounds)
		b.ResetTimer()
		sidebyside.Against(b, sidebyside.Median(measure(b, rounds)), allowance.Seconds())
		must(b, operator.Want(b.Context(), http.StatusOK, http.MethodPut, "/v1/warm-pool",
			map[string]any{"server": "a", "plan": "standard", "size": 0}, nil))
	})
	b.Run("cold", func(b *testing.B) {
		// One after the other, and no databases dropped in between: both wait for the
		// same disk. What is made first decides where a customer's database is.
		var ours, reference []float64
		measure(b, 1) // the first one builds the template
		b.ResetTimer()
		for range max(2, rounds/4) {
			ours = append(ours, measure(b, 1)...)
			begun := time.Now()
			copyAndSeed(b, s, fmt.Sprintf("bare_%d", n))
			reference = append(reference, time.Since(begun).Seconds())
		}
		sidebyside.Report(b, ours, reference)
	})
}

// copyAndSeed makes a database of the template and writes an owner, with nothing
// around it: what a customer waits for at least when none is kept ready.
func copyAndSeed(b *testing.B, s *stack.Stack, name string) {
	b.Helper()
	admin, err := pgx.Connect(b.Context(), s.PostgresURL(stack.PGA))
	must(b, err)
	defer admin.Close(context.Background())
	var template string
	must(b, admin.QueryRow(b.Context(), "SELECT datname::text FROM pg_database WHERE datistemplate AND starts_with(datname, 'ouvira_template_')").Scan(&template))
	_, err = admin.Exec(b.Context(), "CREATE DATABASE "+name+" TEMPLATE "+template+" OWNER ouvira_owner STRATEGY wal_log ALLOW_CONNECTIONS true")
	must(b, err)
	config := admin.Config().Copy()
	config.Database = name
	inside, err := pgx.ConnectConfig(b.Context(), config)
	must(b, err)
	defer inside.Close(context.Background())
	_, err = inside.Exec(b.Context(), `
		SELECT ouvira.seed_tenant(gen_random_uuid(), 'Ada Lovelace', 'ada@acme.example', true, 'x', NULL, NULL, 'Acme', 'kid', '{}', '\x00')`)
	must(b, err)
}
