package route

import (
	"strings"
	"testing"
)

func TestSec03NormalizeHost(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"acme.localhost":           "acme.localhost",
		"acme.localhost:8000":      "acme.localhost",
		"ACME.LocalHost":           "acme.localhost",
		"acme.localhost.":          "acme.localhost",
		"Acme.localhost.:8000":     "acme.localhost",
		"münchen.example":          "xn--mnchen-3ya.example",
		"MÜNCHEN.example":          "xn--mnchen-3ya.example",
		"xn--mnchen-3ya.example":   "xn--mnchen-3ya.example",
		"acme\u3002example":        "acme.example", // the ideographic full stop is a dot to browsers
		"":                         "",
		".":                        "",
		"..":                       "",
		"acme..localhost":          "",
		".acme.localhost":          "",
		"acme.localhost..":         "",
		"acme.localhost:":          "",
		"acme.localhost:80:80":     "",
		"acme.localhost:http":      "",
		"acme.localhost:123456":    "",
		"-acme.localhost":          "",
		"acme-.localhost":          "",
		"acme_x.localhost":         "",
		"acme/../globex.localhost": "",
		"acme.localhost\x00":       "",
		"acme.localhost globex":    "",
		"127.0.0.1":                "",
		"127.0.0.1:8000":           "",
		"[::1]:8000":               "",
		"xn--.example":             "",
		strings.Repeat("a.", 200):  "",
		strings.Repeat("a", 64):    "",
		"user@acme.localhost":      "",
		"acme.localhost%2eexample": "",
	} {
		got, err := NormalizeHost(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("NormalizeHost(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func FuzzSec34NormalizeHost(f *testing.F) {
	for _, seed := range []string{"acme.localhost:8000", "MÜNCHEN.example.", "xn--a.b", "[::1]", "a-b.c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		once, err := NormalizeHost(in)
		if err != nil {
			return
		}
		twice, err := NormalizeHost(once)
		if err != nil || once != twice {
			t.Fatalf("%q → %q → %q, %v: not stable", in, once, twice, err)
		}
	})
}
