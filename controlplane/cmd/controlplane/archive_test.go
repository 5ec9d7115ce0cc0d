package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/shared/seal"
)

// What is sealed is opened with the key alone, and by no other.
func TestArchiveSealsAndOpens(t *testing.T) { //nolint:paralleltest // it is the process that has a standard input
	dir := t.TempDir()
	keys := []string{filepath.Join(dir, "a.key"), filepath.Join(dir, "b.key")}
	for _, key := range keys {
		if err := seal.GenerateControlKey(key); err != nil {
			t.Fatal(err)
		}
	}
	pipe := func(key, verb string, in []byte) ([]byte, error) {
		file := filepath.Join(t.TempDir(), "in")
		if err := os.WriteFile(file, in, 0o600); err != nil {
			t.Fatal(err)
		}
		stdin, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		before := os.Stdin
		os.Stdin = stdin
		defer func() { os.Stdin = before; _ = stdin.Close() }()
		var out bytes.Buffer
		err = run(t.Context(), []string{"archive", verb}, []string{"OUVIRA_CONTROL_KEY_FILE=" + key}, &out)
		return out.Bytes(), err
	}
	sealed, err := pipe(keys[0], "seal", []byte("the control database"))
	if err != nil || bytes.Contains(sealed, []byte("database")) {
		t.Fatalf("sealed %q, %v", sealed, err)
	}
	if plain, err := pipe(keys[0], "open", sealed); err != nil || string(plain) != "the control database" {
		t.Errorf("opened %q, %v", plain, err)
	}
	if plain, err := pipe(keys[1], "open", sealed); err == nil || !strings.Contains(err.Error(), "another key") || len(plain) != 0 {
		t.Errorf("with another key %q, %v", plain, err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := pipe(keys[0], "open", sealed); err == nil {
		t.Error("a damaged file was opened")
	}
}
