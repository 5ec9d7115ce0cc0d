package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/backup/pgtool"
	"github.com/ouvira/ouvira/controlplane/internal/event"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenantdb"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/failpoint"
)

// Inside of Take, whatever the operation is.
const (
	failpointStored   = "take/stored"   // the archive is there, and nobody counts it
	failpointVerified = "take/verified" // likewise, and it has been read back
)

// Take takes a backup of the database for the run's operation, at most one: called
// again, also by another run, it answers the same. When it returns, the archive is
// stored, has been read back, and counts.
//
// Errors: *operation.Failure; ErrFenced; others are worth another try.
func (s *Service) Take(ctx context.Context, run *operation.Run, w *tenantdb.Work, d tenantdb.Database, reason string) (backupID uuid.UUID, err error) {
	if s.store == nil {
		return uuid.Nil, operation.Fail("backups_off", "There is nowhere to put a backup.", "Set OUVIRA_BACKUP_URL where the control plane and its workers run, then try again.")
	}
	b, err := s.intend(ctx, run, d, reason)
	if err != nil || b.complete {
		return b.id, err
	}
	m := Manifest{Format: manifestFormat, BackupID: b.id, TenantID: d.Tenant, Incarnation: d.Incarnation, Reason: reason, Slug: b.slug, Name: b.name}
	if b.dataKeys, err = s.dump(ctx, w, d, b.object, &m); err != nil {
		return uuid.Nil, err
	}
	failpoint.Hit(ctx, failpointStored)
	if _, err := s.examine(ctx, b.object, m); err != nil {
		// Not as a refusal of its own: another attempt may do better.
		return uuid.Nil, fmt.Errorf("read the backup back: %v", err) //nolint:errorlint // see above
	}
	failpoint.Hit(ctx, failpointVerified)
	return b.id, s.complete(ctx, run, b, m)
}

// intended is a backup that is being taken.
type intended struct {
	id         uuid.UUID
	object     string
	complete   bool
	slug, name string
	dataKeys   []int64 // with which secrets in it are sealed
}

// intend commits under which name this attempt stores the archive, before anything is
// there, and forgets what an earlier attempt may have left.
func (s *Service) intend(ctx context.Context, run *operation.Run, d tenantdb.Database, reason string) (intended, error) {
	b := intended{id: uuid.Must(uuid.NewV7()), object: objectName(d.Tenant)}
	earlier := ""
	err := run.InTx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT slug, name FROM control.tenants WHERE id = $1", d.Tenant).Scan(&b.slug, &b.name); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT id, object, status = 'complete' FROM control.backups WHERE operation_id = $1 FOR UPDATE", run.ID).
			Scan(&b.id, &earlier, &b.complete)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			_, err = tx.Exec(ctx, `
				INSERT INTO control.backups (id, tenant_id, operation_id, reason, object, incarnation)
				VALUES ($1, $2, $3, $4, $5, $6)`, b.id, d.Tenant, run.ID, reason, b.object, d.Incarnation)
		case err == nil && !b.complete:
			_, err = tx.Exec(ctx, "UPDATE control.backups SET object = $2, incarnation = $3, status = 'running' WHERE id = $1", b.id, b.object, d.Incarnation)
		}
		return err
	})
	if err != nil {
		return b, fmt.Errorf("write down a backup: %w", err)
	}
	if earlier != "" && !b.complete {
		s.discard(ctx, earlier)
	}
	return b, nil
}

// discard removes an archive that does not count. What cannot be removed now is a
// stray, which the sweep finds.
func (s *Service) discard(ctx context.Context, object string) {
	err := errors.Join(s.store.Remove(ctx, object), s.store.Remove(ctx, manifestOf(object)))
	if err != nil {
		s.log.WarnContext(ctx, "an archive that does not count could not be removed; the sweep tries again", "object", object, "error", err)
	}
}

// unreachable: the storage is not as it should be, which passes.
func unreachable(err error) error {
	return operation.Later("storage_unreachable", "The storage of backups does not answer as it should.",
		"It is tried again; see whether it is up, has room, and is what OUVIRA_BACKUP_URL names.").Because(err)
}

