package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/ouvira/ouvira/controlplane/internal/backup"
	"github.com/ouvira/ouvira/controlplane/internal/fleettest"
	"github.com/ouvira/ouvira/shared/fault"
)

func (w *world) export(t *testing.T, backupID uuid.UUID, recipient string) []byte {
	t.Helper()
	e, err := w.backups.Export(t.Context(), operator(), backupID, recipient)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := e.Write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAnExportIsImportedElsewhere(t *testing.T) {
	t.Parallel()
	w, elsewhere := newWorld(t), newWorld(t) // with keys of its own
	acme := w.tenant(t, "acme")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealed := w.export(t, w.take(t, acme), identity.Recipient().String())
	if bytes.Contains(sealed, []byte("manifest.json")) {
		t.Error("the archive is not sealed to its recipient")
	}
	opened, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if err != nil {
		t.Fatal(err)
	}
	imported, op, err := elsewhere.backups.Import(t.Context(), operator(), backup.Imported{Slug: "acme-moved"}, opened)
	if err != nil {
		t.Fatal(err)
	}
	if imported.Name != "Acme" {
		t.Errorf("it is called %q", imported.Name)
	}
	elsewhere.mustRun(t, op)
	elsewhere.checkCopy(t, imported.ID, elsewhere.tenant(t, "neighbour"))
}

// Of an archive that is not whole nothing is kept and nothing is made.
func TestArchivesThatAreNotImported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.tenant(t, "acme")
	whole := w.export(t, w.take(t, acme), "")
	files := func(change func(name string, content []byte) []byte) []byte {
		var out bytes.Buffer
		reader, writer := tar.NewReader(bytes.NewReader(whole)), tar.NewWriter(&out)
		for {
			entry, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			content, err2 := io.ReadAll(reader)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if content = change(entry.Name, content); content == nil {
				continue
			}
			entry.Size = int64(len(content))
			if err := writer.WriteHeader(entry); err != nil {
				t.Fatal(err)
			}
			if _, err := writer.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	without := func(missing string) []byte {
		return files(func(name string, content []byte) []byte {
			if name == missing {
				return nil
			}
			return content
		})
	}
	flipped := func(which string) []byte {
		return files(func(name string, content []byte) []byte {
			if name == which {
				content[len(content)/2] ^= 1
			}
			return content
		})
	}
	stored, tenants := len(w.stored(t)), fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.tenants")
	for name, archive := range map[string][]byte{
		"empty":                {},
		"no tar":               []byte("a letter"),
		"cut short":            whole[:len(whole)*2/3],
		"without its manifest": without("manifest.json"),
		"without its sums":     without("SHA256SUMS"),
		"without its dump":     without("database.dump"),
		"another dump":         flipped("database.dump"),
		"another manifest":     flipped("manifest.json"),
		"another checkpoint":   flipped("audit.json"),
		"a newer format": files(func(_ string, content []byte) []byte {
			return bytes.Replace(content, []byte(`"format": 1`), []byte(`"format": 2`), 1)
		}),
	} {
		_, _, err := w.backups.Import(t.Context(), operator(), backup.Imported{Slug: "never"}, bytes.NewReader(archive))
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Kind != fault.KindInvalid || !strings.HasPrefix(f.MachineCode, "archive_") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := len(w.stored(t)); now != stored {
		t.Errorf("%d files are stored, %d before", now, stored)
	}
	if now := fleettest.One[int](t, w.Pool, "SELECT count(*) FROM control.tenants"); now != tenants {
		t.Errorf("%d tenants, %d before", now, tenants)
	}
	if _, _, err := w.backups.Import(t.Context(), operator(), backup.Imported{Slug: "acme"}, bytes.NewReader(whole)); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a slug that is taken: %v", err)
	}
}
