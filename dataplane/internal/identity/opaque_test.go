package identity

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/fault"
)

func TestSec40RefreshTokens(t *testing.T) {
	t.Parallel()
	acme, globex := uuid.New(), uuid.New()
	seen := map[string]bool{}
	for range 1000 {
		token := newRefreshToken(acme)
		if seen[token] {
			t.Fatal("a token came twice")
		}
		seen[token] = true
		if !refreshTokenOf(acme, token) || refreshTokenOf(globex, token) || refreshTokenOf(acme, token+"x") || refreshTokenOf(acme, token[1:]) {
			t.Fatalf("%s is not told apart", token)
		}
	}
	token := newRefreshToken(acme)
	if bytes.Contains(digest(token), []byte(token[:8])) || len(digest(token)) != 32 || !bytes.Equal(digest(token), digest(token)) {
		t.Error("the digest is no digest")
	}
}

func TestChildOpensWithItsParentAlone(t *testing.T) {
	t.Parallel()
	tenant := uuid.New()
	parent, child := newRefreshToken(tenant), newRefreshToken(tenant)
	sealed, err := sealChild(parent, child)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte(child)) {
		t.Error("the child is stored as it is")
	}
	if got, err := openChild(parent, sealed); err != nil || got != child {
		t.Errorf("got %q, %v", got, err)
	}
	sealed[len(sealed)-1] ^= 1
	for name, attempt := range map[string]func() (string, error){
		"changed":        func() (string, error) { return openChild(parent, sealed) },
		"another parent": func() (string, error) { return openChild(child, sealed) },
		"cut":            func() (string, error) { return openChild(parent, sealed[:5]) },
		"nothing":        func() (string, error) { return openChild(parent, nil) },
	} {
		if _, err := attempt(); err == nil {
			t.Errorf("%s: it opens", name)
		}
	}
}

func TestSec36NormalizeEmail(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Ada@Example.COM": "ada@example.com", " ada@example.com\t": "ada@example.com", "a.b+c@sub.example.co": "a.b+c@sub.example.co",
		"": "", "ada": "", "@example.com": "", "ada@": "", "Ada <ada@example.com>": "", `"a b"@example.com`: "", "a@b@c.example": "",
		"a@example.com\r\nBcc: x@example.com": "", "a@example.com,b@example.com": "", "a@[127.0.0.1]": "", "a(x)@example.com": "", "a@example.com\x00": "",
	} {
		got, err := NormalizeEmail(in)
		if got != want || (err == nil) != (want != "") || (err != nil && !fault.Is(err, fault.KindInvalid)) {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

func FuzzSec34NormalizeEmail(f *testing.F) {
	for _, seed := range []string{"a@example.com", "A <a@example.com>", "\"a\"@b.example", "a@b\r\nBcc: c@d.example"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		once, err := NormalizeEmail(in)
		if err != nil {
			return
		}
		if again, err := NormalizeEmail(once); err != nil || again != once {
			t.Fatalf("%q → %q → %q, %v: not stable", in, once, again, err)
		}
		if strings.ContainsAny(once, "\r\n\x00 <>\"") {
			t.Fatalf("%q became %q", in, once)
		}
	})
}
