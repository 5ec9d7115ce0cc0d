// Package historytest records what several clients did at the same time, and
// asks whether it can be explained: whether there is an order, in which each
// operation takes effect at one moment between its call and its answer, that a
// simple sequential model agrees with (linearizability; porcupine decides).
//
// It is for tests only.
package historytest

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// judgement bounds the search for an order.
const judgement = time.Minute

// Recorder keeps a history. The zero value is empty.
type Recorder struct {
	clock atomic.Int64 // ticks at every call and every answer

	mu      sync.Mutex
	history []porcupine.Operation
}

// Do does something for a client, who does one thing at a time, and keeps when
// it was and what came of it.
func (r *Recorder) Do(client int, input any, do func() (output any)) {
	o := porcupine.Operation{ClientId: client, Input: input, Call: r.clock.Add(1)}
	o.Output = do()
	o.Return = r.clock.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, o)
}

// Len is the number of operations.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.history)
}

// Judge fails the test when no order explains the history; then it draws it.
func (r *Recorder) Judge(t testing.TB, model porcupine.Model) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	result, info := porcupine.CheckOperationsVerbose(model, r.history, judgement)
	if result == porcupine.Ok {
		t.Logf("%d operations are explained by the model", len(r.history))
		return
	}
	drawing, err := os.CreateTemp("", "history-*.html") //nolint:usetesting // it is looked at when the test is over
	if err != nil {
		t.Fatal(err)
	}
	defer drawing.Close()
	if err := porcupine.Visualize(model, info, drawing); err != nil {
		t.Error(err)
	}
	t.Errorf("no order explains the history of %d operations (%s). It is drawn in %s", len(r.history), result, drawing.Name())
}

// By partitions a history by what key says of each input: the parts do not
// bear on each other.
func By[In any, K comparable](key func(In) K) func([]porcupine.Operation) [][]porcupine.Operation {
	return func(history []porcupine.Operation) [][]porcupine.Operation {
		index := map[K]int{}
		var parts [][]porcupine.Operation
		for _, o := range history {
			input, _ := o.Input.(In)
			k := key(input)
			i, ok := index[k]
			if !ok {
				i = len(parts)
				index[k] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	}
}
