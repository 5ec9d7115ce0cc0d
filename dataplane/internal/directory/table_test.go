package directory

import (
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/route"
)

// A pull cannot bring an older route than is known, except by a mistake of the
// control database: then the newer one stays.
func TestInvariant03ALowerVersionNeverOverwritesAHigher(t *testing.T) {
	t.Parallel()
	id, server := uuid.New(), &route.Server{ID: uuid.New()}
	at := func(version int64, slug string) *route.Route {
		return &route.Route{TenantID: id, Version: version, Slug: slug, Server: server}
	}
	table := newTable(0)
	table.apply([]*route.Route{at(5, "new")})
	if events := table.apply([]*route.Route{at(4, "old")}); len(events) != 0 || table.bySlug["new"] == nil || table.bySlug["old"] != nil {
		t.Errorf("the older route was taken: %+v", table.bySlug)
	}
	gone := at(3, "new")
	gone.Deleted = true
	if table.apply([]*route.Route{gone}); table.byID[id] == nil {
		t.Error("an older tombstone was obeyed")
	}
	// Two tenants with one name: the later change has it, whoever comes first,
	// and the other one's going does not take it away.
	other := &route.Route{TenantID: uuid.New(), Version: 6, Slug: "new", Hosts: []string{"h.example"}, Server: server}
	table.apply([]*route.Route{other})
	again := at(7, "elsewhere")
	table.apply([]*route.Route{again})
	if table.bySlug["new"] != other || table.byHost["h.example"] != other || table.bySlug["elsewhere"] != again {
		t.Errorf("the names are %+v", table.bySlug)
	}
}
