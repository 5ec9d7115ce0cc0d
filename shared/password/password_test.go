package password_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ouvira/ouvira/shared/fault"
	"github.com/ouvira/ouvira/shared/password"
)

// django is what Django's PBKDF2PasswordHasher stores for "correct horse 42",
// with few iterations.
const django = "pbkdf2_sha256$1000$seasalt123$14BdDpMLIsrpWWdFCWjORgCc0RMckztXw6oViKvr9V0="

func TestHashAndVerify(t *testing.T) {
	t.Parallel()
	hash, err := password.Hash(t.Context(), "correct horse 42")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("not the expected form: %s", hash)
	}
	again, err := password.Hash(t.Context(), "correct horse 42")
	if err != nil || again == hash {
		t.Errorf("two hashes of one password are equal (err %v)", err)
	}
	for pw, want := range map[string]bool{"correct horse 42": true, "correct horse 43": false, "": false} {
		ok, rehash, err := password.Verify(t.Context(), hash, pw)
		if ok != want || rehash || err != nil {
			t.Errorf("Verify(%q) = %v, %v, %v; want %v", pw, ok, rehash, err, want)
		}
	}
}

func TestVerifyAsksForARehash(t *testing.T) {
	t.Parallel()
	// m=64 KiB, t=1: cheaper than what new hashes cost.
	weak := "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$C+Kflc832bMfWH6x2xWirw"
	for name, tc := range map[string]struct{ hash, pw string }{"weak": {weak, "correct horse 42"}, "django": {django, "correct horse 42"}} {
		ok, rehash, err := password.Verify(t.Context(), tc.hash, tc.pw)
		if !ok || !rehash || err != nil {
			t.Errorf("%s: Verify = %v, %v, %v; want true, true", name, ok, rehash, err)
		}
		ok, rehash, err = password.Verify(t.Context(), tc.hash, "wrong horse 42")
		if ok || rehash || err != nil {
			t.Errorf("%s: Verify of a wrong one = %v, %v, %v", name, ok, rehash, err)
		}
	}
}

func TestSec23CostlyHashesAreRefusedBeforeComputing(t *testing.T) {
	t.Parallel()
	// A hash that got as far as waiting for a slot would fail on this context
	// with a fault; a refusal comes before.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, hash := range []string{
		"pbkdf2_sha256$2000001$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		"pbkdf2_sha256$99999999999999999999$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		"$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=1000,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=0,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=0$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=1$$",
		"$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"pbkdf2_sha256$0$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		"md5$salt$abc", "", "plain", strings.Repeat("$", 4096),
	} {
		_, _, err := password.Verify(ctx, hash, "correct horse 42")
		var f *fault.Error
		if err == nil || errors.As(err, &f) {
			t.Errorf("%.40q was not refused before computing: %v", hash, err)
		}
	}
}

func TestDummyMatchesNothingAndCostsTheSame(t *testing.T) {
	t.Parallel()
	ok, rehash, err := password.Verify(t.Context(), password.Dummy(), "")
	if ok || rehash || err != nil {
		t.Errorf("Verify(Dummy) = %v, %v, %v", ok, rehash, err)
	}
	if !strings.HasPrefix(password.Dummy(), "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("Dummy has other parameters than new hashes: %s", password.Dummy())
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var refused sync.WaitGroup
	faults := make(chan error, 64)
	for range 64 { // more than any number of slots the test machine has
		refused.Go(func() {
			_, err := password.Hash(ctx, "correct horse 42")
			faults <- err
		})
	}
	refused.Wait()
	close(faults)
	for err := range faults {
		if err != nil && !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
	}
}

func TestSec22Policy(t *testing.T) {
	t.Parallel()
	for pw, code := range map[string]string{
		"plum tractor window":          "",
		"ein-Satz-mit-Wörtern":         "",
		"日本語のとても長い合言葉です":               "",
		"kX9#qL2vB7!m":                 "",
		"Password policies are hard":   "",
		"short":                        "too_short",
		"elevenchars":                  "too_short",
		"ぱすわーどぱすわーど":                   "too_short",
		"password1234":                 "too_common",
		"PASSWORD!!!!":                 "too_common",
		"passwordpassword":             "too_common",
		"qwertyuiop12":                 "too_common",
		"1q2w3e4r5t6y":                 "too_common",
		"aaaaaaaaaaaaaaaa":             "too_common",
		"abababababab":                 "too_common",
		"123456789012":                 "too_common",
		"987654321098":                 "too_common",
		"abcdefghijklm":                "too_common",
		"letmeinletmein":               "too_common",
		"0000 admin 0000":              "too_common",
		strings.Repeat("ab cde", 171):  "too_long",
		"\xff\xfe\xfd not text at all": "not_text",
	} {
		err := password.CheckPolicy(pw)
		got := ""
		if err != nil {
			f := fault.From(err)
			if f.Kind != fault.KindInvalid || len(f.Fields) != 1 || f.Fields[0].Field != "password" {
				t.Fatalf("%.20q: an odd fault: %+v", pw, f)
			}
			if strings.Contains(f.Message, pw) {
				t.Errorf("%.20q: the message repeats the password", pw)
			}
			got = f.Fields[0].Code
		}
		if got != code {
			t.Errorf("CheckPolicy(%.20q) = %q, want %q", pw, got, code)
		}
	}
}

func TestSec22WithASecondFactorEightWillDo(t *testing.T) {
	t.Parallel()
	for pw, code := range map[string]string{"plumtree": "", "kX9#qL2v": "", "seven c": "too_short", "password": "too_common", "letmein1": "too_common", "12345678": "too_common"} {
		got := ""
		if err := password.CheckPolicyWithSecondFactor(pw); err != nil {
			got = fault.From(err).Fields[0].Code
		}
		if got != code {
			t.Errorf("%q: %q, want %q", pw, got, code)
		}
	}
	if err := password.CheckPolicy("plumtree"); err == nil {
		t.Error("eight characters do without a second factor")
	}
}

func TestTooLongIsNeverHashed(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", password.MaxBytes+1)
	if _, err := password.Hash(t.Context(), long); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("Hash: %v", err)
	}
	if ok, _, err := password.Verify(t.Context(), password.Dummy(), long); ok || err != nil {
		t.Errorf("Verify: %v, %v", ok, err)
	}
}
