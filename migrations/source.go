package migrations

import (
	"bytes"
	"fmt"
	"io"

	"github.com/golang-migrate/migrate/v4/source"
)

// noTransaction as the first line of a file says that it must run outside a
// transaction (CREATE INDEX CONCURRENTLY, alone in its file).
const noTransaction = "-- ouvira:no-transaction"

// ledgerSource hands out each file together with the statement that records it
// in the ledger. Several statements in one message are one transaction, so a
// ledger row proves that the file has committed.
type ledgerSource struct {
	source.Driver

	set   Set
	files map[uint]file
}

func newLedgerSource(driver source.Driver, set Set) (*ledgerSource, error) {
	files, err := set.list()
	if err != nil {
		return nil, err
	}
	byVersion := make(map[uint]file, len(files))
	for _, f := range files {
		byVersion[f.version] = f
	}
	return &ledgerSource{Driver: driver, set: set, files: byVersion}, nil
}

// ReadUp implements source.Driver.
func (s *ledgerSource) ReadUp(version uint) (io.ReadCloser, string, error) {
	r, identifier, err := s.Driver.ReadUp(version)
	if err != nil {
		return nil, "", fmt.Errorf("read migration %d: %w", version, err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, "", fmt.Errorf("read migration %d: %w", version, err)
	}
	if !bytes.HasPrefix(body, []byte(noTransaction)) {
		body = append(body, s.set.recordSQL(s.files[version])...)
	}
	return io.NopCloser(bytes.NewReader(body)), identifier, nil
}

// recordSQL writes the ledger row of a file. The values are ours (a number, a
// file name of this module, hex), not input.
func (s Set) recordSQL(f file) string {
	return fmt.Sprintf("\n;INSERT INTO %s.migration_ledger (version, name, sha256) VALUES (%d, '%s', '%s') ON CONFLICT (version) DO NOTHING;\n",
		s.schema, f.version, f.name, f.sha256)
}
