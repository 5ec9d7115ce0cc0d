// Package migrations holds the SQL of both kinds of database and runs it.
//
// Files are expand / contract: the code of the release before and of the
// release after must both work with every version in between. There are no
// down files: a database only goes forward.
//
// Up promises: at most one runner works on a database at a time; a runner that
// died between golang-migrate's three commits (set dirty, run, set clean)
// leaves a database that the next one repairs, because each file records
// itself in a ledger table in its own transaction.
package migrations

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
)

//go:embed control/*.sql
var controlFiles embed.FS

//go:embed tenant/*.sql
var tenantFiles embed.FS

// Set is one family of migrations: the files, and the schema in which the
// bookkeeping of a database is kept.
type Set struct {
	name   string
	schema string
	files  fs.FS
}

// Control is the schema of the control database.
var Control = Set{name: "control", schema: "control", files: controlFiles}

// Tenant is the schema of every tenant's database.
var Tenant = Set{name: "tenant", schema: "ouvira", files: tenantFiles}

// file is one migration of a set.
type file struct {
	version uint
	name    string
	sha256  string
}

// list returns the files of the set by version.
func (s Set) list() ([]file, error) {
	entries, err := fs.ReadDir(s.files, s.name)
	if err != nil {
		return nil, fmt.Errorf("read the %s migrations: %w", s.name, err)
	}
	files := make([]file, 0, len(entries))
	for _, e := range entries {
		digits, _, ok := strings.Cut(e.Name(), "_")
		version, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			return nil, fmt.Errorf("migration %s/%s: the name must be <number>_<title>.up.sql", s.name, e.Name())
		}
		body, err := fs.ReadFile(s.files, path.Join(s.name, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read migration %s/%s: %w", s.name, e.Name(), err)
		}
		sum := sha256.Sum256(body)
		files = append(files, file{version: uint(version), name: e.Name(), sha256: hex.EncodeToString(sum[:])})
	}
	sort.Slice(files, func(i, j int) bool { return files[i].version < files[j].version })
	return files, nil
}

// Latest is the highest version of the set.
func (s Set) Latest() (uint, error) {
	files, err := s.list()
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		return 0, nil
	}
	return files[len(files)-1].version, nil
}

// Fingerprint is a SHA-256 over the names and contents of the set, in hex: two
// databases built from the same fingerprint have the same schema.
func (s Set) Fingerprint() (string, error) {
	files, err := s.list()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintf(sum, "%s %s\n", f.name, f.sha256)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
