package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/audit"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/tenant"
	"github.com/ouvira/ouvira/migrations"
	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/pg"
)

// smallFile bounds the files of an archive that are read into memory.
const smallFile = 1 << 20

// Imported is what a new tenant is to be like.
type Imported struct {
	Slug string
	Name string // "": as it was where it comes from
	Plan string // code; "": the standard one
}

// Import takes in a portable archive, proves it, and asks for a new tenant with what
// it holds. Of an archive that is damaged nothing is kept, and nothing is made.
//
// An archive may be anybody's work: of it come rows, and nothing of what it says to
// run (see loader.load).
//
// Errors: fault.Invalid with the codes archive_corrupted and archive_too_new.
func (s *Service) Import(ctx context.Context, actor *audit.Actor, n Imported, archive io.Reader) (made tenant.Tenant, operationID uuid.UUID, err error) {
	if err := s.on(); err != nil {
		return made, uuid.Nil, err
	}
	if err := s.free(ctx, n.Slug); err != nil { // before gigabytes are sent in vain
		return made, uuid.Nil, err
	}
	id := uuid.Must(uuid.NewV7())
	object := objectName(id)
	m, err := s.receive(ctx, id, object, archive)
	if err != nil {
		s.discard(context.WithoutCancel(ctx), object)
		return made, uuid.Nil, err
	}
	if n.Name == "" {
		n.Name = m.Name
	}
	name, err := tenant.CheckName(n.Name, "name")
	if err == nil {
		err = pg.InTx(ctx, s.db, func(tx pgx.Tx) error {
			made, operationID, err = s.enqueueCopy(ctx, tx, actor, newTenant{kind: KindImport, slug: n.Slug, name: name, plan: n.Plan}, copyParams{BackupID: id}, map[string]any{"origin": m.TenantID})
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `
				INSERT INTO control.backups (id, tenant_id, reason, status, object, incarnation, schema_version, postgres_version, size, sha256, manifest, finished_at, control_key, data_keys)
				VALUES ($1, $2, $3, 'complete', $4, $5, $6, $7, $8, decode($9, 'hex'), $10, now(), $11, '{}')`,
				id, made.ID, ReasonImport, object, m.Incarnation, m.SchemaVersion, m.PostgresVersion, m.Size, m.SHA256, m, s.control.Ring().Primary) // copies drop what nodes have sealed
			return err
		})
	}
	if err != nil {
		s.discard(context.WithoutCancel(ctx), object)
		return tenant.Tenant{}, uuid.Nil, err
	}
	return made, operationID, nil
}

func (s *Service) free(ctx context.Context, slug string) error {
	if err := tenant.CheckSlug(slug); err != nil {
		return err
	}
	available, err := s.tenants.Available(ctx, slug)
	if err == nil && !available {
		return tenant.SlugTaken()
	}
	return err
}

func damaged(why string) *fault.Error {
	return fault.Invalid("The archive cannot be imported: " + why + ". Nothing was made of it.").Code("archive_corrupted")
}

// receive stores the dump of an archive, sealed to our key, once all of it is proven.
func (s *Service) receive(ctx context.Context, id uuid.UUID, object string, archive io.Reader) (Manifest, error) {
	files := tar.NewReader(archive)
	small := map[string][]byte{}
	for _, name := range []string{fileManifest, fileAudit, fileSums} {
		text, err := next(files, name)
		if err != nil {
			return Manifest{}, err
		}
		small[name] = text
	}
	m, err := readManifest(small)
	if err != nil {
		return m, err
	}
	entry, err := files.Next()
	if err != nil || entry.Name != fileDump || entry.Size != m.DumpSize {
		return m, damaged("its dump is not there, or has another size than its manifest says").Because(err)
	}
	want := m.DumpSHA256
	m.BackupID, m.Reason = id, ReasonImport
	err = s.put(ctx, object, &m, func(out io.Writer) error {
		d := newDigest()
		if _, err := io.Copy(io.MultiWriter(out, &d), files); err != nil { //nolint:gosec // nothing is decompressed
			return damaged("it breaks off").Because(err)
		}
		if d.sum() != want {
			return damaged("the checksum of its dump differs")
		}
		return nil
	})
	if err == nil {
		err = s.putManifest(ctx, object, &m)
	}
	if err == nil {
		_, err = s.examine(ctx, object, m)
	}
	return m, forCaller(err)
}

// forCaller says a failure of an operation to somebody who waits for an answer.
func forCaller(err error) error {
	f, ok := errors.AsType[*operation.Failure](err)
	switch {
	case !ok:
		return err
	case f.Code == "backup_corrupted":
		return damaged("its dump is none that pg_restore reads").Because(err)
	}
	return fault.Unavailable(f.Message + " " + f.NextAction).Code(f.Code).Because(err)
}

func next(files *tar.Reader, name string) ([]byte, error) {
	entry, err := files.Next()
	if err != nil || entry.Name != name || entry.Size > smallFile {
		return nil, damaged("it is no archive of ouvira tenant export (one that is sealed must be opened first)").Because(err)
	}
	text, err := io.ReadAll(files)
	if err != nil {
		return nil, damaged("it breaks off").Because(err)
	}
	return text, nil
}

// readManifest checks the small files of an archive against each other.
func readManifest(small map[string][]byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(small[fileManifest], &m); err != nil {
		return m, damaged("its manifest cannot be read").Because(err)
	}
	latest, err := migrations.Tenant.Latest()
	if err != nil {
		return m, err
	}
	if m.SchemaVersion < 1 {
		return m, damaged("its manifest names no schema version")
	}
	if m.Format > manifestFormat || m.SchemaVersion > int64(latest) {
		return m, fault.Invalid(fmt.Sprintf("The archive is of a newer release (schema version %d; this release has %d). Import it with that release, or a later one.", m.SchemaVersion, latest)).
			Code("archive_too_new")
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(small[fileSums])) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[name] = sum
	}
	for _, name := range []string{fileManifest, fileAudit} {
		d := newDigest()
		_, _ = d.Write(small[name])
		if sums[name] != d.sum() {
			return m, damaged("the checksum of " + name + " differs")
		}
	}
	var checkpoint *AuditHead
	if err := json.Unmarshal(small[fileAudit], &checkpoint); err != nil || !reflect.DeepEqual(checkpoint, m.Audit) || sums[fileDump] != m.DumpSHA256 || m.Format < 1 {
		return m, damaged("its files do not agree with each other").Because(err)
	}
	return m, nil
}
