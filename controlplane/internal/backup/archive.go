package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ouvira/ouvira/controlplane/internal/backup/pgtool"
	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
	"github.com/ouvira/ouvira/controlplane/internal/operation"
	"github.com/ouvira/ouvira/controlplane/internal/server"
	"github.com/ouvira/ouvira/shared/pg"
)

// Why an archive is not restored.
func missing() *operation.Failure {
	return operation.Fail("backup_missing", "The backup is not in the storage.", "Restore another one, or bring its file back.")
}

func corrupted(why string) *operation.Failure {
	return operation.Fail("backup_corrupted", "The backup is not what was stored: "+why+".", "Restore another one; see what has changed the file.")
}

func wrongKey() *operation.Failure {
	return operation.Fail("backup_wrong_key", "The backup was sealed with another control key.", "Give the worker the key that it was taken with (OUVIRA_CONTROL_KEY_FILE), then try again.")
}

// examine reads an archive from end to end, proves that it is the one that the
// manifest speaks of and opens with our key, and gives its table of contents.
//
// Errors: *operation.Failure with backup_missing, backup_corrupted,
// backup_wrong_key, client_programs (final), storage_unreachable.
func (s *Service) examine(ctx context.Context, object string, m Manifest) (contents string, err error) {
	programs, err := s.programs(ctx, m.DumpMajor)
	if err != nil {
		return "", err
	}
	raw, err := s.get(ctx, object)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	sum := sha256.New()
	sealed := io.TeeReader(raw, sum)
	contents, opened := s.contents(ctx, programs, sealed)
	if _, err := io.Copy(io.Discard, sealed); err != nil && ctx.Err() == nil {
		return "", unreachable(err)
	}
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case hex.EncodeToString(sum.Sum(nil)) != m.SHA256:
		return "", corrupted("its checksum differs").Because(opened)
	case isWrongKey(opened):
		return "", wrongKey()
	case opened != nil:
		return "", corrupted("it does not open, or is no dump").Because(opened)
	}
	return contents, nil
}

// get opens a file of the storage.
func (s *Service) get(ctx context.Context, object string) (io.ReadCloser, error) {
	raw, err := s.store.Get(ctx, object)
	switch {
	case errors.Is(err, storage.ErrMissing):
		return nil, missing()
	case err != nil && ctx.Err() == nil:
		return nil, unreachable(err)
	}
	return raw, err
}

func (s *Service) contents(ctx context.Context, programs pgtool.Programs, sealed io.Reader) (string, error) {
	plain, err := Open(s.control, sealed)
	if err != nil {
		return "", err
	}
	list, err := programs.Contents(ctx, plain)
	if err != nil {
		return "", err
	}
	// The seal of the rest is proven by reading it.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return "", err
	}
	return list, nil
}

// stored is a complete backup.
type stored struct {
	id       uuid.UUID
	object   string
	manifest Manifest
}

// found reads a complete backup: by its id, or by the operation that took it.
func (s *Service) found(ctx context.Context, id, takenBy uuid.UUID) (stored, error) {
	b := stored{}
	var raw []byte
	err := s.db.QueryRow(ctx, `
		SELECT id, object, manifest FROM control.backups
		WHERE (id = $1 OR operation_id = $2) AND status = 'complete'`, id, takenBy).Scan(&b.id, &b.object, &raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return b, missing()
	}
	if err == nil {
		err = json.Unmarshal(raw, &b.manifest)
	}
	if err != nil {
		return b, fmt.Errorf("read a backup: %w", err)
	}
	return b, nil
}

// prove compares the manifest beside the archive with what is written down here, and
// examines the archive.
func (s *Service) prove(ctx context.Context, b stored) (contents string, err error) {
	raw, err := s.get(ctx, manifestOf(b.object))
	if err != nil {
		return "", err
	}
	defer raw.Close()
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(raw, most))
	if err != nil {
		return "", unreachable(err)
	}
	var beside Manifest
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&beside); err != nil || !reflect.DeepEqual(beside, b.manifest) {
		return "", corrupted("its manifest differs").Because(err)
	}
	return s.examine(ctx, b.object, b.manifest)
}

// takes is about what a database of the archive will take: as much as the one that it
// was taken from, or where that is not known here, as its dump.
func (st stored) takes(ctx context.Context, q pg.Querier) (int64, error) {
	seen, err := server.Seen(ctx, q, st.manifest.TenantID)
	return cmp.Or(seen, st.manifest.DumpSize), err
}
