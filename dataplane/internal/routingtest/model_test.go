package routingtest

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ouvira/ouvira/shared/testdb"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this seed alone")
	stepsFlag = flag.Int("steps", 150, "requests and operations of each seed, together")
)

// askedPerStep is how many requests clients send for each thing that the
// operator does.
const askedPerStep = 12

func TestMain(m *testing.M) {
	// The guardian of a test server lives as long as the process.
	testdb.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/ouvira/ouvira/shared/testdb/guardian.(*guardian).start.func1"))
	})
}

func TestModelOfTheRouting(t *testing.T) {
	t.Parallel()
	seeds := []uint64{1, 2, 3}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	places := []*place{sharedPlace(t), ownPlace(t)}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			t.Logf("again with: go test ./internal/routingtest -run TestModelOfTheRouting -seed %d -steps %d", seed, *stepsFlag)
			run(t, places, seed, *stepsFlag)
		})
	}
}

// run lets an operator and clients loose on three nodes and six tenants.
func run(t *testing.T, places []*place, seed uint64, steps int) {
	t.Helper()
	w := newWorld(t, places, 3, 6)
	o := newOperator(w, seed)
	defer w.report(t)
	unwatch := w.watch(t)
	// The clients are a little ahead of the operator or behind, no more.
	tokens := make(chan struct{}, askedPerStep)
	wait := w.serve(seed, tokens)
	err := func() error {
		defer wait()
		defer close(tokens)
		for range max(1, steps/(askedPerStep+1)) {
			for range askedPerStep {
				tokens <- struct{}{}
			}
			if err := o.step(t.Context()); err != nil {
				return err
			}
			if len(w.failed()) > 0 {
				return nil
			}
		}
		return o.mendAll(t.Context())
	}()
	if err == nil && len(w.failed()) == 0 {
		err = w.mended(t.Context())
	}
	unwatch()
	if err == nil && len(w.failed()) == 0 {
		err = o.account(t.Context())
	}
	if err != nil {
		t.Errorf("%v\n\nwhat the operator did:\n%s", err, w.recent(40))
	}
	t.Logf("%d answers: %s", w.count.Load(), tally(w.told))
	t.Logf("%d samples of the backends; the operator: %s", w.sampled.Load(), tally(byVerb(o.did)))
}

func byVerb(did map[string]int) map[string]int {
	verbs := map[string]int{}
	for name, n := range did {
		verbs[name[:strings.LastIndexByte(name, ' ')]] += n
	}
	return verbs
}

func tally(counts map[string]int) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(words, ", ")
}
