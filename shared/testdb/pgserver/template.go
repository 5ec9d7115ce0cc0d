package pgserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

// TemplatesVariable names a folder where the processes of a test run share what
// initdb makes. Without it each process has one of its own.
const TemplatesVariable = "OUVIRA_TEST_PG_TEMPLATES"

// copyTemplate makes the data directory of a disposable server out of what initdb
// made once: a copy costs a tenth of initdb. All copies have the superuser's
// password of the template, and each its own system identifier, as by initdb.
func (s *Server) copyTemplate(ctx context.Context) error {
	template, err := s.template(ctx)
	if err != nil {
		return err
	}
	// What an interrupted run left is of no use to anyone.
	if err := os.RemoveAll(s.dataDir()); err != nil {
		return fmt.Errorf("remove an unfinished data directory: %w", err)
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", template.dataDir(), s.dataDir()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy a data directory: %w: %s", err, lastLines(string(out), 3))
	}
	if err := identify(s.dataDir()); err != nil {
		return fmt.Errorf("give a copied data directory its own identifier: %w", err)
	}
	s.password = template.password
	if err := s.writePassword(); err != nil {
		return err
	}
	return s.writeMark()
}

// template is a data directory that no server runs on.
func (s *Server) template(ctx context.Context) (*Server, error) {
	parent, err := templates(s.account)
	if err != nil {
		return nil, err
	}
	digest := fnv.New64a()
	_, _ = digest.Write([]byte(s.binaries.Dir + "\x00" + s.binaries.Version))
	t := &Server{options: Options{Disposable: true}, binaries: s.binaries, account: s.account, dir: filepath.Join(parent, fmt.Sprintf("%016x", digest.Sum64()))}
	if err := MakeFolder(t.dir); err != nil {
		return nil, err
	}
	// The lock is the process's that has the file open, and goes with it.
	lock, err := os.OpenFile(filepath.Join(t.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the template of data directories: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock the template of data directories: %w", err)
	}
	if t.initialised() {
		err = t.readPassword()
	} else {
		err = t.initialise(ctx)
	}
	return t, err
}

var ownTemplates struct {
	sync.Mutex
	dir string
}

func templates(who account) (string, error) {
	if dir := os.Getenv(TemplatesVariable); dir != "" {
		return dir, MakeFolder(dir)
	}
	ownTemplates.Lock()
	defer ownTemplates.Unlock()
	if ownTemplates.dir != "" {
		return ownTemplates.dir, nil
	}
	dir, err := who.temporary()
	if err != nil {
		return "", err
	}
	if _, err := guardian.Sweep(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", fmt.Errorf("open %s to Postgres: %w", dir, err)
	}
	ownTemplates.dir = dir
	return dir, nil
}

// identify gives the data directory of a server that is down another system
// identifier: two servers of one identifier would pass for one and the same. It
// stands first in pg_control, whose checksum follows the last field, and in the
// long header at the beginning of every segment of the log.
func identify(data string) error {
	control := filepath.Join(data, "global", "pg_control")
	text, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	end := 8
	for ; end+4 <= len(text); end += 4 { // where the checksum stands depends on the version
		if crc32.Checksum(text[:end], castagnoli) == binary.NativeEndian.Uint32(text[end:]) {
			break
		}
	}
	if end+4 > len(text) {
		return errors.New("no checksum found in pg_control")
	}
	before := bytes.Clone(text[:8])
	var random [8]byte
	_, _ = rand.Read(random[:])                                                       // never fails
	binary.NativeEndian.PutUint64(text, binary.NativeEndian.Uint64(random[:])>>1)     // SQL shows it as a bigint
	binary.NativeEndian.PutUint32(text[end:], crc32.Checksum(text[:end], castagnoli)) // pg_control
	if err := overwrite(control, 0, text); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(data, "pg_wal", "0*"))
	if err != nil {
		return err
	}
	for _, segment := range segments {
		if err := reidentify(segment, before, text[:8]); err != nil {
			return err
		}
	}
	return nil
}

// identifierInLog is where a segment has the identifier.
const identifierInLog = 24

func reidentify(segment string, before, after []byte) error {
	file, err := os.Open(segment)
	if err != nil {
		return err
	}
	defer file.Close()
	there := make([]byte, len(before))
	if _, err := file.ReadAt(there, identifierInLog); err != nil {
		return err
	}
	if !bytes.Equal(there, before) {
		return fmt.Errorf("%s begins with another system identifier", filepath.Base(segment))
	}
	return overwrite(segment, identifierInLog, after)
}

func overwrite(path string, offset int64, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(text, offset)
	return errors.Join(err, file.Close())
}
