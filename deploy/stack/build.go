package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build compiles the programs of a stack into a folder. root is the repository;
// tags are build tags ("failpoints" for tests that stop a process between two
// steps).
func Build(ctx context.Context, root, into string, tags ...string) error {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return errors.New("the Go tool is not in PATH: install the version that go.work names")
	}
	into, err = filepath.Abs(into)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return fmt.Errorf("the folder for the binaries cannot be made: %w", err)
	}
	arguments := []string{"build", "-buildvcs=false", "-o", into + string(filepath.Separator)}
	if len(tags) > 0 {
		arguments = append(arguments, "-tags", strings.Join(tags, ","))
	}
	arguments = append(arguments, "./controlplane/cmd/...", "./dataplane/cmd/...")
	cmd := exec.CommandContext(ctx, goTool, arguments...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// Root finds the repository above the working folder.
func Root() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", errors.New("no go.work in this folder or above: run this inside the repository")
		}
		at = filepath.Dir(at)
	}
}
