package limit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/route"
)

func TestLocal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		local, err := NewLocal[string](2)
		if err != nil {
			t.Fatal(err)
		}
		tenant, fourAMinute := uuid.New(), route.Limit{Name: "x", Count: 4, Per: time.Minute}
		for i := range 4 {
			v := local.Take(tenant, fourAMinute, "a")
			if !v.Allowed || v.Remaining != 3-i || v.Reset != time.Duration(i+1)*15*time.Second || v.Err() != nil {
				t.Errorf("request %d: %+v", i+1, v)
			}
		}
		<-time.After(5 * time.Second)
		if v := local.Take(tenant, fourAMinute, "a"); v.Allowed || v.Wait != 10*time.Second || v.Reset != 55*time.Second || v.Err() == nil {
			t.Errorf("over the limit: %+v", v)
		}
		if v := local.Take(uuid.New(), fourAMinute, "a"); !v.Allowed {
			t.Error("another tenant is refused")
		}
		<-time.After(10 * time.Second)
		if v := local.Take(tenant, fourAMinute, "a"); !v.Allowed || v.Remaining != 0 {
			t.Errorf("a quarter of the minute later: %+v", v)
		}
		if v := local.Take(tenant, fourAMinute, "a"); v.Allowed {
			t.Errorf("and at once again: %+v", v)
		}
		local.Take(tenant, fourAMinute, "b")
		local.Take(tenant, fourAMinute, "c") // two are remembered: "a" is forgotten
		if v := local.Take(tenant, fourAMinute, "a"); !v.Allowed || v.Remaining != 3 {
			t.Errorf("forgotten: %+v", v)
		}
	})
}

// Whatever the pace, no window that starts with all of it there holds more
// than the count and what comes back within it.
func TestNoPaceGetsMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, l := range []route.Limit{{Name: "a", Count: 7, Per: time.Minute}, {Name: "b", Count: 1200, Per: time.Minute}, {Name: "c", Count: 1, Per: time.Hour}} {
			local, err := NewLocal[int](10)
			if err != nil {
				t.Fatal(err)
			}
			random, start, allowed := rand.New(rand.NewPCG(1, 2)), time.Now(), 0
			for time.Since(start) < l.Per {
				if local.Take(uuid.Nil, l, 1).Allowed {
					allowed++
				}
				<-time.After(time.Duration(random.Int64N(int64(l.Per) / int64(l.Count))))
			}
			if allowed < l.Count || allowed > 2*l.Count {
				t.Errorf("%d of %s in one period", allowed, l.Name)
			}
		}
	})
}

func TestLimitsOfAPlan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limits map[string]int
		want   int
	}{{nil, 5}, {map[string]int{"login_per_address": 9}, 5}, {map[string]int{"login_per_identifier": 9}, 9}, {map[string]int{"login_per_identifier": 0}, 5}, {map[string]int{"login_per_identifier": -3}, 5}, {map[string]int{"login_per_identifier": 1 << 40}, route.MaxLimit}} {
		if got := (route.Settings{Limits: c.limits}).Limit(route.LimitLoginPerIdentifier).Count; got != c.want {
			t.Errorf("%v: %d, want %d", c.limits, got, c.want)
		}
	}
	described, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, l := range route.Limits() {
		period := map[time.Duration]string{time.Minute: "a minute", time.Hour: "an hour", 24 * time.Hour: "a day"}[l.Per]
		if row := fmt.Sprintf("| `%s` | %d %s |", l.Name, l.Count, period); !strings.Contains(string(described), row) {
			t.Errorf("docs/operations.md does not say %s", row)
		}
		if seen[l.Name] || l.Count < 1 || l.Per < time.Minute {
			t.Errorf("%+v", l)
		}
		seen[l.Name] = true
	}
}
