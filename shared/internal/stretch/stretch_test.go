package stretch_test

import (
	"testing"

	"github.com/ouvira/ouvira/shared/internal/stretch"
)

// What attackers pay for a guess is not to become less by mistake, and a process
// pays it unless it asked for less.
func TestAProcessPaysTheRealCost(t *testing.T) {
	t.Parallel()
	want := stretch.Cost{MemoryKiB: 19456, Passes: 2, SCRAMIterations: 4096}
	if got := stretch.Current(); got != want || stretch.Real != want {
		t.Errorf("a process pays %+v of %+v, want %+v", got, stretch.Real, want)
	}
}