// dump stores the database sealed, as it is at one moment, and its manifest beside it. It
// tells with which of the data plane's keys secrets in it are sealed.
func (s *Service) dump(ctx context.Context, w *tenantdb.Work, d tenantdb.Database, object string, m *Manifest) (dataKeys []int64, err error) {
	inside, err := w.Inside(ctx, d)
	if err != nil {
		return nil, err
	}
	defer w.CloseInside()
	// The transaction holds what the manifest says and what pg_dump sees together.
	tx, err := inside.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, inside.Explain(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	snapshot, err := describe(ctx, tx, d, m)
	if err == nil {
		dataKeys, err = tenantdb.SecretKeys(ctx, tx)
	}
	if err != nil {
		if f, ok := errors.AsType[*operation.Failure](err); ok {
			return nil, f
		}
		return nil, inside.Explain(err)
	}
	programs, err := s.programs(ctx, m.PostgresVersion/10000)
	if err != nil {
		return nil, err
	}
	m.DumpMajor, m.TakenAt = programs.Major, time.Now().UTC().Truncate(time.Second)
	err = w.WithEnv(ctx, d.Name(), migrations.OwnerRole, func(env []string) error {
		return s.put(ctx, object, m, func(out io.Writer) error {
			if err := programs.Dump(ctx, env, snapshot, serversSchema, out); err != nil {
				return fmt.Errorf("dump the database: %w", err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return dataKeys, s.putManifest(ctx, object, m)
}

// serversSchema is what a tenant's database has from its server: functions that
// subscribe, which belong to the superuser who prepared it. Where the database is
// restored, that server's are there already.
const serversSchema = "ouvira_move"

// put seals what write writes, and notes the sizes and checksums.
func (s *Service) put(ctx context.Context, object string, m *Manifest, write func(io.Writer) error) error {
	var written error
	var inside, outside digest
	err := s.store.Put(ctx, object, func(out io.Writer) error {
		inside, outside = newDigest(), newDigest()
		sealed, err := Seal(s.control, io.MultiWriter(out, &outside))
		if err != nil {
			return err
		}
		written = write(io.MultiWriter(sealed, &inside))
		if written != nil {
			return written
		}
		return sealed.Close()
	})
	switch {
	case written != nil:
		return written
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return unreachable(err)
	}
	m.Size, m.SHA256 = outside.size, outside.sum()
	m.DumpSize, m.DumpSHA256 = inside.size, inside.sum()
	return nil
}

func (s *Service) putManifest(ctx context.Context, object string, m *Manifest) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	err = s.store.Put(ctx, manifestOf(object), func(out io.Writer) error {
		_, err := out.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return unreachable(err)
	}
	return nil
}

// digest is the size and the SHA-256 of what is written to it.
type digest struct {
	hash hash.Hash
	size int64
}

func newDigest() digest { return digest{hash: sha256.New()} }

// Write implements io.Writer.
func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.hash.Write(p)
}

func (d *digest) sum() string { return hex.EncodeToString(d.hash.Sum(nil)) }

// describe reads what the manifest says of the database, and exports the snapshot.
func describe(ctx context.Context, tx pgx.Tx, d tenantdb.Database, m *Manifest) (snapshot string, err error) {
	var found tenantdb.Database
	err = tx.QueryRow(ctx, `
		SELECT pg_export_snapshot(), current_setting('server_version_num')::int, m.tenant_id, m.incarnation,
		       (SELECT version FROM ouvira.schema_migrations WHERE NOT dirty)
		FROM ouvira.marker m`).Scan(&snapshot, &m.PostgresVersion, &found.Tenant, &found.Incarnation, &m.SchemaVersion)
	if err != nil {
		return "", err
	}
	if found != d {
		return "", operation.Fail("marker_foreign", "The database carries another tenant's marker: it is not backed up as this tenant's.", "Look at ouvira doctor, then try again.")
	}
	var head AuditHead
	var hash []byte
	err = tx.QueryRow(ctx, "SELECT tenant_id, batch, head, kid, signature FROM ledger.seals ORDER BY batch DESC LIMIT 1").
		Scan(&head.TenantID, &head.Batch, &hash, &head.Kid, &head.Signature)
	if errors.Is(err, pgx.ErrNoRows) {
		return snapshot, nil
	}
	head.Head = hex.EncodeToString(hash)
	m.Audit = &head
	return snapshot, err
}

// programs finds pg_dump and pg_restore for a version.
func (s *Service) programs(ctx context.Context, major int) (pgtool.Programs, error) {
	found, err := pgtool.Find(ctx, s.getenv, major)
	if errors.Is(err, pgtool.ErrNone) {
		return found, operation.Fail("client_programs", "The worker has "+err.Error()+".", "Then try again.").Because(err)
	}
	return found, err
}

// complete makes the backup count. It tells of it, too.
func (s *Service) complete(ctx context.Context, run *operation.Run, b intended, m Manifest) error {
	return run.InTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE control.backups
			SET status = 'complete', schema_version = $3, postgres_version = $4, size = $5, sha256 = decode($6, 'hex'), manifest = $7, finished_at = now(),
			    control_key = $8, data_keys = $9
			WHERE id = $1 AND object = $2 AND status = 'running'`,
			b.id, b.object, m.SchemaVersion, m.PostgresVersion, m.Size, m.SHA256, m, s.control.Ring().Primary, b.dataKeys)
		if err != nil {
			return fmt.Errorf("write down that a backup is complete: %w", err)
		}
		if tag.RowsAffected() != 1 {
			return operation.ErrFenced
		}
		return event.Record(ctx, tx, event.BackupFinished, m.TenantID, map[string]any{
			"backup_id": b.id, "operation_id": run.ID, "reason": m.Reason, "size": m.Size,
		})
	})
}
