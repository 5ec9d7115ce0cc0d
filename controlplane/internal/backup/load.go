package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/backup/pgtool"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
)

// The steps of what makes a database of an archive, in their order.
const (
	StepArchive  = "archive" // prove it; a clone takes one first
	StepPlace    = "place"
	StepRole     = "role"
	StepDatabase = "database"
	StepLoad     = "load"
	StepMigrate  = "migrate"
	StepRenew    = "renew"
	StepActivate = "activate"
	StepFence    = "fence"
	StepFlip     = "flip"
)

// loader makes a database of an archive. It is one run's.
type loader struct {
	s    *Service
	work *tenantdb.Work
	d    tenantdb.Database // what is made

	archive  stored
	contents string // of the archive, once it is proven
}

// prove reads the archive from end to end, once in a run.
func (l *loader) prove(ctx context.Context) error {
	if l.contents != "" {
		return nil
	}
	if l.s.store == nil {
		return operation.Fail("backups_off", "There is no storage of backups.", "Set OUVIRA_BACKUP_URL where the control plane and its workers run, then try again.")
	}
	if latest, err := migrations.Tenant.Latest(); err != nil || l.archive.manifest.SchemaVersion > int64(latest) {
		return tooNew(err)
	}
	contents, err := l.s.prove(ctx, l.archive)
	l.contents = contents
	return err
}

func tooNew(err error) error {
	return operation.Fail("backup_too_new", "The backup is of a newer release than this one.", "Restore it with the release that took it, or a later one.").Because(err)
}

// create makes the database, closed to everybody.
func (l *loader) create(ctx context.Context) error {
	return l.work.Make(ctx, l.d, uint(l.archive.manifest.SchemaVersion))
}

// load fills the database. Its structure is what the migrations make at the archive's
// version; of the archive come rows, loaded by a role that can do nothing but add them.
// So whoever has written the archive gets nothing into the database, or out of another
// one, that a tenant could not have put there.
func (l *loader) load(ctx context.Context) error {
	if err := l.prove(ctx); err != nil {
		return err
	}
	if err := l.work.Structure(ctx, l.d, uint(l.archive.manifest.SchemaVersion)); err != nil {
		return err
	}
	admin, err := l.work.Admin(ctx)
	if err != nil {
		return err
	}
	var version int
	if err := admin.Scan(ctx, []any{&version}, "SELECT current_setting('server_version_num')::int"); err != nil {
		return err
	}
	programs, err := l.s.programs(ctx, max(version/10000, l.archive.manifest.DumpMajor))
	if err != nil {
		return err
	}
	rows, err := l.rows(ctx, programs)
	if err != nil {
		return err
	}
	raw, err := l.s.get(ctx, l.archive.object)
	if err != nil {
		return err
	}
	defer raw.Close()
	dump, err := Open(l.s.control, raw)
	if err != nil {
		return unreachable(err) // it opened a moment ago
	}
	return l.work.Fill(ctx, l.d, func(env []string) error {
		return loading(programs.RestoreRows(ctx, env, l.d.Name(), rows, dump))
	})
}

// denied is how Postgres says that somebody lacks a right.
var denied = regexp.MustCompile("permission denied|must be (owner|superuser)|must have ")

// loading says of what pg_restore says how the operation goes on.
func loading(err error) error {
	said, ok := errors.AsType[*pgtool.Error](err)
	if ok && denied.MatchString(said.Said) {
		return operation.Fail("archive_refused", "The archive tries what rows do not need, and was not allowed to.",
			"Do not load it: the worker's log says what it tried; find out who wrote it.").Because(err)
	}
	return err
}

// rows are what is loaded of the archive. What it holds besides its schema version's
// structure is refused where the archive comes from elsewhere; of our own backups it is
// left out: somebody has changed the tenant's database by hand.
func (l *loader) rows(ctx context.Context, programs pgtool.Programs) (string, error) {
	var structure string
	err := l.work.WithEnv(ctx, l.d.Name(), migrations.OwnerRole, func(env []string) (err error) {
		structure, err = programs.Structure(ctx, env, serversSchema)
		return err
	})
	if err != nil {
		return "", err
	}
	rows, foreign := rowsOf(l.contents, structure)
	switch {
	case len(foreign) == 0:
	case l.archive.manifest.Reason == ReasonImport:
		return "", operation.Fail("archive_foreign", fmt.Sprintf("The archive holds what its schema version %d does not have: %s.", l.archive.manifest.SchemaVersion, some(foreign)),
			"Export it from a database that has only what the migrations make, or find out who has changed the archive.")
	default:
		l.s.log.WarnContext(ctx, "a backup holds what its schema version does not have; that is not restored", "backup", l.archive.id, "foreign", foreign)
	}
	return rows, nil
}

