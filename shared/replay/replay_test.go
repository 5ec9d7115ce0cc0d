package replay

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ouvira/ouvira/shared/fault"
)

// FuzzNewKey: whatever the header holds, it is a key or a fault, and what
// Postgres stores has a fixed size.
func FuzzSec34NewKey(f *testing.F) {
	for _, seed := range []string{"", "8e03978e-40d5-43e8-bc93-6894a57f9324", " ", "\x00", "käse", "a\r\nb: c", strings.Repeat("k", 256)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := NewKey("", text, []byte("request"))
		if err != nil {
			if !fault.Is(err, fault.KindMalformed) || (text != "" && strings.Contains(err.Error(), text) && len(text) > 3) {
				t.Errorf("%q is refused by %v", text, err)
			}
			return
		}
		if len(key.Hash) != 32 || len(key.Request) != 32 || strings.ContainsAny(text, "\r\n\x00") {
			t.Errorf("%q is a key of %d and %d bytes", text, len(key.Hash), len(key.Request))
		}
	})
}

func TestWhatMakesAnotherKeyOrRequest(t *testing.T) {
	t.Parallel()
	of := func(scope, text, request string) Key {
		key, err := NewKey(scope, text, []byte(request))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	base := of("", "k", "r")
	if other := of("", "k", "s"); !bytes.Equal(base.Hash, other.Hash) || bytes.Equal(base.Request, other.Request) {
		t.Error("another request is not another request under the same key")
	}
	if other := of("", "l", "r"); bytes.Equal(base.Hash, other.Hash) || bytes.Equal(base.Request, other.Request) {
		t.Error("another key is not another one")
	}
	if other := of("machine", "k", "r"); bytes.Equal(base.Hash, other.Hash) {
		t.Error("the keys of two credentials are one")
	}
}
