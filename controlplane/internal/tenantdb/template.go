package tenantdb

import (
	"context"
	"time"

	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/pause"
)

// templatePrefix begins the names of templates; the fingerprint of the
// migrations follows.
const templatePrefix = "ouvira_template_"

// templateTimeout bounds the wait for another run that builds the template.
const templateTimeout = 30 * time.Second

// Template returns the name of this release's template on the server and
// builds it when it is not there: under another name, renamed when complete.
func (w *Work) Template(ctx context.Context) (string, error) {
	admin, err := w.Admin(ctx)
	if err != nil {
		return "", err
	}
	fingerprint, err := migrations.Tenant.Fingerprint()
	if err != nil {
		return "", err
	}
	name := templatePrefix + fingerprint[:16]
	if there, err := admin.hasTemplate(ctx, name); err != nil || there {
		return name, err
	}
	waiting, cancel := context.WithTimeout(ctx, templateTimeout)
	defer cancel()
	for {
		var locked bool
		if err := admin.Scan(ctx, []any{&locked}, "SELECT pg_try_advisory_lock(hashtextextended('ouvira.template', 0))"); err != nil {
			return "", err
		}
		if locked {
			break
		}
		if !pause.For(waiting, pollEvery) {
			return "", operation.Later("template_building", "Another run builds the template on server "+admin.server+".", "It is tried again.")
		}
	}
	buildErr := w.buildTemplate(ctx, admin, name)
	// A lost connection has lost the lock as well.
	unlockErr := admin.Exec(ctx, "SELECT pg_advisory_unlock(hashtextextended('ouvira.template', 0))")
	if buildErr != nil {
		return "", buildErr
	}
	return name, unlockErr
}

func (s *Session) hasTemplate(ctx context.Context, name string) (bool, error) {
	var there bool
	err := s.Scan(ctx, []any{&there}, `
		SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate AND NOT datallowconn)`, name)
	return there, err
}

// buildTemplate is called with the server's template lock held.
func (w *Work) buildTemplate(ctx context.Context, admin *Session, name string) error {
	if there, err := admin.hasTemplate(ctx, name); err != nil || there {
		return err
	}
	building := name + "_building"
	all := func(statements ...string) error {
		for _, s := range statements {
			if err := admin.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	}
	left, err := admin.lookup(ctx, building)
	if err != nil {
		return err
	}
	if left != nil && !left.droppedHalf() {
		err = all("ALTER DATABASE " + building + " IS_TEMPLATE false")
	}
	if err == nil {
		err = all(
			"DROP DATABASE IF EXISTS "+building+" WITH (FORCE)",
			"CREATE DATABASE "+building+" OWNER "+migrations.OwnerRole+" TEMPLATE "+migrations.BaseDatabase+" STRATEGY wal_log ALLOW_CONNECTIONS false",
			"REVOKE ALL ON DATABASE "+building+" FROM PUBLIC",
			"ALTER DATABASE "+building+" ALLOW_CONNECTIONS true",
		)
	}
	if err != nil {
		return err
	}
	if err := w.Migrate(ctx, building); err != nil {
		return err
	}
	if err := all("ALTER DATABASE " + building + " ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	if err := admin.empty(ctx, building); err != nil {
		return err
	}
	return all(
		"ALTER DATABASE "+building+" IS_TEMPLATE true",
		"ALTER DATABASE "+building+" RENAME TO "+name,
	)
}

// empty waits until the sessions in a closed database are gone: those of the
// migration end a moment after it.
func (s *Session) empty(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	for {
		var left int
		err := s.Scan(ctx, []any{&left}, `
			SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1`, database)
		if err != nil || left == 0 {
			return err
		}
		if !pause.For(ctx, pollEvery) {
			return operation.Later("template_in_use", "Somebody stays connected to the template on server "+s.server+".", "It is tried again.")
		}
	}
}
