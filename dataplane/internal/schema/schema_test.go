package schema_test

import (
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/schema"
	"github.com/ouvira/ouvira/migrations"
)

func TestTheRangeEndsWithTheNewestMigration(t *testing.T) {
	t.Parallel()
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		t.Fatal(err)
	}
	if int64(latest) != schema.Latest || schema.Oldest > schema.Latest {
		t.Errorf("the newest migration of a tenant is %d, the range is %d to %d: raise schema.Latest", latest, schema.Oldest, schema.Latest)
	}
}
