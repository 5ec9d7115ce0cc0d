package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ouvira/ouvira/shared/pgbin"
)

// The versions Ouvira runs on. A newer one is accepted: it is more likely to
// work than not, and the processes check what they need themselves.
const oldestMajor = 15

// ErrNotFound says that this machine has no usable Postgres.
var ErrNotFound = errors.New("no Postgres found")

// Binaries is one installed Postgres.
type Binaries struct {
	// Dir holds at least initdb and postgres.
	Dir string
	// Version as the server writes it, "15.18".
	Version string
	// Major is its first number.
	Major int
}

// Find looks for Postgres where machines have it: OUVIRA_PG_BIN, `pg_config
// --bindir`, PATH, the versioned folders of Debian, Red Hat and Homebrew
// (newest first). With a major other than 0 only that version counts, as for
// the data directory of an earlier run. It returns an error of kind
// [ErrNotFound] that says what to do when there is none.
func Find(ctx context.Context, major int) (Binaries, error) {
	return machine{getenv: os.Getenv, folders: pgbin.UsualFolders}.find(ctx, major)
}

// Locate is Find, and when the machine has nothing, one download into cacheDir
// ("" for the usual cache folder).
func Locate(ctx context.Context, major int, cacheDir string) (Binaries, error) {
	found, err := Find(ctx, major)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return found, err
	}
	if major != 0 && major != fetchedMajor {
		return Binaries{}, err
	}
	fetched, fetchErr := Fetch(ctx, cacheDir)
	if fetchErr != nil {
		return Binaries{}, fmt.Errorf("%w And fetching it failed: %w", err, fetchErr)
	}
	return fetched, nil
}

// machine is where to look; tests make one of their own.
type machine struct {
	getenv  func(string) string
	folders []string
}

func (m machine) find(ctx context.Context, major int) (Binaries, error) {
	if dir := m.getenv("OUVIRA_PG_BIN"); dir != "" {
		found, err := inspect(ctx, dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("OUVIRA_PG_BIN does not name a folder with Postgres 15 or newer: %w. Set it to the folder that holds initdb and postgres, or unset it", err)
		}
		if major != 0 && found.Major != major {
			return Binaries{}, fmt.Errorf("OUVIRA_PG_BIN names Postgres %s, but the data here was made by Postgres %d: point it at that version, or forget the data with `make reset`", found.Version, major)
		}
		return found, nil
	}
	var seen []string
	var reasons []string
	for _, dir := range pgbin.Folders(ctx, m.getenv, m.folders, "postgres") {
		if slices.Contains(seen, dir) {
			continue
		}
		seen = append(seen, dir)
		found, err := inspect(ctx, dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			reasons = append(reasons, err.Error())
		case major != 0 && found.Major != major:
			reasons = append(reasons, fmt.Sprintf("%s holds %s", dir, found.Version))
		default:
			return found, nil
		}
	}
	wanted := "15 or newer"
	if major != 0 {
		wanted = strconv.Itoa(major)
	}
	why := ""
	if len(reasons) > 0 {
		why = " (" + strings.Join(reasons, "; ") + ")"
	}
	return Binaries{}, fmt.Errorf("%w: Postgres %s is neither in OUVIRA_PG_BIN nor in PATH nor in the usual folders%s. Install it (Debian: apt install postgresql; macOS: brew install postgresql@17), or set OUVIRA_PG_BIN to the folder that holds initdb and postgres.", ErrNotFound, wanted, why)
}

// inspect runs `postgres --version` as the user who will run the server: a
// binary that this user cannot reach is as good as none.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	for _, tool := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(dir, tool)); err != nil {
			return Binaries{}, fmt.Errorf("%s has no %s: %w", dir, tool, os.ErrNotExist)
		}
	}
	who, err := serverAccount()
	if err != nil {
		return Binaries{}, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version")
	cmd.SysProcAttr = who.attributes()
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		as := ""
		if who.drop {
			as = fmt.Sprintf(" as the user %q", who.name)
		}
		return Binaries{}, fmt.Errorf("%s/postgres does not run%s: %w", dir, as, err)
	}
	match := pgbin.VersionLine.FindStringSubmatch(string(out))
	if match == nil {
		return Binaries{}, fmt.Errorf("%s/postgres does not say its version", dir)
	}
	major, err := strconv.Atoi(match[2])
	if err != nil {
		return Binaries{}, fmt.Errorf("%s/postgres does not say its version: %w", dir, err)
	}
	if major < oldestMajor {
		return Binaries{}, fmt.Errorf("%s holds Postgres %s, older than %d", dir, match[1], oldestMajor)
	}
	return Binaries{Dir: dir, Version: match[1], Major: major}, nil
}
