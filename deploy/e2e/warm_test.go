package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

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

// Who signs up while databases are kept ready has a tenant in the answer to the
// code. When the pool is empty the next one waits a little, and has one too. With
// the worker dead the API gives out what there is.
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
	for i, c := range customers[:2] {
		if status := c.verify(t, s, codes[i]); status != "active" {
			t.Errorf("%s is %s after the code", c.slug, status)
		}
		for node := range 2 {
			c.login(t, s, node)
		}
	}
	late := customers[2]
	if status := late.verify(t, s, codes[2]); status != "provisioning" {
		t.Errorf("the third of two is %s", status)
	}
	must(t, s.Start(t.Context(), stack.Worker))
	eventually(t, recovery, func() (bool, string) {
		got := late.state(t.Context(), s)
		return got.Status == "active", fmt.Sprintf("the third is %s (%s)", got.Status, got.Reason)
	})
	late.login(t, s, 0)
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
	const rounds = 40
	// allowance is what a ready database may cost besides the login.
	const allowance = 20 * time.Millisecond
	s, _ := start(b, stack.Options{NoTenants: true})
	operator, err := s.OperatorAPI(b.Context())
	must(b, err)
	n := 0
	measure := func(b *testing.B) (beyond []float64) {
		b.Helper()
		for range rounds {
			n++
			c, code := ask(b, s, fmt.Sprintf("customer-%d", n))
			begun := time.Now()
			c.verify(b, s, code)
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
		sidebyside.Against(b, sidebyside.Median(measure(b)), allowance.Seconds())
		must(b, operator.Want(b.Context(), http.StatusOK, http.MethodPut, "/v1/warm-pool",
			map[string]any{"server": "a", "plan": "standard", "size": 0}, nil))
	})
}
