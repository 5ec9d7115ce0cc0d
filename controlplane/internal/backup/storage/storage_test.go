package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/ouvira/ouvira/controlplane/internal/backup/storage"
)

func TestMain(m *testing.M) {
	// What the client looks for in the usual places.
	_ = os.Setenv("AWS_ACCESS_KEY_ID", "ouvira")
	_ = os.Setenv("AWS_SECRET_ACCESS_KEY", "of these tests")
	os.Exit(m.Run())
}

// stores are one of each kind, empty.
func stores(t *testing.T) map[string]storage.Store {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	all := map[string]storage.Store{}
	for name, address := range map[string]string{
		"file": "file://" + filepath.Join(t.TempDir(), "deep", "folder"),
		"s3":   "s3://backups/of/ouvira?region=eu-1&endpoint=" + url.QueryEscape(server.URL),
	} {
		store, err := storage.Open(address)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = store
	}
	return all
}

func put(t *testing.T, s storage.Store, name string, content []byte) {
	t.Helper()
	err := s.Put(t.Context(), name, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s storage.Store, name string) ([]byte, error) {
	t.Helper()
	r, err := s.Get(t.Context(), name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestWhatIsStoredIsReadAgain(t *testing.T) {
	t.Parallel()
	for kind, s := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if err := s.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			large := make([]byte, 40<<20) // three parts
			for i := range large {
				large[i] = byte(rand.Uint32())
			}
			put(t, s, "tenants/a/2.age", large)
			put(t, s, "tenants/a/1.age", []byte("one"))
			put(t, s, "tenants/ab/3.age", []byte("three"))
			if got, err := get(t, s, "tenants/a/2.age"); err != nil || !bytes.Equal(got, large) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			listed, err := s.List(t.Context(), "tenants/a")
			if err != nil || len(listed) != 2 || listed[0].Name != "tenants/a/1.age" || listed[1].Size != int64(len(large)) || listed[0].Written.IsZero() {
				t.Errorf("listed %+v, %v", listed, err)
			}
			for range 2 { // the second time it is gone already
				if err := s.Remove(t.Context(), "tenants/a/1.age"); err != nil {
					t.Error(err)
				}
			}
			if _, err := get(t, s, "tenants/a/1.age"); !errors.Is(err, storage.ErrMissing) {
				t.Errorf("a removed file: %v", err)
			}
			if listed, err := s.List(t.Context(), "tenants/none"); err != nil || len(listed) != 0 {
				t.Errorf("an empty folder: %v, %v", listed, err)
			}
		})
	}
}

// A writer that breaks off leaves nothing, and what was there stays.
func TestNothingHalf(t *testing.T) {
	t.Parallel()
	for kind, s := range stores(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			broken := errors.New("broken")
			half := func(w io.Writer) error {
				if _, err := w.Write(make([]byte, 20<<20)); err != nil {
					return err
				}
				return broken
			}
			if err := s.Put(t.Context(), "a/new", half); !errors.Is(err, broken) {
				t.Errorf("said %v", err)
			}
			if _, err := get(t, s, "a/new"); !errors.Is(err, storage.ErrMissing) {
				t.Errorf("half a file: %v", err)
			}
			put(t, s, "a/old", []byte("old"))
			if err := s.Put(t.Context(), "a/old", half); !errors.Is(err, broken) {
				t.Errorf("said %v", err)
			}
			if got, err := get(t, s, "a/old"); err != nil || string(got) != "old" {
				t.Errorf("%q, %v", got, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			err := s.Put(ctx, "a/stopped", func(w io.Writer) error {
				cancel()
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return err
				}
				return ctx.Err()
			})
			if err == nil {
				t.Error("a stopped writer was taken for one that had finished")
			}
			if listed, err := s.List(t.Context(), "a"); err != nil || len(listed) != 1 {
				t.Errorf("left behind: %+v, %v", listed, err)
			}
		})
	}
}

func TestNamesStayInside(t *testing.T) {
	t.Parallel()
	for kind, s := range stores(t) {
		for _, name := range []string{"", "/etc/passwd", "../up", "a/../../up", "a//b", ".hidden", "a/.", "a b"} {
			if err := s.Put(t.Context(), name, func(io.Writer) error { return nil }); err == nil {
				t.Errorf("%s: the name %q was taken", kind, name)
			}
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"", "/var/backups", "file://", "file:///", "file://host/path", "file:///path?x=1", "ftp://a/b", "s3://", "s3:///prefix",
		"s3://key:secret@bucket/", "s3://bucket/?endpoint=minio:9000", "s3://bucket/?endpoint=http://minio/path", "s3://bucket/?regoin=x", "%",
	} {
		if _, err := storage.Open(address); !errors.Is(err, storage.ErrAddress) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"file:///var/backups", "s3://bucket", "s3://bucket/a/b?region=eu-central-1", "s3://bucket/?endpoint=http://127.0.0.1:9000"} {
		if _, err := storage.Open(address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}
