package budget

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"

	"github.com/ouvira/ouvira/shared/pg"
)

const (
	instanceLength = 10 // 50 random bits
	// memberLength is what of a member's name fits into application_name, of
	// which Postgres keeps 63 bytes.
	memberLength = 63 - len("ouvira/") - 1 - instanceLength
)

var instancePattern = regexp.MustCompile(`^[a-z2-7]{10}$`)

// newInstance names one run of a process.
func newInstance() string {
	var random [7]byte
	_, _ = rand.Read(random[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))[:instanceLength]
}

// ApplicationName is how connections of an instance are marked at a server, so
// that they can be told, and ended when the instance is expelled: a name that
// says whose they are, and the instance last.
func ApplicationName(name, instance string) string {
	return "ouvira/" + name[:min(len(name), memberLength)] + "/" + instance
}

// IsExpelled is an SQL expression that tells whether an instance, given as its
// parameter $1, is expelled from the server. Every role may ask it in every
// database: the list is the comment on a role that all tenants know, which only
// the provisioner may change.
const IsExpelled = `COALESCE(position($1 in shobj_description(to_regrole('ouvira_app'), 'pg_authid')) > 0, false)`

// Expel puts an instance on the server's list: from then on no connection of it
// proves itself. It is asked of database postgres as the provisioner. What is
// connected already stays: see Terminate. An entry is kept for 30 days, longer
// than a process is thought to stand still and then go on.
func Expel(ctx context.Context, q pg.Querier, instance string) error {
	if !instancePattern.MatchString(instance) {
		return fmt.Errorf("%q is no instance", instance)
	}
	// One statement, so that whoever stalls here holds nothing at the server.
	_, err := q.Exec(ctx, `DO $expel$
		DECLARE
		    list text;
		BEGIN
		    PERFORM pg_advisory_xact_lock(hashtextextended('ouvira expelled instances', 0));
		    SELECT string_agg(e.entry, ' ' ORDER BY split_part(e.entry, '/', 2), e.entry) INTO list
		    FROM (SELECT unnest(regexp_matches(shobj_description('ouvira_app'::regrole, 'pg_authid'), '[a-z2-7]{10}/[0-9]{8}', 'g')) AS entry
		          UNION SELECT '`+instance+`/' || to_char(now(), 'YYYYMMDD')) e
		    WHERE split_part(e.entry, '/', 2) > to_char(now() - interval '30 days', 'YYYYMMDD');
		    EXECUTE format('COMMENT ON ROLE ouvira_app IS %L', 'Expelled: ' || list);
		END
		$expel$`)
	if err != nil {
		return fmt.Errorf("write the list of expelled instances: %w", err)
	}
	return nil
}

// Terminate ends the instance's connections to the server and tells how many it
// found. It is asked as the provisioner, again and again until there are none.
func Terminate(ctx context.Context, q pg.Querier, instance string) (found int, err error) {
	err = q.QueryRow(ctx, `
		SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE starts_with(application_name, 'ouvira/') AND right(application_name, $2) = '/' || $1::text AND pid <> pg_backend_pid()`,
		instance, instanceLength+1).Scan(&found)
	if err != nil {
		return 0, fmt.Errorf("end the connections of an expelled instance: %w", err)
	}
	return found, nil
}
