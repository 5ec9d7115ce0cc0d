package pgserver

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// install writes the two binaries of a pretended Postgres and returns their
// folder.
func install(t *testing.T, dir, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"postgres", "initdb"} {
		text := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", tool, version)
		if err := os.WriteFile(filepath.Join(dir, tool), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// open is a folder that every user may enter.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ouvira-find-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func env(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestFindTakesTheFirstPlaceThatHasOne(t *testing.T) {
	t.Parallel()
	dir := open(t)
	versioned := filepath.Join(dir, "lib", "*", "bin")
	old := install(t, filepath.Join(dir, "lib", "9.6", "bin"), "9.6.24")
	install(t, filepath.Join(dir, "lib", "16", "bin"), "16.2")
	newest := install(t, filepath.Join(dir, "lib", "17", "bin"), "17.1")
	named := install(t, filepath.Join(dir, "named"), "15.3 (Debian 15.3-1)")
	inPath := install(t, filepath.Join(dir, "path"), "18.0")
	if err := os.WriteFile(filepath.Join(dir, "pg_config"), []byte("#!/bin/sh\necho "+named+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	links := filepath.Join(dir, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(newest, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name  string
		env   map[string]string
		major int
		want  string
	}{
		{"named", map[string]string{"OUVIRA_PG_BIN": named, "PATH": inPath}, 0, named},
		{"pg_config before PATH", map[string]string{"PATH": dir + ":" + inPath}, 0, named},
		{"path", map[string]string{"PATH": inPath}, 0, inPath},
		{"link in path", map[string]string{"PATH": links}, 0, newest},
		{"newest folder", nil, 0, newest},
		{"wanted version", map[string]string{"PATH": inPath}, 16, filepath.Join(dir, "lib", "16", "bin")},
	} {
		found, err := machine{getenv: env(c.env), folders: []string{versioned}}.find(t.Context(), c.major)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if found.Dir != c.want {
			t.Errorf("%s: found %s, want %s", c.name, found.Dir, c.want)
		}
	}
	// Too old is not found, and named wrongly is an error of its own.
	_, err := machine{getenv: env(nil), folders: []string{old}}.find(t.Context(), 0)
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "older than 15") {
		t.Errorf("too old: %v", err)
	}
	_, err = machine{getenv: env(map[string]string{"OUVIRA_PG_BIN": dir})}.find(t.Context(), 0)
	if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "OUVIRA_PG_BIN") {
		t.Errorf("named wrongly: %v", err)
	}
}

func TestNothingFoundSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, err := machine{getenv: env(nil)}.find(t.Context(), 0)
	if !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	for _, way := range []string{"OUVIRA_PG_BIN", "apt install postgresql", "brew install"} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("the error does not name the way out %q: %v", way, err)
		}
	}
}

