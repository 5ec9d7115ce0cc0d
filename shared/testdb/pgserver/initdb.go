package pgserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/ouvira/ouvira/shared/pg"
	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

// Superuser is the name of the first role of every server made here.
const Superuser = "postgres"

// prepare makes the data directory unless an earlier run did, and knows the
// superuser's password then.
func (s *Server) prepare(ctx context.Context) error {
	if s.initialised() {
		if err := s.checkMajor(); err != nil {
			return err
		}
		return s.readPassword()
	}
	if s.options.Disposable {
		return s.copyTemplate(ctx)
	}
	return s.initialise(ctx)
}

// initialise lets initdb make the data directory.
func (s *Server) initialise(ctx context.Context) error {
	// What an interrupted run left is of no use to anyone.
	if err := os.RemoveAll(s.dataDir()); err != nil {
		return fmt.Errorf("remove an unfinished data directory: %w", err)
	}
	s.password = rand.Text()
	if err := s.writePassword(); err != nil {
		return err
	}
	if err := os.Mkdir(s.dataDir(), 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if err := s.account.own(s.dataDir()); err != nil {
		return fmt.Errorf("give the data directory to %s: %w", s.account.name, err)
	}
	return s.initdb(ctx)
}

func (s *Server) passwordFile() string { return filepath.Join(s.dir, "password") }

func (s *Server) readPassword() error {
	password, err := os.ReadFile(s.passwordFile())
	if err != nil {
		return fmt.Errorf("the password of the Postgres data in %s is not readable: %w. Run as the user who made it, or forget the data with `make reset`", s.dir, err)
	}
	s.password = strings.TrimSpace(string(password))
	return nil
}

func (s *Server) writePassword() error {
	if err := os.WriteFile(s.passwordFile(), []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("%s cannot be written: %w. Make it writable, or choose another folder with OUVIRA_STATE", s.dir, err)
	}
	return nil
}

// initialised is true once initdb came to its end, which our mark says:
// PG_VERSION is among the first files it writes.
func (s *Server) initialised() bool {
	_, err := os.Stat(s.mark())
	return err == nil
}

func (s *Server) writeMark() error {
	if err := os.WriteFile(s.mark(), []byte(strconv.Itoa(s.binaries.Major)+"\n"), 0o600); err != nil {
		return fmt.Errorf("say that the data directory is complete: %w", err)
	}
	return nil
}

func (s *Server) mark() string    { return filepath.Join(s.dir, "initialised") }
func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

func (s *Server) checkMajor() error {
	made, err := MajorOf(s.dir)
	if err != nil {
		return err
	}
	if made != s.binaries.Major {
		return fmt.Errorf("the data in %s was made by Postgres %d, the binaries in %s are %s: set OUVIRA_PG_BIN to a Postgres %d, or forget the data with `make reset`", s.dir, made, s.binaries.Dir, s.binaries.Version, made)
	}
	return nil
}

// MajorOf says which version made the data that a server keeps in dir, 0 when
// there is none yet.
func MajorOf(dir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "initialised"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the Postgres data in %s: %w", dir, err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s does not say a version of Postgres", filepath.Join(dir, "initialised"))
	}
	return major, nil
}

func (s *Server) initdb(ctx context.Context) error {
	// initdb runs as the server's user and has to read the password from a
	// file: a copy that lives as long as it does.
	handed := filepath.Join(s.dir, "initdb-password")
	secret := s.password
	if s.options.Disposable {
		// Every connection has to derive its key from the password again: the least
		// that Postgres allows will do for data that no one will miss.
		var err error
		if secret, err = pg.SCRAMVerifierOf(s.password, 1); err != nil {
			return fmt.Errorf("initdb: %w", err)
		}
	}
	if err := os.WriteFile(handed, []byte(secret), 0o600); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	defer os.Remove(handed)
	if err := s.account.own(handed); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	arguments := []string{
		"-D", s.dataDir(), "-U", Superuser, "--pwfile=" + handed,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--lc-ctype=" + characterType(),
	}
	if s.options.Disposable {
		arguments = append(arguments, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.binaries.Dir, "initdb"), arguments...)
	cmd.SysProcAttr = s.account.attributes()
	cmd.Env = s.environment()
	cmd.Dir = "/"
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start initdb%s: %w", s.asUser(), err)
	}
	forget, err := guardian.Watch(cmd.Process.Pid, syscall.SIGTERM)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	err = cmd.Wait()
	forget()
	if err != nil {
		return fmt.Errorf("initdb could not make a data directory in %s%s: %w: %s", s.dir, s.asUser(), err, lastLines(out.String(), 5))
	}
	return s.writeMark()
}

// characterType sorts letters from other signs beyond ASCII, while text is
// still ordered by code point.
func characterType() string {
	if runtime.GOOS == "darwin" {
		return "UTF-8"
	}
	return "C.UTF-8"
}

// environment is small on purpose: PG* variables of the caller would change
// what the server does.
func (s *Server) environment() []string {
	// A home of its own: what a person has in ~/.postgresql is no business of a test's.
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=", "LANG=C", "TZ=UTC"}
}

func (s *Server) asUser() string {
	if !s.account.drop {
		return ""
	}
	return fmt.Sprintf(" (as the user %q)", s.account.name)
}
