package pgserver

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user a server runs as. The zero value is the present user.
type account struct {
	name     string
	uid, gid uint32
	// drop is set when this process is root, as which Postgres refuses to run.
	drop bool
}

func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(found.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(found.Gid, 10, 32)
		if uidErr != nil || gidErr != nil || uid == 0 {
			continue
		}
		return account{name: name, uid: uint32(uid), gid: uint32(gid), drop: true}, nil
	}
	return account{}, fmt.Errorf("Postgres refuses to run as root, and this system has neither a user \"postgres\" nor \"nobody\" to run it as: create one (useradd --system postgres) or run as a normal user")
}

// attributes gives the child its user and a process group of its own, so that
// Ctrl-C at the terminal reaches only us and we stop the servers in order.
func (a account) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if a.drop {
		attributes.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attributes
}

// own hands a file or folder to the account.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// reaches reports whether the account may walk down to the folder.
func (a account) reaches(dir string) bool {
	if !a.drop {
		return true
	}
	resolved, err := nearestExisting(dir)
	if err != nil {
		return false
	}
	for at := resolved; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return false
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false
		}
		mode := info.Mode().Perm()
		allowed := mode&0o001 != 0
		switch {
		case owner.Uid == a.uid:
			allowed = mode&0o100 != 0
		case owner.Gid == a.gid:
			allowed = mode&0o010 != 0
		}
		if !allowed {
			return false
		}
		if at == filepath.Dir(at) {
			return true
		}
	}
}

// nearestExisting is the deepest part of the path that is there already, with
// links resolved; what is still to be made below it gets a mode of our choice.
func nearestExisting(path string) (string, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for {
		resolved, err := filepath.EvalSymlinks(at)
		if err == nil {
			return resolved, nil
		}
		if !os.IsNotExist(err) || at == filepath.Dir(at) {
			return "", err
		}
		at = filepath.Dir(at)
	}
}

// systemState is where data goes that the server's user cannot reach elsewhere.
const systemState = "/var/lib/ouvira"

// Place says where a server that is wanted in dir can really keep its data: in
// dir, unless this process is root and the user that Postgres then runs as
// cannot reach it (a clone below root's home, say). Then it is a folder below
// /var/lib that is derived from dir, so that the next run finds it again, and
// note is a sentence to tell.
func Place(dir string) (place, note string, err error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	who, err := serverAccount()
	if err != nil {
		return "", "", err
	}
	if who.reaches(absolute) {
		return absolute, "", nil
	}
	digest := fnv.New64a()
	_, _ = digest.Write([]byte(absolute))
	place = filepath.Join(systemState, fmt.Sprintf("%s-%016x", filepath.Base(absolute), digest.Sum64()))
	if !who.reaches(place) {
		return "", "", fmt.Errorf("Postgres runs as the user %q, who can reach neither %s nor %s: choose a state folder that every user may enter (OUVIRA_STATE=/srv/ouvira)", who.name, absolute, place)
	}
	return place, fmt.Sprintf("The user %q, as whom Postgres runs, cannot reach %s; its data lies in %s instead.", who.name, absolute, place), nil
}

// MakeFolder makes a folder and those above it that are missing, such that the
// server's user may pass whatever the umask says. What is there stays as it is.
func MakeFolder(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MakeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// temporary makes a folder for a server that lives as long as a test.
func (a account) temporary() (string, error) {
	var tried []string
	for _, parent := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if !a.reaches(parent) {
			tried = append(tried, parent)
			continue
		}
		dir, err := os.MkdirTemp(parent, "ouvira-postgres-")
		if err != nil {
			tried = append(tried, parent)
			continue
		}
		return filepath.EvalSymlinks(dir)
	}
	return "", fmt.Errorf("no temporary folder for Postgres: tried %v; set TMPDIR to a folder that can be written and that every user may enter", tried)
}
