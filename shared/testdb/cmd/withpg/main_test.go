package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCommandGetsAServerAndGivesItsCode(t *testing.T) {
	t.Parallel()
	seen := filepath.Join(t.TempDir(), "seen")
	code, err := run([]string{"-18", "--", "/bin/sh", "-c", `echo "$OUVIRA_TEST_DATABASE_URL" "$OUVIRA_TEST_PG18_BIN" >"$0"; exit 7`, seen})
	if err != nil {
		t.Fatal(err)
	}
	if code != 7 {
		t.Errorf("exit code %d, want the command's 7", code)
	}
	text, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	if len(fields) != 2 || !strings.HasPrefix(fields[0], "postgres://postgres:") {
		t.Fatalf("the command saw %q", text)
	}
	out, err := exec.Command(filepath.Join(fields[1], "postgres"), "--version").Output()
	if err != nil || !strings.Contains(string(out), ") 18") {
		t.Errorf("the binaries of 18 say %q, %v", out, err)
	}
}

func TestNoCommandIsAnError(t *testing.T) {
	t.Parallel()
	if code, err := run(nil); code == 0 || err == nil {
		t.Errorf("code %d, error %v", code, err)
	}
	if code, err := run([]string{"--", "/no/such/program"}); code != 127 || err == nil {
		t.Errorf("code %d, error %v", code, err)
	}
}