// some names a few, and says how many more there are.
func some(names []string) string {
	const most = 5
	if over := len(names) - most; over > 0 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", over)
	}
	return strings.Join(names, ", ")
}

// renewed is what nodes must know of the database.
type renewed struct {
	keys    json.RawMessage
	version int64
}

// renew makes the database the tenant's own, in one transaction: signing keys, what
// must not count any more, and last its marker.
func (l *loader) renew(ctx context.Context, cleanse []string) (renewed, error) {
	inside, err := l.work.Inside(ctx, l.d)
	if err != nil {
		return renewed{}, err
	}
	key, err := tenantdb.NewSigningKey(l.s.data, l.d.Tenant)
	if err != nil {
		return renewed{}, err
	}
	var out renewed
	err = pgx.BeginFunc(ctx, inside.Conn(), func(tx pgx.Tx) error {
		var found tenantdb.Database
		err := tx.QueryRow(ctx, "SELECT tenant_id, incarnation FROM ouvira.marker FOR UPDATE").Scan(&found.Tenant, &found.Incarnation)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if found != l.d { // not by a run that did not live to record it
			for _, statement := range cleanse {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, "INSERT INTO ouvira.signing_keys (kid, public_jwk, private_sealed) VALUES ($1, $2, $3)", key.Kid, key.Public, key.Private)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `
				INSERT INTO ouvira.marker (tenant_id, incarnation) VALUES ($1, $2)
				ON CONFLICT (singleton) DO UPDATE SET tenant_id = $1, incarnation = $2, created_at = now()`, l.d.Tenant, l.d.Incarnation)
			if err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, `
			SELECT (SELECT jsonb_agg(public_jwk ORDER BY created_at) FROM ouvira.signing_keys WHERE retired_at IS NULL),
			       (SELECT version FROM ouvira.schema_migrations)`).Scan(&out.keys, &out.version)
	})
	if err != nil {
		return renewed{}, inside.Explain(err)
	}
	return out, l.work.Admit(ctx, l.d)
}

// always is what no database that was loaded keeps: nobody is signed in or half-way
// through anything, old keys sign nothing, and what nodes remember of permissions by
// their epoch does not come true again.
var always = []string{
	"UPDATE ouvira.signing_keys SET retired_at = now() WHERE retired_at IS NULL",
	"DELETE FROM public.one_time_codes",
	"DELETE FROM public.login_challenges",
	"DELETE FROM public.password_tokens",
	"DELETE FROM public.signups",
	"DELETE FROM public.turnstile_tokens",
	"UPDATE public.support_sessions SET ended_at = now() WHERE ended_at IS NULL",
	"UPDATE public.support_consents SET ended_at = now() WHERE ended_at IS NULL",
	"UPDATE public.authz_epoch SET epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)",
}

// ofCopies is what a copy does not take from its origin: whoever has a key or a link
// of the origin gets into the origin. Second factors are sealed to the origin and
// could not be opened.
var ofCopies = append([]string{
	"UPDATE ouvira.signing_keys SET private_sealed = ''",
	"DELETE FROM public.sessions",
	"DELETE FROM public.api_keys",
	"DELETE FROM public.outbox",
	"DELETE FROM public.idempotency_keys",
	"DELETE FROM public.sms_counts",
	"UPDATE public.invitations SET status = 'revoked', updated_at = now() WHERE status = 'pending'",
	"DELETE FROM public.two_factors",
	"UPDATE public.users SET is_2fa_enabled = false, two_fa_type = NULL WHERE is_2fa_enabled OR two_fa_type IS NOT NULL",
}, always...)

// inPlace is what an earlier state of the same database must not bring back: sessions
// that have ended since (API keys end with the token epoch), and messages that have
// left since.
var inPlace = append([]string{
	"UPDATE public.sessions SET revoked_at = now(), revoked_reason = 'restore' WHERE revoked_at IS NULL",
	"UPDATE public.outbox SET status = 'dead', last_error = 'void: the workspace was restored', payload_sealed = NULL, finished_at = now() WHERE status = 'pending'",
}, always...)

// role gives the database's role a new password, which store has committed before.
func (l *loader) role(ctx context.Context, limit int, store func(sealed []byte) error) error {
	if _, err := l.work.Admin(ctx); err != nil {
		return err
	}
	credential, err := tenantdb.NewCredential(l.s.data, l.d)
	if err != nil {
		return err
	}
	if err := store(credential.Sealed); err != nil {
		return fmt.Errorf("store the role's password: %w", err)
	}
	return l.work.Role(ctx, l.d, credential.Verifier, limit)
}
