package move_test

import (
	"strings"
	"testing"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/testdb"
)

// A tenant does not move to where its data would not fit, by what was said of the
// server and seen of the tenants; the refusal has the figures, and what moves is counted
// at once.
func TestAMoveWantsStorage(t *testing.T) {
	t.Parallel()
	w := shared(t, testdb.System)
	tenant, second := w.tenant(t, "acme"), w.tenant(t, "globex")
	w.Exec(t, "INSERT INTO control.usage_hours (tenant_id, hour, database_bytes, last_bytes) SELECT id, now(), 9 * 1048576, 6 * 1048576 FROM control.tenants")
	w.Exec(t, "UPDATE control.servers SET max_storage_mb = 5 WHERE name = 'b'")
	_, err := w.ask(t, tenant, "b")
	if refused := fault.From(err); !fault.Is(err, fault.KindConflict) || refused.EffectiveCode() != "storage_full" || !strings.Contains(refused.Message, "no room for 6 MB more: it stores 0 MB of 5 MB") {
		t.Errorf("to a server that is too small: %v", err)
	}
	w.Exec(t, "UPDATE control.servers SET max_storage_mb = 10 WHERE name = 'b'")
	w.mustAsk(t, tenant, "b")
	if s, err := w.Servers.Find(t.Context(), "b"); err != nil || s.Stored != 6<<20 || s.Capacity.StorageMB != 10 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := w.ask(t, second, "b"); fault.From(err).EffectiveCode() != "storage_full" {
		t.Errorf("beside one that is on its way there: %v", err)
	}
	w.Exec(t, "UPDATE control.servers SET max_storage_mb = 0 WHERE name = 'b'")
	w.mustAsk(t, second, "b")
}
