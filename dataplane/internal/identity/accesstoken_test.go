package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/route"
)

// newTenant has a key of its own.
func newTenant(t testing.TB, slug string) (*route.Route, signingKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	key := signingKey{kid: rand.Text(), private: private}
	encode := base64.RawURLEncoding.EncodeToString
	return &route.Route{
		TenantID: uuid.New(), Slug: slug, TokenEpoch: 3,
		Keys: []route.JWK{{Kid: key.kid, Kty: "EC", Crv: "P-256", X: encode(point[1:33]), Y: encode(point[33:])}},
	}, key
}

func newTokens(t testing.TB, now *time.Time) *AccessTokens {
	t.Helper()
	tokens, err := NewAccessTokens("https", "example.com", "")
	if err != nil {
		t.Fatal(err)
	}
	tokens.now = func() time.Time { return *now }
	return tokens
}

func TestIssuerIsTheSlugsAddress(t *testing.T) {
	t.Parallel()
	acme, _ := newTenant(t, "acme")
	acme.Hosts, acme.CustomPrimary = []string{"login.acme.example"}, true
	for port, want := range map[string]string{"": "https://acme.example.com", "8443": "https://acme.example.com:8443"} {
		tokens, err := NewAccessTokens("https", "example.com", port)
		if err != nil || tokens.Issuer(acme) != want {
			t.Errorf("got %s (%v), want %s", tokens.Issuer(acme), err, want)
		}
	}
}

func TestSec11CachedTokensAreCheckedEachTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tokens := newTokens(t, &now)
	acme, key := newTenant(t, "acme")
	globex, _ := newTenant(t, "globex")
	session := uuid.New()
	token, err := tokens.issue(acme, key, 7, session)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // parsed, then cached
		v, err := tokens.Verify(acme, token)
		if err != nil || v.UserID != 7 || v.SessionID != session {
			t.Fatalf("Verify: %+v, %v", v, err)
		}
	}
	withoutKey, raised := *acme, *acme
	withoutKey.Keys = globex.Keys
	raised.TokenEpoch++
	for name, tenant := range map[string]*route.Route{"another tenant": globex, "a withdrawn key": &withoutKey, "a raised epoch": &raised} {
		if _, err := tokens.Verify(tenant, token); !fault.Is(err, fault.KindUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := tokens.Verify(acme, token); err != nil {
			t.Errorf("after %s the good one is refused: %v", name, err)
		}
	}
	now = now.Add(AccessLifetime + leeway + time.Second)
	if _, err := tokens.Verify(acme, token); !fault.Is(err, fault.KindUnauthenticated) {
		t.Errorf("expired in the cache: %v", err)
	}
	if n := tokens.verified.Len(); n != 0 {
		t.Errorf("%d expired tokens are kept", n)
	}
}

func TestSec11TheSameKeyAtTwoTenantsDoesNotMixThem(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tokens := newTokens(t, &now)
	acme, key := newTenant(t, "acme")
	twin := *acme // the same slug, key and epoch, as after a restore gone wrong
	twin.TenantID = uuid.New()
	token, err := tokens.issue(acme, key, 7, uuid.New())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Verify(acme, token); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Verify(&twin, token); !fault.Is(err, fault.KindUnauthenticated) {
		t.Errorf("the cache answers for another tenant: %v", err)
	}
}

func TestSec14ImpossibleTokensAreNotLookedAt(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tokens := newTokens(t, &now)
	acme, _ := newTenant(t, "acme")
	dots := strings.Repeat(".", 1<<20)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.Helper()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tokens.Verify(acme, dots); err == nil {
				b.Fatal("accepted")
			}
		}
	}).AllocedBytesPerOp()
	if allocated > 4096 {
		t.Errorf("%d bytes for a token that cannot be one", allocated)
	}
}

func FuzzSec34Verify(f *testing.F) {
	now := time.Now()
	tokens := newTokens(f, &now)
	acme, key := newTenant(f, "acme")
	token, err := tokens.issue(acme, key, 7, uuid.New())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{token, token[:len(token)-1], "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := tokens.Verify(acme, text); err == nil && v.UserID != 7 {
			t.Errorf("%q is accepted as %+v", text, v)
		}
	})
}