func TestFetchedPostgres18Serves(t *testing.T) {
	t.Parallel()
	bin, err := Fetch18(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := Start(t.Context(), Test(bin, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if server.Binaries().Major != 18 {
		t.Errorf("it is Postgres %s", server.Binaries().Version)
	}
}

func TestAnotherServerOnThePortIsNotTakenForOurs(t *testing.T) {
	t.Parallel()
	theirs, err := Start(t.Context(), Test("", nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	// As if we had started on the same port, even with the same password.
	ours := &Server{dir: open(t), password: theirs.password}
	if err := os.Mkdir(ours.dataDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if ok, err := ours.answers(t.Context(), theirs.Port()); ok || err == nil || !strings.Contains(err.Error(), theirs.dataDir()) {
		t.Errorf("taken for ours: %v, %v", ok, err)
	}
	if ok, err := theirs.answers(t.Context(), theirs.Port()); !ok || err != nil {
		t.Errorf("not taken for ours: %v, %v", ok, err)
	}
}

func TestFetchKeepsOnlyWhatRuns(t *testing.T) {
	t.Parallel()
	cache := open(t)
	calls := 0
	get := func(good bool) func(context.Context, string) error {
		return func(_ context.Context, into string) error {
			calls++
			if good {
				install(t, filepath.Join(into, "bin"), "18.4")
			}
			return os.MkdirAll(into, 0o700)
		}
	}
	if _, err := fetchOnce(t.Context(), cache, "x", get(false)); err == nil {
		t.Error("a Postgres that does not run was kept")
	}
	for range 2 {
		found, err := fetchOnce(t.Context(), cache, "x", get(true))
		if err != nil {
			t.Fatal(err)
		}
		if found.Version != "18.4" {
			t.Errorf("version %q", found.Version)
		}
	}
	if calls != 2 {
		t.Errorf("fetched %d times, want a failure and one success", calls)
	}
	left, err := filepath.Glob(filepath.Join(cache, "fetching-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// archived is a tar.xz with bin/postgres, bin/initdb and bin/pg_ctl, where the
// first two only say a version: what the library unpacks.
const archived = "/Td6WFoAAAFpIt42AgAhARwAAAAQz1jM4Cf/AL1dADEaShsFkZA3OlG9V3Gz1uQT2IkQonAbexNN15tic70r6rNJbkVqC6RLQH2665UL" +
	"531xp7xGLwZ7X+q8QgPglBcqcOofmbBJeHfEMMfINuliolLMe5lnZYt3ditI16bW1EMSJpqolG1JNmtJ8CSGdpDCiEgjTk/eHSVYKoO0FbngSZ8F" +
	"/h0Rljf5zzGgQRM8NoeS+RHVkRaxwLfMCDzCG8A8XmyMg5PQmhjGeSPoBlEn4lGp4ncaAc85jVB2AAAAAAAlfgS7AAHVAYBQAAB66CM9PjANiwIA" +
	"AAAAAVla"

func TestTheLibrarysDownloadIsUsedForItsBinaries(t *testing.T) {
	t.Parallel()
	text, err := base64.StdEncoding.DecodeString(archived)
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	archive := zip.NewWriter(&jar)
	file, err := archive.Create("postgres-any.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			fmt.Fprintf(w, "%x", sha256.Sum256(jar.Bytes()))
			return
		}
		_, _ = w.Write(jar.Bytes())
	}))
	t.Cleanup(repository.Close)
	found, err := fetchOnce(t.Context(), open(t), "x", fetchWithLibrary(repository.URL))
	if err != nil {
		t.Fatal(err)
	}
	if found.Version != "18.3" {
		t.Errorf("version %q", found.Version)
	}
	repository.Close()
	if _, err := fetchOnce(t.Context(), open(t), "x", fetchWithLibrary(repository.URL)); err == nil {
		t.Error("nothing was fetched, without an error")
	}
}

func TestHydrateStaysInThePackage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lib := filepath.Join(dir, "native", "lib")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "native", "pg-symlinks.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so"}]`)
	if err := hydrate(dir); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(lib, "libpq.so")); err != nil || target != "libpq.so.5.18" {
		t.Errorf("link leads to %q, %v", target, err)
	}
	write(`[{"source":"native/lib/a","target":"../../escape"}]`)
	if err := hydrate(dir); err == nil {
		t.Error("a link out of the package was made")
	}
}

func TestFoldersAreOpenWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := open(t)
	inner := filepath.Join(dir, "a", "b")
	for range 2 {
		if err := MakeFolder(inner); err != nil {
			t.Fatal(err)
		}
	}
	for _, made := range []string{inner, filepath.Dir(inner)} {
		info, err := os.Stat(made)
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v %v", made, info.Mode(), err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeFolder(filepath.Join(file, "below")); err == nil {
		t.Error("a folder was made below a file")
	}
}

func TestUnreachableFolderMovesTheData(t *testing.T) {
	t.Parallel()
	who, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	shut := open(t)
	inner := filepath.Join(shut, "inner", "state")
	place, note, err := Place(inner)
	if err != nil || place != inner || note != "" {
		t.Errorf("reachable: %q %q %v", place, note, err)
	}
	if err := os.Chmod(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	place, note, err = Place(inner)
	if err != nil {
		t.Fatal(err)
	}
	// Only a process of root hands its servers to somebody else.
	if moved := place != inner; moved != who.drop || (note != "") != who.drop {
		t.Errorf("unreachable: %q %q, user dropped: %v", place, note, who.drop)
	}
}
