package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func keys(t *testing.T) (*DataKey, *PublicKey, *ControlKey) {
	t.Helper()
	dir := t.TempDir()
	secret, public, control := filepath.Join(dir, "data.json"), filepath.Join(dir, "data.pub.json"), filepath.Join(dir, "control.json")
	if err := GenerateDataKey(secret, public); err != nil {
		t.Fatal(err)
	}
	if err := GenerateControlKey(control); err != nil {
		t.Fatal(err)
	}
	data, err := LoadDataKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := LoadPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	ctl, err := LoadControlKey(control)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode of the data key file: %v, %v", info.Mode(), err)
	}
	return data, pub, ctl
}

// What the control plane holds (public key, its own key) opens no tenant
// credential, and a ciphertext moved to another tenant does not open at all.
func TestSec37OnlyTheDataPlaneOpensAndOnlyInContext(t *testing.T) {
	t.Parallel()
	data, public, control := keys(t)
	sealed, err := public.Seal([]byte("s3cret"), []byte("tenant-a/1"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := data.Open(sealed, []byte("tenant-a/1"))
	if err != nil || !bytes.Equal(plain, []byte("s3cret")) {
		t.Fatalf("Open = %q, %v", plain, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another tenant":      func() ([]byte, error) { return data.Open(sealed, []byte("tenant-b/1")) },
		"another incarnation": func() ([]byte, error) { return data.Open(sealed, []byte("tenant-a/2")) },
		"the control key":     func() ([]byte, error) { return control.Unseal(sealed, []byte("tenant-a/1")) },
		"a flipped bit": func() ([]byte, error) {
			bad := bytes.Clone(sealed)
			bad[len(bad)-1] ^= 1
			return data.Open(bad, []byte("tenant-a/1"))
		},
	} {
		if plain, err := open(); !errors.Is(err, ErrOpen) || plain != nil {
			t.Errorf("opened with %s: %q, %v", name, plain, err)
		}
	}
}

func TestDeriveIsStableAndBoundToItsContext(t *testing.T) {
	t.Parallel()
	_, _, control := keys(t)
	_, _, other := keys(t)
	a1, _ := control.Derive([]byte("signup/1"))
	a2, _ := control.Derive([]byte("signup/1"))
	b, _ := control.Derive([]byte("signup/2"))
	c, _ := other.Derive([]byte("signup/1"))
	if len(a1) != 32 || !bytes.Equal(a1, a2) || bytes.Equal(a1, b) || bytes.Equal(a1, c) {
		t.Fatalf("derived %x %x %x %x", a1, a2, b, c)
	}
}

func TestAKeyFileIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "control.json")
	if err := GenerateControlKey(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if err := GenerateControlKey(path); err == nil {
		t.Fatal("the key file was overwritten")
	}
	after, _ := os.ReadFile(path)
	if !bytes.Equal(before, after) {
		t.Fatal("the key file changed")
	}
	if _, err := LoadDataKey(path); err == nil {
		t.Fatal("a control key was taken for a data key")
	}
}
