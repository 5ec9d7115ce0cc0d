// Package pgbin knows where machines have the programs of Postgres.
package pgbin

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// UsualFolders are those of Debian, Red Hat, Homebrew and Postgres' own packages.
var UsualFolders = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	"/opt/homebrew/opt/postgresql/bin",
	"/usr/local/opt/postgresql/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin",
}

// Folders are those to look for a program in, in the order in which they count:
// what `pg_config --bindir` says, PATH, then the patterns, the newest version first.
// A folder may come twice, and need not hold the program.
func Folders(ctx context.Context, getenv func(string) string, patterns []string, program string) []string {
	var dirs []string
	path := filepath.SplitList(getenv("PATH"))
	if tool := lookIn(path, "pg_config"); tool != "" {
		if out, err := exec.CommandContext(ctx, tool, "--bindir").Output(); err == nil { //nolint:gosec // pg_config, as it was found in PATH
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	// A link in PATH (as Debian's and Homebrew's) leads to the folder where the
	// other programs lie too.
	if tool := lookIn(path, program); tool != "" {
		if target, err := filepath.EvalSymlinks(tool); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
		dirs = append(dirs, filepath.Dir(tool))
	}
	for _, pattern := range patterns {
		matches, _ := filepath.Glob(pattern)
		slices.SortFunc(matches, func(a, b string) int { return majorIn(b) - majorIn(a) })
		dirs = append(dirs, matches...)
	}
	return dirs
}

func lookIn(path []string, tool string) string {
	for _, dir := range path {
		file := filepath.Join(dir, tool)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

var digits = regexp.MustCompile(`[0-9]+`)

// majorIn reads the version out of a folder's name, 0 when it has none.
func majorIn(dir string) int {
	numbers := digits.FindAllString(filepath.Base(filepath.Dir(dir)), 1)
	if len(numbers) == 0 {
		return 0
	}
	major, _ := strconv.Atoi(numbers[0])
	return major
}

// VersionLine is what a program of Postgres says to --version: the version, and its
// first number.
var VersionLine = regexp.MustCompile(`\(PostgreSQL\) (([0-9]+)[0-9.a-z]*)`)
