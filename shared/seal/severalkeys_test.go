package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key is rotated in steps that processes may take one after the other: whoever has
// taken one understands who has taken the next, and the other way round. Only when the
// old key is gone, and said to be, nobody opens what it has sealed.
func TestSec38AKeyIsRotatedInSteps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	control := KeyFiles{Secret: at("control.json")}
	data := KeyFiles{Secret: at("data.json"), Public: at("data.pub.json")}
	must(t, GenerateControlKey(control.Secret))
	must(t, GenerateDataKey(data.Secret, data.Public))
	type one struct {
		control *ControlKey
		data    *DataKey
		public  *PublicKey
	}
	load := func() one {
		c, err := LoadControlKey(control.Secret)
		must(t, err)
		d, err := LoadDataKey(data.Secret)
		must(t, err)
		p, err := LoadPublicKey(data.Public)
		must(t, err)
		return one{c, d, p}
	}
	what, of := []byte("s3cret"), []byte("tenant-a/1")
	opens := func(by, sealer one) (opened [3]bool) {
		byControl, err := sealer.control.Seal(what, of)
		must(t, err)
		toData, err := sealer.public.Seal(what, of)
		must(t, err)
		byData, err := sealer.data.Seal(what, of)
		must(t, err)
		for i, has := range []bool{
			KeyID(byControl) == sealer.control.Ring().Primary, KeyID(toData) == sealer.public.Ring().Primary, KeyID(byData) == sealer.data.Ring().Primary,
		} {
			if !has {
				t.Errorf("value %d does not name the key that it is sealed with", i)
			}
		}
		_, err1 := by.control.Unseal(byControl, of)
		_, err2 := by.data.Open(toData, of)
		_, err3 := by.data.Unseal(byData, of)
		return [3]bool{err1 == nil, err2 == nil, err3 == nil}
	}
	before := load()
	for _, k := range []KeyFiles{control, data} {
		if _, err := k.Promote(); err == nil || !strings.Contains(err.Error(), "add one first") {
			t.Errorf("without a new key: %v", err)
		}
		_, err := k.Add()
		must(t, err)
	}
	known := load()
	for _, k := range []KeyFiles{control, data} {
		id, err := k.Promote()
		must(t, err)
		if err := k.Remove(id); err == nil || !strings.Contains(err.Error(), "seals: add") {
			t.Errorf("the primary one was removed: %v", err)
		}
	}
	promoted := load()
	must(t, control.Remove(before.control.Ring().Primary))
	must(t, data.Remove(before.data.Ring().Primary))
	after := load()
	all, none := [3]bool{true, true, true}, [3]bool{}
	for name, right := range map[string]bool{
		"the old ones open what is sealed while the new ones are known": opens(before, known) == all,
		"who knows the new ones opens what they have sealed":            opens(known, promoted) == all,
		"the new ones open what is old":                                 opens(promoted, before) == all,
		"the old ones open nothing that is new":                         opens(before, promoted) == none,
		"the new ones alone open what is new":                           opens(after, promoted) == all,
		"the new ones alone open nothing that is old":                   opens(after, before) == none,
	} {
		if !right {
			t.Error("it is not so that " + name)
		}
	}
	old, err := before.control.Seal(what, of)
	must(t, err)
	if _, err := after.control.Unseal(old, of); err == nil || !strings.Contains(err.Error(), "is not in the key file") {
		t.Errorf("a key that is gone: %v", err)
	}
	for path, mode := range map[string]os.FileMode{control.Secret: 0o600, data.Secret: 0o600, data.Public: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}

	derive := func(k *ControlKey) []byte {
		raw, err := k.Derive(of)
		must(t, err)
		return raw
	}
	first := derive(before.control)
	if !bytes.Equal(derive(known.control), first) || bytes.Equal(derive(promoted.control), first) {
		t.Error("what is derived changes at another time than when the new key becomes the primary one")
	}
	again, err := promoted.control.DeriveWith(before.control.DerivingKey(), of)
	must(t, err)
	derived, err := promoted.control.Derivations(of)
	must(t, err)
	if !bytes.Equal(again, first) || len(derived) != 2 || !bytes.Equal(derived[0], derive(promoted.control)) || !bytes.Equal(derived[1], first) {
		t.Error("what was derived before is not found again")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
