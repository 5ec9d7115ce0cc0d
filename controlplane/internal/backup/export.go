package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// The files of a portable archive, a tar, in their order. Any tool reads it: the
// checksums are those of sha256sum, the dump is pg_restore's.
const (
	fileManifest = "manifest.json"
	fileAudit    = "audit.json"
	fileSums     = "SHA256SUMS"
	fileDump     = "database.dump"
)

// Exported is a backup on its way out.
type Exported struct {
	Name string // for a file

	s         *Service
	archive   stored
	recipient age.Recipient // nil: the archive is not sealed
}

// Export prepares a portable archive of a backup. recipient is an age public key
// ("age1…") that the archive is sealed to; "" leaves it readable by whoever has it.
// The request is audited here. Errors: fault.NotFound, fault.Conflict, fault.Invalid.
func (s *Service) Export(ctx context.Context, actor *audit.Actor, backupID uuid.UUID, recipient string) (*Exported, error) {
	if err := s.on(); err != nil {
		return nil, err
	}
	e := &Exported{s: s}
	if recipient != "" {
		key, err := age.ParseRecipients(strings.NewReader(recipient))
		if err != nil || len(key) != 1 {
			return nil, fault.Invalid("The recipient is not an age public key.").OnField("recipient", "recipient", "Expected a key such as age1…, as age-keygen prints it.")
		}
		e.recipient = key[0]
	}
	err := pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
		var id uuid.UUID
		err := tx.QueryRow(ctx, "SELECT tenant_id FROM control.backups WHERE id = $1", backupID).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.NotFound("There is no such backup. See GET /v1/tenants/{tenant}/backups.").Code("backup_missing")
		}
		if err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		if err := mustBeComplete(ctx, tx, id, backupID); err != nil {
			return err
		}
		return asked(ctx, tx, actor, "tenant.download", id, map[string]any{"backup_id": backupID, "sealed": e.recipient != nil})
	})
	if err != nil {
		return nil, err
	}
	if e.archive, err = s.found(ctx, backupID, uuid.Nil); err != nil {
		return nil, err
	}
	e.Name = e.archive.manifest.Slug + "-" + e.archive.manifest.TakenAt.Format("20060102T150405Z") + ".tar"
	if e.recipient != nil {
		e.Name += ".age"
	}
	return e, nil
}

// Write writes the archive. An error means that what was written is not whole; the
// archive then has no end.
func (e *Exported) Write(ctx context.Context, out io.Writer) error {
	if e.recipient == nil {
		return e.tar(ctx, out)
	}
	sealed, err := age.Encrypt(out, e.recipient)
	if err != nil {
		return fmt.Errorf("seal the archive: %w", err)
	}
	if err := e.tar(ctx, sealed); err != nil {
		return err
	}
	return sealed.Close()
}

func (e *Exported) tar(ctx context.Context, out io.Writer) error {
	m := e.archive.manifest
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	checkpoint, err := json.MarshalIndent(m.Audit, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the audit's checkpoint: %w", err)
	}
	var sums strings.Builder
	for _, f := range []struct {
		name string
		text []byte
	}{{fileManifest, manifest}, {fileAudit, checkpoint}} {
		d := newDigest()
		_, _ = d.Write(f.text)
		sums.WriteString(d.sum() + "  " + f.name + "\n")
	}
	sums.WriteString(m.DumpSHA256 + "  " + fileDump + "\n")
	archive := tar.NewWriter(out)
	for _, f := range []struct {
		name string
		text []byte
	}{{fileManifest, manifest}, {fileAudit, checkpoint}, {fileSums, []byte(sums.String())}} {
		if err := header(archive, f.name, int64(len(f.text)), m.TakenAt); err != nil {
			return err
		}
		if _, err := archive.Write(f.text); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
	}
	if err := header(archive, fileDump, m.DumpSize, m.TakenAt); err != nil {
		return err
	}
	if err := e.dump(ctx, archive); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}

func header(archive *tar.Writer, name string, size int64, at time.Time) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: at, Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}

// dump copies what is inside of the stored file.
func (e *Exported) dump(ctx context.Context, out io.Writer) error {
	raw, err := e.s.get(ctx, e.archive.object)
	if err != nil {
		return err
	}
	defer raw.Close()
	plain, err := Open(e.s.control, raw)
	if err != nil {
		return fmt.Errorf("open the backup: %w", err)
	}
	d := newDigest()
	if _, err := io.Copy(io.MultiWriter(out, &d), plain); err != nil {
		return fmt.Errorf("copy the backup: %w", err)
	}
	if d.sum() != e.archive.manifest.DumpSHA256 {
		return errors.New("the backup is not what was stored")
	}
	return nil
}
