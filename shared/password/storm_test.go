package password_test

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ouvira/ouvira/shared/password"
)

// Five hundred logins at once: no more hashes are computed at a time than there are
// cores, and the memory is that of so many. Not parallel: it looks at the whole process.
func TestRel13AStormOfLoginsIsBounded(t *testing.T) {
	const logins, memory = 500, 4 << 20
	// m=4 MiB, t=1: what is bounded is how many, whatever each costs.
	hash := "$argon2id$v=19$m=4096,t=1,p=1$c29tZXNhbHQ$C+Kflc832bMfWH6x2xWirw"
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var storm sync.WaitGroup
	for range logins {
		storm.Go(func() {
			if ok, _, err := password.Verify(t.Context(), hash, "correct horse 42"); ok || err != nil {
				t.Errorf("Verify = %v, %v", ok, err)
			}
		})
	}
	done := make(chan struct{})
	go func() { storm.Wait(); close(done) }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	stacks := make([]byte, 4<<20)
	most, peak, looks := 0, uint64(0), 0
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		case <-look.C:
			looks++
			most = max(most, bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("argon2.IDKey(")))
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapInuse)
		}
	}
	cores := runtime.GOMAXPROCS(0)
	if most > cores || most == 0 {
		t.Errorf("%d hashes were computed at a time on %d cores, in %d looks", most, cores, looks)
	}
	// What was freed lies about until it is collected: many times the memory of the
	// hashes that are under way, and far from that of all.
	if grown := int64(peak) - int64(before.HeapInuse); grown > int64(max(16*cores, logins/8)*memory) {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	t.Logf("at most %d hashes at a time and %d MiB of heap, in %d looks", most, peak>>20, looks)
}
