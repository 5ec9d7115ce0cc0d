package operator

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// Tokens are 256 random or derived bits behind a prefix that says what they are, to
// people and to scanners that look for leaked secrets. The prefix is hashed
// with the rest: one kind of token cannot be passed off as another.
const (
	prefixAccess  = "ovoa_" // bearer: short-lived
	prefixCookie  = "ovoc_" // cookie: lives on while it is used
	prefixRefresh = "ovor_"
	prefixKey     = "ovok_" // API key

	prefixInvitation = "ovoi_" // links in mails
	prefixReset      = "ovop_"
)

func newToken(prefix string) string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return tokenOf(prefix, b)
}

func tokenOf(prefix string, secret []byte) string {
	return prefix + base64.RawURLEncoding.EncodeToString(secret)
}

// maxToken bounds what is hashed for a caller who is not known yet.
const maxToken = 128

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func plausible(token, prefix string) bool {
	return len(token) <= maxToken && strings.HasPrefix(token, prefix)
}
