package usage_test

import (
	"testing"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/controltest"
	"github.com/ouvira/ouvira/controlplane/internal/server"
)

// What counts of a tenant is what was seen of it last, by workers of this release or of
// an earlier one, which writes no last_bytes. Hours that are written late or forgotten
// change nothing, nor does what nodes report.
func TestTheSizeIsWhatWasSeenLast(t *testing.T) {
	t.Parallel()
	c := controltest.New(t)
	acme, globex := tenant(t, c), tenant(t, c)
	hour := time.Now().UTC().Truncate(time.Hour)
	size := func(want int64, after string) {
		t.Helper()
		if got, err := server.Seen(t.Context(), c.Pool, acme); err != nil || got != want {
			t.Errorf("%s: %d bytes, want %d; %v", after, got, want, err)
		}
	}
	const insert = "INSERT INTO control.usage_hours (tenant_id, hour, database_bytes, last_bytes) VALUES ($1, $2, $3, $4)"
	size(0, "never seen")
	exec(t, c.Pool, insert, globex, hour, 999, 999)
	exec(t, c.Pool, "INSERT INTO control.usage_hours (tenant_id, hour, requests) VALUES ($1, $2, 7)", acme, hour)
	size(0, "a node's report")
	exec(t, c.Pool, "UPDATE control.usage_hours SET database_bytes = 500, last_bytes = 500 WHERE tenant_id = $1", acme)
	size(500, "seen")
	exec(t, c.Pool, "UPDATE control.usage_hours SET last_bytes = 300 WHERE tenant_id = $1", acme)
	size(300, "smaller within the hour")
	exec(t, c.Pool, insert, acme, hour.Add(-time.Hour), 800, 800)
	size(300, "an earlier hour")
	exec(t, c.Pool, insert, acme, hour.Add(time.Hour), 400, 0)
	size(400, "an earlier release's hour")
	exec(t, c.Pool, "DELETE FROM control.usage_hours WHERE tenant_id = $1", acme)
	size(400, "forgotten hours")
}
