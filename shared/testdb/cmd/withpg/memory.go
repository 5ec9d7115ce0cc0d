package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ouvira/ouvira/shared/testdb/guardian"
)

const (
	// Linux keeps what lies in this folder in memory.
	memoryFolder = "/dev/shm"
	// Free there, in bytes, before it is used. It is half of the machine's memory
	// unless somebody said otherwise, and tests fill a part of what is asked here.
	memoryNeeded = 8 << 30
)

// inMemory makes a folder for what a run throws away, in memory if there is room:
// making and removing files is half of what tests with databases of their own
// cost. The folder is "" where there is none, or where TMPDIR says already where
// temporary files go.
func inMemory() (dir string, remove func() error, err error) {
	if os.Getenv("TMPDIR") != "" || free(memoryFolder) < memoryNeeded {
		return "", func() error { return nil }, nil
	}
	if dir, err = os.MkdirTemp(memoryFolder, "ouvira-test-"); err != nil {
		return "", nil, fmt.Errorf("make a folder in memory: %w", err)
	}
	keep, err := guardian.Sweep(dir)
	if err == nil {
		// As for any folder of temporary files; the user Postgres runs as is another.
		err = os.Chmod(dir, 0o777|os.ModeSticky)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("prepare the folder in memory: %w", err)
	}
	return dir, func() error {
		keep()
		return os.RemoveAll(dir)
	}, nil
}

// free is the room in a folder, in bytes; 0 where there is no such folder.
func free(dir string) uint64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0
	}
	return fs.Bavail * uint64(fs.Bsize)
}
