package pgserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCompanionRunsWithItsFilesAndEnds(t *testing.T) {
	t.Parallel()
	c, err := StartCompanion(map[string]string{"folder/says": "in {dir}"}, []string{"WHO=somebody"}, "sh", "-c",
		`test "$(id -u)" != 0 && test "$(cat folder/says)" = "in {dir}" && echo "$WHO" >ready && exec sleep 600`)
	if err != nil {
		t.Fatal(err)
	}
	dir, pid := c.dir, c.cmd.Process.Pid
	deadline := time.Now().Add(20 * time.Second)
	for {
		text, _ := os.ReadFile(filepath.Join(dir, "ready"))
		if strings.TrimSpace(string(text)) == "somebody" {
			break
		}
		if err := c.Running(); err != nil || time.Now().After(deadline) {
			t.Fatalf("it is not ready: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its folder is left: %v", err)
	}
	if c.Running() == nil {
		t.Errorf("process %d is left", pid)
	}
}

func TestCompanionTellsWhyItEnded(t *testing.T) {
	t.Parallel()
	c, err := StartCompanion(nil, nil, "sh", "-c", "echo no such luck >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	<-c.exited
	if err := c.Running(); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("it says %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := StartCompanion(nil, nil, "no-such-program-anywhere"); err == nil {
		t.Error("a program that is missing was started")
	}
}
