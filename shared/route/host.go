package route

import (
	"errors"
	"net"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// ErrHost says that a Host header names nothing a tenant could be under.
var ErrHost = errors.New("the Host header is not a host name")

// lookupProfile folds case and maps to ASCII as browsers do, and refuses what
// is not a DNS name.
var lookupProfile = idna.New(
	idna.MapForLookup(),
	idna.BidiRule(),
	idna.StrictDomainName(true),
	idna.ValidateLabels(true),
	idna.VerifyDNSLength(true),
)

// NormalizeHost brings a Host header to the form that routes are keyed by:
// lower case, ASCII (punycode), without port and trailing dot.
func NormalizeHost(host string) (string, error) {
	if plain, ok := normalizePlain(host); ok {
		return plain, nil
	}
	if strings.HasPrefix(host, "[") {
		return "", ErrHost // an IPv6 literal
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if !isPort(host[i+1:]) {
			return "", ErrHost
		}
		host = host[:i]
	}
	if host == "" || !utf8.ValidString(host) || len(host) > 4*253 { // as typed: up to four bytes a letter
		return "", ErrHost
	}
	ascii, err := lookupProfile.ToASCII(host)
	ascii = strings.TrimSuffix(ascii, ".")
	if err != nil || ascii == "" || strings.HasSuffix(ascii, ".") || len(ascii) > 253 || net.ParseIP(ascii) != nil {
		return "", ErrHost
	}
	// Mapping can yield a name that is refused when it comes back.
	if again, err := lookupProfile.ToASCII(ascii); err != nil || again != ascii {
		return "", ErrHost
	}
	return ascii, nil
}

// DisplayHost is a host as people write it, with letters of other scripts. It is
// for showing only: a name that has no such form stays as it is.
func DisplayHost(host string) string {
	shown, err := lookupProfile.ToUnicode(host)
	if err != nil {
		return host
	}
	return shown
}

// normalizePlain is the way nearly every request takes: lower-case letters,
// digits, hyphens and dots, perhaps a port. It allocates nothing.
func normalizePlain(host string) (string, bool) {
	end := len(host)
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if !isPort(host[i+1:]) {
			return "", false
		}
		end = i
	}
	letter := false
	label := 0 // where the current label begins
	previous := byte('.')
	for i := range end {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z':
			letter = true
		case '0' <= c && c <= '9':
		case c == '-' && previous != '.' && previous != '-':
		case c == '.' && previous != '.' && previous != '-':
			label = i + 1
		default:
			return "", false
		}
		if i-label >= 63 {
			return "", false
		}
		previous = c
	}
	if !letter || end > 253 || previous == '.' || previous == '-' {
		return "", false
	}
	return host[:end], true
}

func isPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
