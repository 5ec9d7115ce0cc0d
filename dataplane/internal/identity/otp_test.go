package identity_test

import (
	"regexp"
	"testing"

	"github.com/ouvira/ouvira/dataplane/internal/identity"
)

func TestNormalizeMobile(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"+4915112345678":     "+4915112345678",
		" +14155550123\n":    "+14155550123",
		"+1234567":           "+1234567",
		"+123456":            "",
		"+1234567890123456":  "",
		"+0123456789":        "",
		"4915112345678":      "",
		"0151 12345678":      "",
		"+49 151 12345678":   "",
		"+4915112345678\nX":  "",
		"+٤٩١٥١١٢٣٤٥٦٧٨":     "",
		"":                   "",
		"++4915112345678":    "",
		"+4915112345678;ext": "",
	} {
		if got, err := identity.NormalizeMobile(in); got != want || (err == nil) != (want != "") {
			t.Errorf("NormalizeMobile(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzSec34NormalizeMobile(f *testing.F) {
	for _, seed := range []string{"+4915112345678", " +1 ", "+", "+0", "\x00", "+49151123456789012", "+４９"} {
		f.Add(seed)
	}
	form := regexp.MustCompile(`\A\+[1-9][0-9]{6,14}\z`)
	f.Fuzz(func(t *testing.T, in string) {
		got, err := identity.NormalizeMobile(in)
		if err != nil {
			return
		}
		if !form.MatchString(got) {
			t.Fatalf("%q became %q", in, got)
		}
		if again, err := identity.NormalizeMobile(got); err != nil || again != got {
			t.Fatalf("%q is not normal: %q, %v", got, again, err)
		}
	})
}
