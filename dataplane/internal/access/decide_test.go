package access_test

import (
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"testing/quick"
	"time"

	"github.com/ouvira/ouvira/dataplane/internal/access"
)

// policy is what random assignments say, at a fixed time.
type policy []access.Assignment

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// permissions are few and close to each other, and some are far apart, so that
// assignments meet and blocks of the set do not always.
var permissions = []int64{1, 2, 3, 63, 64, 65, 127, 128, 4096, 1 << 40}

// Generate implements quick.Generator.
func (policy) Generate(r *rand.Rand, size int) reflect.Value {
	p := make(policy, r.Intn(min(size, 12)+1))
	for i := range p {
		p[i] = assignment(r)
	}
	return reflect.ValueOf(p)
}

func assignment(r *rand.Rand) access.Assignment {
	a := access.Assignment{ID: r.Int63(), Distance: r.Intn(4), Scope: []access.Scope{access.ScopeSelf, access.ScopeSubtree}[r.Intn(2)]}
	if r.Intn(3) == 0 {
		at := noon.Add(time.Duration(r.Intn(5)-2) * time.Hour)
		a.ExpiresAt = &at
	}
	for _, id := range permissions {
		switch r.Intn(6) {
		case 0, 1:
			a.Granted = append(a.Granted, id)
		case 2:
			a.Denied = append(a.Denied, id)
		}
	}
	return a
}

func (p policy) applying() policy {
	return slices.DeleteFunc(slices.Clone(p), func(a access.Assignment) bool {
		return a.Distance > 0 && a.Scope == access.ScopeSelf || a.ExpiresAt != nil && !a.ExpiresAt.After(noon)
	})
}

// check runs a property on many policies.
func check(t *testing.T, property any) {
	t.Helper()
	if err := quick.Check(property, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
}

// TestSec27 whatever else is given: a denial that is added takes away and never
// gives, at any distance and in any place.
func TestSec27AddingADenialNeverWidens(t *testing.T) {
	t.Parallel()
	check(t, func(p policy, seed int64) bool {
		r := rand.New(rand.NewSource(seed))
		before := access.Decide(p, noon)
		denial := assignment(r)
		denial.Granted = nil
		after := access.Decide(slices.Insert(slices.Clone(p), r.Intn(len(p)+1), denial), noon)
		applies := len(policy{denial}.applying()) == 1
		for _, id := range permissions {
			switch {
			case after.Allowed.Has(id) && !before.Allowed.Has(id), after.Below.Has(id) && !before.Below.Has(id):
				return false // widened
			case applies && slices.Contains(denial.Denied, id) && after.Allowed.Has(id):
				return false // did not win
			case !applies && after.Allowed.Has(id) != before.Allowed.Has(id):
				return false
			}
		}
		return true
	})
}

// TestSec27 a denial that is put into a role that is already held, too.
func TestSec27DenyingInARoleNeverWidens(t *testing.T) {
	t.Parallel()
	check(t, func(p policy, seed int64) bool {
		if len(p) == 0 {
			return true
		}
		r := rand.New(rand.NewSource(seed))
		before, id := access.Decide(p, noon), permissions[r.Intn(len(permissions))]
		changed := slices.Clone(p)
		a := &changed[r.Intn(len(p))]
		a.Granted = slices.DeleteFunc(slices.Clone(a.Granted), func(granted int64) bool { return granted == id })
		a.Denied = append(slices.Clone(a.Denied), id)
		after := access.Decide(changed, noon)
		widened := after.Allowed.Without(&before.Allowed)
		below := after.Below.Without(&before.Below)
		return len(widened.IDs()) == 0 && len(below.IDs()) == 0
	})
}

// TestSec27 what is allowed is what something grants and nothing denies, said
// the slow way.
func TestSec27NothingGrantedIsNoAndAnyDenialWins(t *testing.T) {
	t.Parallel()
	check(t, func(p policy) bool {
		d := access.Decide(p, noon)
		for _, id := range append([]int64{0, 5, 62, 66, 1 << 41}, permissions...) {
			var granted, denied, below bool
			for _, a := range p.applying() {
				granted = granted || slices.Contains(a.Granted, id)
				denied = denied || slices.Contains(a.Denied, id)
				below = below || a.Scope == access.ScopeSubtree && slices.Contains(a.Granted, id)
			}
			if d.Allowed.Has(id) != (granted && !denied) || d.Denied.Has(id) != denied || d.Below.Has(id) != (below && !denied) {
				return false
			}
		}
		return true
	})
}

func TestTheOrderOfAssignmentsDoesNotMatter(t *testing.T) {
	t.Parallel()
	check(t, func(p policy, seed int64) bool {
		shuffled := slices.Clone(p)
		rand.New(rand.NewSource(seed)).Shuffle(len(p), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		return reflect.DeepEqual(access.Decide(p, noon), access.Decide(shuffled, noon))
	})
}

// What is remembered must be right for as long as it says.
func TestADecisionHoldsUntilTheFirstExpiry(t *testing.T) {
	t.Parallel()
	check(t, func(p policy, minutes uint16) bool {
		d := access.Decide(p, noon)
		later := noon.Add(time.Duration(minutes%300) * time.Minute)
		then := access.Decide(p, later)
		if d.Until.IsZero() || later.Before(d.Until) {
			return reflect.DeepEqual(d, then)
		}
		return d.Until.After(noon)
	})
}

func TestSet(t *testing.T) {
	t.Parallel()
	check(t, func(in, out []int16) bool {
		var s, other access.Set
		members := map[int64]bool{}
		for _, id := range in {
			s.Add(int64(id))
			members[int64(id)] = true
		}
		for _, id := range out {
			other.Add(int64(id))
			delete(members, int64(id))
		}
		left := s.Without(&other)
		ids := left.IDs()
		if len(ids) != len(members) || !slices.IsSorted(ids) {
			return false
		}
		for _, id := range ids {
			if !members[id] || !left.Has(id) {
				return false
			}
		}
		return true
	})
}

// BenchmarkDecide is the core alone: a user with ten roles that grant or deny
// 256 permissions.
func BenchmarkDecide(b *testing.B) {
	assignments := make([]access.Assignment, 10)
	for i := range assignments {
		a := &assignments[i]
		a.Distance, a.Scope = i%4, access.ScopeSubtree
		for id := range int64(256) {
			if (id+int64(i))%17 == 0 {
				a.Denied = append(a.Denied, id)
			} else if (id+int64(i))%2 == 0 {
				a.Granted = append(a.Granted, id)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		d := access.Decide(assignments, noon)
		if d.Allowed.Has(1 << 20) {
			b.Fatal("allowed")
		}
	}
}
